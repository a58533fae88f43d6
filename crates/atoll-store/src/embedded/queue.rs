//! The way from callers to the store's core: bounded in bytes, and what arrives while the core is
//! busy is taken together.
//!
//! The core lies here while nobody runs it. Whoever brings something and finds it idle runs it on
//! its own thread, which spares two wakes of a thread for each request; whoever finds it away
//! leaves what it brings, and the one that has the core looks again before it puts it back. The
//! store's own thread does what is due by the clock and what others left.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::driver::{Driver, Next};
use crate::backend::{BackendError, Copied, Flushed};
use crate::clock::Clock;
use crate::cluster::Refusal;
use crate::core::{Arrived, Ask, AskResult, Proposal, WalDone};
use crate::kv::Error;
use crate::sync::lock;

/// Requests under way, in KiB, each counted as at least one. When it is full, callers wait.
const QUEUE_MAX_KIB: u32 = 64 << 10;
/// Proposals made durable together.
const TAKE_MAX: usize = 4096;
/// Bytes of messages of other members that wait here; beyond it they are dropped, and Raft sends
/// them again.
const MESSAGES_MAX_BYTES: usize = 64 << 20;
/// What a message costs besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 128;
/// Turns that the transport takes in a row; then the store's own thread goes on.
const TURNS_MAX: usize = 4;

pub(super) type FlushResult = Result<Flushed, BackendError>;
pub(super) type ReadSender = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    room: Arc<Semaphore>,
}

/// What the core is told besides proposals and reads.
#[derive(Debug)]
pub(super) enum Event {
    Ask(Ask, oneshot::Sender<AskResult>),
    Unreachable(u64),
    Gone(u64),
    Refused(u64, Refusal),
    SnapshotArrived(Box<Arrived>),
    SnapshotSent(u64, bool),
    /// The state file is to be written anew.
    Defragment(oneshot::Sender<Result<(), Error>>),
    /// Of that, the copying.
    Copied(Copied),
}

#[derive(Debug, Default)]
struct Inner {
    /// Not here while somebody runs it, and not any more when the store's thread stops it.
    driver: Option<Box<Driver>>,
    /// What it said when it was put back.
    next: Next,
    /// The store's thread has the driver for good.
    stopping: bool,
    /// Until when the store's thread sleeps.
    sleeps: Option<Sleep>,
    proposals: VecDeque<Proposal>,
    /// They wait until what is applied here is no longer stale.
    reads: Vec<ReadSender>,
    events: Vec<Event>,
    messages: Vec<(u64, Bytes)>,
    messages_bytes: usize,
    flushed: Option<FlushResult>,
    written: Option<WalDone>,
    stopped: bool,
    /// Nobody takes anything any more.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sleep {
    Until(Duration),
    Forever,
    /// It has been called already.
    Called,
}

/// What was there to do.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) proposals: Vec<Proposal>,
    pub(super) reads: Vec<ReadSender>,
    pub(super) events: Vec<Event>,
    pub(super) messages: Vec<(u64, Bytes)>,
    pub(super) flushed: Option<FlushResult>,
    pub(super) written: Option<WalDone>,
}

/// Who brings something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bringer {
    /// With a proposal: the thread would wait for the disk where the log is written by the core.
    Writer,
    Reader,
    /// The transport, which has read all that had come.
    Transport,
    /// The log's thread, which may have been given more to write meanwhile.
    Log,
    /// Somebody who must not be held up, or holds a lock.
    Other,
}

impl Inner {
    /// Whether proposals stay where they are.
    fn holds_proposals(&self) -> bool {
        let log = self.next.log_is_away && self.written.is_none();
        let state = self.next.waits_for_flush && self.flushed.is_none();
        (log || state) && !self.stopping
    }

    fn has_work(&self) -> bool {
        self.flushed.is_some()
            || self.written.is_some()
            || !self.events.is_empty()
            || !self.messages.is_empty()
            // Fewer wait for the end of the round that is under way, or for more to come.
            || !(self.reads.len() < self.next.reads_wanted || self.reads.is_empty())
            || !(self.proposals.is_empty() || self.holds_proposals())
    }

    /// Whether this is the only thing that waits.
    fn has_one(&self) -> bool {
        let queued = self.proposals.len() + self.reads.len() + self.events.len();
        queued + self.messages.len() == 1 && self.written.is_none() && self.flushed.is_none()
    }

