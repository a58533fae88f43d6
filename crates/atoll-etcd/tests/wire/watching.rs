//! One stream of watches, and what it brought: a list for each watch.
//!
//! How events are put together in messages is each server's own; what is compared is their order.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use atoll_etcd::proto::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::raw::Raw;
use crate::served::PATIENCE;

/// A watch of its own, by which a stream is waited for.
pub(crate) const SYNC_KEY: &str = "~sync";
pub(crate) const SYNC_ID: i64 = 4711;
const REQUESTS_MAX: usize = 16;

/// What came, in words, by the watch it came for.
pub(crate) type Log = BTreeMap<i64, Vec<String>>;

#[derive(Default)]
struct Seen {
    log: Log,
    /// The newest revision of each watch's events; `i64::MAX` when it has ended.
    reached: BTreeMap<i64, i64>,
    /// Answers that say that a watch was made, or was not.
    made: usize,
    ended: Option<String>,
}

impl Seen {
    fn add(&mut self, answer: &WatchResponse) {
        let header = answer.header.expect("an answer has a header");
        let entries = self.log.entry(answer.watch_id).or_default();
        let reached = self.reached.entry(answer.watch_id).or_insert(0);
        let says = answer.created || answer.canceled;
        if says || answer.watch_id == -1 {
            entries.push(format!(
                "created {} canceled {} compacted {} {:?} at {}",
                answer.created,
                answer.canceled,
                answer.compact_revision,
                answer.cancel_reason,
                header.revision
            ));
        }
        self.made += usize::from(answer.created);
        if answer.canceled {
            *reached = i64::MAX;
        } else if answer.created {
            *reached = 0;
        }
        for event in &answer.events {
            let at = event.kv.as_ref().expect("an event has a key").mod_revision;
            assert!(header.revision >= at, "an event newer than its header: {answer:?}");
            *reached = (*reached).max(at);
            entries.push(format!("{event:?}"));
        }
    }
}

pub(crate) struct Watching {
    requests: mpsc::Sender<WatchRequest>,
    seen: Arc<Mutex<Seen>>,
    made: usize,
    _reading: JoinSet<()>,
}

impl Watching {
    pub(crate) async fn open(raw: &mut Raw) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let create = WatchCreateRequest {
            key: SYNC_KEY.into(),
            watch_id: SYNC_ID,
            ..WatchCreateRequest::default()
        };
        requests.send(request(RequestUnion::CreateRequest(create))).await.unwrap();
        let answers = raw.watch.watch(ReceiverStream::new(receiver)).await.expect("a stream");
        let mut answers = answers.into_inner();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (mut reading, written) = (JoinSet::new(), seen.clone());
        reading.spawn(async move {
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => written.lock().unwrap().add(&answer),
                    ended => {
                        written.lock().unwrap().ended = Some(format!("{ended:?}"));
                        return;
                    }
                }
            }
        });
        let watching = Self { requests, seen, made: 1, _reading: reading };
        watching.until("the stream begins", |seen| seen.made == 1).await;
        watching
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let seen = self.seen.lock().unwrap();
                if is_so(&seen) {
                    return;
                }
                assert_eq!(seen.ended, None, "the stream ended; waited for: {what}");
                let late = Instant::now() > deadline;
                assert!(!late, "not in time: {what}; {:?} {:?}", seen.reached, seen.log);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns the id, or `None` when it was refused.
    pub(crate) async fn create(&mut self, create: WatchCreateRequest) -> Option<i64> {
        self.made += 1;
        let before = self.log();
        self.send(RequestUnion::CreateRequest(create)).await;
        self.until("a watch is made", |seen| seen.made == self.made).await;
        let after = self.log();
        after.into_iter().find_map(|(id, entries)| {
            let known = before.get(&id).map_or(0, Vec::len);
            let new = entries[known..].iter().any(|entry| entry.starts_with("created true"));
            (new && id != -1).then_some(id)
        })
    }

    pub(crate) async fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
    }

    pub(crate) async fn ask_progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    }

    async fn send(&self, union: RequestUnion) {
        self.requests.send(request(union)).await.expect("the stream goes on");
    }

    /// This watch has brought an event at that revision, or has ended.
    pub(crate) async fn reached(&self, id: i64, revision: i64) {
        self.until("a watch is up to date", |seen| {
            seen.reached.get(&id).is_some_and(|reached| *reached >= revision)
        })
        .await;
    }

    /// So many answers have come for no watch.
    pub(crate) async fn told(&self, count: usize) {
        self.until("an answer about no watch", |seen| {
            seen.log.get(&-1).is_some_and(|entries| entries.len() >= count)
        })
        .await;
    }

    pub(crate) fn is_open(&self, id: i64) -> bool {
        let seen = self.seen.lock().unwrap();
        id != -1 && seen.reached.get(&id).is_some_and(|reached| *reached < i64::MAX)
    }

    /// Its history went before it had read it.
    pub(crate) fn was_compacted(&self, id: i64) -> bool {
        let seen = self.seen.lock().unwrap();
        let last = seen.log.get(&id).and_then(|entries| entries.last());
        last.is_some_and(|last| last.contains("canceled true") && !last.contains("compacted 0 "))
    }

    pub(crate) fn log(&self) -> Log {
        self.seen.lock().unwrap().log.clone()
    }
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(union) }
}
