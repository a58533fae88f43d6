//! The store's single writer as step functions: take proposals and what other members say, make
//! it durable, apply what is committed, answer. It has no thread and no timer of its own; somebody
//! calls it and tells when to call again.
//!
//! A member without others writes its log where it is called. With others the log is written by
//! jobs that somebody else runs, so that heartbeats never wait for the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::backend::{Backend, KEYSPACES, Roster};
use crate::clock::Clock;
use crate::cluster::Member;
use crate::consensus::{Consensus, LogEntry, Net, Position, Standing, Work};
use crate::disk::Disk;
use crate::embedded::StoreConfig;
use crate::kv::Error;
use crate::mvcc::{Command, ReadFault, Response};
use crate::retention::Keeper;
use crate::shared::{Reached, Shared};

mod apply;
mod arrivals;
mod ask;
mod asks;
mod background;
mod chains;
mod crowd;
mod gone;
mod health;
mod install;
mod journal;
mod level;
mod members;
mod open;
mod peers;
mod propose;
mod reads;
mod shrink;
mod space;
mod system;
mod withdraw;
mod withhold;

pub(crate) use arrivals::{Arrivals, Arrived};
pub(crate) use ask::{Ask, AskResult, Told, member as read_member, put_member, put_text, text};
pub(crate) use asks::AskReply;
pub(crate) use journal::{WalDone, WalJob};
pub(crate) use level::RELEASES;
pub(crate) use open::CoreOpenError;
pub(crate) use peers::Message;
pub(crate) use reads::ReadReply;
pub(crate) use system::{
    SystemCommand, decode_context, decode_system, encode_context, encode_system, is_system,
};

use asks::Asks;
use chains::Chains;
use health::Health;
use journal::Journal;
use propose::Waiting;
use reads::Reads;
use shrink::Shrink;
use withhold::Until;

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

