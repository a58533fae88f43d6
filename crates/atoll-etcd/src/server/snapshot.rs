//! `Maintenance.Snapshot`: the keyspace as the file that an etcd would have, which
//! `etcdctl snapshot restore` takes.
//!
//! The file begins with what is only known at its end. So the history is read twice: once to
//! count its pages, and once to send them.

use std::sync::Arc;

use atoll_store::kv::{Error, History, HistoryRecord, LeaseId, Revision};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::maintenance::STORAGE_VERSION;
use super::{Core, error, hash};
use crate::bolt::write::{self as bolt, Tree};
use crate::import::StoredLease;
use crate::proto::etcdserverpb::SnapshotResponse;

/// Both passes have to see the same compaction; it moves seldom.
const TRIES_MAX: usize = 5;
/// A larger message is more than some clients take.
const BLOB_BYTES: usize = 1 << 20;

/// The file but for the records' pages, which stand between.
struct Layout {
    /// Later records are not in it.
    revision: Revision,
    head: Vec<u8>,
    records_bytes: u64,
    tail: Vec<u8>,
}

impl Layout {
    fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.records_bytes + self.tail.len() as u64
    }
}

pub(super) async fn answers(
    core: Arc<Core>,
) -> Result<impl Stream<Item = Result<SnapshotResponse, Status>> + Send, Status> {
    let opened = open(&core).await.map_err(|error| error::status(&error))?;
    let (layout, history) = opened;
    let sending = Sending {
        remaining: layout.bytes(),
        checksum: Sha256::new(),
        tree: Some(Tree::new(bolt::FIRST_PAGE)),
        history,
        layout,
        part: Part::Head,
        core,
    };
    Ok(futures::stream::unfold(Some(sending), |sending| async move {
        let mut sending = sending?;
        match sending.next().await {
            Ok(answer) => Some((Ok(answer?), Some(sending))),
            Err(error) => Some((Err(error::status(&error)), None)),
        }
    }))
}

/// The layout, and the history once more from its beginning.
async fn open(core: &Core) -> Result<(Layout, History), Error> {
    for _ in 0..TRIES_MAX {
        let first = core.store.history().await?;
        let compacted = first.compacted_revision;
        let layout = lay_out(core, first).await?;
        let second = core.store.history().await?;
        if second.compacted_revision == compacted {
            return Ok((layout, second));
        }
    }
    Err(Error::Timeout { maybe_applied: false })
}

async fn lay_out(core: &Core, history: History) -> Result<Layout, Error> {
    let status = core.store.status().await?;
    let History { revision, compacted_revision, leases, mut records } = history;
    let mut tree = Tree::new(bolt::FIRST_PAGE);
    let mut records_bytes = 0;
    while let Some(batch) = records.next().await {
        for record in batch? {
            records_bytes += push(&mut tree, record).map_or(0, |page| page.len() as u64);
        }
    }
    let (mut tail, key_root, mut next_page) = tree.finish();
    let mut bucket = |entries: Vec<(Vec<u8>, Vec<u8>)>| {
        let mut tree = Tree::new(next_page);
        for (key, value) in entries {
            tail.extend(tree.push(key, value).unwrap_or_default());
        }
        let (rest, root, end) = tree.finish();
        tail.extend(rest);
        next_page = end;
        root
    };
    let lease_root = bucket(lease_entries(&leases));
    let meta_root =
        bucket(meta_entries(status.applied_index, status.raft_term, compacted_revision));
    let mut empty = || bucket(Vec::new());
    let buckets = [
        ("alarm", empty()),
        ("auth", empty()),
        ("authRoles", empty()),
        ("authUsers", empty()),
        ("cluster", empty()),
        ("key", key_root),
        ("lease", lease_root),
        ("members", empty()),
        ("members_removed", empty()),
        ("meta", meta_root),
    ];
    let (root_pages, root, end) = bolt::root(next_page, &buckets);
    tail.extend(root_pages);
    Ok(Layout { revision, head: bolt::head(root, end), records_bytes, tail })
}

fn push(tree: &mut Tree, record: HistoryRecord) -> Option<Vec<u8>> {
    tree.push(hash::stored_key(&record), hash::stored_value(record))
}

