//! The log's end in memory, as the raft crate reads it.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::Position;

/// What an entry costs in memory besides its content.
const ENTRY_OVERHEAD_BYTES: usize = 96;

#[derive(Debug)]
pub(super) struct MemoryLog {
    /// The entry before the first one kept.
    before: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    hard_state: HardState,
    /// As of `applied`.
    conf_state: ConfState,
    applied: Position,
}

impl MemoryLog {
    pub(super) fn new(before: Position, hard_state: HardState, conf_state: ConfState) -> Self {
        let entries = VecDeque::new();
        Self { before, entries, bytes: 0, hard_state, conf_state, applied: before }
    }

    pub(super) fn append(&mut self, new: &[Entry]) {
        for entry in new {
            let position = entry.index.saturating_sub(self.before.index + 1);
            while self.entries.len() as u64 > position {
                self.bytes -= self.entries.pop_back().map_or(0, |entry| cost(&entry));
            }
            self.bytes += cost(entry);
            self.entries.push_back(entry.clone());
        }
    }

    pub(super) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Everything up to here has been replaced by a state.
    pub(super) fn restart(&mut self, at: Position, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.before = at;
        self.applied = at;
        self.conf_state = conf_state;
    }

    pub(super) fn set_applied(&mut self, index: u64) {
        if let Ok(term) = self.term(index) {
            self.applied = Position { index, term };
        }
    }

    pub(super) fn applied(&self) -> Position {
        self.applied
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Forgets applied entries: those up to `unneeded`, and more while there are too many.
    pub(super) fn trim(&mut self, unneeded: u64, (entries_max, bytes_max): (usize, usize)) {
        while let Some(first) = self.entries.front() {
            let too_many = self.entries.len() > entries_max || self.bytes > bytes_max;
            // A new member begins with a state and not with the first entry, which says nothing
            // of the members that the cluster was made with.
            let unneeded = first.index <= unneeded.max(1) || too_many;
            if first.index > self.applied.index || !unneeded {
                break;
            }
            self.before = Position { index: first.index, term: first.term };
            self.bytes -= self.entries.pop_front().map_or(0, |entry| cost(&entry));
        }
        if self.entries.is_empty() {
            self.entries.shrink_to(64);
        }
    }

    /// Of the entries behind `after` up to `through`, those that change the members.
    pub(super) fn changes(&self, after: u64, through: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(after.saturating_sub(self.before.index)).unwrap_or(usize::MAX);
        let behind = self.entries.iter().skip(skip).take_while(move |one| one.index <= through);
        behind.filter(|entry| entry.get_entry_type() != EntryType::EntryNormal)
    }

    fn last(&self) -> u64 {
        self.before.index + self.entries.len() as u64
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + ENTRY_OVERHEAD_BYTES
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

    /// Only what it is of; the content goes another way.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let members = self.conf_state.voters.iter().chain(&self.conf_state.learners);
        let knows = members.into_iter().any(|member| *member == to);
        if !knows || self.applied.index == 0 || self.applied.index < request_index {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied.index;
        metadata.term = self.applied.term;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}
