//! What the store asks of consensus, and nothing about how it is reached.
//!
//! An implementation does no I/O: it says in [`Work`] what must be persisted, sent and applied,
//! and is told when that is done. The one that ships is [`raft::RaftConsensus`].

use bytes::Bytes;

use crate::cluster::{Lane, Member, OutgoingSnapshot};
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

/// What consensus wants done, in the order of the fields.
#[derive(Debug, Default)]
pub struct Work {
    /// For [`Consensus::persisted`].
    pub number: u64,
    pub messages: Vec<PeerMessage>,
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
    #[error("consensus refused: {0}")]
    Other(String),
}

pub trait Consensus: Send {
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ConsensusError>;
    fn step(&mut self, message: &[u8]) -> Result<(), ConsensusError>;
    /// One unit of time has passed. A sole voter needs none.
    fn tick(&mut self);
    fn needs_ticks(&self) -> bool;
    /// The next piece of work, or nothing.
    fn poll(&mut self) -> Option<Work>;
    /// The work of this number, and all before, is durable.
    fn persisted(&mut self, number: u64);
    /// Entries up to this one have been applied and need not be kept for the state.
    fn applied(&mut self, index: u64);
    fn is_leader(&self) -> bool;
    fn term(&self) -> u64;
    fn last_index(&self) -> u64;
}
