//! Forgets versions that no read may ask for any more, a bounded number at a time.

use bytes::Bytes;

use super::State;
use crate::kv::{Error, Revision};

/// Versions dropped in one step; requests wait for it.
const VERSIONS_ENOUGH: usize = 1000;

/// How a version supersedes the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Overwrite,
    Deletion,
}

impl State {
    /// Raises the oldest readable revision. What falls below it is dropped by [`Self::sweep`].
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted { requested: revision, compacted: self.compacted });
        }
        if revision > self.revision {
            return Err(Error::Future { requested: revision, current: self.revision });
        }
        self.compacted = revision;
        Ok(())
    }

    pub(crate) fn needs_sweep(&self) -> bool {
        let reached = |(revision, _): &(Revision, Bytes)| *revision <= self.compacted;
        let passed = |(revision, _): &(Revision, Bytes)| *revision < self.compacted;
        self.overwritten.front().is_some_and(reached) || self.deleted.front().is_some_and(passed)
    }

    /// Whether versions would go if this revision were compacted.
    pub(crate) fn frees(&self, revision: Revision) -> bool {
        self.overwritten.front().is_some_and(|(at, _)| *at <= revision)
            || self.deleted.front().is_some_and(|(at, _)| *at < revision)
    }

    fn next_to_sweep(&mut self) -> Option<Bytes> {
        let compacted = self.compacted;
        let overwritten = self.overwritten.pop_front_if(|(revision, _)| *revision <= compacted);
        // A deletion at exactly the compacted revision stays, for the watch that starts there.
        overwritten
            .or_else(|| self.deleted.pop_front_if(|(revision, _)| *revision < compacted))
            .map(|(_, key)| key)
    }

    /// Remembers that the newest version of a key has made older ones, or itself, superfluous
    /// once its revision is compacted.
    pub(super) fn note_garbage(&mut self, revision: Revision, key: &[u8], change: Change) {
        let key = Bytes::copy_from_slice(key);
        match change {
            Change::Overwrite => self.overwritten.push_back((revision, key)),
            Change::Deletion => {
                self.overwritten.push_back((revision, key.clone()));
                self.deleted.push_back((revision, key));
            }
        }
    }

    /// Looks at up to `keys_max` keys, and at no more of them once [`VERSIONS_ENOUGH`] are dropped.
    /// Which ones have been swept never shows in an answer, so members need not agree on it.
    pub(crate) fn sweep(&mut self, keys_max: usize) {
        let mut dropped = Vec::new();
        let mut versions = 0;
        for _ in 0..keys_max {
            if versions >= VERSIONS_ENOUGH {
                return;
            }
            let Some(key) = self.next_to_sweep() else { return };
            let Some(history) = self.index.get_mut(&key) else { continue };
            history.compact(self.compacted, &mut dropped);
            if history.is_empty() {
                self.index.remove(&key);
            }
            versions += dropped.len();
            for version in dropped.drain(..) {
                let bytes = Self::record_bytes(&key, version.value_bytes as usize);
                self.live_bytes = self.live_bytes.saturating_sub(bytes);
                if let Some(record) = self.pending.records.remove(&version.at) {
                    self.pending.bytes =
                        self.pending.bytes.saturating_sub(record.key.len() + record.value.len());
                } else {
                    self.pending.removed.insert(version.at);
                }
            }
        }
    }
}
