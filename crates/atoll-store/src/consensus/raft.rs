//! [`Consensus`] by the raft crate of TiKV.
//!
//! A sole voter campaigns at once and needs no ticks: an idle store does not wake. What comes
//! from other members is looked at before the crate sees it, because it panics on nonsense.

use bytes::Bytes;
use prost_raft::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState as RaftHardState, Message,
    MessageType,
};
use raft::{Config, ProgressState, RawNode, SnapshotStatus, StateRole};

use super::log::MemoryLog;
use super::{
    Configuration, Consensus, ConsensusError, EntryKind, LogEntry, MemberChange, PeerMessage,
    Position, Standing, Work,
};
use crate::cluster::{Lane, Progress};
use crate::wal::format::HardState;

mod checks;
mod reading;
#[cfg(test)]
mod tests;

/// Ticks are 100 ms.
pub(crate) const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 1;
/// After so many ticks, and as many as its rank, a member that knows that the leader has ended asks
/// again whether it would be voted for: those who had not noticed did not answer.
const AGAIN_TICKS: usize = 3;
/// Heartbeats are answered within that, if they are.
const LATELY_TICKS: usize = 2;
const MESSAGE_MAX_BYTES: u64 = 1 << 20;
const MESSAGES_IN_FLIGHT_MAX: usize = 256;
/// Beyond this, proposals are refused until some are committed.
const UNCOMMITTED_MAX_BYTES: u64 = 64 << 20;
/// Applied at once; heartbeats wait for it.
const COMMITTED_MAX_BYTES: u64 = 1 << 20;
/// Entries kept although every follower that answers has them: one that comes back soon is then
/// served from memory.
const ENTRIES_KEPT: u64 = 5_000;

/// What a member starts from.
#[derive(Debug)]
pub struct Start {
    pub member_id: u64,
    pub configuration: Configuration,
    pub applied: Position,
    pub hard_state: HardState,
    /// Those behind `applied`.
    pub entries: Vec<LogEntry>,
    /// Decides when elections begin, with the member and the term.
    pub seed: u64,
    /// Entries, and their bytes, kept in memory for followers.
    pub kept_max: (usize, usize),
}

#[derive(Debug, Clone, Copy)]
struct Ended {
    leader: u64,
    term: u64,
}

