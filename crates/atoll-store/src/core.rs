//! The store's single writer as step functions: take proposals, make them durable, apply them,
//! answer. It has no thread and no timer of its own; somebody calls it and tells when to call
//! again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::backend::Backend;
use crate::clock::Clock;
use crate::consensus::{Consensus, EntryKind, LogEntry, Net, Position, Work};
use crate::embedded::StoreConfig;
use crate::kv::Error;
use crate::mvcc::{Command, LeaseChange, Origin, ReadFault, Response, decode_batch};
use crate::shared::Shared;
use crate::sync::write;
use crate::wal::Wal;
use crate::wal::format::HardState;

mod arrivals;
mod ask;
mod background;
mod open;
mod propose;

pub(crate) use arrivals::{Arrivals, Arrived};
pub(crate) use ask::{Ask, AskResult, Told};

pub(crate) use open::CoreOpenError;

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

    pub(crate) fn refuse(self, error: Error) {
        if let Some(reply) = self.reply {
            reply.send(Err(error));
        }
    }
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
    /// A flush is under way.
    flushing: bool,
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

    /// How other members are reached from now on.
    pub(crate) fn set_net(&mut self, net: Box<dyn Net>) {
        self.net = net;
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

    /// For bugs planted in the simulation.
    #[cfg(test)]
    pub(crate) fn with_consensus(
        self,
        wrap: impl FnOnce(Box<dyn Consensus>) -> Box<dyn Consensus>,
    ) -> Self {
        Self { consensus: wrap(self.consensus), ..self }
    }

    fn failed(&self) -> bool {
        self.shared.check().is_err()
    }
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
