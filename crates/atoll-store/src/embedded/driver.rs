//! The threads that drive the core: one for the log, one for the state file, one that writes
//! zeros ahead of the log. The last two sleep until the first has work for them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::queue::{Event, Queue};
use crate::backend::{Backend, FlushJob};
use crate::clock::Clock;
use crate::core::Core;
use crate::folder::FolderLock;
use crate::kv::Error;
use crate::shared::Shared;
use crate::wal::FillJob;

/// At most one job of each kind is under way, so the channels never block the log's thread.
const JOBS_MAX: usize = 1;
/// How often writers who wait for a flush look whether it is the disk that has no room.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Threads {
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
        let backend = core.backend.clone();
        let done = queue.clone();
        let spawn = |name: &str| Builder::new().name(name.to_owned());
        // Both end when the log's thread has dropped its ends of the channels.
        let state = spawn("atoll-state").spawn(move || {
            let guard = StateGuard { queue: done, backend };
            flush_jobs.iter().for_each(|job| guard.queue.flushed(guard.backend.flush(&job)));
        })?;
        let zeros = spawn("atoll-zeros").spawn(move || fill_jobs.iter().for_each(FillJob::run))?;
        let driver = Driver { core, queue, clock, flushes, fills, _folder_lock: folder_lock };
        let log = spawn("atoll-log").spawn(move || {
            let _guard =
                LogGuard { queue: driver.queue.clone(), shared: driver.core.shared.clone() };
            driver.run();
        })?;
        Ok(Self { log, state, zeros })
    }

    pub(super) fn join(self) {
        for (name, thread) in [("log", self.log), ("state", self.state), ("zeros", self.zeros)] {
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

/// When the log's thread ends, even by a panic, callers learn it at once and not by a timeout.
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
        self.queue.refuse_rest();
    }
}

struct Driver {
    core: Core,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    flushes: SyncSender<FlushJob>,
    fills: SyncSender<FillJob>,
    /// Freed last, when nothing touches the folder any more.
    _folder_lock: FolderLock,
}

impl Driver {
    fn run(mut self) {
        loop {
            self.core.on_timer();
            self.send_jobs();
            let only_flush = self.core.must_wait_for_flush();
            let timeout = self.core.next_wake().map(|at| at.saturating_sub(self.clock.now()));
            let timeout = if only_flush { Some(FLUSH_LOOK_EVERY) } else { timeout };
            let taken = self.queue.take(timeout, only_flush);
            if let Some(result) = taken.flushed {
                self.core.finish_flush(result);
            }
            for event in taken.events {
                self.on_event(event);
            }
            if !taken.proposals.is_empty() {
                self.core.submit(taken.proposals);
            }
            if taken.stopped {
                return self.stop();
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ask(_, sender) => {
                let detail = "this server is a cluster of its own".to_owned();
                drop(sender.send(Err(Error::Unavailable { detail })));
            }
            Event::Read(sender) => drop(sender.send(Ok(()))),
            other => tracing::warn!(?other, "a sole voter heard of a peer"),
        }
    }

    fn send_jobs(&mut self) {
        if let Some(job) = self.core.start_flush(false) {
            send(&self.flushes, job, &self.core);
        }
        if let Some(job) = self.core.take_fill_job() {
            send(&self.fills, job, &self.core);
        }
    }

    /// What is in the log need not be in the state file, but the next start is faster if it is.
    fn stop(mut self) {
        self.core.backend.stop_waiting();
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
