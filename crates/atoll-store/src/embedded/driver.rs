//! What drives the core, and the threads that help: one for what is due by the clock, one that
//! writes the log where there are other members, one for the state file, one that writes zeros
//! ahead of the log. They sleep until there is work for them.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::queue::{Event, Queue, Taken};
use crate::backend::{Backend, FlushJob, StateWriter};
use crate::clock::Clock;
use crate::core::{AskReply, Core, ReadReply, WalJob};
use crate::folder::FolderLock;
use crate::shared::Shared;
use crate::wal::FillJob;

/// At most one job of each kind is under way, so the channels never block the log's thread.
const JOBS_MAX: usize = 1;
/// How often writers who wait for a flush look whether it is the disk that has no room.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it looks whether another has.
const HANDOVER_LOOK_EVERY: Duration = Duration::from_millis(20);
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
        let writer = core.state_writer();
        let state = spawn("atoll-state").spawn(move || {
            write_state(writer, &flush_jobs, &guard.queue);
            drop(guard);
        })?;
        let zeros = spawn("atoll-zeros").spawn(move || fill_jobs.iter().for_each(FillJob::run))?;
        let (log_queue, log_clock) = (queue.clone(), clock.clone());
        let log_guard = LogGuard { queue: queue.clone(), shared: core.shared.clone() };
        let log = spawn("atoll-log").spawn(move || {
            let guard = log_guard;
            write_jobs.iter().for_each(|job| log_queue.written(job.run(&*log_clock)));
            drop(guard);
        })?;
        let shared = core.shared.clone();
        let driver = Box::new(Driver {
            core,
            clock: clock.clone(),
            wake_at: Some(Duration::ZERO),
            flushes,
            fills,
            writes,
            _folder_lock: folder_lock,
        });
        let own_queue = queue.clone();
        let core = spawn("atoll-store").spawn(move || {
            let guard = CoreGuard(LogGuard { queue: own_queue.clone(), shared });
            drive(&own_queue, &*clock);
            drop(guard);
        })?;
        queue.place(driver);
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

/// The life of the state file's thread: jobs, and what can be done between them.
fn write_state(mut writer: StateWriter, jobs: &Receiver<FlushJob>, queue: &Queue) {
    loop {
        let job = match writer.is_copying() {
            true => jobs.recv_timeout(writer.rest()),
            false => jobs.recv().map_err(|_ended| RecvTimeoutError::Disconnected),
        };
        match job {
            Ok(job) => queue.flushed(writer.flush(&job)),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(copied) = writer.step() {
                    // A store that stops does not want to know.
                    drop(queue.push_event(Event::Copied(copied)));
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
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

/// The core, and where its jobs go. Whoever has it runs it.
pub(super) struct Driver {
    core: Core,
    clock: Arc<dyn Clock>,
    /// When the core has something to do by itself.
    wake_at: Option<Duration>,
    flushes: SyncSender<FlushJob>,
    fills: SyncSender<FillJob>,
    writes: SyncSender<WalJob>,
    /// Freed last, when nothing touches the folder any more.
    _folder_lock: FolderLock,
}

/// How a driver was left.
#[derive(Debug, Default)]
pub(super) struct Next {
    /// When it has something to do by itself; nothing is never.
    pub(super) wake_at: Option<Duration>,
    /// A leader proposes nothing until its log is back.
    pub(super) log_is_away: bool,
    /// Proposals wait until the state file has been written.
    pub(super) waits_for_flush: bool,
    /// Fewer reads than this wait for the end of what is under way for others.
    pub(super) reads_wanted: usize,
    /// A writer may run it: it would not have to wait for long, and takes no others' time.
    pub(super) takes_writers: bool,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Driver").field("wake_at", &self.wake_at).finish_non_exhaustive()
    }
}

/// The life of the store's own thread.
fn drive(queue: &Queue, clock: &dyn Clock) {
    loop {
        if let Some(last) = queue.turn(clock) {
            if let Some(mut driver) = last {
                driver.hand_over(queue);
                driver.stop(queue);
            }
            return;
        }
    }
}

impl Driver {
    /// Does what was brought and what is due. It waits for the disk only where there are no other
    /// members.
    pub(super) fn turn(&mut self, taken: Taken) -> Next {
        let proposals = taken.proposals.len();
        if let Some(result) = taken.flushed {
            self.core.finish_flush(result);
        }
        if let Some(done) = taken.written {
            self.core.finish_wal(done);
        }
        let told =
            !taken.messages.is_empty() || !taken.events.is_empty() || !taken.reads.is_empty();
        for (from, message) in taken.messages {
            self.core.on_message(from, message);
        }
        for event in taken.events {
            self.on_event(event);
        }
        for sender in taken.reads {
            self.core.on_read(ReadReply::Caller(sender));
        }
        if proposals > 0 {
            self.core.submit(taken.proposals);
        } else if told {
            self.core.run();
        }
        if self.wake_at.is_some_and(|at| at <= self.clock.now()) {
            self.core.on_timer();
        }
        self.send_jobs();
        self.next(proposals)
    }

    fn next(&mut self, proposals: usize) -> Next {
        let waits_for_flush = self.core.must_wait_for_flush();
        let look_at = waits_for_flush.then(|| self.clock.now() + FLUSH_LOOK_EVERY);
        self.wake_at = self.core.next_wake().into_iter().chain(look_at).min();
        Next {
            wake_at: self.wake_at,
            log_is_away: self.core.holds_proposals(),
            waits_for_flush,
            reads_wanted: self.core.reads_wanted(),
            // Several at once are better off with a thread that waits for them all.
            takes_writers: proposals <= 1 && self.core.answers_soon(),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ask(ask, sender) => self.core.on_ask(ask, AskReply::Caller(sender)),
            Event::Unreachable(peer) => self.core.on_unreachable(peer),
            Event::Gone(peer) => self.core.on_gone(peer),
            Event::Refused(peer, refusal) => self.core.on_refused(peer, &refusal),
            Event::SnapshotArrived(arrived) => self.core.on_arrived(*arrived),
            Event::SnapshotSent(to, arrived) => self.core.on_snapshot_sent(to, arrived),
            Event::Defragment(sender) => self.core.on_defragment(sender),
            Event::Copied(copied) => self.core.on_copied(copied),
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
    fn hand_over(&mut self, queue: &Queue) {
        let deadline = self.clock.now() + HANDOVER_MAX;
        if !self.core.begin_leaving() {
            return;
        }
        while self.core.is_leaving() && self.clock.now() < deadline {
            let taken = queue.take_rest(HANDOVER_LOOK_EVERY);
            self.turn(taken);
        }
    }

    /// What is in the log need not be in the state file, but the next start is faster if it is.
    fn stop(mut self: Box<Self>, queue: &Queue) {
        self.core.backend.stop_waiting();
        self.core.stop_rewriting();
        if self.core.is_writing() {
            let done = queue.wait_written();
            self.core.finish_wal(done);
        }
        if self.core.is_flushing() {
            let result = queue.wait_flushed();
            self.core.finish_flush(result);
        }
        if let Some(job) = self.core.start_flush(true) {
            send(&self.flushes, job, &self.core);
            let result = queue.wait_flushed();
            self.core.finish_flush(result);
        }
        self.core.stop();
    }
}

/// Nobody else can tell callers when the core is lost in the middle of a turn.
impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.core.shared.fail("the core of the store has panicked".to_owned());
        }
    }
}

fn send<T>(jobs: &SyncSender<T>, job: T, core: &Core) {
    if jobs.send(job).is_err() {
        core.shared.fail("a thread of the store has ended".to_owned());
    }
}
