//! How long a container that fails, or an image that cannot be pulled, is left alone.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_secs(300);
/// A container that ran this long starts over with the first delay.
const RESET_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// The delay of one container or image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    current: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// The delay in force for something that failed at `failed_at`, if it is still to
    /// wait at `now`, and until when.
    #[must_use]
    pub fn holds(
        &self,
        failed_at: Timestamp,
        now: Timestamp,
    ) -> Option<(SignedDuration, Timestamp)> {
        let (delay, last) = self.current?;
        if expired(failed_at, last) {
            return None;
        }
        let until = failed_at.saturating_add(delay).unwrap_or(Timestamp::MAX);
        is_ahead(until, now).then_some((delay, until))
    }

    /// Notes one more try after a failure at `failed_at`.
    pub fn advance(&mut self, failed_at: Timestamp) {
        let next = match self.current {
            Some((delay, last)) if !expired(failed_at, last) => MAX.min(delay * 2),
            _ => FIRST,
        };
        self.current = Some((next, failed_at));
    }

    pub fn reset(&mut self) {
        self.current = None;
    }
}

/// Whether a try that was planned for `until` has to wait at `now`. A wait that is far longer
/// than any delay comes of a clock that was set back since; for that time to come again could
/// take hours.
#[must_use]
pub fn is_ahead(until: Timestamp, now: Timestamp) -> bool {
    let left = until.duration_since(now);
    left.is_positive() && left < MAX * 2
}

fn expired(failed_at: Timestamp, last: Timestamp) -> bool {
    failed_at.duration_since(last) > RESET_AFTER
}

/// As Go prints it: `10s`, `2m40s`, `5m0s`.
#[must_use]
pub fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}h{minutes}m{rest}s")
    } else if minutes > 0 {
        format!("{minutes}m{rest}s")
    } else {
        format!("{rest}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_double() {
        let mut backoff = Backoff::default();
        let mut failed = 0;
        assert_eq!(backoff.holds(at(failed), at(failed)), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            backoff.advance(at(failed));
            let (delay, until) = backoff.holds(at(failed), at(failed)).unwrap();
            delays.push(delay.as_secs());
            assert_eq!(backoff.holds(at(failed), until), None, "over at its end");
            failed = until.as_second() + 1;
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_clock_that_is_set_back_lengthens_no_wait() {
        let mut backoff = Backoff::default();
        backoff.advance(at(5_000));
        assert!(backoff.holds(at(5_000), at(5_001)).is_some());
        assert_eq!(backoff.holds(at(5_000), at(1_400)), None);
        assert!(is_ahead(at(5_010), at(5_001)));
        assert!(!is_ahead(at(5_010), at(5_010)));
        assert!(!is_ahead(at(5_010), at(1_400)));
    }

    #[test]
    fn a_long_run_starts_over() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0));
        backoff.advance(at(20));
        assert_eq!(backoff.holds(at(700), at(700)), None);
        backoff.advance(at(700));
        assert_eq!(backoff.holds(at(700), at(700)).unwrap().0, FIRST);
    }

    #[test]
    fn prints_as_go_does() {
        let print = |s| go_duration(SignedDuration::from_secs(s));
        assert_eq!([print(10), print(160), print(300)], ["10s", "2m40s", "5m0s"]);
    }
}