pub(crate) struct Core {
    clock: Arc<dyn Clock>,
    config: StoreConfig,
    /// As this member would have itself known.
    record: Member,
    member_id: u64,
    epoch: u64,
    pub(crate) shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    pub(crate) backend: Arc<Backend>,
    /// What was replaced last: reads that began before may still use it.
    retired: Option<Arc<Backend>>,
    consensus: Box<dyn Consensus>,
    net: Box<dyn Net>,
    journal: Journal,
    waiting: VecDeque<Waiting>,
    next_number: u64,
    /// Proposals that wait for a leader.
    parked: Vec<Proposal>,
    /// Commands that were proposed, did not happen, and are proposed again.
    again: Vec<(Vec<u8>, Vec<Option<Reply>>)>,
    applied: Position,
    /// Committed, and not applied yet.
    withheld: VecDeque<LogEntry>,
    withheld_until: Option<Until>,
    chain: u32,
    /// The state file does not say yet how far this state has come.
    unsaved: bool,
    roster: Roster,
    /// As of the last look.
    standing: Standing,
    reads: Reads,
    asks: Asks,
    health: Health,
    chains: Chains,
    /// Members that others know of and this one's log does not, yet or any more.
    introduced: BTreeMap<u64, Member>,
    /// The highest committed entry that each peer acknowledged, and in which epoch.
    acknowledged: BTreeMap<u64, Reached>,
    /// A state that has arrived and waits for what consensus says.
    arrived: Option<Arrived>,
    /// The last batch is not sealed yet.
    written_at: Option<Duration>,
    /// When the oldest change came that the state file does not have.
    dirty_since: Option<Duration>,
    /// A flush is under way.
    flushing: bool,
    shrink: Shrink,
    /// Whether a sole member may have something to tell its log of the format level.
    level_open: bool,
    /// Whose history goes when.
    keepers: [Keeper; KEYSPACES],
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
        self.propose_all(proposals);
        self.run();
    }

    /// How other members are reached from now on.
    pub(crate) fn set_net(&mut self, net: Box<dyn Net>) {
        self.net = net;
        self.tell_peers();
    }

    /// Does all that consensus wants done now.
    pub(crate) fn run(&mut self) {
        if self.failed() {
            return;
        }
        if let Err(error) = self.run_until_idle() {
            match error.downcast_ref::<ReadFault>() {
                Some(fault) => self.condemn(fault.to_string()),
                None => self.fail(&*error),
            }
            return;
        }
        self.answer_withdrawals();
        self.publish_status();
    }

    fn run_until_idle(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            let mut moved = false;
            while let Some(work) = self.consensus.poll() {
                self.handle(work)?;
                // They join the round that begins now for others.
                self.begin_reads();
                moved = true;
            }
            if self.writes_here()
                && let Some(job) = self.take_wal_job()
            {
                self.finish_job(job.run(&*self.clock))?;
                moved = true;
            }
            moved |= self.apply_committed()?;
            self.notice_standing();
            // Its messages go out now, not with the next tick.
            moved |= self.begin_reads();
            if !moved && !self.propose_again() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, mut work: Work) -> Result<(), Box<dyn std::error::Error>> {
        self.withhold(&mut work);
        for message in work.messages {
            self.send_raft(message);
        }
        for (to, message) in work.snapshots {
            self.send_snapshot(to, message);
        }
        for (number, index) in work.reads {
            self.confirm_reads(number, index);
        }
        self.journal.push(
            work.number,
            work.install,
            (work.hard_state, work.entries, work.must_sync),
            work.messages_after_persist,
        );
        self.complete_unsynced();
        self.withheld.extend(work.committed);
        self.apply_committed()?;
        Ok(())
    }

    /// Whether the log is written where the core is called: there is nobody who would wait for a
    /// heartbeat meanwhile.
    fn writes_here(&self) -> bool {
        self.roster.is_alone(self.member_id)
    }

    fn publish_status(&mut self) {
        self.note_acknowledged();
        let standing = self.standing;
        let shared = &self.shared;
        shared.raft_term.store(standing.term, Ordering::Relaxed);
        shared.raft_index.store(standing.last_index, Ordering::Relaxed);
        shared.applied_index.store(self.applied.index, Ordering::Relaxed);
        shared.log_bytes_written.store(self.journal.bytes_written(), Ordering::Relaxed);
        shared.is_leader.store(standing.is_leader, Ordering::Release);
        shared.is_alone.store(self.writes_here() && standing.is_leader, Ordering::Release);
        self.publish_membership();
    }

    fn publish_membership(&self) {
        self.publish_formats();
        let cluster = &self.shared.cluster;
        let leader = Some(self.standing.leader).filter(|leader| *leader != 0);
        cluster.set_membership(&self.roster.members, leader, self.standing.term);
        if !self.writes_here() {
            cluster.set_progress(self.consensus.progress());
        }
    }

    /// Nothing is acknowledged any more; what was asked and not answered is unknown.
    fn fail(&mut self, error: &dyn std::error::Error) {
        self.fail_with(describe(error));
    }

    fn fail_with(&mut self, detail: String) {
        self.shared.fail(detail.clone());
        self.end_all(&Error::Unavailable { detail });
    }

    /// This folder must not be used any more: a new member has to take its place.
    fn condemn(&mut self, detail: String) {
        self.shared.condemn(detail.clone());
        self.end_all(&Error::Unavailable { detail });
    }

    /// Nobody waits for what cannot come any more.
    fn end_all(&mut self, error: &Error) {
        self.refuse_waiting(error);
        self.answer_withdrawals();
        self.refuse_reads(error);
        self.refuse_rewrites(error);
        self.give_up_asks();
    }

    /// How far it has come, and the chain there.
    pub(crate) fn place(&self) -> (Position, u32) {
        (self.applied, self.chain)
    }

    /// For the simulation, which looks on and plants bugs.
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
pub(crate) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
