//! What is committed, as the members report it when they come to apply it: each index once and
//! for all, and what a model makes of it.

use std::collections::VecDeque;

use super::super::around::Around;
use super::super::model::{Change, Model};
use super::super::{compare, everything};
use super::*;
use crate::consensus::raft::decode_change;
use crate::consensus::{Consensus, EntryKind, LogEntry, MemberChange, Work};
use crate::core::{Answer, SystemCommand, decode_context, decode_system, is_system};
use crate::kv::{Op, RangeRequest};
use crate::mvcc::{Command, Origin, decode_batch};
use crate::sync::read;

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) bug: Option<Bug>,
    pub(super) violation: Option<String>,
    entries: BTreeMap<u64, LogEntry>,
    pub(super) model: Model,
    /// How far the model has come.
    modelled: Option<u64>,
    revisions: BTreeMap<u64, [(i64, i64); 2]>,
    chains: BTreeMap<u64, u32>,
    leaders: BTreeMap<u64, u64>,
    origins: BTreeMap<u64, (u64, u64)>,
    /// What the model answers to a numbered operation.
    pub(super) answers: BTreeMap<u64, Answer>,
    /// Operations that somebody was told had not happened.
    pub(super) refused: BTreeSet<u64>,
    /// Until when a lease has to live at least.
    pub(super) leases: BTreeMap<(usize, i64), Duration>,
    pub(super) leases_ended: u64,
    pub(super) members: BTreeSet<u64>,
    /// When a clock jumped last.
    jumped_at: Duration,
    /// What each machine supports that was started.
    pub(super) levels: BTreeMap<u64, u32>,
    /// The format level that the log has come to.
    pub(super) level: u32,
    /// Who has voted for whom since somebody looked, but for themselves.
    pub(super) voted: Vec<(u64, u64)>,
    /// Times that a member stopped waiting for its leader.
    pub(super) given_up: u64,
    /// Another chain is left for the members themselves to find.
    pub(super) members_find_out: bool,
}

impl Ledger {
    pub(super) fn last_index(&self) -> u64 {
        self.modelled.unwrap_or(0)
    }

    pub(super) fn elections(&self) -> u64 {
        self.leaders.len() as u64
    }

    fn violate(&mut self, text: String) {
        self.violation.get_or_insert(text);
    }

    fn commit(&mut self, member: u64, entry: &LogEntry, now: Duration) {
        if let Some(known) = self.entries.get(&entry.index) {
            if known != entry {
                let (index, old, new) = (entry.index, known.term, entry.term);
                self.violate(format!(
                    "entry {index} was committed with term {old}, and at {member:x} with {new}"
                ));
            }
            return;
        }
        self.modelled.get_or_insert(entry.index - 1);
        self.entries.insert(entry.index, entry.clone());
        while let Some(next) = self.modelled.and_then(|last| self.entries.get(&(last + 1))).cloned()
        {
            self.modelled = Some(next.index);
            if let Err(error) = self.advance(&next, now) {
                self.violate(error);
            }
            let keyspaces = &self.model.keyspaces;
            let revisions =
                [0, 1].map(|code| (keyspaces[code].revision, keyspaces[code].compacted));
            self.revisions.insert(next.index, revisions);
        }
    }

    fn accept(&mut self, origin: Origin) -> bool {
        let last = self.origins.entry(origin.member_id).or_default();
        let accepted = (origin.epoch, origin.number) > *last;
        if accepted {
            *last = (origin.epoch, origin.number);
        }
        accepted
    }

    fn advance(&mut self, entry: &LogEntry, now: Duration) -> Result<(), String> {
        if entry.payload.is_empty() {
            return Ok(());
        }
        if entry.kind != EntryKind::Normal {
            let (change, context) =
                decode_change(&entry.payload).map_err(|error| error.to_string())?;
            let (origin, _) = decode_context(context).map_err(|error| error.to_string())?;
            self.accept(origin);
            match change {
                MemberChange::AddLearner(id) => drop(self.members.insert(id)),
                MemberChange::Promote(_) => {}
                MemberChange::Remove(id) => {
                    self.origins.remove(&id);
                    self.members.remove(&id);
                }
            }
            return Ok(());
        }
        if is_system(&entry.payload) {
            let (origin, command) =
                decode_system(entry.payload.clone()).map_err(|error| error.to_string())?;
            return if self.accept(origin) { self.note_level(&command) } else { Ok(()) };
        }
        let (origin, commands) =
            decode_batch(entry.payload.clone()).map_err(|error| error.to_string())?;
        if !self.accept(origin) {
            return Ok(());
        }
        for (code, command) in commands {
            let code = usize::from(code);
            let answer = self.model.apply(code, &command);
            // The model goes on, or what is wrong here would be told as another thing.
            if let Err(error) = self.note_lease(code, &command, &answer, now) {
                self.violate(error);
            }
            let Some(operation) = operation_of(&command) else { continue };
            if self.refused.contains(&operation) {
                return Err(format!("operation {operation} was refused and happened"));
            }
            if self.answers.insert(operation, answer).is_some() {
                return Err(format!("operation {operation} happened twice"));
            }
        }
        Ok(())
    }

