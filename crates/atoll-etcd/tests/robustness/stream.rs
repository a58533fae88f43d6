//! A stream of watches, and what must hold for whatever it brings.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use atoll_etcd::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::raw::Raw;
use crate::served::PATIENCE;

const REQUESTS_MAX: usize = 64;

pub(crate) struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// Where the last events, or the last progress, came to.
    reached: i64,
    /// The last revision that had events: all of it came at once.
    last: i64,
}

pub(crate) fn prefix(key: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: atoll_store::kv::prefix_end(key.as_bytes()),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

impl Stream {
    pub(crate) async fn open(raw: &mut Raw, create: WatchCreateRequest) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.unwrap();
        let answers = raw.watch.watch(ReceiverStream::new(receiver)).await.expect("a stream");
        let mut stream = Self { requests, answers: answers.into_inner(), reached: 0, last: 0 };
        let created = stream.answer(PATIENCE).await.expect("an answer");
        assert!(created.created && !created.canceled, "{created:?}");
        stream
    }

    pub(crate) async fn ask_progress(&self) {
        let union = RequestUnion::ProgressRequest(WatchProgressRequest {});
        self.requests.send(WatchRequest { request_union: Some(union) }).await.unwrap();
    }

    /// The next answer, or `None` when there is none for so long.
    pub(crate) async fn answer(&mut self, patience: Duration) -> Option<WatchResponse> {
        let answer = timeout(patience, self.answers.message()).await.ok()?;
        Some(answer.expect("the stream goes on").expect("it is not over"))
    }

    /// The next answer, after looking whether it may come after what came before.
    pub(crate) async fn next(&mut self) -> WatchResponse {
        let answer = self.answer(PATIENCE).await.expect("the stream moves");
        self.check(&answer);
        answer
    }

    fn check(&mut self, answer: &WatchResponse) {
        let header = answer.header.expect("a header");
        if answer.events.is_empty() {
            if !answer.canceled && !answer.created {
                assert!(header.revision >= self.last, "progress went back: {answer:?}");
                self.reached = self.reached.max(header.revision);
            }
            return;
        }
        let mut keys = std::collections::BTreeSet::new();
        for event in &answer.events {
            let kv = event.kv.as_ref().expect("a key");
            let at = kv.mod_revision;
            assert!(at > self.reached, "{at} after progress up to {}", self.reached);
            assert!(at > self.last, "{at} after {}: back, or split", self.last);
            assert!(at <= header.revision, "{at} is newer than its header: {header:?}");
            assert!(keys.insert((at, kv.key.clone())), "twice: {kv:?}");
        }
        let revisions: Vec<_> =
            answer.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect();
        assert!(revisions.is_sorted(), "out of order: {revisions:?}");
        self.last = *revisions.last().expect("there is one");
    }

    /// Revisions and keys of all events up to this revision, which must have some.
    pub(crate) async fn until(&mut self, revision: i64) -> Vec<(i64, String)> {
        let mut seen = Vec::new();
        while self.last < revision {
            let answer = self.next().await;
            assert!(!answer.canceled, "{answer:?}");
            for event in answer.events {
                let kv = event.kv.unwrap();
                seen.push((kv.mod_revision, String::from_utf8(kv.key.to_vec()).unwrap()));
            }
        }
        seen
    }
}
