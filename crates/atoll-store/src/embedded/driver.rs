//! The two threads that drive the core: one for the log, one for the state file.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::queue::Queue;
use crate::backend::{Backend, FlushJob};
use crate::clock::Clock;
use crate::core::Core;
use crate::folder::FolderLock;
use crate::wal::FillJob;

/// At most one flush and one fill are under way; the channel never blocks the log's thread.
const JOBS_MAX: usize = 4;

enum Job {
    Flush(FlushJob),
    Fill(FillJob),
}

#[derive(Debug)]
pub(super) struct Threads {
    log: JoinHandle<()>,
    background: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(
        core: Core,
        queue: Arc<Queue>,
        clock: Arc<dyn Clock>,
        folder_lock: FolderLock,
    ) -> io::Result<Self> {
        let (jobs, received) = sync_channel(JOBS_MAX);
        let backend = core.backend.clone();
        let done = queue.clone();
        let background = Builder::new()
            .name("atoll-state".to_owned())
            .spawn(move || run_jobs(&received, &backend, &done))?;
        let driver = Driver { core, queue, clock, jobs, _folder_lock: folder_lock };
        let log = Builder::new().name("atoll-log".to_owned()).spawn(move || driver.run())?;
        Ok(Self { log, background })
    }

    pub(super) fn join(self) {
        for (name, thread) in [("log", self.log), ("state", self.background)] {
            if thread.join().is_err() {
                tracing::error!(name, "a thread of the store panicked");
            }
        }
    }
}

fn run_jobs(jobs: &Receiver<Job>, backend: &Backend, queue: &Queue) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Flush(job) => queue.flushed(backend.flush(&job)),
            Job::Fill(job) => job.run(),
        }
    }
}

struct Driver {
    core: Core,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    jobs: SyncSender<Job>,
    /// Freed last, when nothing touches the folder any more.
    _folder_lock: FolderLock,
}

impl Driver {
    fn run(mut self) {
        loop {
            self.core.on_timer();
            self.send_jobs(false);
            let only_flush = self.core.must_wait_for_flush();
            let timeout = self.core.next_wake().map(|at| at.saturating_sub(self.clock.now()));
            let taken = self.queue.take(timeout.filter(|_| !only_flush), only_flush);
            if let Some(result) = taken.flushed {
                self.core.finish_flush(result);
            }
            if !taken.proposals.is_empty() {
                self.core.submit(taken.proposals);
            }
            if taken.stopped {
                return self.stop();
            }
        }
    }

    fn send_jobs(&mut self, force_flush: bool) {
        if let Some(job) = self.core.start_flush(force_flush) {
            self.send(Job::Flush(job));
        }
        if let Some(job) = self.core.take_fill_job() {
            self.send(Job::Fill(job));
        }
    }

    fn send(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            self.core.shared.fail("the thread that writes the state file has ended".to_owned());
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
            self.send(Job::Flush(job));
            let result = self.queue.wait_flushed();
            self.core.finish_flush(result);
        }
        self.core.stop();
    }
}
