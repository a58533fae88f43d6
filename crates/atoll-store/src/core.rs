//! The store's single writer as step functions: take proposals, make them durable, apply them,
//! answer. It has no thread and no timer of its own; somebody calls it and tells when to call
//! again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::backend::{Backend, BackendError, FlushJob, KEYSPACES, Meta, View};
use crate::clock::Clock;
use crate::consensus::{Consensus, ConsensusError, EntryKind, LogEntry, Net, Position, Work};
use crate::embedded::StoreConfig;
use crate::kv::Error;
use crate::mvcc::{
    Command, LeaseChange, Origin, ReadFault, Response, decode_batch, encode_batch_header,
    encode_command,
};
use crate::shared::Shared;
use crate::sync::{read, write};
use crate::wal::format::HardState;
use crate::wal::{FillJob, Room, Wal, WalError};

mod open;

pub(crate) use open::CoreOpenError;

/// Quiet time after which a seal batch proves that the last write was durable.
const SEAL_AFTER: Duration = Duration::from_millis(100);
/// Commands share an entry until it has this size.
const ENTRY_BYTES: usize = 1 << 20;
/// Keys whose old versions are dropped in one step, so that requests do not wait for compaction.
const SWEEP_KEYS: usize = 500;
/// Leases handled in one step.
const LEASES_AT_ONCE: usize = 1000;
/// Wait before a revocation that could not be proposed is tried again.
const LEASE_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Changes that may wait for the state file; beyond it writers wait, or learn that the disk is
/// full.
const BACKLOG_MAX_BYTES: usize = 64 << 20;

pub(crate) type Answer = Result<Response, Error>;

/// Somebody waits for this.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) sender: oneshot::Sender<Answer>,
    /// Gives the place in the queue back when answered.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    fn send(self, answer: Answer) {
        // The caller may have given up; what was done stays done.
        drop(self.sender.send(answer));
        drop(self.permit);
    }
}

#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) keyspace: usize,
    pub(crate) command: Command,
    /// Bytes that it adds to the keyspace if it is a write with content.
    pub(crate) added_bytes: u64,
    pub(crate) reply: Option<Reply>,
}

impl Proposal {
    fn is_ordinary(&self) -> bool {
        self.added_bytes > 0
    }

    fn refuse(self, error: Error) {
        if let Some(reply) = self.reply {
            reply.send(Err(error));
        }
    }
}

/// Encoded commands and where they came from, before they are proposed.
struct Entry {
    payload: Vec<u8>,
    proposals: Vec<Proposal>,
}

/// The callers whose commands stand in one entry, in order.
#[derive(Debug)]
struct Waiting {
    number: u64,
    replies: Vec<Option<Reply>>,
}

pub(crate) struct Core {
    clock: Arc<dyn Clock>,
    config: StoreConfig,
    member_id: u64,
    epoch: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) backend: Arc<Backend>,
    consensus: Box<dyn Consensus>,
    net: Box<dyn Net>,
    wal: Wal,
    waiting: VecDeque<Waiting>,
    next_number: u64,
    applied: Position,
    chain: u32,
    voters: Vec<u64>,
    /// A commit index alone is written with the next batch, not for its own sake.
    unwritten_hard_state: Option<HardState>,
    /// The last batch is not sealed yet.
    written_at: Option<Duration>,
    /// When the oldest change came that the state file does not have.
    dirty_since: Option<Duration>,
    /// How far the flush that is under way goes.
    flushing: Option<u64>,
}

impl Core {
    /// Makes the proposals durable together and answers them.
    pub(crate) fn submit(&mut self, proposals: Vec<Proposal>) {
        if let Err(error) = self.shared.check() {
            for proposal in proposals {
                proposal.refuse(error.clone());
            }
            return;
        }
        let admitted = self.admit(proposals);
        for entry in self.reserve(admitted) {
            self.propose(entry);
        }
        self.run();
    }

