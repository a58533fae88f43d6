//! Monotonic time, as a trait so that the simulator owns it.
//!
//! Wall-clock time has no place in the store: a clock set back an hour must not expire a lease.

use std::fmt::Debug;
use std::time::{Duration, Instant};

pub trait Clock: Send + Sync + Debug {
    /// Time since an arbitrary but fixed start; never goes back.
    fn now(&self) -> Duration;
    /// Blocks the calling thread; only background threads call it.
    fn pause(&self, duration: Duration);
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self, duration: Duration) {
        std::thread::park_timeout(duration);
    }
}
