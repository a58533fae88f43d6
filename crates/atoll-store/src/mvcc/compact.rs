//! Forgets versions that no read may ask for any more, a bounded number at a time.

use super::State;
use crate::kv::{Error, Revision};

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
        self.garbage.front().is_some_and(|(revision, _)| *revision < self.compacted)
    }

    /// Looks at up to `keys_max` keys. Which ones have been swept never shows in an answer, so
    /// members need not agree on it.
    pub(crate) fn sweep(&mut self, keys_max: usize) {
        let mut dropped = Vec::new();
        for _ in 0..keys_max {
            if !self.needs_sweep() {
                return;
            }
            let Some((_, key)) = self.garbage.pop_front() else { return };
            let Some(history) = self.index.get_mut(&key) else { continue };
            history.compact(self.compacted, &mut dropped);
            if history.is_empty() {
                self.index.remove(&key);
            }
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
