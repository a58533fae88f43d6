//! What the store asks of consensus, and nothing about how it is reached.
//!
//! An implementation does no I/O: it says in [`Work`] what must be persisted, sent and applied,
//! and is told when that is done. The one that ships is [`raft::RaftConsensus`].

use bytes::Bytes;

use crate::cluster::{Lane, Member, OutgoingSnapshot, Progress};
use crate::wal::format::HardState;

mod log;
pub mod raft;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Normal,
    ConfChange,
    ConfChangeV2,
}

impl EntryKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::ConfChange => 1,
            Self::ConfChangeV2 => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Normal),
            1 => Some(Self::ConfChange),
            2 => Some(Self::ConfChangeV2),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub kind: EntryKind,
    pub payload: Bytes,
}

/// An encoded message for another member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerMessage {
    pub to: u64,
    pub lane: Lane,
    pub content: Bytes,
}

/// Carries messages to the other members. It may lose, delay and reorder them.
pub trait Net: Send + std::fmt::Debug {
    /// Returns at once; what does not fit into the queue is dropped.
    fn send(&mut self, message: PeerMessage);
    /// Streams it on a connection of its own, throttled; then [`Inbox::snapshot_sent`].
    ///
    /// [`Inbox::snapshot_sent`]: crate::cluster::Inbox::snapshot_sent
    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot);
    /// Whom to talk to from now on, without this member itself.
    fn set_peers(&mut self, peers: &[Member]);
}

/// The network of a sole voter, who has nobody to talk to.
#[derive(Debug, Default)]
pub struct NoPeers;

impl Net for NoPeers {
    fn send(&mut self, message: PeerMessage) {
        tracing::error!(to = message.to, "a sole voter has a message for a peer; dropped");
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        tracing::error!(to = snapshot.to, "a sole voter has a snapshot for a peer; dropped");
    }

    fn set_peers(&mut self, _peers: &[Member]) {}
}

/// One member more, or one less; one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    AddLearner(u64),
    Promote(u64),
    Remove(u64),
}

/// Who votes and who only listens, by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
}

/// What consensus wants done, in the order of the fields.
#[derive(Debug, Default)]
pub struct Work {
    /// For [`Consensus::persisted`].
    pub number: u64,
    pub messages: Vec<PeerMessage>,
    /// To whom the present state is to be sent, before anything more is applied, with the message
    /// that goes with it.
    pub snapshots: Vec<(u64, Bytes)>,
    /// Number of a [`Consensus::read_index`] and the index that must be applied for it.
    pub reads: Vec<(u64, u64)>,
    /// A state that was sent here replaces the present one and the log, before `entries`.
    pub install: Option<Position>,
    /// Must be durable before `messages_after_persist` go out.
    pub hard_state: Option<HardState>,
    pub entries: Vec<LogEntry>,
    /// The hard state or the entries must be durable before [`Consensus::persisted`] is called.
    pub must_sync: bool,
    pub messages_after_persist: Vec<PeerMessage>,
    pub committed: Vec<LogEntry>,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ConsensusError {
    #[error("there is no leader")]
    NoLeader,
    #[error("too much is waiting to be committed")]
    Overloaded,
    /// What this member has on its disk is not what it told others.
    #[error("the log does not fit to what the other members know of it: {0}")]
    Inconsistent(String),
    #[error("consensus refused: {0}")]
    Other(String),
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    pub is_leader: bool,
    /// Zero while none is known.
    pub leader: u64,
    pub term: u64,
    pub last_index: u64,
    pub committed: u64,
    /// A leader that has committed an entry of its own term: it knows what is committed.
    pub is_settled: bool,
    /// A change of the members is under way, or may be.
    pub is_changing: bool,
    /// A leader that is handing its place over takes no proposals.
    pub is_transferring: bool,
}

pub trait Consensus: Send {
    /// A follower passes it on to the leader, which may never get it, or get it twice.
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ConsensusError>;
    /// Only on the leader. `context` comes back with the entry.
    fn propose_change(
        &mut self,
        change: MemberChange,
        context: Vec<u8>,
    ) -> Result<(), ConsensusError>;
    /// A change that was committed takes effect.
    fn apply_change(&mut self, change: MemberChange) -> Result<Configuration, ConsensusError>;
    /// A message of the member `from`.
    fn step(&mut self, from: u64, message: &[u8]) -> Result<(), ConsensusError>;
    /// One unit of time has passed. A sole member needs none.
    fn tick(&mut self);
    fn needs_ticks(&self) -> bool;
    /// The next piece of work, or nothing.
    fn poll(&mut self) -> Option<Work>;
    /// Changes of members that are committed and not in any work yet: it gives out so many bytes of
    /// what is committed at once, and what it sends tells of all.
    fn committed_changes(&self) -> Vec<LogEntry>;
    /// The work of this number, and all before, is durable.
    fn persisted(&mut self, number: u64);
    /// Entries up to this one have been applied; followers may still need them.
    fn applied(&mut self, index: u64);
    /// Asks for what is committed now, by [`Work::reads`]. It may get lost.
    fn read_index(&mut self, number: u64);
    fn unreachable(&mut self, peer: u64);
    /// The process of this leader has ended. What follows from it is only that this member waits
    /// less long for it.
    fn leader_ended(&mut self, leader: u64);
    fn snapshot_sent(&mut self, peer: u64, arrived: bool);
    /// Tries to make `to` the leader; gives up after an election timeout.
    fn transfer(&mut self, to: u64);
    fn standing(&self) -> Standing;
    /// Of all members but this one; only on the leader.
    fn progress(&self) -> Vec<Progress>;
}
