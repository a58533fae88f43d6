//! What is to be written to the log, and the jobs that write it.
//!
//! The log goes with a job and comes back with its outcome, so there is one job at a time and
//! what comes meanwhile is written together by the next one.

use std::collections::VecDeque;
use std::time::Duration;

use super::Core;
use super::arrivals::ARRIVING_FILE;
use crate::backend::STATE_FILE;
use crate::clock::Clock;
use crate::consensus::{LogEntry, PeerMessage, Position};
use crate::wal::format::HardState;
use crate::wal::{FillJob, Released, Room, Wal, WalError};

/// How often a log that could not grow is tried again; nothing tells when the disk has room.
const FULL_RETRY_AFTER: Duration = Duration::from_millis(500);
/// A caller's own thread waits for a disk whose writes take no longer than this.
const SOON: Duration = Duration::from_micros(500);
/// Jobs of which the times are kept: so few that a disk that has become slow is known after two
/// seconds of slow writes, and more than one hiccup has.
const TIMES_KEPT: usize = 8;
/// Fewer say nothing.
const TIMES_MIN: usize = 4;

/// A piece of work of consensus that must be durable before it may go on.
#[derive(Debug)]
pub(super) struct Write {
    number: u64,
    /// A state that has arrived takes the place of all before.
    install: Option<Position>,
    hard_state: Option<HardState>,
    entries: Vec<LogEntry>,
    must_sync: bool,
    after: Vec<PeerMessage>,
}

impl Write {
    fn last(&self) -> Option<Position> {
        let entry = self.entries.last();
        entry.map(|entry| Position { index: entry.index, term: entry.term }).or(self.install)
    }

    fn needs_disk(&self) -> bool {
        self.must_sync || self.install.is_some() || !self.entries.is_empty()
    }
}

pub(super) struct Journal {
    /// Not here while a job is under way.
    wal: Option<Wal>,
    writes: VecDeque<Write>,
    /// A commit index alone is written with the next batch, not for its own sake.
    unwritten_hard_state: Option<HardState>,
    bytes_written: u64,
    full_until: Option<Duration>,
    /// When the job under way began.
    began: Option<Duration>,
    times: VecDeque<(Duration, Duration)>,
}

/// Writes the log; run by whoever may wait for the disk.
#[derive(Debug)]
pub(crate) struct WalJob {
    wal: Wal,
    disk: std::sync::Arc<dyn crate::disk::Disk>,
    writes: Vec<Write>,
    hard_state: Option<HardState>,
    seal: bool,
}

#[derive(Debug)]
pub(crate) struct WalDone {
    wal: Wal,
    writes: Vec<Write>,
    hard_state: Option<HardState>,
    seal: bool,
    outcome: Result<(), WalError>,
    /// The writes to the log alone, without the making of room; nothing where there were none.
    took: Option<Duration>,
    ended: Duration,
}

impl WalJob {
    pub(crate) fn run(mut self, clock: &dyn Clock) -> WalDone {
        let mut began = None;
        let outcome = self.write(|| began = Some(clock.now()));
        let ended = clock.now();
        let took = began.map(|began| ended.saturating_sub(began));
        let Self { wal, writes, hard_state, seal, .. } = self;
        WalDone { wal, writes, hard_state, seal, outcome, took, ended }
    }

    fn write(&mut self, has_room: impl FnOnce()) -> Result<(), WalError> {
        if self.seal {
            return self.wal.seal();
        }
        let entries = || self.writes.iter().flat_map(|write| &write.entries);
        let bytes = entries().map(|entry| Wal::frame_bytes(entry.payload.len())).sum();
        self.wal.reserve(bytes, Room::Vital)?;
        if let Some(at) = self.writes.first().and_then(|write| write.install) {
            self.install()?;
            self.wal.restart(at, self.hard_state)?;
            return self.wal.append(None, entries());
        }
        has_room();
        self.wal.append(self.hard_state, entries())
    }

    /// The state that arrived becomes this member's. If the stop comes before the log knows, the
    /// state says that it was installed.
    fn install(&self) -> Result<(), WalError> {
        self.disk
            .rename(ARRIVING_FILE, STATE_FILE)
            .and_then(|()| self.disk.sync_folder(""))
            .map_err(|source| WalError::Failed {
                file: self.disk.describe(STATE_FILE),
                action: "installing a state from another member failed",
                source,
            })
    }
}

impl Journal {
    pub(super) fn new(wal: Wal) -> Self {
        Self {
            bytes_written: wal.bytes_written(),
            wal: Some(wal),
            writes: VecDeque::new(),
            unwritten_hard_state: None,
            full_until: None,
            began: None,
            times: VecDeque::new(),
        }
    }

    pub(super) fn push(
        &mut self,
        number: u64,
        install: Option<Position>,
        (hard_state, entries, must_sync): (Option<HardState>, Vec<LogEntry>, bool),
        after: Vec<PeerMessage>,
    ) {
        self.writes.push_back(Write { number, install, hard_state, entries, must_sync, after });
    }

    pub(super) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    pub(super) fn wal(&mut self) -> Option<&mut Wal> {
        self.wal.as_mut()
    }

    pub(super) fn is_away(&self) -> bool {
        self.wal.is_none()
    }

