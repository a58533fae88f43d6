//! Questions to the leader: answered here if this is the leader, passed on to it otherwise.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;

use super::peers::Message;
use super::withdraw::Withdrawal;
use super::{Ask, AskResult, Core, ReadReply, Told};
use crate::kv::Error;

/// Questions that were passed on and have no answer yet. Beyond it they are refused.
const FORWARDED_MAX: usize = 8192;
/// An answer that takes longer does not come any more; the question can be asked again.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Who asked.
#[derive(Debug)]
pub(crate) enum AskReply {
    Caller(oneshot::Sender<AskResult>),
    /// Another member, and its number for the question.
    Peer {
        member: u64,
        number: u64,
    },
    Nobody,
}

#[derive(Debug, Default)]
pub(super) struct Asks {
    forwarded: BTreeMap<u64, (Duration, AskReply)>,
    next: u64,
    /// They wait for another to lead, until then.
    transfers: Vec<(Duration, AskReply)>,
    /// They wait for a lease's checkpoint to be taken back.
    pub(super) withdrawals: Vec<Withdrawal>,
    /// Whether this member's leadership is being confirmed for the sake of leases that are due.
    pub(super) revoking: bool,
    /// When this member last told the cluster what it would be known as.
    pub(super) announced_at: Option<Duration>,
    /// When members that are not heard of were last told who there is.
    pub(super) introduced_at: Option<Duration>,
}

impl Core {
    pub(crate) fn on_ask(&mut self, ask: Ask, reply: AskReply) {
        if let Err(error) = self.shared.check() {
            self.reply(reply, Err(error));
        } else if self.consensus.standing().is_leader {
            self.lead(ask, reply);
        } else if matches!(reply, AskReply::Peer { .. }) {
            self.reply(reply, Err(Error::NoLeader));
        } else if let Some(error) = self.refusal() {
            self.reply(reply, Err(error));
        } else {
            self.forward(&ask, reply);
        }
    }

    fn forward(&mut self, ask: &Ask, reply: AskReply) {
        let leader = self.consensus.standing().leader;
        if let Ask::Transfer(Some(to)) = ask
            && *to == leader
        {
            self.reply(reply, Ok(Told::Done));
        } else if leader == 0 || self.asks.forwarded.len() >= FORWARDED_MAX {
            self.reply(reply, Err(Error::NoLeader));
        } else {
            // A late answer to a question of before the last start must not be taken for this one's.
            let number = (self.epoch << 40) | self.asks.next;
            self.asks.next += 1;
            self.asks.forwarded.insert(number, (self.clock.now() + ANSWER_MAX, reply));
            self.send(leader, &Message::Ask { number, ask: ask.clone() });
        }
    }

    pub(super) fn on_told(&mut self, number: u64, result: AskResult) {
        if let Some((_, reply)) = self.asks.forwarded.remove(&number) {
            self.reply(reply, result);
        }
    }

    fn lead(&mut self, ask: Ask, reply: AskReply) {
        match ask {
            Ask::AddLearner(member) => self.add_learner(member, reply),
            Ask::Promote(id) => self.promote(id, reply),
            Ask::Remove(id) => self.remove(id, reply),
            Ask::Update(member) => self.update(member, reply),
            Ask::Transfer(to) => match self.begin_transfer(to) {
                Ok(()) => {
                    let deadline = self.clock.now() + ANSWER_MAX;
                    self.asks.transfers.push((deadline, reply));
                }
                Err(result) => self.reply(reply, result),
            },
            Ask::KeepAlive { .. } | Ask::LeaseLeft { .. } => {
                self.on_read(ReadReply::Lease(ask, reply));
            }
        }
    }

    pub(super) fn reply(&mut self, reply: AskReply, result: AskResult) {
        match reply {
            // The caller may have given up.
            AskReply::Caller(sender) => drop(sender.send(result)),
            AskReply::Peer { member, number } => {
                self.send(member, &Message::Told { number, result });
            }
            AskReply::Nobody => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a request of the store to itself was refused");
                }
            }
        }
    }

    /// Another leader, or none: whoever waits for the one before asks again.
    pub(super) fn end_asks(&mut self) {
        for (_, (_, reply)) in std::mem::take(&mut self.asks.forwarded) {
            self.reply(reply, Err(Error::NoLeader));
        }
        for (_, reply) in std::mem::take(&mut self.asks.transfers) {
            self.reply(reply, Ok(Told::Done));
        }
    }

    /// No answer can come any more; what was asked may have been done.
    pub(super) fn give_up_asks(&mut self) {
        let forwarded = std::mem::take(&mut self.asks.forwarded).into_values();
        let transfers = std::mem::take(&mut self.asks.transfers).into_iter();
        for (_, reply) in forwarded.chain(transfers) {
            self.reply(reply, Err(Error::Timeout { maybe_applied: true }));
        }
    }

    pub(super) fn expire_asks(&mut self, now: Duration) {
        let late: Vec<_> = self
            .asks
            .forwarded
            .iter()
            .filter(|(_, (deadline, _))| *deadline <= now)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.on_told(number, Err(Error::NoLeader));
        }
        let (late, rest) = std::mem::take(&mut self.asks.transfers)
            .into_iter()
            .partition::<Vec<_>, _>(|(deadline, _)| *deadline <= now);
        self.asks.transfers = rest;
        for (_, reply) in late {
            self.reply(reply, Err(Error::Timeout { maybe_applied: false }));
        }
    }
}
