//! Time, as members without others have no use for it: ticks, who is heard of, whether there is a
//! majority, and whether the disk keeps up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use super::gone::Gone;
use super::peers::Message;
use crate::kv::Error;

pub(crate) const TICK: Duration = Duration::from_millis(100);
/// Without a leader, and unheard of, for this long: then somebody is gone.
pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Without a leader for this long although there is a majority: callers are told.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);
/// A proposal that waits longer may have been lost on its way to the leader.
const BARRIER_AFTER: Duration = Duration::from_secs(1);
/// A disk is slow when one write takes longer…
const SLOW_WRITE: Duration = Duration::from_secs(1);
/// …or half of the last ones do.
const SLOW_MEDIAN: Duration = Duration::from_millis(150);
/// How long writes count for the median, and how long a peer's disk counts as slow once it said so.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// How often a slow leader tries to hand its place over, and a slow follower says that it is.
const SLOW_EVERY: Duration = Duration::from_secs(2);

/// Members that support this format level understand [`Message::Durable`].
const DURABLE: u32 = 2;

#[derive(Debug, Default)]
pub(super) struct Health {
    next_tick: Option<Duration>,
    heard: BTreeMap<u64, Duration>,
    slow: BTreeMap<u64, Duration>,
    leaderless_since: Option<Duration>,
    barrier_at: Option<Duration>,
    slow_told_at: Option<Duration>,
    /// What the others were told last is on this leader's disk.
    told_durable: u64,
    pub(super) gone: Gone,
    /// The lack of a majority has been told to those who waited.
    lost_told: bool,
}

impl Health {
    pub(super) fn hear(&mut self, peer: u64, now: Duration) {
        self.heard.insert(peer, now);
        self.gone.hear(peer);
    }

    pub(super) fn has_heard(&self, peer: u64, now: Duration) -> bool {
        self.heard.get(&peer).is_some_and(|at| *at + ELECTION_TIMEOUT >= now)
    }

    pub(super) fn hear_slow(&mut self, peer: u64, now: Duration) {
        self.slow.insert(peer, now);
    }

    pub(super) fn is_slow(&self, peer: u64, now: Duration) -> bool {
        self.slow.get(&peer).is_some_and(|at| *at + SLOW_FOR > now)
    }

    pub(super) fn next_tick(&self) -> Option<Duration> {
        self.next_tick
    }
}

impl Core {
    pub(super) fn on_tick(&mut self, now: Duration) {
        if !self.consensus.needs_ticks() {
            self.health.next_tick = None;
            return;
        }
        let due = *self.health.next_tick.get_or_insert(now + TICK);
        if due > now {
            return;
        }
        // Ticks that were missed are not made up for: nobody could answer meanwhile.
        self.health.next_tick = Some((due + TICK).max(now));
        self.consensus.tick();
        self.give_up_gone(now);
        self.run();
        if self.failed() {
            return;
        }
        self.give_way();
        self.look_for_majority(now);
        self.look_for_lost_proposals(now);
        self.look_at_disk(now);
        self.expire_asks(now);
        self.announce(now);
        self.introduce(now);
        if self.standing.is_leader {
            self.tend_members();
            self.ask_chains(now);
            self.tell_durable();
        }
        self.run();
    }

    /// Compares where this member stands with the last look, and acts on what has changed.
    pub(super) fn notice_standing(&mut self) {
        let now = self.clock.now();
        let before = std::mem::replace(&mut self.standing, self.consensus.standing());
        let standing = self.standing;
        if standing.leader == 0 {
            self.health.leaderless_since.get_or_insert(now);
        } else {
            self.health.leaderless_since = None;
            self.health.lost_told = false;
        }
        let moved = (before.term, before.leader) != (standing.term, standing.leader);
        if moved {
            self.end_asks();
            self.asks.revoking = false;
            if standing.is_leader && !before.is_leader {
                // Whoever has joined since it led before has not heard it.
                self.health.told_durable = 0;
                self.begin_leading(now);
            }
        }
        if standing.leader == 0 || standing.is_transferring {
            return;
        }
        if moved && self.waiting_since().is_some() && !self.writes_here() {
            self.health.barrier_at = Some(now);
            self.propose_barrier();
        }
        if !self.parked.is_empty() {
            let parked = std::mem::take(&mut self.parked);
            self.propose_all(parked);
        }
    }

    /// Leases were kept alive at the former leader, which this member knows nothing of.
    fn begin_leading(&mut self, now: Duration) {
        let extra = if self.writes_here() { Duration::ZERO } else { ELECTION_TIMEOUT };
        if !self.writes_here() {
            tracing::info!(term = self.standing.term, "this server leads");
            self.restart_leases(now + extra);
        }
    }

