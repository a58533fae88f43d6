//! The way from callers to the store's thread: bounded in bytes, and what arrives while the
//! thread waits for the disk is taken together.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::backend::{BackendError, KEYSPACES, View};
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

pub(super) type FlushResult = Result<[View; KEYSPACES], BackendError>;

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    room: Arc<Semaphore>,
}

/// What the store's thread is told besides proposals.
#[derive(Debug)]
pub(super) enum Event {
    Ask(Ask, oneshot::Sender<AskResult>),
    /// Somebody waits until what is applied here is no longer stale.
    Read(oneshot::Sender<Result<(), Error>>),
    Unreachable(u64),
    Refused(u64, Refusal),
    SnapshotArrived(Box<Arrived>),
    SnapshotSent(u64, bool),
}

#[derive(Debug, Default)]
struct Inner {
    proposals: VecDeque<Proposal>,
    events: Vec<Event>,
    messages: Vec<(u64, Bytes)>,
    messages_bytes: usize,
    flushed: Option<FlushResult>,
    written: Option<WalDone>,
    stopped: bool,
    /// Nobody takes anything any more.
    ended: bool,
}

/// What the store's thread found.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) proposals: Vec<Proposal>,
    pub(super) events: Vec<Event>,
    pub(super) messages: Vec<(u64, Bytes)>,
    pub(super) flushed: Option<FlushResult>,
    pub(super) written: Option<WalDone>,
    pub(super) stopped: bool,
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
        let mut inner = lock(&self.inner);
        if inner.stopped {
            return Err(stopped());
        }
        inner.proposals.push_back(proposal);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn push_event(&self, event: Event) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        if inner.stopped {
            return Err(stopped());
        }
        inner.events.push(event);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// `false` when it was dropped.
    pub(super) fn push_message(&self, from: u64, message: Bytes) -> bool {
        let mut inner = lock(&self.inner);
        let bytes = message.len() + MESSAGE_OVERHEAD_BYTES;
        // A leader that stops still has to hear that another leads.
        if inner.ended || inner.messages_bytes + bytes > MESSAGES_MAX_BYTES {
            return false;
        }
        inner.messages_bytes += bytes;
        inner.messages.push((from, message));
        drop(inner);
        self.changed.notify_one();
        true
    }

    pub(super) fn flushed(&self, result: FlushResult) {
        lock(&self.inner).flushed = Some(result);
        self.changed.notify_one();
    }

    pub(super) fn written(&self, done: WalDone) {
        lock(&self.inner).written = Some(done);
        self.changed.notify_one();
    }

    /// Nothing more is taken in; what is queued and not done gets no answer.
    pub(super) fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.room.close();
        self.changed.notify_one();
    }

    /// The thread has ended: whoever still waits here learns that nothing was done.
    pub(super) fn refuse_rest(&self) {
        let rest = {
            let mut inner = lock(&self.inner);
            inner.ended = true;
            inner.events.clear();
            std::mem::take(&mut inner.proposals)
        };
        for proposal in rest {
            proposal.refuse(stopped());
        }
    }

    /// Waits for something to do, at most `timeout`. With `hold` proposals stay queued.
    pub(super) fn take(&self, timeout: Option<Duration>, hold: bool) -> Taken {
        let mut inner = lock(&self.inner);
        let idle = |inner: &mut Inner| {
            inner.flushed.is_none()
                && inner.written.is_none()
                && !inner.stopped
                && inner.events.is_empty()
                && inner.messages.is_empty()
                && (hold || inner.proposals.is_empty())
        };
        inner = match timeout {
            None => self.changed.wait_while(inner, idle).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                self.changed
                    .wait_timeout_while(inner, timeout, idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        let count = if hold { 0 } else { inner.proposals.len().min(TAKE_MAX) };
        inner.messages_bytes = 0;
        Taken {
            events: std::mem::take(&mut inner.events),
            messages: std::mem::take(&mut inner.messages),
            proposals: inner.proposals.drain(..count).collect(),
            flushed: inner.flushed.take(),
            written: inner.written.take(),
            stopped: inner.stopped,
        }
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

pub(super) fn stopped() -> Error {
    Error::Unavailable { detail: "the store was shut down".to_owned() }
}
