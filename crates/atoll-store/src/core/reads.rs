//! Linearizable reads: one round of ReadIndex at a time, for all who came before it began. Those
//! who come meanwhile take the next one: what the present round finds may be of before they asked.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::crowd::{Crowd, Gathering};
use super::{Ask, AskReply, Core, Told};
use crate::kv::Error;
use crate::sync::lock;

/// A round gets lost with any of its messages; then it is begun anew.
const ROUND_MAX: Duration = Duration::from_millis(300);

/// Waits until nothing acknowledged before it asked is missing here.
#[derive(Debug)]
pub(crate) enum ReadReply {
    Caller(oneshot::Sender<Result<(), Error>>),
    /// The leader answers from its clock, once it knows that it still is the leader.
    Lease(Ask, AskReply),
    /// Leases that are due are revoked, on the same condition.
    Revocations,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<ReadReply>,
    round: Option<Round>,
    /// Confirmed, and served when this index has been applied.
    confirmed: VecDeque<(u64, Vec<ReadReply>)>,
    rounds: u64,
    gathering: Option<Gathering>,
    crowd: Crowd,
}

#[derive(Debug)]
struct Round {
    number: u64,
    began: Duration,
    term: u64,
    leader: u64,
    replies: Vec<ReadReply>,
}

impl Reads {
    /// Whether the next round still waits for others.
    fn gathers(&mut self, now: Duration) -> bool {
        if self.gathering.is_none() {
            self.gathering = self.crowd.gathering(now);
        }
        let waiting = self.waiting.len();
        let Some(gathering) = &self.gathering else { return false };
        let is_enough = gathering.is_enough(waiting);
        if !is_enough && !gathering.is_late(now) {
            return true;
        }
        if !is_enough {
            self.crowd.correct(waiting);
        }
        self.gathering = None;
        false
    }
}

impl Core {
    pub(crate) fn on_read(&mut self, reply: ReadReply) {
        if let Err(error) = self.shared.check_open() {
            self.refuse_read(reply, &error);
        } else if self.writes_here() && self.standing.is_leader {
            // Whatever was acknowledged has been applied here.
            self.serve_read(reply);
        } else if let Some(error) = self.refusal().or_else(|| self.shared.check().err()) {
            self.refuse_read(reply, &error);
        } else {
            self.reads.waiting.push(reply);
        }
    }

    /// Starts a round if somebody waits and none is under way; whether it did.
    pub(super) fn begin_reads(&mut self) -> bool {
        let standing = self.standing;
        let now = self.clock.now();
        if let Some(round) = &self.reads.round {
            let stale = round.term != standing.term || round.leader != standing.leader;
            if !stale && round.began + ROUND_MAX > now {
                return false;
            }
            // Whoever led meanwhile may have acknowledged what this round does not know of.
            if let Some(mut round) = self.reads.round.take() {
                round.replies.append(&mut self.reads.waiting);
                self.reads.waiting = round.replies;
            }
        }
        let can_ask = standing.leader != 0 && (!standing.is_leader || standing.is_settled);
        if self.reads.waiting.is_empty() || !can_ask {
            self.reads.gathering = None;
            return false;
        }
        if self.reads.gathers(now) {
            return false;
        }
        self.reads.rounds += 1;
        let number = self.reads.rounds;
        self.reads.round = Some(Round {
            number,
            began: now,
            term: standing.term,
            leader: standing.leader,
            replies: std::mem::take(&mut self.reads.waiting),
        });
        // Numbers of an earlier start must not be taken for this one's.
        self.consensus.read_index((self.epoch << 40) | number);
        true
    }

    /// So many readers have to come before the core has something to do for them: while a round is
    /// under way none, for its end starts the next one for those who come meanwhile.
    pub(crate) fn reads_wanted(&self) -> usize {
        let reads = &self.reads;
        match &reads.gathering {
            _ if self.failed() => 1,
            _ if reads.round.is_some() => usize::MAX,
            Some(gathering) => gathering.missing(reads.waiting.len()),
            None => 1,
        }
    }

    /// When the next round begins, if that waits for nothing else.
    pub(super) fn next_read(&self) -> Option<Duration> {
        self.reads.gathering.as_ref().map(Gathering::until)
    }

    pub(super) fn confirm_reads(&mut self, number: u64, index: u64) {
        let standing = self.consensus.standing();
        let confirmed = self.reads.round.take_if(|round| {
            (self.epoch << 40) | round.number == number
                && round.term == standing.term
                && round.leader == standing.leader
        });
        if let Some(round) = confirmed {
            let known = round.replies.len() + self.reads.waiting.len();
            self.reads.crowd.note(known, self.clock.now());
            self.reads.confirmed.push_back((index, round.replies));
        }
    }

    pub(super) fn answer_reads(&mut self) {
        while self.reads.confirmed.front().is_some_and(|(index, _)| *index <= self.applied.index) {
            let Some((_, replies)) = self.reads.confirmed.pop_front() else { return };
            replies.into_iter().for_each(|reply| self.serve_read(reply));
        }
    }

    fn serve_read(&mut self, reply: ReadReply) {
        match reply {
            // The caller may have given up.
            ReadReply::Caller(sender) => drop(sender.send(Ok(()))),
            ReadReply::Lease(ask, reply) => self.serve_lease(&ask, reply),
            ReadReply::Revocations => self.revoke_due(),
        }
    }

    fn refuse_read(&mut self, reply: ReadReply, error: &Error) {
        match reply {
            ReadReply::Caller(sender) => drop(sender.send(Err(error.clone()))),
            ReadReply::Lease(_, reply) => self.reply(reply, Err(error.clone())),
            ReadReply::Revocations => self.asks.revoking = false,
        }
    }

    pub(super) fn refuse_reads(&mut self, error: &Error) {
        let round = self.reads.round.take().map(|round| round.replies);
        let confirmed = std::mem::take(&mut self.reads.confirmed);
        let waiting = std::mem::take(&mut self.reads.waiting);
        self.reads.gathering = None;
        let all = round.into_iter().chain(confirmed.into_iter().map(|(_, replies)| replies));
        let all: Vec<_> = all.chain([waiting]).flatten().collect();
        all.into_iter().for_each(|reply| self.refuse_read(reply, error));
    }

    fn serve_lease(&mut self, ask: &Ask, reply: AskReply) {
        let now = self.clock.now();
        let (Ask::KeepAlive { keyspace, id } | Ask::LeaseLeft { keyspace, id }) = ask else {
            self.reply(reply, Err(Error::NoLeader));
            return;
        };
        if !self.standing.is_leader {
            self.reply(reply, Err(Error::NoLeader));
            return;
        }
        let missing = Error::LeaseNotFound { id: *id };
        let Some(one) = self.shared.keyspaces.get(usize::from(*keyspace)) else {
            self.reply(reply, Err(missing));
            return;
        };
        let result = if matches!(ask, Ask::KeepAlive { .. }) {
            let kept = lock(&one.leases).keep_alive(*id, now);
            if let Some((ttl, true)) = kept {
                self.take_back_checkpoint(usize::from(*keyspace), *id, (ttl, reply));
                return;
            }
            kept.map(|(ttl, _)| ttl)
        } else {
            lock(&one.leases).remaining(*id, now)
        };
        self.reply(reply, result.map(Told::Seconds).ok_or(missing));
    }
}