    fn is_for(&self, bringer: Bringer) -> bool {
        match bringer {
            Bringer::Transport | Bringer::Log => true,
            Bringer::Reader => self.has_one(),
            Bringer::Writer => self.has_one() && self.next.takes_writers,
            Bringer::Other => false,
        }
    }

    fn take(&mut self) -> Taken {
        let count = if self.holds_proposals() { 0 } else { self.proposals.len().min(TAKE_MAX) };
        self.messages_bytes = 0;
        Taken {
            proposals: self.proposals.drain(..count).collect(),
            reads: std::mem::take(&mut self.reads),
            events: std::mem::take(&mut self.events),
            messages: std::mem::take(&mut self.messages),
            flushed: self.flushed.take(),
            written: self.written.take(),
        }
    }

    /// Whether the store's thread has to be woken, which then counts as done.
    fn calls_thread(&mut self) -> bool {
        let early = match (self.sleeps, self.next.wake_at) {
            (None | Some(Sleep::Called), _) => return false,
            (Some(Sleep::Until(until)), Some(at)) => at < until,
            (Some(Sleep::Forever), at) => at.is_some(),
            (Some(Sleep::Until(_)), None) => false,
        };
        let calls = early || self.stopped || self.has_work();
        if calls {
            self.sleeps = Some(Sleep::Called);
        }
        calls
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            changed: Condvar::new(),
            room: Arc::new(Semaphore::new(QUEUE_MAX_KIB as usize)),
        }
    }

    /// Waits until a request of this size may be queued.
    pub(super) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Error> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUE_MAX_KIB).min(QUEUE_MAX_KIB);
        self.room.clone().acquire_many_owned(kib).await.map_err(|_closed| stopped())
    }

    pub(super) fn push(&self, proposal: Proposal) -> Result<(), Error> {
        let mut inner = self.open()?;
        inner.proposals.push_back(proposal);
        self.rouse(inner, Bringer::Writer);
        Ok(())
    }

    /// The answer comes when what is applied here is no longer stale.
    pub(super) fn push_read(&self, sender: ReadSender) -> Result<(), Error> {
        let mut inner = self.open()?;
        inner.reads.push(sender);
        self.rouse(inner, Bringer::Reader);
        Ok(())
    }

    pub(super) fn push_event(&self, event: Event) -> Result<(), Error> {
        let mut inner = self.open()?;
        inner.events.push(event);
        self.rouse(inner, Bringer::Other);
        Ok(())
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, Error> {
        let inner = lock(&self.inner);
        if inner.stopped { Err(stopped()) } else { Ok(inner) }
    }

    /// `false` when it was dropped. [`Self::settle`] must follow, once for several.
    pub(super) fn push_message(&self, from: u64, message: Bytes) -> bool {
        let mut inner = lock(&self.inner);
        let bytes = message.len() + MESSAGE_OVERHEAD_BYTES;
        // A leader that stops still has to hear that another leads.
        if inner.ended || inner.messages_bytes + bytes > MESSAGES_MAX_BYTES {
            return false;
        }
        inner.messages_bytes += bytes;
        inner.messages.push((from, message));
        true
    }

    /// The messages that had come are all here.
    pub(super) fn settle(&self) {
        self.rouse(lock(&self.inner), Bringer::Transport);
    }

    pub(super) fn flushed(&self, result: FlushResult) {
        let mut inner = lock(&self.inner);
        inner.flushed = Some(result);
        self.rouse(inner, Bringer::Other);
    }

    pub(super) fn written(&self, done: WalDone) {
        let mut inner = lock(&self.inner);
        inner.written = Some(done);
        self.rouse(inner, Bringer::Log);
    }

    /// Something was brought.
    fn rouse(&self, mut inner: MutexGuard<'_, Inner>, bringer: Bringer) {
        if inner.stopping {
            drop(inner);
            return self.changed.notify_one();
        }
        // Whoever has the driver looks again.
        if inner.driver.is_none() || !inner.has_work() {
            return;
        }
        if inner.is_for(bringer)
            && let Some(driver) = inner.driver.take()
        {
            let taken = inner.take();
            drop(inner);
            return self.run(driver, taken, bringer);
        }
        let calls = inner.calls_thread();
        drop(inner);
        if calls {
            self.changed.notify_one();
        }
    }

    /// Takes turns on this thread as long as it is for it to do so.
    fn run(&self, mut driver: Box<Driver>, mut taken: Taken, bringer: Bringer) {
        for turn in 1.. {
            let guard = TurnGuard(self);
            let next = driver.turn(taken);
            drop(guard);
            let mut inner = lock(&self.inner);
            inner.next = next;
            let goes_on = bringer == Bringer::Transport && turn < TURNS_MAX && !inner.stopped;
            if goes_on && inner.has_work() {
                taken = inner.take();
                continue;
            }
            inner.driver = Some(driver);
            let calls = inner.calls_thread();
            drop(inner);
            if calls {
                self.changed.notify_one();
            }
            return;
        }
    }

    /// For the store's thread: one turn, when there is something to do or it is time. The driver
    /// when the store is to stop; nothing when another thread has lost it.
    pub(super) fn turn(&self, clock: &dyn Clock) -> Option<Option<Box<Driver>>> {
        let mut inner = lock(&self.inner);
        loop {
            if inner.ended {
                return Some(None);
            }
            let now = clock.now();
            let is_due = inner.next.wake_at.is_some_and(|at| at <= now);
            if inner.driver.is_some() && (inner.stopped || is_due || inner.has_work()) {
                break;
            }
            inner = self.sleep(inner, now);
        }
        let driver = inner.driver.take();
        if inner.stopped {
            inner.stopping = true;
            return Some(driver);
        }
        let taken = inner.take();
        drop(inner);
        self.run(driver?, taken, Bringer::Other);
        None
    }

    fn sleep<'a>(&self, mut inner: MutexGuard<'a, Inner>, now: Duration) -> MutexGuard<'a, Inner> {
        let wake_at = inner.next.wake_at.filter(|_| inner.driver.is_some());
        inner.sleeps = Some(wake_at.map_or(Sleep::Forever, Sleep::Until));
        let mut inner = match wake_at {
            None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            Some(at) => {
                let timeout = at.saturating_sub(now);
                let waited = self.changed.wait_timeout(inner, timeout);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        inner.sleeps = None;
        inner
    }

    /// The driver lies here from now on.
    pub(super) fn place(&self, driver: Box<Driver>) {
        let mut inner = lock(&self.inner);
        // The first turn is due at once.
        inner.next = Next { wake_at: Some(Duration::ZERO), ..Next::default() };
        inner.driver = Some(driver);
        drop(inner);
        self.changed.notify_one();
    }

    /// Nothing more is taken in; what is queued and not done gets no answer.
    pub(super) fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.room.close();
        self.changed.notify_one();
    }

    /// The core is gone: whoever still waits here learns that nothing was done.
    pub(super) fn refuse_rest(&self) {
        let (rest, driver) = {
            let mut inner = lock(&self.inner);
            inner.ended = true;
            inner.events.clear();
            inner.reads.clear();
            (std::mem::take(&mut inner.proposals), inner.driver.take())
        };
        for proposal in rest {
            proposal.refuse(stopped());
        }
        drop(driver);
        self.changed.notify_one();
    }

    /// What there is, for a thread that has the driver and stops it.
    pub(super) fn take_rest(&self, longest: Duration) -> Taken {
        let inner = lock(&self.inner);
        let waited = self.changed.wait_timeout_while(inner, longest, |inner| !inner.has_work());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Waits for the flush that is under way.
    pub(super) fn wait_flushed(&self) -> FlushResult {
        self.wait_for(|inner| inner.flushed.take())
    }

    /// Waits for the write of the log that is under way.
    pub(super) fn wait_written(&self) -> WalDone {
        self.wait_for(|inner| inner.written.take())
    }

    fn wait_for<T>(&self, take: impl Fn(&mut Inner) -> Option<T>) -> T {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(found) = take(&mut inner) {
                return found;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A turn that panics takes the driver with it; then nothing is ever answered again.
struct TurnGuard<'a>(&'a Queue);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
            self.0.refuse_rest();
        }
    }
}

pub(super) fn stopped() -> Error {
    Error::Unavailable { detail: "the store was shut down".to_owned() }
}
