//! What the core does beside requests: seals, leases, compaction's sweep, and the state file.

use std::time::Duration;

use super::{Core, Proposal};
use crate::backend::{BackendError, FlushJob, KEYSPACES, Meta, View};
use crate::kv::Error;
use crate::mvcc::Command;
use crate::sync::{read, write};
use crate::wal::{FillJob, WalError};

/// Quiet time after which a seal batch proves that the last write was durable.
const SEAL_AFTER: Duration = Duration::from_millis(100);
/// Keys whose old versions are dropped in one step, so that requests do not wait for compaction.
const SWEEP_KEYS: usize = 500;
/// Leases handled in one step.
const LEASES_AT_ONCE: usize = 1000;
/// Wait before a revocation that could not be proposed is tried again.
const LEASE_RETRY_AFTER: Duration = Duration::from_secs(1);

impl Core {
    /// Does what is due now.
    pub(crate) fn on_timer(&mut self) {
        if self.failed() {
            return;
        }
        let now = self.clock.now();
        if self.written_at.is_some_and(|at| at + SEAL_AFTER <= now) {
            self.seal();
        }
        self.handle_leases(now);
        for keyspace in &self.shared.keyspaces {
            if read(&keyspace.state).needs_sweep() {
                write(&keyspace.state).sweep(SWEEP_KEYS);
                self.dirty_since.get_or_insert(now);
            }
        }
    }

    /// When [`Self::on_timer`] or [`Self::start_flush`] has something to do again; `None` is
    /// never, as long as nobody asks for anything.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        if self.failed() {
            return None;
        }
        let seal = self.written_at.map(|at| at + SEAL_AFTER);
        let flush = self
            .dirty_since
            .filter(|_| !self.flushing)
            .map(|since| since + self.config.flush_every);
        let leases = (0..KEYSPACES)
            .filter_map(|code| self.shared.with_leases(code, |leases| leases.next_due()).flatten());
        let sweeping =
            self.shared.keyspaces.iter().any(|keyspace| read(&keyspace.state).needs_sweep());
        let sweep = sweeping.then(|| self.clock.now());
        seal.into_iter().chain(flush).chain(leases).chain(sweep).min()
    }

    fn seal(&mut self) {
        self.written_at = None;
        match self.wal.seal() {
            Ok(()) => self.publish_status(),
            // A full disk: the log stays unsealed, which only weakens the check for damage.
            Err(WalError::Full { .. }) => {}
            Err(error) => self.fail(&error),
        }
    }

    fn handle_leases(&mut self, now: Duration) {
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
        self.submit(proposals);
        // One that was applied has ended; this is for those that the full disk refused.
        for (keyspace, id) in revoked {
            self.shared.with_leases(keyspace, |leases| leases.retry(id, now + LEASE_RETRY_AFTER));
        }
    }

    pub(crate) fn take_fill_job(&mut self) -> Option<FillJob> {
        self.wal.take_fill_job()
    }

    /// A job for the background thread when enough has gathered, or anything if `force`.
    pub(crate) fn start_flush(&mut self, force: bool) -> Option<FlushJob> {
        let since = self.dirty_since?;
        if self.flushing || self.failed() {
            return None;
        }
        let mut bytes = 0;
        let mut operations = 0;
        for keyspace in &self.shared.keyspaces {
            let state = read(&keyspace.state);
            bytes += state.pending_bytes();
            operations += state.pending_operations();
        }
        let due = self.clock.now() >= since + self.config.flush_every
            || bytes >= self.config.flush_bytes
            || operations >= self.config.flush_operations;
        if !due && !force {
            return None;
        }
        self.dirty_since = None;
        self.flushing = true;
        let [cluster, applications] = &self.shared.keyspaces;
        let mut revisions = [(0, 0); KEYSPACES];
        let pending = [cluster, applications].map(|keyspace| write(&keyspace.state).begin_flush());
        for (slot, keyspace) in revisions.iter_mut().zip(&self.shared.keyspaces) {
            let state = read(&keyspace.state);
            *slot = (state.revision, state.compacted);
        }
        let meta = Meta {
            applied: self.applied,
            chain: self.chain,
            voters: self.voters.clone(),
            keyspaces: revisions,
        };
        let released = self.wal.take_released(self.applied.index);
        Some(FlushJob { meta, pending, released })
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing
    }

    pub(crate) fn finish_flush(&mut self, result: Result<[View; KEYSPACES], BackendError>) {
        if !std::mem::take(&mut self.flushing) {
            return;
        }
        match result {
            Ok(views) => {
                for (keyspace, view) in self.shared.keyspaces.iter().zip(views) {
                    let flushed = write(&keyspace.state).end_flush(view);
                    // Thousands of records: freed when readers no longer wait.
                    drop(flushed);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Leaves the log sealed; the state is flushed before, as far as possible.
    pub(crate) fn stop(&mut self) {
        if self.written_at.is_some() && !self.failed() {
            self.seal();
        }
        self.shared.stop();
        for waiting in self.waiting.drain(..) {
            for reply in waiting.replies.into_iter().flatten() {
                reply.send(Err(Error::Timeout { maybe_applied: true }));
            }
        }
    }
}