pub struct RaftConsensus {
    node: RawNode<MemoryLog>,
    seed: u64,
    kept_max: (usize, usize),
    /// The leader of this term has ended, as far as this member knows.
    ended: Option<Ended>,
    /// Elections that were begun or restarted here, so that two members that chose the same
    /// moment do not do so again.
    attempts: u64,
    polled: u64,
    persisted: u64,
    /// The last entry that was given out as committed.
    given_out: u64,
    reading: reading::Reading,
    /// Who had answered when it was last begun anew to count, and for how many ticks that still
    /// tells more than the count.
    lately: (Vec<u64>, usize),
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
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_MAX_BYTES,
            max_committed_size_per_ready: COMMITTED_MAX_BYTES,
            ..Config::default()
        };
        let sole = start.configuration.voters == [start.member_id];
        let last_index = start.entries.last().map_or(start.applied.index, |entry| entry.index);
        // A state that was installed may know of a later term than the log; no vote was given in it.
        let vote =
            if start.applied.term > start.hard_state.term { 0 } else { start.hard_state.vote };
        let hard_state = RaftHardState {
            term: start.hard_state.term.max(start.applied.term),
            vote,
            // What the state holds was committed, and nothing behind the log's end can be.
            commit: start.hard_state.commit.clamp(start.applied.index, last_index),
        };
        let conf_state = ConfState {
            voters: start.configuration.voters,
            learners: start.configuration.learners,
            ..ConfState::default()
        };
        let mut log = MemoryLog::new(start.applied, hard_state, conf_state);
        let entries: Vec<_> = start.entries.into_iter().map(to_raft).collect();
        log.append(&entries);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).map_err(refused)?;
        let kept_max = start.kept_max;
        let seed = start.seed;
        let mut made = Self {
            node,
            seed,
            kept_max,
            ended: None,
            attempts: 0,
            polled: 0,
            persisted: 0,
            given_out: start.applied.index,
            reading: reading::Reading::default(),
            lately: (Vec::new(), 0),
        };
        made.fix_timeout();
        if sole {
            made.node.campaign().map_err(refused)?;
            made.fix_timeout();
        }
        Ok(made)
    }

    /// The crate draws the time until it campaigns from the thread's generator; here it follows
    /// from what can be repeated.
    fn fix_timeout(&mut self) {
        let raft = &mut self.node.raft;
        let mut mixed = self.seed ^ raft.id.rotate_left(17) ^ raft.term.rotate_left(41);
        mixed ^= self.attempts.rotate_left(29);
        // The finalizer of splitmix64.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let spread = usize::try_from(mixed % ELECTION_TICKS as u64).unwrap_or(0);
        // It is heard again, or there is another.
        let over = raft.leader_id != 0 && raft.election_elapsed < ELECTION_TICKS;
        self.ended.take_if(|ended| over || ended.term != raft.term);
        let spread = self.ended.map_or(spread, |ended| 1 + rank(raft, ended.leader));
        raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
    }

    /// Only whether it would be voted for, which changes nobody's term.
    fn ask_again_soon(&mut self) {
        let raft = &mut self.node.raft;
        let asked = raft.state == StateRole::PreCandidate && raft.election_elapsed == 0;
        if asked && self.ended.is_some() {
            raft.election_elapsed = ELECTION_TICKS + 1 - AGAIN_TICKS;
        }
    }

    /// The log begins behind a state that is not this member's yet. The crate would look for the
    /// entries between before it campaigns.
    fn is_installing(&self) -> bool {
        self.node.raft.raft_log.applied < self.node.store().applied().index
    }

    /// Whether the log has a removal of this member that is not applied yet. With its removal the
    /// members forget what it has proposed before, so what came twice would happen twice behind it.
    fn removes(&self, id: u64) -> bool {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader || !raft.has_pending_conf() {
            return false;
        }
        let log = self.node.store();
        let kept = log.changes(log.applied().index, u64::MAX);
        // Some are not taken over by the next piece of work yet.
        let newest = raft.raft_log.unstable_entries().iter();
        let newest = newest.filter(|entry| entry.get_entry_type() != EntryType::EntryNormal);
        kept.chain(newest).any(|entry| {
            decode_change(&entry.data).is_ok_and(|(change, _)| change == MemberChange::Remove(id))
        })
    }

    /// The others that have answered since it was last begun anew to count.
    fn active(&self) -> Vec<u64> {
        let raft = &self.node.raft;
        let others = raft.prs().iter().filter(|(id, one)| **id != raft.id && one.recent_active);
        others.filter(|_| raft.state == StateRole::Leader).map(|(id, _)| *id).collect()
    }

    /// Each second the crate begins anew to count who answers, and for some milliseconds nobody does.
    fn answers(&self, id: u64, recent_active: bool) -> bool {
        recent_active || self.lately.0.contains(&id)
    }

    fn is_alone(&self) -> bool {
        let conf = self.node.raft.prs().conf();
        let voters = conf.voters().ids();
        voters.len() == 1 && voters.contains(self.node.raft.id) && conf.learners().is_empty()
    }

    /// Up to where no follower that answers needs the log.
    fn unneeded(&self) -> u64 {
        let applied = self.node.store().applied().index;
        if self.is_alone() {
            return applied;
        }
        let raft = &self.node.raft;
        let mut needed = applied;
        if raft.state == StateRole::Leader {
            for (id, progress) in raft.prs().iter() {
                if *id != raft.id && self.answers(*id, progress.recent_active) {
                    // What a snapshot brings need not be kept, what follows it must.
                    let behind = match progress.state {
                        ProgressState::Snapshot => progress.pending_snapshot,
                        _ => progress.matched,
                    };
                    needed = needed.min(behind);
                }
            }
        }
        needed.min(applied.saturating_sub(ENTRIES_KEPT))
    }

    fn encode(&self, mut message: Message) -> Encoded {
        let to = message.to;
        if message.get_msg_type() == MessageType::MsgSnapshot {
            // The state that goes with it is taken now, not when the message was made.
            let (applied, conf_state) =
                (self.node.store().applied(), self.node.store().conf_state());
            let metadata = message.mut_snapshot().mut_metadata();
            metadata.index = applied.index;
            metadata.term = applied.term;
            metadata.set_conf_state(conf_state.clone());
            return Encoded::Snapshot(to, Bytes::from(message.encode_to_vec()));
        }
        let lane = match message.get_msg_type() {
            MessageType::MsgAppend | MessageType::MsgAppendResponse | MessageType::MsgPropose => {
                Lane::Bulk
            }
            _ => Lane::Urgent,
        };
        Encoded::Message(PeerMessage { to, lane, content: Bytes::from(message.encode_to_vec()) })
    }

    fn sort(&self, messages: Vec<Message>, work: &mut Work) -> Vec<PeerMessage> {
        let mut ordinary = Vec::with_capacity(messages.len());
        for message in messages {
            match self.encode(message) {
                Encoded::Message(message) => ordinary.push(message),
                Encoded::Snapshot(to, message) => work.snapshots.push((to, message)),
            }
        }
        ordinary
    }
}