fn lease_entries(leases: &[(LeaseId, i64)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let stored = leases.iter().map(|(id, ttl)| {
        (id.to_be_bytes().to_vec(), StoredLease { id: *id, ttl: *ttl }.encode_to_vec())
    });
    let mut entries: Vec<_> = stored.collect();
    // As bytes, so that ids below zero come last.
    entries.sort();
    entries
}

/// The names are in order.
fn meta_entries(index: u64, term: u64, compacted: Revision) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = vec![(b"consistent_index".to_vec(), index.to_be_bytes().to_vec())];
    let mut at = compacted.to_be_bytes().to_vec();
    at.push(b'_');
    at.extend_from_slice(&0i64.to_be_bytes());
    if compacted > 0 {
        entries.push((b"finishedCompactRev".to_vec(), at.clone()));
        entries.push((b"scheduledCompactRev".to_vec(), at));
    }
    // Releases before 3.6 pass over it.
    entries.push((b"storageVersion".to_vec(), STORAGE_VERSION.as_bytes().to_vec()));
    entries.push((b"term".to_vec(), term.to_be_bytes().to_vec()));
    entries
}

enum Part {
    Head,
    Records,
    Tail,
    Checksum,
    End,
}

struct Sending {
    core: Arc<Core>,
    layout: Layout,
    history: History,
    /// The records' tree, once more.
    tree: Option<Tree>,
    checksum: Sha256,
    /// Bytes of the file that are not sent yet.
    remaining: u64,
    part: Part,
}

impl Sending {
    async fn next(&mut self) -> Result<Option<SnapshotResponse>, Error> {
        match self.part {
            Part::Head => {
                self.part = Part::Records;
                let head = std::mem::take(&mut self.layout.head);
                self.blob(head).map(Some)
            }
            Part::Records => {
                let pages = self.record_pages().await?;
                if !pages.is_empty() {
                    return self.blob(pages).map(Some);
                }
                self.part = Part::Tail;
                self.tail().map(Some)
            }
            Part::Tail => self.tail().map(Some),
            Part::Checksum => {
                self.part = Part::End;
                let blob = Bytes::copy_from_slice(&self.checksum.finalize_reset());
                Ok(Some(self.response(blob)))
            }
            Part::End => Ok(None),
        }
    }

    fn tail(&mut self) -> Result<SnapshotResponse, Error> {
        let rest = self.layout.tail.split_off(self.layout.tail.len().min(BLOB_BYTES));
        let piece = std::mem::replace(&mut self.layout.tail, rest);
        let answer = self.blob(piece)?;
        if self.layout.tail.is_empty() {
            self.part = Part::Checksum;
            if self.remaining > 0 {
                return Err(changed());
            }
        }
        Ok(answer)
    }

    /// Nothing when there are no more; the tree's last pages stand in the tail.
    async fn record_pages(&mut self) -> Result<Vec<u8>, Error> {
        let mut pages = Vec::new();
        while pages.is_empty() {
            let Some(batch) = self.history.records.next().await else { break };
            for record in batch? {
                if record.kv.mod_revision > self.layout.revision {
                    continue;
                }
                let Some(tree) = &mut self.tree else { break };
                pages.extend(push(tree, record).unwrap_or_default());
            }
        }
        Ok(pages)
    }

    fn blob(&mut self, bytes: Vec<u8>) -> Result<SnapshotResponse, Error> {
        self.checksum.update(&bytes);
        let sent = self.remaining.checked_sub(bytes.len() as u64);
        self.remaining = sent.ok_or_else(changed)?;
        Ok(self.response(bytes.into()))
    }

    fn response(&self, blob: Bytes) -> SnapshotResponse {
        SnapshotResponse {
            header: self.core.header(self.layout.revision),
            remaining_bytes: self.remaining,
            blob,
            version: STORAGE_VERSION.to_owned(),
        }
    }
}

/// Both passes saw one compaction, so this is a fault of ours.
fn changed() -> Error {
    Error::Unavailable { detail: "the history changed while it was copied; try again".to_owned() }
}