    /// Refuses what would exceed a quota. Only what is certain to be refused is: the sizes of one
    /// batch are not added up, so a keyspace may exceed its quota by a batch.
    fn admit(&self, proposals: Vec<Proposal>) -> Vec<Proposal> {
        let live: Vec<_> =
            self.shared.keyspaces.iter().map(|one| read(&one.state).live_bytes).collect();
        let backlog = self.backlog_bytes() > BACKLOG_MAX_BYTES;
        let mut admitted = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            let live = live.get(proposal.keyspace).copied().unwrap_or(0);
            let quota = self.config.quota_bytes;
            let detail = if proposal.is_ordinary() && live + proposal.added_bytes > quota {
                format!("the keyspace has {live} of {quota} bytes; delete keys and compact")
            } else if proposal.is_ordinary() && backlog {
                "the state file cannot grow: the disk is full".to_owned()
            } else {
                admitted.push(proposal);
                continue;
            };
            proposal.refuse(Error::NoSpace { detail });
        }
        admitted
    }

    fn backlog_bytes(&self) -> usize {
        self.shared.keyspaces.iter().map(|one| read(&one.state).pending_bytes()).sum()
    }

    /// Whether proposals should wait for the flush that is under way.
    pub(crate) fn must_wait_for_flush(&self) -> bool {
        self.flushing.is_some()
            && !self.backend.waits_for_room()
            && self.backlog_bytes() > BACKLOG_MAX_BYTES
    }

    /// Takes room in the log before anything is proposed: what Raft has accepted can no longer
    /// be refused.
    fn reserve(&mut self, mut proposals: Vec<Proposal>) -> Vec<Entry> {
        if proposals.iter().any(Proposal::is_ordinary) {
            let entries = self.encode(proposals);
            match self.wal.reserve(log_bytes(&entries), Room::Ordinary) {
                Ok(()) => return entries,
                Err(error) => {
                    let (refused, rest) = entries
                        .into_iter()
                        .flat_map(|entry| entry.proposals)
                        .partition::<Vec<_>, _>(Proposal::is_ordinary);
                    self.refuse_all(refused, &error);
                    proposals = rest;
                }
            }
        }
        if proposals.is_empty() {
            return Vec::new();
        }
        let entries = self.encode(proposals);
        match self.wal.reserve(log_bytes(&entries), Room::Vital) {
            Ok(()) => entries,
            Err(error) => {
                let refused = entries.into_iter().flat_map(|entry| entry.proposals).collect();
                self.refuse_all(refused, &error);
                Vec::new()
            }
        }
    }

    fn encode(&self, proposals: Vec<Proposal>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for proposal in proposals {
            if entries.last().is_none_or(|entry| entry.payload.len() > ENTRY_BYTES) {
                let number = self.next_number + entries.len() as u64;
                let origin = Origin { member_id: self.member_id, epoch: self.epoch, number };
                let mut payload = Vec::new();
                encode_batch_header(&mut payload, origin);
                entries.push(Entry { payload, proposals: Vec::new() });
            }
            if let Some(entry) = entries.last_mut() {
                let code = u8::try_from(proposal.keyspace).unwrap_or(u8::MAX);
                encode_command(&mut entry.payload, code, &proposal.command);
                entry.proposals.push(proposal);
            }
        }
        entries
    }

    fn refuse_all(&mut self, proposals: Vec<Proposal>, error: &WalError) {
        let detail = describe(error);
        let reason = if matches!(error, WalError::Full { .. }) {
            Error::NoSpace { detail }
        } else {
            self.fail(error);
            Error::Unavailable { detail }
        };
        for proposal in proposals {
            proposal.refuse(reason.clone());
        }
    }

    fn propose(&mut self, entry: Entry) {
        let number = self.next_number;
        self.next_number += 1;
        let replies = entry.proposals.into_iter().map(|proposal| proposal.reply).collect();
        match self.consensus.propose(entry.payload) {
            Ok(()) => self.waiting.push_back(Waiting { number, replies }),
            Err(error) => {
                let replies: Vec<Option<Reply>> = replies;
                let reason = match error {
                    ConsensusError::NoLeader => Error::NoLeader,
                    ConsensusError::Overloaded => Error::Timeout { maybe_applied: false },
                    ConsensusError::Other(detail) => Error::Unavailable { detail },
                };
                for reply in replies.into_iter().flatten() {
                    reply.send(Err(reason.clone()));
                }
            }
        }
    }

    /// Does all that consensus wants done now.
    fn run(&mut self) {
        while let Some(work) = self.consensus.poll() {
            if let Err(error) = self.handle(work) {
                self.fail(&*error);
                return;
            }
        }
        self.publish_status();
    }

    fn handle(&mut self, work: Work) -> Result<(), Box<dyn std::error::Error>> {
        for message in work.messages {
            self.net.send(message);
        }
        let hard_state = work.hard_state.or(self.unwritten_hard_state.take());
        if work.must_sync || !work.entries.is_empty() {
            self.wal.append(hard_state, &work.entries)?;
            self.written_at = Some(self.clock.now());
        } else {
            self.unwritten_hard_state = hard_state;
        }
        self.consensus.persisted(work.number);
        for message in work.messages_after_persist {
            self.net.send(message);
        }
        for entry in work.committed {
            let index = entry.index;
            self.apply(entry)?;
            self.consensus.applied(index);
        }
        Ok(())
    }

    fn apply(&mut self, entry: LogEntry) -> Result<(), Box<dyn std::error::Error>> {
        self.applied = Position { index: entry.index, term: entry.term };
        self.chain = crc32c::crc32c_append(self.chain, &entry.payload);
        if entry.kind != EntryKind::Normal {
            return Err("the log changes the membership, which this release cannot do".into());
        }
        if entry.payload.is_empty() {
            return Ok(());
        }
        let (origin, commands) = decode_batch(entry.payload)?;
        let mut replies = self.take_waiting(origin);
        self.dirty_since.get_or_insert(self.clock.now());
        for (position, (keyspace, command)) in commands.iter().enumerate() {
            let answer = self.apply_command(usize::from(*keyspace), command)?;
            if let Some(reply) = replies.get_mut(position).and_then(Option::take) {
                reply.send(answer);
            }
        }
        Ok(())
    }

    /// Those who wait for this entry, if it was proposed here since the start.
    fn take_waiting(&mut self, origin: Origin) -> Vec<Option<Reply>> {
        if origin.member_id != self.member_id || origin.epoch != self.epoch {
            return Vec::new();
        }
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.number == origin.number {
                return waiting.replies;
            }
            // Entries of one member are applied in order, so an earlier one was overwritten.
            for reply in waiting.replies.into_iter().flatten() {
                reply.send(Err(Error::NoLeader));
            }
        }
        Vec::new()
    }

    fn apply_command(&mut self, code: usize, command: &Command) -> Result<Answer, ReadFault> {
        let Some(keyspace) = self.shared.keyspaces.get(code) else {
            return Ok(Err(Error::Unavailable { detail: format!("no keyspace {code}") }));
        };
        let applied = write(&keyspace.state).apply(command, &|key| keyspace.hub.wants_prev(key))?;
        keyspace.hub.publish(applied.events);
        let now = self.clock.now();
        match applied.lease_change {
            Some(LeaseChange::Granted { id, ttl }) => {
                self.shared.with_leases(code, |leases| leases.start(id, ttl, 0, now));
            }
            Some(LeaseChange::Revoked { id }) => {
                self.shared.with_leases(code, |leases| leases.end(id));
            }
            None => {}
        }
        Ok(applied.response)
    }

    fn publish_status(&self) {
        let shared = &self.shared;
        shared.raft_term.store(self.consensus.term(), Ordering::Relaxed);
        shared.raft_index.store(self.consensus.last_index(), Ordering::Relaxed);
        shared.applied_index.store(self.applied.index, Ordering::Relaxed);
        shared.log_bytes_written.store(self.wal.bytes_written(), Ordering::Relaxed);
        shared.is_leader.store(self.consensus.is_leader(), Ordering::Release);
    }

    /// Nothing is acknowledged any more; what was asked and not answered is unknown.
    fn fail(&mut self, error: &dyn std::error::Error) {
        self.shared.fail(describe(error));
        for waiting in self.waiting.drain(..) {
            for reply in waiting.replies.into_iter().flatten() {
                reply.send(Err(Error::Timeout { maybe_applied: true }));
            }
        }
    }

    fn failed(&self) -> bool {
        self.shared.check().is_err()
    }
}

