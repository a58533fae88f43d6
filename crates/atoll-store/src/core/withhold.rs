//! The removal of one of two voters, which takes effect later than other entries: the one that stays
//! needs the vote of the one that goes until its own disk says that it does not.

use super::Core;
use crate::consensus::raft::decode_change;
use crate::consensus::{EntryKind, LogEntry, MemberChange, Work};

/// What committed entries wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// The work of this number is durable.
    Durable(u64),
    /// The other leads, and has said that they are committed: it knows it durably.
    OtherLeads,
}

impl Core {
    /// Looks at work before it is done.
    pub(super) fn withhold(&mut self, work: &mut Work) {
        match self.removal_of_two(work) {
            Some(removed) if removed == self.member_id => {
                self.withheld_until = Some(Until::OtherLeads);
            }
            Some(_) if self.withheld_until.is_none() => {
                work.must_sync = true;
                self.withheld_until = Some(Until::Durable(work.number));
            }
            _ => {}
        }
        // Nor may the other hear of it before, or whoever switches it off; heartbeats tell of it too.
        // What waits for nothing of its own goes when all before it is durable.
        if matches!(self.withheld_until, Some(Until::Durable(_))) {
            work.messages_after_persist.splice(0..0, std::mem::take(&mut work.messages));
        }
    }

    /// Who goes, of two that vote, by what has just become known to be committed.
    fn removal_of_two(&self, work: &Work) -> Option<u64> {
        if self.roster.configuration.voters.len() != 2 {
            return None;
        }
        // What is sent may tell of a removal that comes with later work only.
        let removed = self.removed_of_two(&work.committed);
        removed.or_else(|| self.removed_of_two(&self.consensus.committed_changes()))
    }

    fn removed_of_two(&self, entries: &[LogEntry]) -> Option<u64> {
        let changes = entries.iter().filter(|entry| entry.kind != EntryKind::Normal);
        changes.filter_map(|entry| decode_change(&entry.payload).ok()).find_map(|(change, _)| {
            match change {
                MemberChange::Remove(id) if self.roster.is_voter(id) => Some(id),
                _ => None,
            }
        })
    }

    /// The work of this number is durable.
    pub(super) fn release(&mut self, number: u64) {
        self.withheld_until.take_if(|until| match until {
            Until::Durable(awaited) => *awaited <= number,
            Until::OtherLeads => false,
        });
    }

    /// A leader that is removed lets the other lead first.
    pub(super) fn give_way(&mut self) {
        let standing = self.consensus.standing();
        if self.withheld_until == Some(Until::OtherLeads)
            && standing.is_leader
            && !standing.is_transferring
            && let Some(other) = self.successor()
        {
            self.consensus.transfer(other);
        }
    }

    /// Applies what is committed and not withheld; whether there was any.
    pub(super) fn apply_committed(&mut self) -> Result<bool, Box<dyn std::error::Error>> {
        if self.withheld_until == Some(Until::OtherLeads) && self.is_told_by_leader() {
            self.withheld_until = None;
        }
        let mut any = false;
        while self.withheld_until.is_none()
            && let Some(entry) = self.withheld.pop_front()
        {
            let index = entry.index;
            self.apply(entry)?;
            self.consensus.applied(index);
            any = true;
        }
        self.answer_reads();
        Ok(any)
    }

    /// Whether another leads and has committed an entry of its own term.
    fn is_told_by_leader(&self) -> bool {
        let standing = self.consensus.standing();
        let last = self.withheld.back().map_or(0, |entry| entry.term);
        standing.leader != 0 && !standing.is_leader && last == standing.term
    }
}
