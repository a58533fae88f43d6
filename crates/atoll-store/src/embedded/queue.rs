//! The way from callers to the store's thread: bounded in bytes, and what arrives while the
//! thread waits for the disk is taken together.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backend::{BackendError, KEYSPACES, View};
use crate::core::Proposal;
use crate::kv::Error;
use crate::sync::lock;

/// Requests under way, in KiB, each counted as at least one. When it is full, callers wait.
const QUEUE_MAX_KIB: u32 = 64 << 10;
/// Proposals made durable together.
const TAKE_MAX: usize = 4096;

pub(super) type FlushResult = Result<[View; KEYSPACES], BackendError>;

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inner {
    proposals: VecDeque<Proposal>,
    flushed: Option<FlushResult>,
    stopped: bool,
}

/// What the store's thread found.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) proposals: Vec<Proposal>,
    pub(super) flushed: Option<FlushResult>,
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

    pub(super) fn flushed(&self, result: FlushResult) {
        lock(&self.inner).flushed = Some(result);
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
        let rest = std::mem::take(&mut lock(&self.inner).proposals);
        for proposal in rest {
            proposal.refuse(stopped());
        }
    }

    /// Waits for something to do, at most `timeout`. With `only_flush` proposals stay queued.
    pub(super) fn take(&self, timeout: Option<Duration>, only_flush: bool) -> Taken {
        let mut inner = lock(&self.inner);
        let idle = |inner: &mut Inner| {
            inner.flushed.is_none() && !inner.stopped && (only_flush || inner.proposals.is_empty())
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
        let count = if only_flush { 0 } else { inner.proposals.len().min(TAKE_MAX) };
        Taken {
            proposals: inner.proposals.drain(..count).collect(),
            flushed: inner.flushed.take(),
            stopped: inner.stopped,
        }
    }

    /// Waits for the flush that is under way.
    pub(super) fn wait_flushed(&self) -> FlushResult {
        let mut inner = lock(&self.inner);
        loop {
            if let Some(result) = inner.flushed.take() {
                return result;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

pub(super) fn stopped() -> Error {
    Error::Unavailable { detail: "the store was shut down".to_owned() }
}
