//! What the core does beside requests: seals, leases, compaction's sweep, and the state file.

use std::time::Duration;

use super::{Core, Proposal, ReadReply};
use crate::backend::{BackendError, FlushJob, Flushed, KEYSPACES, StateWriter};
use crate::kv::Error;
use crate::mvcc::Command;
use crate::sync::{read, write};

/// Quiet time after which a seal batch proves that the last write was durable.
const SEAL_AFTER: Duration = Duration::from_millis(100);
/// Keys whose old versions are dropped in one step, so that requests do not wait for compaction.
const SWEEP_KEYS: usize = 500;
/// Changes that are few: they may wait for the state file, since the log has them, and reading
/// them from there takes no time.
const FEW_OPERATIONS: usize = 500;
const FEW_BYTES: usize = 512 << 10;
/// Leases handled in one step.
const LEASES_AT_ONCE: usize = 1000;
/// A sole member tells its own log by what name it goes.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
/// Wait before a revocation that could not be proposed is tried again.
const LEASE_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Core {
    /// Does what is due now.
    pub(crate) fn on_timer(&mut self) {
        if self.failed() {
            return;
        }
        let now = self.clock.now();
        if self.writes_here() {
            self.seal();
        }
        if self.next_read().is_some_and(|at| at <= now) {
            self.run();
        }
        self.on_tick(now);
        self.handle_leases(now);
        self.keep_history(now);
        for keyspace in &self.shared.keyspaces {
            if read(&keyspace.state).needs_sweep() {
                write(&keyspace.state).sweep(SWEEP_KEYS);
                self.dirty_since.get_or_insert(now);
            }
        }
        self.tend_shrink(now);
        self.tend_level_left();
    }

    pub(super) fn is_seal_due(&self) -> bool {
        self.written_at.is_some_and(|at| at + SEAL_AFTER <= self.clock.now())
    }

    /// When [`Self::on_timer`] or one of the jobs has something to do again; `None` is never, as
    /// long as nobody asks for anything.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        if self.failed() {
            return None;
        }
        let here = !self.journal.is_away();
        let seal = self.written_at.filter(|_| here).map(|at| at + SEAL_AFTER);
        let now = self.clock.now();
        let flush = match self.wants_flush() {
            true => Some(now),
            false => self.dirty_since.map(|since| since + self.flush_after()),
        };
        let flush = flush.filter(|_| here && !self.flushing && !self.journal.is_installing());
        let leases = (0..KEYSPACES)
            .filter(|_| self.may_revoke())
            .filter_map(|code| self.shared.with_leases(code, |leases| leases.next_due()).flatten());
        let sweeping =
            self.shared.keyspaces.iter().any(|keyspace| read(&keyspace.state).needs_sweep());
        let sweep = sweeping.then_some(now);
        let tick = self.health.next_tick().or(self.consensus.needs_ticks().then_some(now));
        let full = self.journal.full_until();
        let announce =
            (self.writes_here() && self.needs_announcement()).then_some(now + ANNOUNCE_AFTER);
        let all = seal.into_iter().chain(flush).chain(leases).chain(sweep);
        let all = all.chain(self.next_read());
        let all = all.chain(tick).chain(full).chain(announce).chain(self.next_look());
        all.chain(self.next_level_look(now)).min()
    }

    fn seal(&mut self) {
        let Some(job) = self.take_seal_job() else { return };
        let done = job.run(&*self.clock);
        match self.finish_job(done) {
            Ok(()) => self.publish_status(),
            Err(error) => self.fail(&error),
        }
    }

    fn may_revoke(&self) -> bool {
        self.standing.is_leader && !self.standing.is_transferring && !self.asks.revoking
    }

    /// Only the leader ends leases, and only when it knows that it still leads: they may have been
    /// kept alive at another.
    fn handle_leases(&mut self, now: Duration) {
        if !self.may_revoke() {
            return;
        }
        let due = (0..KEYSPACES).any(|code| {
            let next = self.shared.with_leases(code, |leases| leases.next_due()).flatten();
            next.is_some_and(|at| at <= now)
        });
        if due {
            self.asks.revoking = true;
            self.on_read(ReadReply::Revocations);
            self.run();
        }
    }

    pub(super) fn revoke_due(&mut self) {
        self.asks.revoking = false;
        // What is proposed while another takes over would be decided by it, and it may have kept
        // alive what has run out here.
        let standing = self.consensus.standing();
        if !standing.is_leader || standing.is_transferring {
            return;
        }
        let now = self.clock.now();
        let mut proposals = Vec::new();
        for keyspace in 0..KEYSPACES {
            let due =
                self.shared.with_leases(keyspace, |leases| leases.take_due(now, LEASES_AT_ONCE));
            let Some(due) = due else { continue };
            let revocations = due.expired.into_iter().map(|id| Command::LeaseRevoke { id });
            let checkpoints = due
                .checkpoints
                .into_iter()
                .map(|(id, remaining)| Command::LeaseCheckpoint { id, remaining });
            for command in revocations.chain(checkpoints) {
                proposals.push(Proposal { keyspace, command, added_bytes: 0, reply: None });
            }
        }
        if proposals.is_empty() {
            return;
        }
        let revoked: Vec<_> = proposals
            .iter()
            .filter_map(|proposal| match proposal.command {
                Command::LeaseRevoke { id } => Some((proposal.keyspace, id)),
                _ => None,
            })
            .collect();
        self.propose_all(proposals);
        // One that is applied ends; this is for those that could not be proposed, or got lost.
        for (keyspace, id) in revoked {
            self.shared.with_leases(keyspace, |leases| leases.retry(id, now + LEASE_RETRY_AFTER));
        }
    }

    /// For whoever writes the state file.
    pub(crate) fn state_writer(&self) -> StateWriter {
        let bytes = (self.config.cache_bytes, self.config.shrink_step_bytes);
        StateWriter::new(self.disk.clone(), self.clock.clone(), bytes)
    }

    /// A job for the background thread when enough has gathered, or anything if `force`.
    pub(crate) fn start_flush(&mut self, force: bool) -> Option<FlushJob> {
        if self.flushing || self.failed() || self.journal.is_installing() {
            return None;
        }
        if self.journal.is_away() {
            return None;
        }
        if !self.wants_flush() {
            let since = self.dirty_since?;
            if self.clock.now() < since + self.flush_after() && !force {
                return None;
            }
        }
        let released = self.take_released()?;
        let rewrite = self.begin_rewrite();
        self.dirty_since = None;
        self.flushing = true;
        self.unsaved = false;
        let [cluster, applications] = &self.shared.keyspaces;
        let pending = [cluster, applications].map(|keyspace| write(&keyspace.state).begin_flush());
        let (backend, meta) = (self.backend.clone(), self.meta(false));
        let retired = self.retired.take();
        Some(FlushJob { backend, meta, pending, released, rewrite, retired })
    }

    /// How old the oldest change may become that the state file does not have.
    fn flush_after(&self) -> Duration {
        let mut bytes = 0;
        let mut operations = 0;
        for keyspace in &self.shared.keyspaces {
            let state = read(&keyspace.state);
            bytes += state.pending_bytes();
            operations += state.pending_operations();
        }
        let config = &self.config;
        if bytes >= config.flush_bytes || operations >= config.flush_operations {
            Duration::ZERO
        } else if operations <= FEW_OPERATIONS && bytes <= FEW_BYTES && !self.unsaved {
            match self.written_at {
                Some(_) => config.flush_few_every / 2,
                None => config.flush_few_every,
            }
        } else {
            config.flush_every
        }
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing
    }

    pub(crate) fn finish_flush(&mut self, result: Result<Flushed, BackendError>) {
        if !std::mem::take(&mut self.flushing) {
            return;
        }
        match result {
            Ok(Flushed { views, file_bytes, rewriting, took }) => {
                if let Some(took) = took {
                    self.shared.state_times.note(took);
                }
                for (keyspace, view) in self.shared.keyspaces.iter().zip(views) {
                    let flushed = write(&keyspace.state).end_flush(view);
                    // Thousands of records: freed when readers no longer wait.
                    drop(flushed);
                }
                self.note_rewriting(file_bytes, rewriting);
            }
            Err(error) => match error.damage() {
                Some(reason) => {
                    let file = error.file().unwrap_or_default();
                    self.condemn(format!("{file} is damaged: {reason}"));
                }
                None => self.fail(&error),
            },
        }
    }

    /// Leaves the log sealed; the state is flushed before, as far as possible.
    pub(crate) fn stop(&mut self) {
        if self.written_at.is_some() && !self.failed() {
            // Now, whether it is due or not.
            self.written_at = Some(Duration::ZERO);
            self.seal();
        }
        self.shared.stop();
        let detail = "the store was shut down".to_owned();
        self.refuse_waiting(&Error::Unavailable { detail: detail.clone() });
        self.refuse_reads(&Error::Unavailable { detail });
    }
}
