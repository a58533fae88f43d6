//! What clients ask for, and whether they may have been told what they were told.

use std::pin::Pin;
use std::task::{Context, Waker};

use futures::Stream;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::model::Change;
use super::super::{compare, everything};
use super::ledger::operation_of;
use super::*;
use crate::core::{Answer, Ask, AskReply, AskResult, Proposal, ReadReply, Reply, Told};
use crate::kv::{
    Compare, CompareTarget, Error, KeyRange, Op, PutRequest, Relation, Txn, WatchRequest,
};
use crate::mvcc::{Command, Response};
use crate::sync::read;
use crate::watch::WatchStream;

const KEYS: u32 = 12;

type Added = (u64, String, Vec<Member>, oneshot::Receiver<AskResult>);

#[derive(Default)]
pub(super) struct Clients {
    pub(super) stopped: bool,
    pub(super) added: Vec<Added>,
    writes: Vec<Write>,
    reads: Vec<Read>,
    keeps: Vec<Keep>,
    next: u64,
    /// Highest revisions that anybody has been told of.
    known: [i64; 2],
    leases: Vec<(i64, i64)>,
    watch: Option<Watch>,
    /// What watches saw, each from a revision through another.
    seen: Vec<(i64, i64, Vec<Change>)>,
    acknowledged: u64,
    refused: u64,
    unknown: u64,
    served: u64,
}

struct Write {
    keyspace: usize,
    command: Command,
    answer: oneshot::Receiver<Answer>,
    known: i64,
}

struct Read {
    node: u64,
    life: u64,
    answer: oneshot::Receiver<Result<(), Error>>,
    known: [i64; 2],
}

struct Keep {
    lease: i64,
    ttl: i64,
    asked: Duration,
    answer: oneshot::Receiver<AskResult>,
}

struct Watch {
    node: u64,
    life: u64,
    stream: WatchStream,
}

impl Clients {
    pub(super) fn finish(&mut self, report: &mut ClusterReport) -> Result<(), String> {
        report.acknowledged = self.acknowledged;
        report.refused = self.refused;
        report.unknown = self.unknown;
        report.reads = self.served;
        Ok(())
    }

    fn put(&mut self, random: &mut StdRng, lease: i64) -> Op {
        let number = self.next;
        self.next += 1;
        let length = if random.random_bool(0.05) {
            random.random_range(1000..15_000)
        } else {
            random.random_range(0..80)
        };
        let value = format!("op:{number}:{}", "v".repeat(length));
        let (key, prev_kv) = (key(random), random.random_bool(0.2));
        Op::Put(PutRequest { key, value: value.into(), lease, prev_kv })
    }

    fn draw(&mut self, random: &mut StdRng, ledger: &Ledger, keyspace: usize) -> Command {
        let model = &ledger.model.keyspaces[keyspace];
        let single = |op| Command::Txn(Txn { success: vec![op], ..Txn::default() });
        match random.random_range(0..100) {
            0..60 => single(self.put(random, 0)),
            60..75 => {
                let op = self.put(random, 0);
                let Op::Put(put) = &op else { return single(op) };
                let current = model.live.get(&put.key).map_or(0, |kv| kv.mod_revision);
                let compare = Compare {
                    range: KeyRange::single(put.key.clone()),
                    relation: Relation::Equal,
                    target: CompareTarget::ModRevision(current),
                };
                let txn = Txn { compare: vec![compare], success: vec![op], failure: Vec::new() };
                Command::Txn(txn)
            }
            75..82 => {
                let range = KeyRange::single(key(random));
                single(Op::Delete { range, prev_kv: false })
            }
            82..88 if keyspace == 0 => match self.leases.choose(random).copied() {
                Some((lease, _)) => single(self.put(random, lease)),
                None => single(self.put(random, 0)),
            },
            88..93 if keyspace == 0 => {
                self.next += 1;
                let id = i64::try_from(self.next).unwrap_or(1);
                let ttl = random.random_range(2..12);
                self.leases.push((id, ttl));
                Command::LeaseGrant { id, ttl }
            }
            93..95 => Command::Compact { revision: (model.revision - 30).max(1) },
            _ => single(self.put(random, 0)),
        }
    }
}

fn key(random: &mut StdRng) -> Bytes {
    Bytes::from(format!("key/{:02}", random.random_range(0..KEYS)))
}