enum Encoded {
    Message(PeerMessage),
    Snapshot(u64, Bytes),
}

impl Consensus for RaftConsensus {
    fn propose(&mut self, payload: Vec<u8>) -> Result<(), ConsensusError> {
        let is_leader = self.node.raft.state == StateRole::Leader;
        let outcome = self.node.propose(Vec::new(), payload).map_err(|error| match error {
            raft::Error::ProposalDropped if is_leader => ConsensusError::Overloaded,
            raft::Error::ProposalDropped => ConsensusError::NoLeader,
            other => refused(other),
        });
        self.fix_timeout();
        outcome
    }

    fn propose_change(
        &mut self,
        change: MemberChange,
        context: Vec<u8>,
    ) -> Result<(), ConsensusError> {
        if self.node.raft.state != StateRole::Leader || self.node.raft.has_pending_conf() {
            return Err(ConsensusError::NoLeader);
        }
        let mut encoded = to_change(change);
        encoded.context = context;
        self.node.propose_conf_change(Vec::new(), encoded).map_err(|error| match error {
            raft::Error::ProposalDropped => ConsensusError::Overloaded,
            other => refused(other),
        })
    }

    fn apply_change(&mut self, change: MemberChange) -> Result<Configuration, ConsensusError> {
        let state = self.node.apply_conf_change(&to_change(change)).map_err(refused)?;
        self.node.mut_store().set_conf_state(state.clone());
        self.fix_timeout();
        Ok(Configuration { voters: state.voters, learners: state.learners })
    }

    fn step(&mut self, from: u64, message: &[u8]) -> Result<(), ConsensusError> {
        let message = Message::decode(message)
            .map_err(|error| ConsensusError::Other(format!("malformed peer message: {error}")))?;
        checks::check(&self.node, from, &message)?;
        if message.get_msg_type() == MessageType::MsgTimeoutNow && self.is_installing() {
            return Ok(());
        }
        if message.get_msg_type() == MessageType::MsgPropose && self.removes(from) {
            return Ok(());
        }
        let outcome = if message.get_msg_type() == MessageType::MsgReadIndex {
            self.reading.ask(&mut self.node, message)
        } else {
            self.node.step(message)
        };
        self.fix_timeout();
        match outcome {
            Ok(()) => Ok(()),
            // A forwarded proposal that came at a bad moment, or a late answer: nothing is lost
            // that its sender does not ask for again.
            Err(raft::Error::ProposalDropped | raft::Error::StepPeerNotFound) => Ok(()),
            Err(other) => Err(refused(other)),
        }
    }

    fn tick(&mut self) {
        let raft = &self.node.raft;
        let alone = raft.state != StateRole::Leader && raft.prs().is_singleton();
        // A sole voter would lead at once, which it may only with its whole log on disk.
        if alone && self.polled > self.persisted || self.is_installing() {
            return;
        }
        let active = self.active();
        self.node.tick();
        let now_active = self.active();
        self.lately = if active.iter().any(|id| !now_active.contains(id)) {
            (active, LATELY_TICKS)
        } else {
            let (lately, ticks) = std::mem::take(&mut self.lately);
            if ticks > 1 { (lately, ticks - 1) } else { (Vec::new(), 0) }
        };
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader && raft.election_elapsed == 0 {
            self.attempts += 1;
        }
        self.fix_timeout();
        self.ask_again_soon();
    }

    fn needs_ticks(&self) -> bool {
        !(self.is_alone() && self.node.raft.state == StateRole::Leader)
    }

