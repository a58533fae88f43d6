//! Warnings about callers that are no members: whoever reaches the port can cause one, so they are
//! few, and say how many were left out.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock;

const EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Warnings {
    state: Mutex<State>,
    total: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last_at: Option<Instant>,
    left_out: u64,
    last: Option<(SocketAddr, String)>,
}

impl Warnings {
    /// A caller was turned away.
    pub(super) fn turned_away(&self, caller: SocketAddr, reason: &str) {
        self.total.fetch_add(1, Ordering::Relaxed);
        lock(&self.state).last = Some((caller, reason.to_owned()));
        match self.due(Instant::now()) {
            Some(left_out) => {
                tracing::warn!(%caller, reason, left_out, "turned away a caller of the peer port");
            }
            None => tracing::debug!(%caller, reason, "turned away a caller of the peer port"),
        }
    }

    /// Callers turned away since the start.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub(super) fn last(&self) -> Option<(SocketAddr, String)> {
        lock(&self.state).last.clone()
    }

    /// How many were left out since the last warning, if one may be given now.
    fn due(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.last_at.is_some_and(|last| now.duration_since(last) < EVERY) {
            state.left_out += 1;
            return None;
        }
        state.last_at = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_warnings_the_first_is_given_and_the_next_counts_the_rest() {
        let warnings = Warnings::default();
        let start = Instant::now();
        assert_eq!(warnings.due(start), Some(0));
        for ms in 1..50 {
            assert_eq!(warnings.due(start + Duration::from_millis(ms)), None);
        }
        assert_eq!(warnings.due(start + EVERY), Some(49));
        assert_eq!(warnings.due(start + EVERY * 2), Some(0));
    }
}
