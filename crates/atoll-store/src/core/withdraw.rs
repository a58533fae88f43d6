//! Leases that are kept alive after less than their whole time was written down. Whoever leads next
//! would believe what is written, so the keeper is answered when that has been taken back.

use tokio::sync::oneshot;

use super::{Answer, AskReply, Core, Proposal, Reply, Told};
use crate::kv::{Error, LeaseId};
use crate::mvcc::Command;

/// Somebody who waits for it.
#[derive(Debug)]
pub(super) struct Withdrawal {
    keyspace: usize,
    id: LeaseId,
    /// Seconds, as granted.
    ttl: i64,
    reply: AskReply,
    answer: oneshot::Receiver<Answer>,
}

impl Core {
    /// The lease has its whole time again.
    pub(super) fn take_back_checkpoint(
        &mut self,
        keyspace: usize,
        id: LeaseId,
        (ttl, reply): (i64, AskReply),
    ) {
        let (sender, answer) = oneshot::channel();
        self.asks.withdrawals.push(Withdrawal { keyspace, id, ttl, reply, answer });
        let command = Command::LeaseCheckpoint { id, remaining: 0 };
        let sent = Some(Reply { sender, permit: None });
        self.propose_all(vec![Proposal { keyspace, command, added_bytes: 0, reply: sent }]);
    }

    /// Answers those who need not wait any more.
    pub(super) fn answer_withdrawals(&mut self) {
        if self.asks.withdrawals.is_empty() {
            return;
        }
        for mut one in std::mem::take(&mut self.asks.withdrawals) {
            let result = match one.answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.asks.withdrawals.push(one);
                    continue;
                }
                Ok(Ok(_)) => {
                    self.shared.with_leases(one.keyspace, |leases| leases.taken_back(one.id));
                    Ok(Told::Seconds(one.ttl))
                }
                Ok(Err(error)) => Err(error),
                // Nobody knows what became of it: it is to be asked again.
                Err(oneshot::error::TryRecvError::Closed) => Err(Error::NoLeader),
            };
            self.reply(one.reply, result);
        }
    }
}
