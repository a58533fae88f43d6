//! A fresh store for each statement, and short words for what is done to it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{
    Compare, CompareTarget, Error, Event, EventKind, KeyRange, KvStore, Op, OpResult, PutRequest,
    RangeRequest, RangeResult, Relation, Revision, Txn, TxnResult, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

pub(crate) type Watch = BoxStream<'static, Result<WatchBatch, Error>>;

/// Long enough for a slow disk; whoever waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An empty keyspace, and another one of the same store.
pub(crate) struct World {
    pub(crate) kv: Arc<dyn KvStore>,
    pub(crate) other: Arc<dyn KvStore>,
    /// Whether nobody else raises its revision, so that it begins at 1.
    pub(crate) owns_revisions: bool,
    /// Lives as long as the world.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

impl World {
    pub(crate) async fn revision(&self) -> Revision {
        revision(&self.kv).await
    }

    pub(crate) async fn put(&self, name: &str, value: &str) -> Revision {
        self.write(put(name, value)).await.revision
    }

    pub(crate) async fn delete(&self, name: &str) -> Revision {
        self.write(delete(single(name))).await.revision
    }

    pub(crate) async fn write(&self, op: Op) -> TxnResult {
        self.txn(ops([op])).await.expect("the write succeeds")
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        self.kv.txn(txn).await
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> RangeResult {
        self.kv.range(request).await.expect("the read succeeds")
    }

    /// `key=value` of everything in the range.
    pub(crate) async fn values(&self, range: KeyRange, revision: Option<Revision>) -> Vec<String> {
        let request = RangeRequest { revision, ..RangeRequest::new(range) };
        shown(&self.range(request).await)
    }

    pub(crate) fn watch(&self, range: KeyRange, start_revision: Option<Revision>) -> Watch {
        self.kv.watch(WatchRequest { range, start_revision, prev_kv: false })
    }

    pub(crate) fn watch_prev(&self, range: KeyRange, start_revision: Option<Revision>) -> Watch {
        self.kv.watch(WatchRequest { range, start_revision, prev_kv: true })
    }
}

pub(crate) async fn revision(kv: &Arc<dyn KvStore>) -> Revision {
    let mut request = RangeRequest::new(single("nothing"));
    request.count_only = true;
    kv.range(request).await.expect("the read succeeds").revision
}

pub(crate) fn shown(found: &RangeResult) -> Vec<String> {
    found.kvs.iter().map(|kv| format!("{}={}", text(&kv.key), text(&kv.value))).collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn single(name: &str) -> KeyRange {
    KeyRange::single(bytes(name))
}

pub(crate) fn prefix(name: &str) -> KeyRange {
    KeyRange::prefix(bytes(name))
}

/// From the first key to the last that there can be.
pub(crate) fn everything() -> KeyRange {
    KeyRange { key: Bytes::from_static(b"\0"), end: Some(Bytes::from_static(b"\0")) }
}

pub(crate) fn put(name: &str, value: &str) -> Op {
    put_leased(name, value, 0)
}

pub(crate) fn put_leased(name: &str, value: &str, lease: i64) -> Op {
    Op::Put(PutRequest { key: bytes(name), value: bytes(value), lease, prev_kv: true })
}

pub(crate) fn delete(range: KeyRange) -> Op {
    Op::Delete { range, prev_kv: true }
}

pub(crate) fn get(range: KeyRange) -> Op {
    Op::Range(RangeRequest::new(range))
}

pub(crate) fn ops(success: impl IntoIterator<Item = Op>) -> Txn {
    Txn { success: success.into_iter().collect(), ..Txn::default() }
}

pub(crate) fn compare(name: &str, relation: Relation, target: CompareTarget) -> Compare {
    Compare { range: single(name), relation, target }
}

pub(crate) fn found(result: &OpResult) -> &RangeResult {
    let OpResult::Range(found) = result else { panic!("not a range: {result:?}") };
    found
}

pub(crate) async fn next(watch: &mut Watch) -> Result<WatchBatch, Error> {
    let moved = tokio::time::timeout(PATIENCE, watch.next()).await;
    moved.expect("the watch moves").expect("the watch goes on")
}

/// At least so many events, with whatever else stands in the last batch.
pub(crate) async fn events(watch: &mut Watch, count: usize) -> Vec<Event> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.extend(next(watch).await.expect("the watch goes on").events);
    }
    seen
}

/// `+key=value@revision` and `-key@revision`, the latter counted from `base`.
pub(crate) fn told(events: &[Event], base: Revision) -> Vec<String> {
    events
        .iter()
        .map(|event| {
            let at = event.kv.mod_revision - base;
            match event.kind {
                EventKind::Put => {
                    format!("+{}={}@{at}", text(&event.kv.key), text(&event.kv.value))
                }
                EventKind::Delete => format!("-{}@{at}", text(&event.kv.key)),
            }
        })
        .collect()
}
