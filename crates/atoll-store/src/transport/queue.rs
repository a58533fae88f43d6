//! What waits to be sent to one peer: two lanes, bounded; the urgent one goes first.
//!
//! The store's thread puts messages in and never waits; the transport's thread takes them out. A
//! message that does not fit, or finds no connection, is dropped: Raft sends it again.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::{Batch, FRAME_BYTES_MAX, Kind, MESSAGE_BYTES_MAX, PART_BYTES};
use crate::cluster::Lane;
use crate::sync::lock;

/// Messages in one lane. When it is full, messages are dropped and the peer is reported
/// unreachable; Raft has at most 256 appends under way to one member.
const MESSAGES_MAX: usize = 4096;
/// Bytes in the urgent lane, whose messages are small.
const URGENT_BYTES_MAX: usize = 4 << 20;
/// Bytes taken out together. A heartbeat waits for at most so much.
const BATCH_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct SendQueue {
    inner: Mutex<Inner>,
    bulk_bytes_max: usize,
    ready: Notify,
    /// Tells that something was dropped since it was last waited for.
    pub(super) dropped: Notify,
    dropped_count: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    is_connected: bool,
    urgent: Waiting,
    bulk: Waiting,
    /// Bytes of the first bulk message that are sent already.
    bulk_sent_bytes: usize,
    ping: Option<u64>,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

/// What a [`SendQueue::fill`] put into the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Filled {
    pub(super) messages: u64,
    /// Something is in the batch.
    pub(super) any: bool,
}

impl Waiting {
    fn has_room(&self, bytes: usize, bytes_max: usize) -> bool {
        self.messages.len() < MESSAGES_MAX && self.bytes + bytes <= bytes_max
    }

    fn push(&mut self, message: Bytes) {
        self.bytes += message.len();
        self.messages.push_back(message);
    }
}

impl SendQueue {
    pub(super) fn new(bulk_bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            bulk_bytes_max,
            ready: Notify::new(),
            dropped: Notify::new(),
            dropped_count: AtomicU64::new(0),
        }
    }

    /// Whether the message was taken.
    pub(super) fn push(&self, lane: Lane, message: Bytes) -> bool {
        let bytes = message.len();
        let mut inner = lock(&self.inner);
        let was_empty = inner.is_empty();
        let urgent = lane == Lane::Urgent && bytes <= FRAME_BYTES_MAX;
        let taken = inner.is_connected
            && bytes <= MESSAGE_BYTES_MAX
            && if urgent {
                inner.urgent.has_room(bytes, URGENT_BYTES_MAX)
            } else {
                inner.bulk.has_room(bytes, self.bulk_bytes_max)
            };
        if taken && urgent {
            inner.urgent.push(message);
        } else if taken {
            inner.bulk.push(message);
        }
        drop(inner);
        if !taken {
            self.dropped_count.fetch_add(1, Ordering::Relaxed);
            self.dropped.notify_one();
        } else if was_empty {
            self.ready.notify_one();
        }
        taken
    }

    /// Goes before everything else; one that still waits is replaced.
    pub(super) fn ping(&self, number: u64) {
        lock(&self.inner).ping = Some(number);
        self.ready.notify_one();
    }

    pub(super) fn connected(&self) {
        let mut inner = lock(&self.inner);
        *inner = Inner { is_connected: true, ..Inner::default() };
    }

    /// Forgets what waits: after a new connection it would only be out of date.
    pub(super) fn disconnected(&self) {
        let old = std::mem::take(&mut *lock(&self.inner));
        let lost = (old.urgent.messages.len() + old.bulk.messages.len()) as u64;
        self.dropped_count.fetch_add(lost, Ordering::Relaxed);
    }

    /// Takes out what is due: all that is urgent, then parts of bulk messages up to a limit.
    pub(super) fn fill(&self, batch: &mut Batch) -> Filled {
        let mut inner = lock(&self.inner);
        let mut filled = Filled::default();
        if let Some(number) = inner.ping.take() {
            batch.push(Kind::Ping, Bytes::copy_from_slice(&number.to_le_bytes()));
        }
        while batch.bytes() < BATCH_BYTES {
            let Some(message) = inner.urgent.messages.pop_front() else { break };
            inner.urgent.bytes -= message.len();
            batch.push(Kind::Urgent, message);
            filled.messages += 1;
        }
        while batch.bytes() < BATCH_BYTES && inner.take_part(batch) {
            filled.messages += u64::from(inner.bulk_sent_bytes == 0);
        }
        drop(inner);
        batch.seal();
        filled.any = batch.bytes() > 0;
        filled
    }

    /// Waits until there may be something to take out.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    pub(super) fn dropped_count(&self) -> u64 {
        self.dropped_count.load(Ordering::Relaxed)
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        let inner = lock(&self.inner);
        inner.urgent.bytes + inner.bulk.bytes
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.urgent.messages.is_empty() && self.bulk.messages.is_empty()
    }

    /// The next part of the first bulk message, or all of it.
    fn take_part(&mut self, batch: &mut Batch) -> bool {
        let Some(message) = self.bulk.messages.front() else { return false };
        let rest = message.slice(self.bulk_sent_bytes..);
        if rest.len() > PART_BYTES {
            batch.push(Kind::Part, rest.slice(..PART_BYTES));
            self.bulk_sent_bytes += PART_BYTES;
            return true;
        }
        self.bulk.bytes -= message.len();
        self.bulk.messages.pop_front();
        self.bulk_sent_bytes = 0;
        batch.push(Kind::Bulk, rest);
        true
    }
}

#[cfg(test)]
mod tests;