    /// The level rises when all support it, and nothing of it is written before.
    fn note_level(&mut self, command: &SystemCommand) -> Result<(), String> {
        let (level, needed) = (self.level, command.level());
        if needed > level {
            return Err(format!("{command:?} is in the log at level {level}, it needs {needed}"));
        }
        let SystemCommand::RaiseLevel(raised) = command else { return Ok(()) };
        let mut members = self.levels.iter().filter(|(id, _)| self.members.contains(id));
        if let Some((id, known)) = members.find(|(_, known)| *known < raised) {
            return Err(format!("the level rose to {raised}, member {id:x} supports {known}"));
        }
        self.level = level.max(*raised);
        Ok(())
    }

    /// A clock has jumped: leases that it counts may end before their time.
    pub(super) fn forgive_leases(&mut self, now: Duration) {
        self.jumped_at = now;
        self.leases.values_mut().for_each(|until| *until = Duration::ZERO);
    }

    /// A lease was kept alive, as asked at a time.
    pub(super) fn keep_lease(&mut self, lease: i64, asked: Duration, ttl: i64) {
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        let jumped = self.jumped_at >= asked;
        if let Some(until) = self.leases.get_mut(&(0, lease)).filter(|_| !jumped) {
            *until = (*until).max(asked + ttl);
        }
    }