    /// Why nothing can be asked of the cluster now, if so.
    pub(super) fn refusal(&self) -> Option<Error> {
        let since = self.health.leaderless_since?;
        let now = self.clock.now();
        let leaderless = now.saturating_sub(since);
        if leaderless < ELECTION_TIMEOUT {
            return None;
        }
        let voters = &self.roster.configuration.voters;
        let heard = |id: &u64| *id == self.member_id || self.health.has_heard(*id, now);
        let seen = voters.iter().filter(|id| heard(id)).count();
        if voters.is_empty() {
            Some(Error::NoLeader)
        } else if seen < voters.len() / 2 + 1 {
            Some(Error::NoQuorum { seen, voters: voters.len() })
        } else {
            (leaderless >= LEADERLESS_MAX).then_some(Error::NoLeader)
        }
    }

    fn look_for_majority(&mut self, now: Duration) {
        let Some(error) = self.refusal() else { return };
        if !std::mem::replace(&mut self.health.lost_told, true) {
            tracing::warn!(%error, "no majority of the servers is seen");
        }
        self.health.barrier_at = Some(now);
        self.refuse_waiting(&error);
        self.refuse_reads(&error);
    }

    fn look_for_lost_proposals(&mut self, now: Duration) {
        let waits = self.waiting_since().is_some_and(|since| since + BARRIER_AFTER <= now);
        let recent = self.health.barrier_at.is_some_and(|at| at + BARRIER_AFTER > now);
        if waits && !recent && self.standing.leader != 0 && !self.standing.is_transferring {
            self.health.barrier_at = Some(now);
            self.propose_barrier();
        }
    }

    fn look_at_disk(&mut self, now: Duration) {
        let journal = &self.journal;
        let median = journal.median(now.saturating_sub(SLOW_FOR));
        let slow = journal.under_way(now) > SLOW_WRITE
            || journal.is_full()
            || median.is_some_and(|median| median > SLOW_MEDIAN);
        let recent = self.health.slow_told_at.is_some_and(|at| at + SLOW_EVERY > now);
        if !slow || recent || self.standing.leader == 0 {
            return;
        }
        if !self.standing.is_leader {
            self.health.slow_told_at = Some(now);
            self.send(self.standing.leader, &Message::SlowDisk);
        } else if self.standing.is_settled
            && let Some(to) = self.successor()
        {
            // Not before somebody was found: each second the leader begins anew to count who
            // answers, and knows of nobody in that tick.
            self.health.slow_told_at = Some(now);
            tracing::warn!(to, "the disk is slow; handing leadership over");
            self.consensus.transfer(to);
        }
    }

    /// Followers acknowledge what they have; a leader tells it, so that an old copy of its folder
    /// is known too. What is committed without it need not be on its own disk.
    fn tell_durable(&mut self) {
        let index = self.shared.cluster.last().index.min(self.standing.committed);
        if self.writes_here() || index <= self.health.told_durable {
            return;
        }
        self.health.told_durable = index;
        for id in self.roster.members.keys().copied().collect::<Vec<_>>() {
            let reads_it = self.shared.cluster.said(id).is_some_and(|said| said.level >= DURABLE);
            if id != self.member_id && reads_it {
                self.send(id, &Message::Durable { index });
            }
        }
    }

    pub(super) fn on_durable(&mut self, from: u64, index: u64) {
        let epoch = self.shared.cluster.said(from).map_or(0, |said| said.epoch);
        let known = self.acknowledged.entry(from).or_default();
        if index > known.1 {
            *known = (known.0.max(epoch), index);
            self.shared.cluster.set_acknowledged(&self.acknowledged);
        }
    }

    /// What committed entries each peer has acknowledged: an old copy of its folder has not.
    pub(super) fn note_acknowledged(&mut self) {
        if !self.standing.is_leader || self.writes_here() {
            return;
        }
        let committed = self.standing.committed;
        let mut changed = false;
        for one in self.consensus.progress() {
            let epoch = self.shared.cluster.said(one.id).map_or(0, |said| said.epoch);
            let reached = (epoch, one.matched_index.min(committed));
            let known = self.acknowledged.entry(one.id).or_default();
            if reached.1 > known.1 || reached.0 > known.0 {
                *known = (known.0.max(reached.0), known.1.max(reached.1));
                changed = true;
            }
        }
        if changed {
            self.shared.cluster.set_acknowledged(&self.acknowledged);
        }
    }
}