/// Timers and background work.
impl Core {
    /// Does what is due now.
    pub(crate) fn on_timer(&mut self) {
        if self.failed() {
            return;
        }
        let now = self.clock.now();
        if self.written_at.is_some_and(|at| at + SEAL_AFTER <= now) {
            self.seal();
        }
        self.handle_leases(now);
        for keyspace in &self.shared.keyspaces {
            if read(&keyspace.state).needs_sweep() {
                write(&keyspace.state).sweep(SWEEP_KEYS);
                self.dirty_since.get_or_insert(now);
            }
        }
    }

    /// When [`Self::on_timer`] or [`Self::start_flush`] has something to do again; `None` is
    /// never, as long as nobody asks for anything.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        if self.failed() {
            return None;
        }
        let seal = self.written_at.map(|at| at + SEAL_AFTER);
        let flush = self
            .dirty_since
            .filter(|_| self.flushing.is_none())
            .map(|since| since + self.config.flush_every);
        let leases = (0..KEYSPACES)
            .filter_map(|code| self.shared.with_leases(code, |leases| leases.next_due()).flatten());
        let sweeping =
            self.shared.keyspaces.iter().any(|keyspace| read(&keyspace.state).needs_sweep());
        let sweep = sweeping.then(|| self.clock.now());
        seal.into_iter().chain(flush).chain(leases).chain(sweep).min()
    }

    fn seal(&mut self) {
        self.written_at = None;
        match self.wal.seal() {
            Ok(()) => self.publish_status(),
            // A full disk: the log stays unsealed, which only weakens the check for damage.
            Err(WalError::Full { .. }) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn handle_leases(&mut self, now: Duration) {
        let mut proposals = Vec::new();
        for keyspace in 0..KEYSPACES {
            let due =
                self.shared.with_leases(keyspace, |leases| leases.take_due(now, LEASES_AT_ONCE));
            let Some(due) = due else { continue };
            let revocations = due.expired.into_iter().map(|id| Command::LeaseRevoke { id });
            let checkpoints = due
                .checkpoints
                .into_iter()
                .map(|(id, remaining)| Command::LeaseCheckpoint { id, remaining });
            for command in revocations.chain(checkpoints) {
                proposals.push(Proposal { keyspace, command, added_bytes: 0, reply: None });
            }
        }
        if proposals.is_empty() {
            return;
        }
        let revoked: Vec<_> = proposals
            .iter()
            .filter_map(|proposal| match proposal.command {
                Command::LeaseRevoke { id } => Some((proposal.keyspace, id)),
                _ => None,
            })
            .collect();
        self.submit(proposals);
        // One that was applied has ended; this is for those that the full disk refused.
        for (keyspace, id) in revoked {
            self.shared.with_leases(keyspace, |leases| leases.retry(id, now + LEASE_RETRY_AFTER));
        }
    }

    pub(crate) fn take_fill_job(&mut self) -> Option<FillJob> {
        self.wal.take_fill_job()
    }

    /// A job for the background thread when enough has gathered, or anything if `force`.
    pub(crate) fn start_flush(&mut self, force: bool) -> Option<FlushJob> {
        let since = self.dirty_since?;
        if self.flushing.is_some() || self.failed() {
            return None;
        }
        let mut bytes = 0;
        let mut operations = 0;
        for keyspace in &self.shared.keyspaces {
            let state = read(&keyspace.state);
            bytes += state.pending_bytes();
            operations += state.pending_operations();
        }
        let due = self.clock.now() >= since + self.config.flush_every
            || bytes >= self.config.flush_bytes
            || operations >= self.config.flush_operations;
        if !due && !force {
            return None;
        }
        self.dirty_since = None;
        self.flushing = Some(self.applied.index);
        let [cluster, applications] = &self.shared.keyspaces;
        let mut revisions = [(0, 0); KEYSPACES];
        let pending = [cluster, applications].map(|keyspace| write(&keyspace.state).begin_flush());
        for (slot, keyspace) in revisions.iter_mut().zip(&self.shared.keyspaces) {
            let state = read(&keyspace.state);
            *slot = (state.revision, state.compacted);
        }
        let meta = Meta {
            applied: self.applied,
            chain: self.chain,
            voters: self.voters.clone(),
            keyspaces: revisions,
        };
        Some(FlushJob { meta, pending })
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    pub(crate) fn finish_flush(&mut self, result: Result<[View; KEYSPACES], BackendError>) {
        let Some(applied_index) = self.flushing.take() else { return };
        match result {
            Ok(views) => {
                for (keyspace, view) in self.shared.keyspaces.iter().zip(views) {
                    write(&keyspace.state).end_flush(view);
                }
                if let Err(error) = self.wal.release(applied_index) {
                    tracing::warn!(%error, "an old log segment could not be removed");
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Leaves the log sealed; the state is flushed before, as far as possible.
    pub(crate) fn stop(&mut self) {
        if self.written_at.is_some() && !self.failed() {
            self.seal();
        }
        self.shared.stop();
        for waiting in self.waiting.drain(..) {
            for reply in waiting.replies.into_iter().flatten() {
                reply.send(Err(Error::Timeout { maybe_applied: true }));
            }
        }
    }
}

fn log_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| Wal::frame_bytes(entry.payload.len())).sum()
}

/// An error and its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