    /// The log met a full disk and waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    pub(super) fn full_until(&self) -> Option<Duration> {
        self.full_until
    }

    pub(super) fn is_installing(&self) -> bool {
        self.writes.iter().any(|write| write.install.is_some())
    }

    pub(super) fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }

    /// How long the job under way has taken so far.
    pub(super) fn under_way(&self, now: Duration) -> Duration {
        self.began.map_or(Duration::ZERO, |began| now.saturating_sub(began))
    }

    /// The median of the last jobs, if there were enough since `from`.
    pub(super) fn median(&self, from: Duration) -> Option<Duration> {
        let mut times: Vec<_> =
            self.times.iter().filter(|(at, _)| *at >= from).map(|(_, took)| *took).collect();
        if times.len() < TIMES_MIN {
            return None;
        }
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

impl Core {
    /// Work at the front that needs no disk is done.
    pub(super) fn complete_unsynced(&mut self) {
        if self.journal.is_away() {
            return;
        }
        while self.journal.writes.front().is_some_and(|write| !write.needs_disk()) {
            let Some(write) = self.journal.writes.pop_front() else { return };
            if write.hard_state.is_some() {
                self.journal.unwritten_hard_state = write.hard_state;
            }
            self.complete(write);
        }
    }

    fn complete(&mut self, write: Write) {
        if let Some(last) = write.last() {
            self.shared.cluster.set_last(last);
        }
        let installed = write.install;
        if installed.is_some() {
            self.take_over();
        }
        self.consensus.persisted(write.number);
        self.release(write.number);
        if let Some(at) = installed {
            self.consensus.applied(at.index);
        }
        for message in write.after {
            self.send_raft(message);
        }
    }

    /// The next job for whoever writes the log, if there is something to write and none is under
    /// way.
    pub(crate) fn take_wal_job(&mut self) -> Option<WalJob> {
        let now = self.clock.now();
        if self.failed() || self.journal.full_until.is_some_and(|until| until > now) {
            return None;
        }
        self.complete_unsynced();
        let front_installs = self.journal.writes.front()?.install.is_some();
        if front_installs && self.flushing {
            return None;
        }
        let mut wal = self.journal.wal.take()?;
        wal.note_acknowledged(&self.acknowledged);
        let mut writes: Vec<Write> = Vec::new();
        let mut hard_state = self.journal.unwritten_hard_state.take();
        while let Some(write) = self.journal.writes.front() {
            if !writes.is_empty() && (front_installs || write.install.is_some()) {
                break;
            }
            hard_state = write.hard_state.or(hard_state);
            writes.extend(self.journal.writes.pop_front());
        }
        self.journal.began = Some(now);
        Some(WalJob { wal, disk: self.disk.clone(), writes, hard_state, seal: false })
    }

    /// An empty batch, when nothing has been written for a while.
    pub(crate) fn take_seal_job(&mut self) -> Option<WalJob> {
        if self.failed() || self.journal.has_writes() || !self.is_seal_due() {
            return None;
        }
        let mut wal = self.journal.wal.take()?;
        wal.note_acknowledged(&self.acknowledged);
        self.written_at = None;
        self.journal.began = Some(self.clock.now());
        let disk = self.disk.clone();
        Some(WalJob { wal, disk, writes: Vec::new(), hard_state: None, seal: true })
    }

    /// A job has come back.
    pub(crate) fn finish_wal(&mut self, done: WalDone) {
        if let Err(error) = self.finish_job(done) {
            self.fail(&error);
            return;
        }
        self.run();
    }

    pub(super) fn finish_job(&mut self, done: WalDone) -> Result<(), WalError> {
        let journal = &mut self.journal;
        // From when it was handed out: what it waited for is as slow as the disk.
        let began = journal.began.take().unwrap_or(done.ended);
        journal.bytes_written = done.wal.bytes_written();
        journal.wal = Some(done.wal);
        match done.outcome {
            Ok(()) => {
                journal.full_until = None;
                if let Some(took) = done.took {
                    self.shared.log_times.note(took);
                }
                let took = done.ended.saturating_sub(began);
                journal.times.push_back((done.ended, took));
                if journal.times.len() > TIMES_KEPT {
                    journal.times.pop_front();
                }
                if !done.seal {
                    self.written_at = Some(done.ended);
                }
                if self.failed() {
                    return Ok(());
                }
                for write in done.writes {
                    self.complete(write);
                }
                self.complete_unsynced();
                Ok(())
            }
            // The log stays unsealed, which only weakens the check for damage.
            Err(WalError::Full { .. }) if done.seal => Ok(()),
            Err(error @ WalError::Full { .. }) => {
                if !journal.is_full() {
                    tracing::warn!(%error, "the log waits for room");
                }
                journal.full_until = Some(done.ended + FULL_RETRY_AFTER);
                journal.unwritten_hard_state = done.hard_state;
                for write in done.writes.into_iter().rev() {
                    journal.writes.push_front(write);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A job is under way.
    pub(crate) fn is_writing(&self) -> bool {
        self.journal.is_away()
    }

    /// A leader proposes nothing while its log is being written: what gathers meanwhile goes
    /// together, and could not be applied sooner.
    pub(crate) fn holds_proposals(&self) -> bool {
        self.journal.is_away() && self.standing.is_leader
    }

    /// Whether a proposal that comes now, alone, is dealt with in a time that a caller's own thread
    /// has.
    pub(crate) fn answers_soon(&self) -> bool {
        if !self.writes_here() {
            // What a follower passes on should go together with what else it has.
            return self.standing.is_leader || self.waiting.is_empty();
        }
        self.journal.median(Duration::ZERO).is_some_and(|median| median < SOON)
    }

    pub(crate) fn take_fill_job(&mut self) -> Option<FillJob> {
        let now = self.clock.now();
        self.journal.wal()?.take_fill_job(now)
    }

    /// The segments that are of no use once the state up to here is durable.
    pub(super) fn take_released(&mut self) -> Option<Released> {
        let applied = self.applied.index;
        Some(self.journal.wal()?.take_released(applied))
    }
}
