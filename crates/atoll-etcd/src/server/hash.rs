//! The hash of a keyspace's history: the very number that an etcd with the same history has.

use std::collections::HashSet;

use atoll_store::kv::{Error, HistoryRecord, KvStore, Revision};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;

use super::convert;
use crate::proto::mvccpb;

/// Both passes have to see the same compaction; it moves seldom.
const TRIES_MAX: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HistoryHash {
    pub(super) hash: u32,
    pub(super) hash_revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) revision: Revision,
}

/// The name under which etcd stores a revision.
pub(super) fn stored_key(record: &HistoryRecord) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&record.kv.mod_revision.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&i64::from(record.sub).to_be_bytes());
    if record.deletion {
        key.push(b't');
    }
    key
}

/// What etcd stores for it.
pub(super) fn stored_value(record: HistoryRecord) -> Vec<u8> {
    if record.deletion {
        let kv = mvccpb::KeyValue { key: record.kv.key, ..mvccpb::KeyValue::default() };
        return kv.encode_to_vec();
    }
    convert::key_value(record.kv).encode_to_vec()
}

/// Up to `at`; 0 is the present.
pub(super) async fn history_hash(store: &dyn KvStore, at: Revision) -> Result<HistoryHash, Error> {
    for _ in 0..TRIES_MAX {
        let (changed, first) = changed_keys(store, at).await?;
        if let Some(hash) = second_pass(store, &changed, first).await? {
            return Ok(hash);
        }
    }
    Err(Error::Timeout { maybe_applied: false })
}

/// Keys that were written between the last compaction and `at`: what they were at the
/// compaction does not count.
async fn changed_keys(
    store: &dyn KvStore,
    at: Revision,
) -> Result<(HashSet<Bytes>, HistoryHash), Error> {
    let history = store.history().await?;
    let (revision, compacted) = (history.revision, history.compacted_revision);
    if at > revision {
        return Err(Error::Future { requested: at, current: revision });
    }
    if at > 0 && at < compacted {
        return Err(Error::Compacted { requested: at, compacted });
    }
    let hash_revision = if at > 0 { at } else { revision };
    let mut changed = HashSet::new();
    let mut records = history.records;
    while let Some(batch) = records.next().await {
        let newer = batch?.into_iter().filter(|record| {
            let revision = record.kv.mod_revision;
            revision > compacted && revision <= hash_revision
        });
        changed.extend(newer.map(|record| Bytes::copy_from_slice(&record.kv.key)));
    }
    let hash = HistoryHash { hash: 0, hash_revision, compact_revision: compacted, revision };
    Ok((changed, hash))
}

/// `None` when there was a compaction in between.
async fn second_pass(
    store: &dyn KvStore,
    changed: &HashSet<Bytes>,
    first: HistoryHash,
) -> Result<Option<HistoryHash>, Error> {
    let history = store.history().await?;
    if history.compacted_revision != first.compact_revision {
        return Ok(None);
    }
    let mut hash = crc32c::crc32c(b"key");
    let mut records = history.records;
    while let Some(batch) = records.next().await {
        for record in batch? {
            let revision = record.kv.mod_revision;
            let superseded = revision <= first.compact_revision
                && (record.deletion || changed.contains(&record.kv.key));
            if superseded || revision > first.hash_revision {
                continue;
            }
            hash = crc32c::crc32c_append(hash, &stored_key(&record));
            hash = crc32c::crc32c_append(hash, &stored_value(record));
        }
    }
    // Etcd's first compaction is at no revision.
    Ok(Some(HistoryHash { hash, ..first }))
}
