//! Consensus around another, which it asks for everything that it does not do itself: for bugs that
//! are planted, and for looking on.

use crate::cluster::Progress;
use crate::consensus::{
    Configuration, Consensus, ConsensusError, LogEntry, MemberChange, Standing, Work,
};

pub(super) trait Around: Send {
    fn inner(&self) -> &dyn Consensus;
    fn inner_mut(&mut self) -> &mut dyn Consensus;

    fn poll_around(&mut self) -> Option<Work> {
        self.inner_mut().poll()
    }

    fn applied_around(&mut self, index: u64) {
        self.inner_mut().applied(index);
    }

    fn leader_ended_around(&mut self, leader: u64) {
        self.inner_mut().leader_ended(leader);
    }

    fn read_index_around(&mut self, number: u64) {
        self.inner_mut().read_index(number);
    }
}

impl<T: Around> Consensus for T {
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ConsensusError> {
        self.inner_mut().propose(payload)
    }

    fn propose_change(
        &mut self,
        change: MemberChange,
        context: Vec<u8>,
    ) -> Result<(), ConsensusError> {
        self.inner_mut().propose_change(change, context)
    }

    fn apply_change(&mut self, change: MemberChange) -> Result<Configuration, ConsensusError> {
        self.inner_mut().apply_change(change)
    }

    fn step(&mut self, from: u64, message: &[u8]) -> Result<(), ConsensusError> {
        self.inner_mut().step(from, message)
    }

    fn tick(&mut self) {
        self.inner_mut().tick();
    }

    fn needs_ticks(&self) -> bool {
        self.inner().needs_ticks()
    }

    fn poll(&mut self) -> Option<Work> {
        self.poll_around()
    }

    fn committed_changes(&self) -> Vec<LogEntry> {
        self.inner().committed_changes()
    }

    fn persisted(&mut self, number: u64) {
        self.inner_mut().persisted(number);
    }

    fn applied(&mut self, index: u64) {
        self.applied_around(index);
    }

    fn read_index(&mut self, number: u64) {
        self.read_index_around(number);
    }

    fn unreachable(&mut self, peer: u64) {
        self.inner_mut().unreachable(peer);
    }

    fn leader_ended(&mut self, leader: u64) {
        self.leader_ended_around(leader);
    }

    fn snapshot_sent(&mut self, peer: u64, arrived: bool) {
        self.inner_mut().snapshot_sent(peer, arrived);
    }

    fn transfer(&mut self, to: u64) {
        self.inner_mut().transfer(to);
    }

    fn standing(&self) -> Standing {
        self.inner().standing()
    }

    fn progress(&self) -> Vec<Progress> {
        self.inner().progress()
    }
}
