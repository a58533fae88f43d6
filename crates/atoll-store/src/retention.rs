//! Which history of a keyspace may go, and when.
//!
//! Every member remembers which revision was when; only the leader acts on it, so that one that
//! begins to lead knows the past too. Beyond its retention history goes by the clock. When space
//! runs short it goes at once, and where nobody asked for a retention, before a write is refused.

use std::collections::VecDeque;
use std::time::Duration;

use crate::kv::Revision;

/// What a keyspace may hold, and how much of its history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyspaceLimits {
    /// Keys, values and overhead of all kept versions; beyond it puts are refused.
    pub quota_bytes: u64,
    pub retention: Retention,
    /// Fewer old revisions than this go only once an hour, with [`Retention::Period`]: an idle
    /// cluster makes a few, and every compaction is a write.
    pub few_revisions: Revision,
}

/// How much history is kept, in etcd's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// All that there is room for, until clients compact it.
    WhileRoom,
    /// That of the last so long, and up to an hour or as long again more.
    Period(Duration),
    /// The last so many revisions.
    Revisions(Revision),
}

/// A longer period is compacted in steps of this.
const STEP_MAX: Duration = Duration::from_secs(3600);
/// Looks at the revision, of each step.
const LOOKS: u32 = 10;
/// How often the number of revisions is looked at.
const REVISIONS_EVERY: Duration = Duration::from_secs(300);
/// History that is kept when space runs short and no retention was asked for…
const SHORT: Duration = Duration::from_secs(300);
/// …and when there is none left: enough for a watch that is not broken.
const SHORTEST: Duration = Duration::from_secs(10);
/// How often space that runs short is looked at, where periods are not shorter.
const PRESSED_EVERY: Duration = Duration::from_secs(5);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    None,
    /// More than four fifths of the quota are taken.
    Soft,
    /// Writes are refused, or the next may be.
    Hard,
}

impl KeyspaceLimits {
    /// Whether writes are refused, whatever their size: one of the largest would find no room.
    pub(crate) fn is_full(&self, used: u64, request_bytes_max: u64) -> bool {
        // With a quota that is hardly larger than a request it would be full when it is empty.
        used + request_bytes_max.min(self.quota_bytes / 16) > self.quota_bytes
    }

    pub(crate) fn pressure(&self, used: u64, is_full: bool) -> Pressure {
        if is_full {
            Pressure::Hard
        } else if used > self.quota_bytes / 5 * 4 {
            Pressure::Soft
        } else {
            Pressure::None
        }
    }
}

/// Remembers the past of one keyspace.
#[derive(Debug)]
pub(crate) struct Keeper {
    retention: Retention,
    few_revisions: Revision,
    /// Which revision was when, the oldest first; as far back as the retention goes.
    seen: VecDeque<(Duration, Revision)>,
    looked_at: Duration,
    /// When it was compacted last, or the store was opened.
    compacted_at: Duration,
    compacted: Revision,
}

impl Keeper {
    pub(crate) fn new(limits: &KeyspaceLimits, now: Duration, revision: Revision) -> Self {
        Self {
            retention: limits.retention,
            few_revisions: limits.few_revisions,
            seen: VecDeque::from([(now, revision)]),
            looked_at: now,
            compacted_at: now,
            compacted: 0,
        }
    }

    /// When [`Self::look`] is due; `None` is not before something changes.
    pub(crate) fn next_look(
        &self,
        (revision, compacted): (Revision, Revision),
        pressure: Pressure,
    ) -> Option<Duration> {
        let last = self.seen.back().map_or(0, |(_, last)| *last);
        let is_done = match self.retention {
            Retention::WhileRoom => pressure == Pressure::None,
            Retention::Period(_) => last <= compacted,
            Retention::Revisions(count) => last.saturating_sub(count) <= compacted,
        };
        if is_done && last == revision {
            return None;
        }
        let usual = match self.retention {
            Retention::WhileRoom => SHORT / LOOKS,
            Retention::Period(period) => period.min(STEP_MAX) / LOOKS,
            Retention::Revisions(_) => REVISIONS_EVERY,
        };
        let pressed = match self.retention {
            Retention::Period(period) => PRESSED_EVERY.max(period / 100),
            Retention::WhileRoom | Retention::Revisions(_) => PRESSED_EVERY,
        };
        let every = if pressure == Pressure::None { usual } else { usual.min(pressed) };
        Some(self.looked_at + every)
    }

    /// What to compact to now, if anything. `frees` says whether that would free any space.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        (revision, compacted): (Revision, Revision),
        pressure: Pressure,
        frees: impl Fn(Revision) -> bool,
    ) -> Option<Revision> {
        self.looked_at = now;
        if self.seen.back().is_none_or(|(_, last)| *last != revision) {
            self.seen.push_back((now, revision));
        }
        if compacted > self.compacted {
            // By whoever it was.
            (self.compacted, self.compacted_at) = (compacted, now);
        }
        let pressed = pressure > Pressure::None;
        let (target, due) = match self.retention {
            Retention::WhileRoom => {
                let kept = if pressure == Pressure::Hard { SHORTEST } else { SHORT };
                (self.before(now, kept), false)
            }
            Retention::Period(period) => {
                let step = if self.compacted == 0 { period } else { period.min(STEP_MAX) };
                let target = self.before(now, period);
                let is_few = target.is_some_and(|to| to - compacted < self.few_revisions);
                let step = if is_few { step.max(STEP_MAX) } else { step };
                (target, now >= self.compacted_at + step)
            }
            Retention::Revisions(count) => (Some(revision.saturating_sub(count)), true),
        };
        self.forget(now);
        let target = target.filter(|target| *target > compacted)?;
        (due || (pressed && frees(target))).then_some(target)
    }

    /// The newest revision that is at least so old.
    fn before(&self, now: Duration, age: Duration) -> Option<Revision> {
        let at = now.checked_sub(age)?;
        let old = self.seen.iter().rev().find(|(seen_at, _)| *seen_at <= at);
        old.map(|(_, revision)| *revision)
    }

    fn forget(&mut self, now: Duration) {
        let kept = match self.retention {
            Retention::WhileRoom => SHORT,
            Retention::Period(period) => period,
            Retention::Revisions(_) => Duration::ZERO,
        };
        while self.seen.get(1).is_some_and(|(at, _)| *at + kept <= now) {
            self.seen.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
