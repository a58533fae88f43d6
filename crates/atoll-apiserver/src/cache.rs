//! The objects of one resource in memory, with the ring of their latest changes.
//!
//! One task writes (the registry's feed), everyone reads. A watcher has no queue of its own:
//! it keeps a position and reads on from there; one that falls behind the ring is told that
//! its position is too old.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use atoll_api::kinds::Row;
use atoll_store::kv::Revision;
use tokio::sync::watch;

pub use entry::{Change, ChangeKind, Entry};

/// Changes that a ring keeps. A watcher further behind lists again.
const RING_CHANGES_MAX: usize = 4096;
/// Bytes of objects that a ring keeps alive, at most; the newest changes always stay.
const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Changes a watcher takes at once, so that it holds the lock only briefly.
const READ_CHANGES_MAX: usize = 256;

/// All objects of one stored resource.
pub struct ResourceCache {
    /// The row in whose version the objects are stored.
    row: Row,
    state: RwLock<State>,
    /// The revision of the latest change, for those who wait for one.
    latest: watch::Sender<Revision>,
    /// Another cache has taken its place, or none has.
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Box<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    floor: Revision,
    /// The revision of the latest change.
    latest: Revision,
}

/// One write as the store's watch tells it.
#[derive(Debug)]
pub(crate) enum CacheWrite {
    Put(Entry),
    Delete { key: String, revision: Revision },
}

/// A position that the ring no longer reaches back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    pub asked: Revision,
    pub oldest: Revision,
}

impl ResourceCache {
    pub(crate) fn new(row: Row) -> Self {
        let closed = AtomicBool::new(false);
        Self { row, state: RwLock::default(), latest: watch::channel(0).0, closed }
    }

    pub fn row(&self) -> &Row {
        &self.row
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        if namespace.is_empty() {
            return self.read().entries.get(name).cloned();
        }
        let key = crate::storage::suffix(namespace, name);
        self.read().entries.get(key.as_str()).cloned()
    }

    /// All objects, of one namespace or (with an empty one) of all, in key order.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Entry>> {
        self.list_at(namespace, 0).0
    }

    /// The same, and the revision as of which the list is exact. `known` is a revision up to
    /// which every change is known to be in this cache.
    pub fn list_at(&self, namespace: &str, known: Revision) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.read();
        let entries = if namespace.is_empty() {
            state.entries.values().cloned().collect()
        } else {
            // '0' is the character after '/'.
            let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
            let bounds = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
            state.entries.range::<str, _>(bounds).map(|(_, entry)| entry.clone()).collect()
        };
        (entries, state.latest.max(known))
    }

    pub fn len(&self) -> usize {
        self.read().entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes after `position` in order: a few hundred at once, and always whole revisions,
    /// for a position is a revision.
    pub fn changes_after(&self, position: Revision) -> Result<Vec<Arc<Change>>, TooOld> {
        let state = self.read();
        if position < state.floor {
            return Err(TooOld { asked: position, oldest: state.floor });
        }
        let from = state.ring.partition_point(|change| change.revision <= position);
        let last = state.ring.get(from + READ_CHANGES_MAX - 1).map(|change| change.revision);
        let end = last.map_or(state.ring.len(), |last| {
            state.ring.partition_point(|change| change.revision <= last)
        });
        Ok(state.ring.range(from..end).cloned().collect())
    }

    /// Sees the revision of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.latest.subscribe()
    }

    /// Nothing comes any more: its row went or changed. Watchers end and come again.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    // === the feed's side ===

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.latest.send_modify(|_| {});
    }

    pub(crate) fn reset(&self, entries: Vec<Entry>, revision: Revision) {
        let mut state = self.write();
        state.ring.clear();
        state.ring_bytes = 0;
        state.floor = revision;
        state.latest = revision;
        state.entries =
            entries.into_iter().map(|entry| (entry.key.clone(), Arc::new(entry))).collect();
        drop(state);
        self.latest.send_replace(revision);
    }

    /// Takes in whole revisions at once: whoever reads sees all of a transaction or nothing.
    pub(crate) fn apply(&self, writes: Vec<CacheWrite>) {
        let mut state = self.write();
        for write in writes {
            match write {
                CacheWrite::Put(entry) => state.put(entry),
                CacheWrite::Delete { key, revision } => state.delete(&key, revision),
            }
        }
        state.forget();
    }

    /// Wakes those who wait, after all caches have taken in what came with it.
    pub(crate) fn announce(&self, revision: Revision) {
        self.latest.send_replace(revision);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, entry: Entry) {
        let entry = Arc::new(entry);
        let old = self.entries.insert(entry.key.clone(), entry.clone());
        let kind = if old.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        self.push(Change::new(kind, entry.revision, entry, old));
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        let Some(old) = self.entries.remove(key) else { return };
        let last = Arc::new(old.at_revision(revision));
        self.push(Change::new(ChangeKind::Deleted, revision, last, Some(old)));
    }

    fn push(&mut self, change: Change) {
        self.latest = change.revision;
        self.ring_bytes += change.bytes();
        self.ring.push_back(Arc::new(change));
    }

    /// Drops the oldest changes beyond what a ring keeps.
    fn forget(&mut self) {
        while self.ring.len() > RING_CHANGES_MAX
            || (self.ring_bytes > RING_BYTES_MAX && self.ring.len() > 1)
        {
            let Some(oldest) = self.ring.pop_front() else { return };
            self.ring_bytes = self.ring_bytes.saturating_sub(oldest.bytes());
            self.floor = oldest.revision;
        }
    }
}
