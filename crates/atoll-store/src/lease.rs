//! When leases end, by this member's monotonic clock.
//!
//! Only the leader's clock counts, and it only proposes: a lease is gone when its revocation has
//! been applied. Keeping one alive touches this alone, not the log.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::kv::LeaseId;

/// How often the remaining time of a long lease is written down, so that a restart does not give
/// it its full time again.
pub(crate) const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Term {
    ttl: Duration,
    ends_at: Duration,
    /// A checkpoint of less than the whole time stands in the state.
    checkpointed: bool,
    checkpoint_at: Option<Duration>,
    /// Its revocation is on the way; it cannot be kept alive any more.
    revoking: bool,
    /// Its place in the wheel.
    scheduled_at: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct LeaseClock {
    terms: HashMap<LeaseId, Term>,
    /// One place a lease, by time; it may be before the lease's end, then it is looked at in vain.
    wheel: BTreeSet<(Duration, LeaseId)>,
}

/// What is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) expired: Vec<LeaseId>,
    pub(crate) checkpoints: Vec<(LeaseId, i64)>,
}

impl LeaseClock {
    pub(crate) fn start(&mut self, id: LeaseId, ttl: i64, remaining: i64, now: Duration) {
        let ttl = seconds(ttl);
        let left = if remaining > 0 { seconds(remaining) } else { ttl };
        let term = Term {
            ttl,
            ends_at: now + left,
            checkpointed: remaining > 0,
            checkpoint_at: next_checkpoint(now, now + left),
            revoking: false,
            scheduled_at: None,
        };
        self.end(id);
        self.terms.insert(id, term);
        self.schedule(id);
    }

    pub(crate) fn end(&mut self, id: LeaseId) {
        let place = self.terms.remove(&id).and_then(|term| term.scheduled_at);
        if let Some(at) = place {
            self.wheel.remove(&(at, id));
        }
    }

