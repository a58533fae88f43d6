//! Linearizable reads: one round of ReadIndex at a time, for all who came before it began. Those
//! who come meanwhile take the next one: what the present round finds may be of before they asked.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Ask, AskReply, Core, Told};
use crate::kv::Error;
use crate::sync::lock;

/// A round gets lost with any of its messages; then it is begun anew.
const ROUND_MAX: Duration = Duration::from_millis(300);

/// A round costs all members processor time, however many it is for. When so many readers have
/// gathered during one…
const GATHER_FROM: usize = 16;
/// …the next waits so long for more: they wait longer than that for processors.
const GATHER: Duration = Duration::from_micros(300);

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
    /// The next round begins at this time.
    gather_until: Option<Duration>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    began: Duration,
    term: u64,
    leader: u64,
    replies: Vec<ReadReply>,
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
        if self.reads.gather_until.is_some_and(|until| until > now) {
            return false;
        }
        self.reads.gather_until = None;
        let can_ask = standing.leader != 0 && (!standing.is_leader || standing.is_settled);
        if self.reads.waiting.is_empty() || !can_ask {
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

    /// A round is under way, and its end starts the next one for those who come meanwhile.
    pub(crate) fn holds_reads(&self) -> bool {
        (self.reads.round.is_some() || self.reads.gather_until.is_some()) && !self.failed()
    }

    /// When the next round begins, if that waits for nothing else.
    pub(super) fn next_read(&self) -> Option<Duration> {
        self.reads.gather_until
    }

    pub(super) fn confirm_reads(&mut self, number: u64, index: u64) {
        let standing = self.consensus.standing();
        let confirmed = self.reads.round.take_if(|round| {
            (self.epoch << 40) | round.number == number
                && round.term == standing.term
                && round.leader == standing.leader
        });
        if let Some(round) = confirmed {
            self.reads.confirmed.push_back((index, round.replies));
            let many = self.reads.waiting.len() >= GATHER_FROM;
            self.reads.gather_until = many.then(|| self.clock.now() + GATHER);
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