impl World {
    pub(super) fn on_client(&mut self) -> Result<(), String> {
        if self.clients.stopped {
            return Ok(());
        }
        let after = Duration::from_millis(self.random.random_range(2..50));
        self.schedule(after, What::Client);
        let Some(id) = self.live() else { return Ok(()) };
        if self.nodes.get(&id).is_some_and(|node| node.paused_until.is_some_and(|at| at > self.now))
        {
            return Ok(());
        }
        match self.random.random_range(0..10) {
            0..6 => self.write(id)?,
            6..9 => (0..self.readers()).try_for_each(|_| self.read(id))?,
            _ => self.keep_alive(id)?,
        }
        self.watch(id)
    }

    fn write(&mut self, id: u64) -> Result<(), String> {
        let mut proposals = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let keyspace = usize::from(self.random.random_bool(0.2));
            let command = self.clients.draw(&mut self.random, &lock(&self.ledger), keyspace);
            let (sender, answer) = oneshot::channel();
            proposals.push(Proposal {
                keyspace,
                command: command.clone(),
                added_bytes: u64::from(operation_of(&command).is_some()) * 100,
                reply: Some(Reply { sender, permit: None }),
            });
            let known = self.clients.known[keyspace];
            self.clients.writes.push(Write { keyspace, command, answer, known });
        }
        self.with_core(id, |core| core.submit(proposals))
    }

    /// In some runs there are many of them, as often as not.
    fn readers(&mut self) -> usize {
        match self.plan.seed % 8 {
            4 if self.random.random_bool(0.5) => self.random.random_range(10..60),
            _ => 1,
        }
    }

    fn read(&mut self, id: u64) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        let known = self.clients.known;
        let life = self.nodes.get(&id).map_or(0, |node| node.life);
        self.clients.reads.push(Read { node: id, life, answer, known });
        let mut waits = false;
        self.with_core(id, |core| {
            core.on_read(ReadReply::Caller(sender));
            core.run();
            waits = (2..usize::MAX).contains(&core.reads_wanted());
        })?;
        self.report.gathered += u64::from(waits);
        Ok(())
    }

    fn keep_alive(&mut self, id: u64) -> Result<(), String> {
        let Some((lease, ttl)) = self.clients.leases.choose(&mut self.random).copied() else {
            return Ok(());
        };
        let (sender, answer) = oneshot::channel();
        self.clients.keeps.push(Keep { lease, ttl, asked: self.now, answer });
        self.with_core(id, |core| {
            core.on_ask(Ask::KeepAlive { keyspace: 0, id: lease }, AskReply::Caller(sender));
            core.run();
        })
    }

    fn with_core(&mut self, id: u64, act: impl FnOnce(&mut Core)) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.set_time(self.now);
        if let Some(core) = &mut node.core {
            act(core);
        }
        self.settle(id)
    }

    pub(super) fn clients_look(&mut self) -> Result<(), String> {
        self.start_added()?;
        for mut write in std::mem::take(&mut self.clients.writes) {
            match write.answer.try_recv() {
                Err(TryRecvError::Empty) => self.clients.writes.push(write),
                Err(TryRecvError::Closed) => self.clients.unknown += 1,
                Ok(answer) => self.judge_write(&write, answer)?,
            }
        }
        for mut read in std::mem::take(&mut self.clients.reads) {
            match read.answer.try_recv() {
                Err(TryRecvError::Empty) => self.clients.reads.push(read),
                Ok(Ok(())) => self.judge_read(&read)?,
                Err(TryRecvError::Closed) | Ok(Err(_)) => {}
            }
        }
        for mut keep in std::mem::take(&mut self.clients.keeps) {
            match keep.answer.try_recv() {
                Err(TryRecvError::Empty) => self.clients.keeps.push(keep),
                Ok(Ok(Told::Seconds(_))) => {
                    lock(&self.ledger).keep_lease(keep.lease, keep.asked, keep.ttl);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn judge_write(&mut self, write: &Write, answer: Answer) -> Result<(), String> {
        let mut ledger = lock(&self.ledger);
        let operation = operation_of(&write.command);
        let refused = matches!(
            answer,
            Err(Error::NoLeader
                | Error::NoQuorum { .. }
                | Error::NoSpace { .. }
                | Error::Unavailable { .. }
                | Error::Timeout { maybe_applied: false })
        );
        if refused {
            self.clients.refused += 1;
            let Some(operation) = operation else { return Ok(()) };
            if ledger.answers.contains_key(&operation) {
                return Err(format!("operation {operation} happened and was refused: {answer:?}"));
            }
            ledger.refused.insert(operation);
            return Ok(());
        }
        if matches!(answer, Err(Error::Timeout { .. })) {
            self.clients.unknown += 1;
            return Ok(());
        }
        self.clients.acknowledged += 1;
        if let Some(operation) = operation {
            let Some(expected) = ledger.answers.get(&operation) else {
                return Err(format!("operation {operation} was acknowledged and is not committed"));
            };
            compare("the answer", &write.command, &answer, expected)?;
        }
        if let Ok(Response::Txn(result)) = &answer {
            let known = &mut self.clients.known[write.keyspace];
            if result.revision < write.known {
                return Err(format!(
                    "a write answered revision {} after {} was known",
                    result.revision, write.known
                ));
            }
            *known = (*known).max(result.revision);
        }
        Ok(())
    }

    fn judge_read(&mut self, asked: &Read) -> Result<(), String> {
        let Some(node) = self.nodes.get(&asked.node).filter(|node| node.life == asked.life) else {
            return Ok(());
        };
        let Some(core) = &node.core else { return Ok(()) };
        self.clients.served += 1;
        for (code, keyspace) in core.shared.keyspaces.iter().enumerate() {
            let revision = read(&keyspace.state).revision;
            if revision < asked.known[code] {
                return Err(format!(
                    "a stale read: member {:x} is at {revision}, {} was known before it was asked",
                    asked.node, asked.known[code]
                ));
            }
            self.clients.known[code] = self.clients.known[code].max(revision);
        }
        Ok(())
    }

    /// A watch that goes on at another member when its own is gone.
    fn watch(&mut self, id: u64) -> Result<(), String> {
        let through = self.clients.seen.last().map_or(0, |(_, through, _)| *through);
        let alive = self.clients.watch.as_ref().is_some_and(|watch| {
            let node = self.nodes.get(&watch.node);
            node.is_some_and(|node| node.life == watch.life && node.core.is_some())
        });
        if !alive || self.random.random_bool(0.02) {
            let Some(node) = self.nodes.get(&id) else { return Ok(()) };
            let Some(core) = &node.core else { return Ok(()) };
            let keyspace = core.shared.keyspaces[0].clone();
            let start_revision = Some(through + 1);
            let request = WatchRequest { range: everything(), start_revision, prev_kv: false };
            let stream = WatchStream::new(keyspace, request);
            self.clients.watch = Some(Watch { node: id, life: node.life, stream });
        }
        let Some(watch) = &mut self.clients.watch else { return Ok(()) };
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..8 {
            let polled = Pin::new(&mut watch.stream).poll_next(&mut context);
            match polled {
                std::task::Poll::Pending => return Ok(()),
                std::task::Poll::Ready(None) => break,
                std::task::Poll::Ready(Some(Ok(batch))) => {
                    if self.clients.seen.is_empty() {
                        self.clients.seen.push((0, 0, Vec::new()));
                    }
                    let Some((_, through, seen)) = self.clients.seen.last_mut() else { break };
                    if batch.revision < *through {
                        return Err(format!("a watch went back to {}", batch.revision));
                    }
                    *through = batch.revision;
                    seen.extend(batch.events.iter().map(Change::of));
                }
                std::task::Poll::Ready(Some(Err(Error::Compacted { compacted, .. }))) => {
                    self.clients.seen.push((compacted, compacted, Vec::new()));
                    break;
                }
                std::task::Poll::Ready(Some(Err(_))) => break,
            }
        }
        self.clients.watch = None;
        Ok(())
    }

    /// What watches saw is what happened, in its order, nothing twice and nothing left out.
    pub(super) fn judge_watches(&self) -> Result<(), String> {
        let ledger = lock(&self.ledger);
        for (from, through, seen) in self.clients.seen.iter().filter(|(from, to, _)| from < to) {
            let wanted: Vec<_> = ledger.model.keyspaces[0]
                .history
                .range(from + 1..=*through)
                .flat_map(|(_, changes)| changes.clone())
                .collect();
            compare("a watch", &(from, through), seen, &wanted)?;
        }
        Ok(())
    }
}