    /// The granted seconds, and whether a checkpoint has to be taken back before anybody is told
    /// so: until [`Self::taken_back`], whoever leads next would give it less.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Option<(i64, bool)> {
        let term = self.terms.get_mut(&id).filter(|term| !term.revoking && term.ends_at > now)?;
        term.ends_at = now + term.ttl;
        term.checkpoint_at = next_checkpoint(now, term.ends_at);
        Some((term.ttl.as_secs().cast_signed(), term.checkpointed))
    }

    /// The state says that the lease has its whole time.
    pub(crate) fn taken_back(&mut self, id: LeaseId) {
        if let Some(term) = self.terms.get_mut(&id) {
            term.checkpointed = false;
        }
    }

    /// Seconds left, rounded up; -1 when its time is over.
    pub(crate) fn remaining(&self, id: LeaseId, now: Duration) -> Option<i64> {
        let term = self.terms.get(&id)?;
        if term.revoking || term.ends_at <= now {
            return Some(-1);
        }
        let left = term.ends_at - now;
        Some((left + Duration::from_nanos(999_999_999)).as_secs().cast_signed())
    }

    /// Those that end first come first, by what this member knows: others' keep-alives it does
    /// not, unless it leads.
    pub(crate) fn sort_by_end(&self, ids: &mut [LeaseId]) {
        ids.sort_by_cached_key(|id| (self.terms.get(id).map(|term| term.ends_at), *id));
    }

    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.wheel.first().map(|(at, _)| *at)
    }

    /// Leases whose end or checkpoint has come, at most `count_max` of them.
    pub(crate) fn take_due(&mut self, now: Duration, count_max: usize) -> Due {
        let mut due = Due::default();
        while due.expired.len() + due.checkpoints.len() < count_max {
            let Some((at, id)) = self.wheel.first().copied().filter(|(at, _)| *at <= now) else {
                break;
            };
            self.wheel.remove(&(at, id));
            let Some(term) = self.terms.get_mut(&id) else { continue };
            term.scheduled_at = None;
            if term.ends_at <= now {
                term.revoking = true;
                due.expired.push(id);
                continue;
            }
            if term.checkpoint_at.is_some_and(|at| at <= now) {
                term.checkpointed = true;
                term.checkpoint_at = next_checkpoint(now, term.ends_at);
                let left = (term.ends_at - now).as_secs().max(1);
                due.checkpoints.push((id, left.cast_signed()));
            }
            self.schedule(id);
        }
        due
    }

    /// A revocation could not be proposed; it is tried again.
    pub(crate) fn retry(&mut self, id: LeaseId, at: Duration) {
        if let Some(term) = self.terms.get_mut(&id) {
            term.revoking = false;
            term.scheduled_at = Some(at);
            self.wheel.insert((at, id));
        }
    }

    fn schedule(&mut self, id: LeaseId) {
        if let Some(term) = self.terms.get_mut(&id) {
            let at = term.checkpoint_at.unwrap_or(term.ends_at).min(term.ends_at);
            term.scheduled_at = Some(at);
            self.wheel.insert((at, id));
        }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

fn next_checkpoint(now: Duration, ends_at: Duration) -> Option<Duration> {
    let at = now + CHECKPOINT_EVERY;
    (at < ends_at).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_once_and_only_if_not_kept_alive() {
        let mut clock = LeaseClock::default();
        clock.start(1, 5, 0, Duration::ZERO);
        clock.start(2, 5, 0, Duration::ZERO);
        assert_eq!(clock.keep_alive(2, 3 * SECOND), Some((5, false)));
        assert_eq!(clock.take_due(5 * SECOND, 10).expired, [1]);
        assert_eq!(clock.take_due(6 * SECOND, 10), Due::default());
        assert_eq!(clock.keep_alive(1, 6 * SECOND), None);
        assert_eq!(clock.remaining(1, 6 * SECOND), Some(-1));
        assert_eq!(clock.take_due(8 * SECOND, 10).expired, [2]);
    }

    #[test]
    fn a_long_lease_is_checkpointed_and_a_short_one_is_not() {
        let mut clock = LeaseClock::default();
        clock.start(1, 60, 0, Duration::ZERO);
        clock.start(2, 1000, 0, Duration::ZERO);
        let due = clock.take_due(CHECKPOINT_EVERY, 10);
        assert_eq!(due, Due { expired: vec![1], checkpoints: vec![(2, 700)] });
        // As often as it is asked, until that has happened.
        for _ in 0..2 {
            assert_eq!(clock.keep_alive(2, CHECKPOINT_EVERY + SECOND), Some((1000, true)));
        }
        clock.taken_back(2);
        assert_eq!(clock.keep_alive(2, CHECKPOINT_EVERY + SECOND), Some((1000, false)));
    }

    #[test]
    fn leases_that_are_revoked_leave_nothing_behind() {
        let mut clock = LeaseClock::default();
        for id in 1..100 {
            clock.start(id, 9_000_000_000, 0, Duration::ZERO);
            clock.end(id);
        }
        assert_eq!(clock.next_due(), None);
    }

    #[test]
    fn those_that_end_first_are_first() {
        let mut clock = LeaseClock::default();
        for (id, ttl, at) in [(9, 30, 0), (5, 30, 1), (7, 10, 2), (1, 30, 3)] {
            clock.start(id, ttl, 0, Duration::from_millis(at));
        }
        clock.keep_alive(9, SECOND).unwrap();
        let mut ids = [1, 5, 7, 9];
        clock.sort_by_end(&mut ids);
        assert_eq!(ids, [7, 5, 1, 9]);
    }

    #[test]
    fn a_checkpoint_shortens_the_time_after_a_restart() {
        let mut clock = LeaseClock::default();
        clock.start(1, 1000, 7, Duration::ZERO);
        assert_eq!(clock.remaining(1, SECOND), Some(6));
        assert_eq!(clock.take_due(7 * SECOND, 10).expired, [1]);
    }
}
