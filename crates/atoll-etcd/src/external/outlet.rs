//! What a watch has received and its user has not yet taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_store::kv::{Error, Event, KeyValue, Result, WatchBatch};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{Notify, mpsc};

/// Bytes that wait, and a bell for when some were taken.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    taken: Notify,
}

/// The end of the one who receives from etcd. The queue is bounded by bytes: whoever puts more
/// into a full one is told, and stops.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: mpsc::UnboundedSender<(usize, Result<WatchBatch>)>,
    waiting: Arc<Waiting>,
    bytes_max: usize,
}

pub(super) fn outlet(bytes_max: usize) -> (Outlet, BoxStream<'static, Result<WatchBatch>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    let outlet = Outlet { sender, waiting: waiting.clone(), bytes_max };
    let batches = futures::stream::unfold(receiver, move |mut receiver| {
        let waiting = waiting.clone();
        async move {
            let (bytes, batch): (usize, Result<WatchBatch>) = receiver.recv().await?;
            waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
            waiting.taken.notify_one();
            Some((batch, receiver))
        }
    });
    (outlet, batches.boxed())
}

impl Outlet {
    /// Whether there is room for more.
    pub(super) fn put(&self, batch: WatchBatch) -> bool {
        let bytes = size_of::<WatchBatch>() + batch.events.iter().map(event_bytes).sum::<usize>();
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        // Nobody takes it any more: then the watch ends by `closed`.
        drop(self.sender.send((bytes, Ok(batch))));
        before + bytes < self.bytes_max
    }

    pub(super) fn end(self, error: Error) {
        drop(self.sender.send((0, Err(error))));
    }

    /// Until the user has dropped the watch.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Until half of the queue was taken.
    pub(super) async fn half_taken(&self) {
        while self.waiting.bytes.load(Ordering::Acquire) > self.bytes_max / 2 {
            self.waiting.taken.notified().await;
        }
    }
}

fn event_bytes(event: &Event) -> usize {
    let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
    size_of::<Event>() + of(&event.kv) + event.prev_kv.as_ref().map_or(0, of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_says_so_and_its_end_comes_last() {
        let (outlet, mut batches) = outlet(3 * size_of::<WatchBatch>());
        let batch = |revision| WatchBatch { revision, events: Vec::new() };
        assert!(outlet.put(batch(1)));
        assert!(outlet.put(batch(2)));
        assert!(!outlet.put(batch(3)));
        assert_eq!(batches.next().await, Some(Ok(batch(1))));
        assert_eq!(batches.next().await, Some(Ok(batch(2))));
        outlet.half_taken().await;
        assert!(outlet.put(batch(4)));
        outlet.end(Error::WatchTooSlow);
        let rest: Vec<_> = batches.collect().await;
        assert_eq!(rest, [Ok(batch(3)), Ok(batch(4)), Err(Error::WatchTooSlow)]);
    }

    #[tokio::test]
    async fn a_dropped_watch_is_noticed() {
        let (outlet, batches) = outlet(1);
        drop(batches);
        outlet.closed().await;
    }
}
