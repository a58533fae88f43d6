//! The hash of a keyspace's history: the very number that an etcd with the same history has.

use std::collections::HashSet;

use atoll_store::kv::{
    Consistency, Error, HistoryRecord, KeyRange, KvStore, RangeRequest, Revision,
};
use bytes::Bytes;
use futures::StreamExt;
use prost::Message;

use super::convert;
use crate::proto::mvccpb;

/// Both passes have to see the same compaction; it moves seldom.
const TRIES_MAX: usize = 5;
/// As the first key and as the end.
const ALL: &[u8] = b"\0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HistoryHash {
    pub(super) hash: u32,
    pub(super) hash_revision: Revision,
    pub(super) compact_revision: Revision,
    pub(super) revision: Revision,
}

/// The name under which etcd stores a revision.
pub(crate) fn stored_key(record: &HistoryRecord) -> Vec<u8> {
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
pub(crate) fn stored_value(record: HistoryRecord) -> Vec<u8> {
    if record.deletion {
        let kv = mvccpb::KeyValue { key: record.kv.key, ..mvccpb::KeyValue::default() };
        return kv.encode_to_vec();
    }
    convert::key_value(record.kv).encode_to_vec()
}

/// Up to `at`; 0 is the present.
pub(super) async fn history_hash(store: &dyn KvStore, at: Revision) -> Result<HistoryHash, Error> {
    for _ in 0..TRIES_MAX {
        let found = look(store, at).await?;
        if let Some(hash) = hash_records(store, &found).await? {
            return Ok(hash);
        }
    }
    Err(Error::Timeout { maybe_applied: false })
}

/// What is looked at before the records are hashed.
struct Found {
    /// Keys that were written between the last compaction and the revision asked for: what they
    /// were at the compaction does not count.
    changed: HashSet<Bytes>,
    /// No key is left at that revision. Etcd then takes it that there was no compaction.
    is_empty: bool,
    at: HistoryHash,
}

async fn look(store: &dyn KvStore, at: Revision) -> Result<Found, Error> {
    let history = store.history().await?;
    let (revision, compacted) = (history.revision, history.compacted_revision);
    if at > revision {
        return Err(Error::Future { requested: at, current: revision });
    }
    if at > 0 && at < compacted {
        return Err(Error::Compacted { requested: at, compacted });
    }
    let hash_revision = if at > 0 { at } else { revision };
    let mut all = RangeRequest::new(KeyRange { key: ALL.into(), end: Some(ALL.into()) });
    all.count_only = true;
    all.revision = Some(hash_revision);
    all.consistency = Consistency::Serializable;
    let is_empty = store.range(all).await?.count == 0;
    let mut changed = HashSet::new();
    let mut records = history.records;
    while let Some(batch) = records.next().await {
        let newer = batch?.into_iter().filter(|record| {
            let revision = record.kv.mod_revision;
            revision > compacted && revision <= hash_revision
        });
        changed.extend(newer.map(|record| Bytes::copy_from_slice(&record.kv.key)));
    }
    let at = HistoryHash { hash: 0, hash_revision, compact_revision: compacted, revision };
    Ok(Found { changed, is_empty, at })
}

/// `None` when there was a compaction in between.
async fn hash_records(store: &dyn KvStore, found: &Found) -> Result<Option<HistoryHash>, Error> {
    let history = store.history().await?;
    let compacted = found.at.compact_revision;
    if history.compacted_revision != compacted {
        return Ok(None);
    }
    let mut hash = crc32c::crc32c(b"key");
    let mut records = history.records;
    while let Some(batch) = records.next().await {
        for record in batch? {
            let revision = record.kv.mod_revision;
            let is_superseded = !found.is_empty
                && revision <= compacted
                && (record.deletion || found.changed.contains(&record.kv.key));
            // Releases of etcd differ in whether they keep a deletion at the compaction; their
            // hashes do not have it.
            let is_left_over = revision == compacted && record.deletion;
            if is_superseded || is_left_over || revision > found.at.hash_revision {
                continue;
            }
            hash = crc32c::crc32c_append(hash, &stored_key(&record));
            hash = crc32c::crc32c_append(hash, &stored_value(record));
        }
    }
    Ok(Some(HistoryHash { hash, ..found.at }))
}
