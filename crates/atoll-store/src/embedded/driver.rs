//! The threads that drive the core: one that runs it, one that writes the log where there are
//! other members, one for the state file, one that writes zeros ahead of the log. All but the
//! first sleep until it has work for them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::queue::{Event, Queue};
use crate::backend::{Backend, FlushJob};
use crate::clock::Clock;
use crate::core::{AskReply, Core, ReadReply, WalJob};
use crate::folder::FolderLock;
use crate::shared::Shared;
use crate::wal::FillJob;

/// At most one job of each kind is under way, so the channels never block the log's thread.
const JOBS_MAX: usize = 1;
/// How often writers who wait for a flush look whether it is the disk that has no room.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a leader that stops waits for another to take its place.
const HANDOVER_MAX: Duration = Duration::from_millis(1500);

#[derive(Debug)]
pub(super) struct Threads {
    core: JoinHandle<()>,
    log: JoinHandle<()>,
    state: JoinHandle<()>,
    zeros: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(
        core: Core,
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
        folder_lock: FolderLock,
    ) -> io::Result<Self> {
        let (flushes, flush_jobs) = sync_channel::<FlushJob>(JOBS_MAX);
        let (fills, fill_jobs) = sync_channel::<FillJob>(JOBS_MAX);
        let (writes, write_jobs) = sync_channel::<WalJob>(JOBS_MAX);
        let spawn = |name: &str| Builder::new().name(name.to_owned());
        // These end when the core's thread has dropped its ends of the channels.
        let guard = StateGuard { queue: queue.clone(), backend: core.backend.clone() };
        let state = spawn("atoll-state").spawn(move || {
            flush_jobs.iter().for_each(|job| guard.queue.flushed(job.backend.flush(&job)));
        })?;
        let zeros = spawn("atoll-zeros").spawn(move || fill_jobs.iter().for_each(FillJob::run))?;
        let (log_queue, log_clock) = (queue.clone(), clock.clone());
        let log_guard = LogGuard { queue: queue.clone(), shared: core.shared.clone() };
        let log = spawn("atoll-log").spawn(move || {
            let guard = log_guard;
            write_jobs.iter().for_each(|job| log_queue.written(job.run(&*log_clock)));
            drop(guard);
        })?;
        let driver =
            Driver { core, queue, clock, flushes, fills, writes, _folder_lock: folder_lock };
        let core = spawn("atoll-store").spawn(move || {
            let guard = CoreGuard(LogGuard {
                queue: driver.queue.clone(),
                shared: driver.core.shared.clone(),
            });
            driver.run();
            drop(guard);
        })?;
        Ok(Self { core, log, state, zeros })
    }

    pub(super) fn join(self) {
        let threads =
            [("core", self.core), ("log", self.log), ("state", self.state), ("zeros", self.zeros)];
        for (name, thread) in threads {
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the store panicked");
            }
        }
    }
}

/// If the state file's thread panics, nobody waits for it.
struct StateGuard {
    queue: Arc<Queue>,
    backend: Arc<Backend>,
}

impl Drop for StateGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.flushed(Err(self.backend.thread_ended()));
        }
    }
}

/// When a thread that writes the log panics, callers learn it at once and not by a timeout.
struct LogGuard {
    queue: Arc<Queue>,
    shared: Arc<Shared>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.fail("the thread that writes the log has ended".to_owned());
            self.queue.stop();
        }
    }
}

/// Whoever still waits when the core's thread ends, however it does, learns that nothing was done.
struct CoreGuard(LogGuard);

impl Drop for CoreGuard {
    fn drop(&mut self) {
        self.0.queue.refuse_rest();
    }
}

struct Driver {
    core: Core,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    flushes: SyncSender<FlushJob>,
    fills: SyncSender<FillJob>,
    writes: SyncSender<WalJob>,
    /// Freed last, when nothing touches the folder any more.
    _folder_lock: FolderLock,
}

impl Driver {
    fn run(mut self) {
        loop {
            if self.turn(None) {
                self.hand_over();
                return self.stop();
            }
        }
    }

    /// Takes and does what there is to do, waiting for it; whether the store is to stop.
    fn turn(&mut self, longest: Option<Duration>) -> bool {
        self.core.on_timer();
        self.send_jobs();
        let for_flush = self.core.must_wait_for_flush();
        let now = self.clock.now();
        let timeout = self.core.next_wake().map(|at| at.saturating_sub(now));
        let timeout = [timeout, for_flush.then_some(FLUSH_LOOK_EVERY), longest];
        let hold = for_flush || self.core.holds_proposals();
        let taken = self.queue.take(timeout.into_iter().flatten().min(), hold);
        if let Some(result) = taken.flushed {
            self.core.finish_flush(result);
        }
        if let Some(done) = taken.written {
            self.core.finish_wal(done);
        }
        let told = !taken.messages.is_empty() || !taken.events.is_empty();
        for (from, message) in taken.messages {
            self.core.on_message(from, message);
        }
        for event in taken.events {
            self.on_event(event);
        }
        if !taken.proposals.is_empty() {
            self.core.submit(taken.proposals);
        } else if told {
            self.core.run();
        }
        taken.stopped
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ask(ask, sender) => self.core.on_ask(ask, AskReply::Caller(sender)),
            Event::Read(sender) => self.core.on_read(ReadReply::Caller(sender)),
            Event::Unreachable(peer) => self.core.on_unreachable(peer),
            Event::Refused(peer, refusal) => self.core.on_refused(peer, &refusal),
            Event::SnapshotArrived(arrived) => self.core.on_arrived(*arrived),
            Event::SnapshotSent(to, arrived) => self.core.on_snapshot_sent(to, arrived),
        }
    }

    fn send_jobs(&mut self) {
        if let Some(job) = self.core.start_flush(false) {
            send(&self.flushes, job, &self.core);
        }
        if let Some(job) = self.core.take_fill_job() {
            send(&self.fills, job, &self.core);
        }
        if let Some(job) = self.core.take_wal_job().or_else(|| self.core.take_seal_job()) {
            send(&self.writes, job, &self.core);
        }
    }

    /// A leader that stops gives its place away first, so that nobody has to wait for an election.
    fn hand_over(&mut self) {
        let deadline = self.clock.now() + HANDOVER_MAX;
        if !self.core.begin_leaving() {
            return;
        }
        while self.core.is_leaving() && self.clock.now() < deadline {
            self.turn(Some(Duration::from_millis(20)));
            // The queue says at once that the store is to stop.
            self.clock.pause(Duration::from_millis(5));
        }
    }

    /// What is in the log need not be in the state file, but the next start is faster if it is.
    fn stop(mut self) {
        self.core.backend.stop_waiting();
        if self.core.is_writing() {
            let done = self.queue.wait_written();
            self.core.finish_wal(done);
        }
        if self.core.is_flushing() {
            let result = self.queue.wait_flushed();
            self.core.finish_flush(result);
        }
        if let Some(job) = self.core.start_flush(true) {
            send(&self.flushes, job, &self.core);
            let result = self.queue.wait_flushed();
            self.core.finish_flush(result);
        }
        self.core.stop();
    }
}

fn send<T>(jobs: &SyncSender<T>, job: T, core: &Core) {
    if jobs.send(job).is_err() {
        core.shared.fail("a thread of the store has ended".to_owned());
    }
}
