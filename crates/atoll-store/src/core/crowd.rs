//! How long a round of ReadIndex waits for more readers.
//!
//! A round costs all members processor time, however many it is for. Many readers who come one
//! after the other would each begin one; when a few have come back from the last, the next waits
//! until half of them have.

use std::time::Duration;

/// Fewer readers do not wait for each other.
const READERS_MIN: usize = 16;
const WAIT_MAX: Duration = Duration::from_millis(2);
/// Readers that were there together in such a time, or in the one before it, are taken to be there.
const WINDOW: Duration = Duration::from_millis(100);

/// How many readers there are: the most of late that were there at once.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    most: usize,
    most_before: usize,
    since: Duration,
}

/// The next round begins at this time, or when so many wait.
#[derive(Debug)]
pub(super) struct Gathering {
    until: Duration,
    enough: usize,
}

impl Crowd {
    /// So many were there at once.
    pub(super) fn note(&mut self, count: usize, now: Duration) {
        let age = now.saturating_sub(self.since);
        if age >= WINDOW {
            self.most_before = if age < 2 * WINDOW { self.most } else { 0 };
            self.most = 0;
            self.since = now;
        }
        self.most = self.most.max(count);
    }

    /// A gathering has ended by its time, with so many. A few are no crowd, whatever there was.
    pub(super) fn correct(&mut self, waiting: usize) {
        if waiting < READERS_MIN / 2 {
            (self.most, self.most_before) = (0, 0);
        }
    }

    /// What a round that could begin now waits for.
    pub(super) fn gathering(&self, now: Duration) -> Option<Gathering> {
        let count = match now.saturating_sub(self.since) {
            age if age < WINDOW => self.most.max(self.most_before),
            age if age < 2 * WINDOW => self.most,
            _ => 0,
        };
        (count >= READERS_MIN).then(|| Gathering { until: now + WAIT_MAX, enough: count / 2 })
    }
}

impl Gathering {
    pub(super) fn until(&self) -> Duration {
        self.until
    }

    pub(super) fn is_enough(&self, waiting: usize) -> bool {
        waiting >= self.enough
    }

    pub(super) fn is_late(&self, now: Duration) -> bool {
        self.until <= now
    }

    /// So many more have to come, at least one.
    pub(super) fn missing(&self, waiting: usize) -> usize {
        self.enough.saturating_sub(waiting).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(5);

    fn later(millis: u64) -> Duration {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn few_do_not_wait_for_each_other() {
        let mut crowd = Crowd::default();
        assert!(crowd.gathering(START).is_none(), "nobody was ever there");
        crowd.note(READERS_MIN - 1, START);
        assert!(crowd.gathering(START).is_none());
    }

    #[test]
    fn half_of_a_crowd_are_waited_for_but_not_for_long() {
        let mut crowd = Crowd::default();
        crowd.note(60, START);
        crowd.note(4, later(1));
        let gathering = crowd.gathering(later(1)).expect("they are many");
        assert!(!gathering.is_enough(29) && gathering.is_enough(30));
        assert!(!gathering.is_late(later(2)) && gathering.is_late(later(3)));
        assert_eq!([0, 29, 30, 31].map(|waiting| gathering.missing(waiting)), [30, 1, 1, 1]);
    }

    #[test]
    fn whoever_was_waited_for_in_vain_is_not_again() {
        let mut crowd = Crowd::default();
        crowd.note(60, START);
        crowd.correct(READERS_MIN / 2);
        assert!(crowd.gathering(later(1)).is_some(), "many came, if not half of them");
        crowd.correct(1);
        assert!(crowd.gathering(later(1)).is_none());
    }

    #[test]
    fn a_crowd_that_has_gone_is_forgotten() {
        let mut crowd = Crowd::default();
        crowd.note(60, START);
        assert!(crowd.gathering(later(199)).is_some());
        assert!(crowd.gathering(later(200)).is_none(), "nobody came since");
        crowd.note(2, later(150));
        assert!(crowd.gathering(later(249)).is_some(), "it was there in the window before");
        assert!(crowd.gathering(later(250)).is_none());
    }
}