    fn poll(&mut self) -> Option<Work> {
        if !self.node.has_ready() && !self.reading.begin_next(&mut self.node) {
            return None;
        }
        let mut ready = self.node.ready();
        let mut work =
            Work { number: ready.number(), must_sync: ready.must_sync(), ..Work::default() };
        let entries = ready.take_entries();
        let hard_state = ready.hs().cloned();
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            let at = Position { index: metadata.index, term: metadata.term };
            let conf_state = metadata.conf_state.unwrap_or_default();
            self.node.mut_store().restart(at, conf_state);
            work.install = Some(at);
            self.given_out = self.given_out.max(at.index);
        }
        let log = self.node.mut_store();
        log.append(&entries);
        if let Some(state) = &hard_state {
            log.set_hard_state(state.clone());
        }
        work.messages = self.sort(ready.take_messages(), &mut work);
        work.messages_after_persist = self.sort(ready.take_persisted_messages(), &mut work);
        work.reads = ready
            .take_read_states()
            .into_iter()
            .filter_map(|read| {
                let number = *read.request_ctx.first_chunk()?;
                Some((u64::from_le_bytes(number), read.index))
            })
            .collect();
        work.hard_state = hard_state.as_ref().map(|state| HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
        });
        work.committed = ready.take_committed_entries().into_iter().map(from_raft).collect();
        self.given_out = work.committed.last().map_or(self.given_out, |entry| entry.index);
        work.entries = entries.into_iter().map(from_raft).collect();
        self.polled = work.number;
        self.node.advance_append_async(ready);
        Some(work)
    }

    fn committed_changes(&self) -> Vec<LogEntry> {
        let committed = self.node.raft.raft_log.committed;
        let changes = self.node.store().changes(self.given_out, committed);
        changes.cloned().map(from_raft).collect()
    }

    fn persisted(&mut self, number: u64) {
        self.persisted = self.persisted.max(number);
        self.node.on_persist_ready(number);
    }

    fn applied(&mut self, index: u64) {
        self.node.mut_store().set_applied(index);
        self.node.advance_apply_to(index);
        let unneeded = self.unneeded();
        let kept_max = self.kept_max;
        self.node.mut_store().trim(unneeded, kept_max);
    }

    /// The leader answers one of those that come with equal contexts: numbers of two members may
    /// be equal, so the member is part of it.
    fn read_index(&mut self, number: u64) {
        let context = [number.to_le_bytes(), self.node.raft.id.to_le_bytes()].concat();
        // As the crate does it: what cannot be asked now is asked again.
        let question = reading::question(context, self.node.raft.term);
        drop(self.reading.ask(&mut self.node, question));
    }

    fn unreachable(&mut self, peer: u64) {
        self.node.report_unreachable(peer);
    }

    /// It no longer ignores who wants to lead, and soon wants to lead itself: one after the other,
    /// and none in the next moment, because the others have to have noticed too.
    fn leader_ended(&mut self, leader: u64) {
        let raft = &mut self.node.raft;
        if raft.state != StateRole::Follower || raft.leader_id != leader {
            return;
        }
        raft.election_elapsed = raft.election_elapsed.max(ELECTION_TICKS);
        self.ended = Some(Ended { leader, term: raft.term });
        self.fix_timeout();
    }

    fn snapshot_sent(&mut self, peer: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(peer, status);
    }

    fn transfer(&mut self, to: u64) {
        self.node.transfer_leader(to);
        self.fix_timeout();
    }

    fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        let is_leader = raft.state == StateRole::Leader;
        Standing {
            is_leader,
            leader: raft.leader_id,
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            committed: raft.raft_log.committed,
            is_settled: is_leader && raft.commit_to_current_term(),
            is_changing: raft.has_pending_conf(),
            is_transferring: raft.lead_transferee.is_some(),
        }
    }

    fn progress(&self) -> Vec<Progress> {
        let raft = &self.node.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let mut all: Vec<_> = raft
            .prs()
            .iter()
            .filter(|(id, _)| **id != raft.id)
            .map(|(id, one)| Progress {
                id: *id,
                matched_index: one.matched,
                is_active: self.answers(*id, one.recent_active),
            })
            .collect();
        all.sort_unstable_by_key(|one| one.id);
        all
    }
}

/// How many of those who could follow this leader come before this member.
fn rank(raft: &raft::Raft<MemoryLog>, leader: u64) -> usize {
    let voters = raft.prs().conf().voters().ids();
    voters.iter().filter(|id| *id < raft.id && *id != leader).count()
}

fn refused(error: raft::Error) -> ConsensusError {
    ConsensusError::Other(error.to_string())
}

fn to_change(change: MemberChange) -> ConfChange {
    let (kind, id) = match change {
        MemberChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id),
        MemberChange::Promote(id) => (ConfChangeType::AddNode, id),
        MemberChange::Remove(id) => (ConfChangeType::RemoveNode, id),
    };
    let mut made = ConfChange { node_id: id, ..ConfChange::default() };
    made.set_change_type(kind);
    made
}

/// What an entry of the kind [`EntryKind::ConfChange`] says, and the context it was proposed with.
pub(crate) fn decode_change(payload: &[u8]) -> Result<(MemberChange, Bytes), ConsensusError> {
    let change = ConfChange::decode(payload)
        .map_err(|error| ConsensusError::Other(format!("malformed change of members: {error}")))?;
    let id = change.node_id;
    let kind = match change.get_change_type() {
        ConfChangeType::AddLearnerNode => MemberChange::AddLearner(id),
        ConfChangeType::AddNode => MemberChange::Promote(id),
        ConfChangeType::RemoveNode => MemberChange::Remove(id),
    };
    Ok((kind, Bytes::from(change.context)))
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
