//! [`Consensus`] by the raft crate of TiKV.
//!
//! A sole voter campaigns at once and needs no ticks: an idle store does not wake.

use bytes::Bytes;
use prost_raft::Message as _;
use raft::eraftpb::{
    ConfState, Entry, EntryType, HardState as RaftHardState, Message, MessageType,
};

use raft::{Config, RawNode, StateRole};

use super::log::MemoryLog;
use super::{Consensus, ConsensusError, EntryKind, LogEntry, PeerMessage, Position, Work};
use crate::cluster::Lane;
use crate::wal::format::HardState;

/// Ticks are 100 ms.
const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 1;
const MESSAGE_MAX_BYTES: u64 = 1 << 20;
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Beyond this, proposals are refused until some are committed.
const UNCOMMITTED_MAX_BYTES: u64 = 64 << 20;
const COMMITTED_MAX_BYTES: u64 = 16 << 20;

/// What a member starts from.
#[derive(Debug)]
pub struct Start {
    pub member_id: u64,
    pub voters: Vec<u64>,
    pub applied: Position,
    pub hard_state: HardState,
    /// Those behind `applied`.
    pub entries: Vec<LogEntry>,
}

pub struct RaftConsensus {
    node: RawNode<MemoryLog>,
}

impl RaftConsensus {
    pub fn new(start: Start) -> Result<Self, ConsensusError> {
        let config = Config {
            id: start.member_id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: start.applied.index,
            max_size_per_msg: MESSAGE_MAX_BYTES,
            max_inflight_msgs: MESSAGES_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: UNCOMMITTED_MAX_BYTES,
            max_committed_size_per_ready: COMMITTED_MAX_BYTES,
            ..Config::default()
        };
        let sole = start.voters == [start.member_id];
        let last_index = start.entries.last().map_or(start.applied.index, |entry| entry.index);
        let hard_state = RaftHardState {
            term: start.hard_state.term,
            vote: start.hard_state.vote,
            // What the state holds was committed, and nothing behind the log's end can be.
            commit: start.hard_state.commit.clamp(start.applied.index, last_index),
        };
        let conf_state = ConfState { voters: start.voters, ..ConfState::default() };
        let mut log = MemoryLog::new(start.applied, hard_state, conf_state);
        let entries: Vec<_> = start.entries.into_iter().map(to_raft).collect();
        log.append(&entries);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, log, &logger).map_err(refused)?;
        if sole {
            node.campaign().map_err(refused)?;
        }
        Ok(Self { node })
    }
}

impl Consensus for RaftConsensus {
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ConsensusError> {
        self.node.propose(Vec::new(), payload).map_err(|error| match error {
            raft::Error::ProposalDropped if self.is_leader() => ConsensusError::Overloaded,
            raft::Error::ProposalDropped => ConsensusError::NoLeader,
            other => refused(other),
        })
    }

    fn step(&mut self, message: &[u8]) -> Result<(), ConsensusError> {
        let message = Message::decode(message)
            .map_err(|error| ConsensusError::Other(format!("malformed peer message: {error}")))?;
        self.node.step(message).map_err(refused)
    }

    fn tick(&mut self) {
        self.node.tick();
    }

    fn needs_ticks(&self) -> bool {
        let voters = self.node.raft.prs().conf().voters().ids();
        !(voters.len() == 1 && voters.contains(self.node.raft.id) && self.is_leader())
    }

    fn poll(&mut self) -> Option<Work> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        let log = self.node.mut_store();
        log.append(&entries);
        if let Some(state) = &hard_state {
            log.set_hard_state(state.clone());
        }
        let work = Work {
            number: ready.number(),
            messages: ready.take_messages().into_iter().map(encode_message).collect(),
            hard_state: hard_state.as_ref().map(|state| HardState {
                term: state.term,
                vote: state.vote,
                commit: state.commit,
            }),
            must_sync: ready.must_sync(),
            messages_after_persist: ready
                .take_persisted_messages()
                .into_iter()
                .map(encode_message)
                .collect(),
            committed: ready.take_committed_entries().into_iter().map(from_raft).collect(),
            entries: entries.into_iter().map(from_raft).collect(),
        };
        self.node.advance_append_async(ready);
        Some(work)
    }

    fn persisted(&mut self, number: u64) {
        self.node.on_persist_ready(number);
    }

    fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.node.mut_store().compact(index);
    }

    fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn term(&self) -> u64 {
        self.node.raft.term
    }

    fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }
}

fn refused(error: raft::Error) -> ConsensusError {
    ConsensusError::Other(error.to_string())
}

fn encode_message(message: Message) -> PeerMessage {
    let lane = match message.get_msg_type() {
        MessageType::MsgAppend | MessageType::MsgAppendResponse | MessageType::MsgPropose => {
            Lane::Bulk
        }
        _ => Lane::Urgent,
    };
    PeerMessage { to: message.to, lane, content: Bytes::from(message.encode_to_vec()) }
}

fn to_raft(entry: LogEntry) -> Entry {
    let kind = match entry.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    };
    let mut made = Entry {
        index: entry.index,
        term: entry.term,
        data: entry.payload.into(),
        ..Entry::default()
    };
    made.set_entry_type(kind);
    made
}

fn from_raft(entry: Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Normal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    LogEntry { index: entry.index, term: entry.term, kind, payload: Bytes::from(entry.data) }
}
