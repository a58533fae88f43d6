//! One watch as a stream of batches.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures::Stream;

use super::{BATCH_BYTES, Group, Next};
use crate::kv::{Error, Event, Revision, WatchBatch, WatchRequest};
use crate::mvcc::StoredEvent;
use crate::shared::KeyspaceShared;
use crate::sync::read;

/// Rounds that one poll may take without finding an event before it lets others run.
const ROUNDS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct WatchStream {
    keyspace: Arc<KeyspaceShared>,
    request: WatchRequest,
    id: u64,
    /// Why it ends before it has begun.
    refused: Option<Error>,
    ended: bool,
}

impl WatchStream {
    pub(crate) fn new(keyspace: Arc<KeyspaceShared>, request: WatchRequest) -> Self {
        Self::of(keyspace, request, 0)
    }

    pub(crate) fn of(keyspace: Arc<KeyspaceShared>, request: WatchRequest, group: u64) -> Self {
        let id = keyspace.hub.register(&request, group);
        // The ring may still have what has been compacted; whether it does must not show.
        let compacted = read(&keyspace.state).compacted;
        let refused = request
            .start_revision
            .filter(|start| *start > 0 && *start < compacted)
            .map(|requested| Error::Compacted { requested, compacted });
        Self { keyspace, request, id, refused, ended: false }
    }

    /// The next batch; `None` when there is none yet (the waker is called when there is).
    /// An error or the end is final.
    fn poll_batch(&mut self, waker: &Waker) -> Poll<Option<Result<WatchBatch, Error>>> {
        for _ in 0..ROUNDS_MAX {
            let found = match self.keyspace.hub.next(self.id, waker) {
                Next::Wait => return Poll::Pending,
                Next::Stopped => return Poll::Ready(None),
                Next::TooSlow => return Poll::Ready(Some(Err(Error::WatchTooSlow))),
                Next::Progress { revision } => {
                    return Poll::Ready(Some(Ok(WatchBatch { revision, events: Vec::new() })));
                }
                Next::Batch { through, groups } => self.read_groups(through, &groups),
                Next::ReadState { from, through } => self.read_state(from, through),
            };
            match found {
                Ok(batch) if batch.events.is_empty() => {}
                other => return Poll::Ready(Some(other)),
            }
        }
        waker.wake_by_ref();
        Poll::Pending
    }

    fn read_groups(&self, through: Revision, groups: &[Arc<Group>]) -> Result<WatchBatch, Error> {
        let mut events = Vec::new();
        for event in groups.iter().flat_map(|group| &group.events) {
            if self.request.range.contains(&event.kv.key) {
                events.push(self.event(event)?);
            }
        }
        Ok(WatchBatch { revision: through, events })
    }

    fn event(&self, stored: &StoredEvent) -> Result<Event, Error> {
        let prev_kv = match &stored.prev_kv {
            _ if !self.request.prev_kv => None,
            Some(known) => known.clone(),
            None => read(&self.keyspace.state).load_replaced(&stored.kv.key, stored.at)?,
        };
        Ok(Event { kind: stored.kind, kv: stored.kv.clone(), prev_kv })
    }

    fn read_state(&self, from: Revision, through: Revision) -> Result<WatchBatch, Error> {
        let request = &self.request;
        let planned = read(&self.keyspace.state).events(
            &request.range,
            (from, through),
            request.prev_kv,
            BATCH_BYTES,
        )?;
        self.keyspace.hub.seen_from_state(self.id, planned.through);
        Ok(WatchBatch { revision: planned.through, events: planned.events })
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(error) = self.refused.take() {
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        let polled = self.poll_batch(context.waker());
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.ended = true;
        }
        polled
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.keyspace.hub.unregister(self.id);
    }
}
