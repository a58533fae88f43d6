//! When the state file is written anew, so that it takes less of the disk: by itself when most of it
//! is of no use, and when somebody asks for it. Each member sees to its own.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Core;
use crate::backend::{Copied, Rewriting};
use crate::kv::Error;
use crate::sync::read;

/// Of what lives, as quotas count it, times as large as the file may become. One that was just
/// written has half to two times it: pages are filled to between a half and all.
const WORTH_TIMES: u64 = 4;
/// Against [`WORTH_TIMES`] of little: one that was just written may not become half of itself again.
const AGAIN_TIMES: u64 = 2;
/// What the new file may take of what lives, and besides.
const ROOM_TIMES: u64 = 3;
const ROOM_BYTES: u64 = 64 << 20;
/// After one that was given up. Who asks need not wait.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Callers that wait for it; beyond it they are refused.
const WAITING_MAX: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    No,
    /// With the next flush, as soon as what was compacted is gone.
    Wanted,
    Copying,
    /// The next flush takes it over.
    Whole,
}

#[derive(Debug, Default)]
pub(super) struct Shrink {
    phase: Phase,
    /// Counts how often it was begun.
    round: u64,
    /// They wait for the end of a round that began after they had asked.
    waiting: Vec<(u64, oneshot::Sender<Result<(), Error>>)>,
    /// What the state file takes, as of the last flush.
    file_bytes: u64,
    /// The same when it had just been written anew.
    best_bytes: u64,
    not_before: Duration,
}

impl Core {
    /// Writes the state file anew; the answer comes when that is done.
    pub(crate) fn on_defragment(&mut self, sender: oneshot::Sender<Result<(), Error>>) {
        if let Err(error) = self.shared.check() {
            // The caller may have gone.
            drop(sender.send(Err(error)));
            return;
        }
        let shrink = &mut self.shrink;
        shrink.waiting.retain(|(_, waiting)| !waiting.is_closed());
        if shrink.waiting.len() >= WAITING_MAX {
            let detail = format!("{WAITING_MAX} callers wait for the same already");
            drop(sender.send(Err(Error::Unavailable { detail })));
            return;
        }
        shrink.waiting.push((shrink.round + 1, sender));
        if shrink.phase == Phase::No {
            shrink.phase = Phase::Wanted;
        }
    }

    pub(super) fn tend_shrink(&mut self, now: Duration) {
        let shrink = &self.shrink;
        let is_due = shrink.phase == Phase::No && shrink.not_before <= now;
        if is_due && shrink.is_worth(self.config.shrink_from_bytes, self.live_bytes()) {
            self.shrink.phase = Phase::Wanted;
        }
    }

    fn live_bytes(&self) -> u64 {
        self.shared.keyspaces.iter().map(|keyspace| read(&keyspace.state).used_bytes()).sum()
    }

    fn is_sweeping(&self) -> bool {
        self.shared.keyspaces.iter().any(|keyspace| read(&keyspace.state).needs_sweep())
    }

    /// Whether a flush is due for its sake.
    pub(super) fn wants_flush(&self) -> bool {
        match self.shrink.phase {
            Phase::No | Phase::Copying => false,
            // What goes meanwhile would be copied for nothing.
            Phase::Wanted => !self.is_sweeping(),
            Phase::Whole => true,
        }
    }

    /// For the flush that begins now: what a new file may take, if one is to be begun.
    pub(super) fn begin_rewrite(&mut self) -> Option<u64> {
        if self.shrink.phase != Phase::Wanted || self.is_sweeping() {
            return None;
        }
        self.shrink.phase = Phase::Copying;
        self.shrink.round += 1;
        Some(self.live_bytes() * ROOM_TIMES + ROOM_BYTES)
    }

    /// What a flush has left of it.
    pub(super) fn note_rewriting(&mut self, file_bytes: u64, rewriting: Rewriting) {
        let before = std::mem::replace(&mut self.shrink.file_bytes, file_bytes);
        match rewriting {
            Rewriting::No => {}
            Rewriting::Copying => self.shrink.phase = Phase::Copying,
            Rewriting::Replaced(backend) => {
                self.backend = backend;
                self.shrink.best_bytes = file_bytes;
                tracing::info!(before, bytes = file_bytes, "the state file was written anew");
                self.end_rewrite(Ok(()));
            }
            Rewriting::GivenUp(detail) => self.give_up_rewrite(detail),
        }
        self.tend_shrink(self.clock.now());
    }

    /// The copying has ended.
    pub(crate) fn on_copied(&mut self, copied: Copied) {
        match copied {
            // Of an earlier one, if this one is not copying.
            Copied::Whole if self.shrink.phase == Phase::Copying => {
                self.shrink.phase = Phase::Whole;
            }
            Copied::Whole => {}
            Copied::GivenUp(detail) => self.give_up_rewrite(detail),
            Copied::Fault(fault) => self.condemn(fault.to_string()),
        }
    }

    fn give_up_rewrite(&mut self, detail: String) {
        tracing::warn!(detail, "the state file was not written anew");
        self.shrink.not_before = self.clock.now() + AGAIN_AFTER;
        self.end_rewrite(Err(Error::Unavailable { detail }));
    }

    fn end_rewrite(&mut self, result: Result<(), Error>) {
        let round = self.shrink.round;
        let (done, rest) = std::mem::take(&mut self.shrink.waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(waits_for, _)| *waits_for <= round);
        self.shrink.phase = if rest.is_empty() { Phase::No } else { Phase::Wanted };
        self.shrink.waiting = rest;
        for (_, sender) in done {
            drop(sender.send(result.clone()));
        }
    }

    /// Another state has taken the place: what was begun is of no use, what was asked for is not
    /// done.
    pub(super) fn begin_rewrite_again(&mut self) {
        self.shrink.round -= u64::from(matches!(self.shrink.phase, Phase::Copying | Phase::Whole));
        self.shrink.phase = if self.shrink.waiting.is_empty() { Phase::No } else { Phase::Wanted };
        self.shrink.best_bytes = 0;
    }

    /// There will be no more flushes: whoever waits for a round hears why.
    pub(super) fn refuse_rewrites(&mut self, error: &Error) {
        self.shrink.phase = Phase::No;
        for (_, sender) in std::mem::take(&mut self.shrink.waiting) {
            // The caller may have gone.
            drop(sender.send(Err(error.clone())));
        }
    }

    /// Nobody waits for it any more.
    pub(crate) fn stop_rewriting(&mut self) {
        self.shrink.waiting.clear();
        if self.shrink.phase == Phase::Wanted {
            self.shrink.phase = Phase::No;
        }
    }
}

impl Shrink {
    fn is_worth(&self, from_bytes: u64, live_bytes: u64) -> bool {
        self.file_bytes >= from_bytes
            && self.file_bytes / WORTH_TIMES > live_bytes
            && self.file_bytes / AGAIN_TIMES > self.best_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_anew_when_that_makes_it_much_smaller() {
        let shrink =
            |file_bytes, best_bytes| Shrink { file_bytes, best_bytes, ..Shrink::default() };
        assert!(shrink(1000, 0).is_worth(100, 200));
        assert!(!shrink(1000, 0).is_worth(100, 250));
        assert!(!shrink(99, 0).is_worth(100, 0));
        // Of what lives little can be made, whatever is written.
        assert!(!shrink(1000, 600).is_worth(100, 200));
        assert!(shrink(1000, 400).is_worth(100, 200));
    }
}