    fn note_lease(
        &mut self,
        code: usize,
        command: &Command,
        answer: &Answer,
        now: Duration,
    ) -> Result<(), String> {
        match command {
            Command::LeaseGrant { id, ttl } if answer.is_ok() => {
                let ttl = Duration::from_secs(u64::try_from(*ttl).unwrap_or(0));
                self.leases.insert((code, *id), now + ttl);
            }
            Command::LeaseRevoke { id } if answer.is_ok() => {
                let until = self.leases.remove(&(code, *id)).unwrap_or_default();
                self.leases_ended += 1;
                if until > now {
                    return Err(format!("lease {id} ended at {now:?}, before {until:?}"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What a member has come to, against what others have at the same place.
    pub(super) fn compare(&mut self, id: u64, core: &Core, _now: Duration) -> Result<(), String> {
        let membership = core.shared.cluster.membership();
        let is_leader = core.shared.is_leader.load(std::sync::atomic::Ordering::Relaxed);
        if is_leader && membership.leader == Some(id) {
            let leader = *self.leaders.entry(membership.term).or_insert(id);
            if leader != id {
                return Err(format!(
                    "{leader:x} and {id:x} both lead in the term {}",
                    membership.term
                ));
            }
        }
        let (place, chain) = core.place();
        let known = *self.chains.entry(place.index).or_insert(chain);
        if known != chain && !self.members_find_out {
            return Err(format!("member {id:x} has another chain at {}", place.index));
        }
        let Some(expected) = self.revisions.get(&place.index) else { return Ok(()) };
        for (keyspace, expected) in core.shared.keyspaces.iter().zip(expected) {
            let state = read(&keyspace.state);
            let found = (state.revision, state.compacted);
            if found != *expected {
                return Err(format!(
                    "member {id:x} has revisions {found:?} at entry {}, should have {expected:?}",
                    place.index
                ));
            }
        }
        Ok(())
    }

    /// Everything a member has, against the model.
    pub(super) fn compare_whole(&self, core: &Core) -> Result<(), String> {
        compare("the place", &"", &Some(core.place().0.index), &self.modelled)?;
        for (code, keyspace) in core.shared.keyspaces.iter().enumerate() {
            let state = read(&keyspace.state);
            let expected = &self.model.keyspaces[code];
            let found = state
                .plan(&RangeRequest::new(everything()), state.revision)
                .finish()
                .map_err(|error| error.to_string())?;
            let kvs: Vec<_> = expected.live.values().cloned().collect();
            compare("the present", &code, &found.kvs, &kvs)?;
            compare("the size", &code, &state.live_bytes, &state.count_live_bytes())?;
            let leases: Vec<_> = state.leases.keys().copied().collect();
            let expected_leases: Vec<_> = expected.leases.keys().copied().collect();
            compare("the leases", &code, &leases, &expected_leases)?;
            let mut from = state.compacted + 1;
            let mut seen = Vec::new();
            while from <= state.revision {
                let found = state
                    .events(&everything(), (from, state.revision), false, 4096)
                    .map_err(|error| error.to_string())?;
                seen.extend(found.events.iter().map(Change::of));
                from = found.through + 1;
            }
            let wanted: Vec<_> = expected
                .history
                .range(state.compacted + 1..)
                .flat_map(|(_, changes)| changes.clone())
                .collect();
            compare("the history", &code, &seen, &wanted)?;
        }
        Ok(())
    }
}

/// The number that a client has put into what it writes.
pub(super) fn operation_of(command: &Command) -> Option<u64> {
    let Command::Txn(txn) = command else { return None };
    txn.success.iter().find_map(|op| match op {
        Op::Put(put) => {
            let text = put.value.strip_prefix(b"op:")?;
            let end = text.iter().position(|byte| *byte == b':')?;
            std::str::from_utf8(&text[..end]).ok()?.parse().ok()
        }
        _ => None,
    })
}

/// Consensus that tells the ledger what it hands out to be applied, and that has the planted bug.
pub(super) struct Recorder {
    member: u64,
    inner: Box<dyn Consensus>,
    ledger: Arc<Mutex<Ledger>>,
    clock: Arc<SimulatedClock>,
    bug: Option<Bug>,
    /// For a read that asks nobody.
    reads: Vec<(u64, u64)>,
    number: u64,
    /// Already handed out by a member that does not wait for the commit.
    early: u64,
    applied: VecDeque<u64>,
    /// What may be applied in truth.
    real: u64,
    /// Term and vote.
    voted: (u64, u64),
}

impl Recorder {
    pub(super) fn new(
        member: u64,
        inner: Box<dyn Consensus>,
        ledger: Arc<Mutex<Ledger>>,
        clock: Arc<SimulatedClock>,
    ) -> Self {
        let bug = lock(&ledger).bug;
        let early = 0;
        let (reads, applied) = (Vec::new(), VecDeque::new());
        Self {
            member,
            inner,
            ledger,
            clock,
            bug,
            reads,
            number: 0,
            early,
            applied,
            real: 0,
            voted: (0, 0),
        }
    }

    fn note_vote(&mut self, work: &Work) {
        let Some(state) = &work.hard_state else { return };
        let vote = (state.term, state.vote);
        if state.vote != 0 && state.vote != self.member && vote != self.voted {
            self.voted = vote;
            lock(&self.ledger).voted.push((self.member, state.vote));
        }
    }

    fn record(&mut self, work: &mut Work) {
        self.note_vote(work);
        if self.bug == Some(Bug::ForgetsVote)
            && let Some(state) = &mut work.hard_state
        {
            state.vote = 0;
        }
        self.real = work.committed.last().map_or(self.real, |entry| entry.index);
        if self.bug == Some(Bug::AppliesEarly) && work.install.is_none() {
            let early = self.early;
            work.committed.extend(work.entries.iter().cloned());
            work.committed.sort_by_key(|entry| entry.index);
            work.committed.retain(|entry| entry.index > early);
            work.committed.dedup_by_key(|entry| entry.index);
            self.early = work.committed.last().map_or(early, |entry| entry.index);
        }
        let now = self.clock.without_jumps();
        let mut ledger = lock(&self.ledger);
        for entry in &work.committed {
            ledger.commit(self.member, entry, now);
        }
    }
}

impl Around for Recorder {
    fn inner(&self) -> &dyn Consensus {
        &*self.inner
    }

    fn inner_mut(&mut self) -> &mut dyn Consensus {
        &mut *self.inner
    }

    fn poll_around(&mut self) -> Option<Work> {
        let Some(mut work) = self.inner.poll() else {
            if self.reads.is_empty() {
                return None;
            }
            let reads = std::mem::take(&mut self.reads);
            return Some(Work { number: self.number, reads, ..Work::default() });
        };
        self.number = work.number;
        self.record(&mut work);
        Some(work)
    }

    fn applied_around(&mut self, index: u64) {
        if self.bug != Some(Bug::AppliesEarly) {
            self.inner.applied(index);
            return;
        }
        self.applied.push_back(index);
        while let Some(index) = self.applied.front().copied() {
            if index > self.real {
                break;
            }
            self.inner.applied(index);
            self.applied.pop_front();
        }
    }

    fn leader_ended_around(&mut self, leader: u64) {
        lock(&self.ledger).given_up += 1;
        self.inner.leader_ended(leader);
    }

    fn read_index_around(&mut self, number: u64) {
        if self.bug == Some(Bug::ReadsAlone) {
            self.reads.push((number, self.inner.standing().committed));
        } else {
            self.inner.read_index(number);
        }
    }
}
