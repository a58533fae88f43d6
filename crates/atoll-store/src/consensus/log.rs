//! The log's end in memory, as the raft crate reads it.

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::Position;

#[derive(Debug)]
pub(super) struct MemoryLog {
    /// The entry before the first one kept.
    before: Position,
    entries: std::collections::VecDeque<Entry>,
    hard_state: HardState,
    conf_state: ConfState,
}

impl MemoryLog {
    pub(super) fn new(before: Position, hard_state: HardState, conf_state: ConfState) -> Self {
        Self { before, entries: std::collections::VecDeque::new(), hard_state, conf_state }
    }

    pub(super) fn append(&mut self, new: &[Entry]) {
        for entry in new {
            let position = entry.index.saturating_sub(self.before.index + 1);
            self.entries.truncate(usize::try_from(position).unwrap_or(usize::MAX));
            self.entries.push_back(entry.clone());
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Forgets entries up to and with `index`.
    pub(super) fn compact(&mut self, index: u64) {
        while let Some(first) = self.entries.front() {
            if first.index > index {
                break;
            }
            self.before = Position { index: first.index, term: first.term };
            self.entries.pop_front();
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(64);
        }
    }

    fn last(&self) -> u64 {
        self.before.index + self.entries.len() as u64
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let skip = usize::try_from(low - self.before.index - 1).unwrap_or(usize::MAX);
        let count = usize::try_from(high - low).unwrap_or(0);
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.iter().skip(skip).take(count) {
            bytes += entry.data.len() as u64;
            // At least one, whatever its size, or nothing would ever move.
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.index {
            return Ok(self.before.term);
        }
        if index < self.before.index {
            return Err(StorageError::Compacted.into());
        }
        let position = usize::try_from(index - self.before.index - 1).unwrap_or(usize::MAX);
        match self.entries.get(position) {
            Some(entry) => Ok(entry.term),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}
