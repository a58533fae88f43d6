//! One line on a terminal that says how far a backup or a restore is.

use super::size;
use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Between two changes of the line: a terminal over a network must not hold the work up.
const CHANGES_EVERY: Duration = Duration::from_millis(100);

pub struct Progress {
    doing: &'static str,
    shown: bool,
    bytes: u64,
    total: Option<u64>,
    next: Instant,
}

impl Progress {
    pub fn new(doing: &'static str, total: Option<u64>) -> Self {
        let shown = std::io::stderr().is_terminal();
        Self { doing, shown, bytes: 0, total, next: Instant::now() + CHANGES_EVERY }
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if !self.shown || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + CHANGES_EVERY;
        let of = self.total.map_or(String::new(), |total| format!(" of {}", size(total)));
        write(&format!("\r{}: {}{of}\x1b[K", self.doing, size(self.bytes)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            write("\r\x1b[K");
        }
    }
}

/// To standard error: results go to standard output.
fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    // Nobody misses a progress line that could not be shown.
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        tracing::debug!("progress not shown");
    }
}
