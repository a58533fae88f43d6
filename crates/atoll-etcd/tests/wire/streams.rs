//! Streams of watches: fragments, progress by the clock, and whom a request for progress concerns.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use atoll_etcd::proto::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse, request_op,
};
use atoll_etcd::server::Config;
use atoll_store::kv::{KeyRange, WatchBatch};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt as _;
use prost::Message as _;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::etcd::Release;
use crate::plan::Step;
use crate::random::Pair;
use crate::raw::Raw;
use crate::served::{PATIENCE, Served};

/// Two of them and what they replaced are larger than a message should be.
const VALUE_BYTES: usize = 700_000;
const VALUES: usize = 8;
/// As an etcd has it: its largest request and what gRPC adds.
const FRAGMENT_BYTES_MAX: usize = 1_572_864 + (512 << 10);

struct Stream {
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Stream {
    async fn open(raw: &mut Raw, create: WatchCreateRequest) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.send(create).await.unwrap();
        let answers = raw.watch.watch(ReceiverStream::new(receiver)).await.expect("a stream");
        let mut stream = Self { _requests: requests, answers: answers.into_inner() };
        assert!(stream.next().await.created);
        stream
    }

    async fn next(&mut self) -> WatchResponse {
        let answer = timeout(PATIENCE, self.answers.message()).await.expect("the stream moves");
        answer.expect("it goes on").expect("it is not over")
    }
}

/// What a watch of all values brings: names with revisions, and how many messages there were.
async fn fragments(
    raw: &mut Raw,
    start_revision: i64,
    fragment: bool,
) -> (Vec<(String, i64)>, usize) {
    let create = WatchCreateRequest {
        key: "large".into(),
        range_end: "largf".into(),
        start_revision,
        prev_kv: true,
        fragment,
        ..WatchCreateRequest::default()
    };
    let mut stream = Stream::open(raw, create).await;
    let (mut seen, mut messages) = (Vec::new(), 0);
    loop {
        let answer = stream.next().await;
        let bytes = answer.encoded_len();
        assert!(!fragment || bytes < FRAGMENT_BYTES_MAX || answer.events.len() == 1, "{bytes}");
        assert!(!answer.events.is_empty());
        for event in answer.events {
            let kv = event.kv.unwrap();
            seen.push((String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision));
        }
        messages += 1;
        if seen.len() >= VALUES {
            assert!(!answer.fragment, "the last part says that there is more");
            return (seen, messages);
        }
        assert!(answer.fragment, "history came in pieces that are not told to be pieces");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_come_in_parts_as_from_an_etcd() {
    let Some(mut pair) = Pair::start(Release::Distro35).await else { return };
    let mut start = 0;
    for number in 0..VALUES / 2 {
        let put = |key: &'static str| {
            let value = vec![b'x'; VALUE_BYTES].into();
            let put = PutRequest { key: key.into(), value, ..PutRequest::default() };
            RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        };
        let success = vec![put("large0"), put("large1")];
        let txn = Step::Txn(TxnRequest { success, ..TxnRequest::default() });
        let written = pair.both(&txn, "in the beginning").await.revision.unwrap();
        start = if number == 0 { written } else { start };
    }
    for fragment in [true, false] {
        let (ours, messages) = fragments(&mut pair.ours.raw, start, fragment).await;
        let (theirs, expected) = fragments(&mut pair.theirs.raw, start, fragment).await;
        assert_eq!((ours, messages), (theirs, expected));
        assert_eq!(messages > 1, fragment);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_that_wants_to_tells_how_far_it_is() {
    let every = Duration::from_millis(100);
    let config = Config { progress_every: every, ..Config::default() };
    let served = Served::start_with(1, StoreConfig::default(), config).await;
    let mut raw = Raw::open(served.address(0)).await;
    let quiet = WatchCreateRequest {
        key: "quiet".into(),
        progress_notify: true,
        ..WatchCreateRequest::default()
    };
    let silent = WatchCreateRequest { progress_notify: false, ..quiet.clone() };
    let mut quiet = Stream::open(&mut raw, quiet).await;
    let mut silent = Stream::open(&mut raw, silent).await;
    let put = PutRequest { key: "elsewhere".into(), ..PutRequest::default() };
    let written = raw.kv.put(put).await.unwrap().into_inner().header.unwrap().revision;
    loop {
        let answer = quiet.next().await;
        assert_eq!((answer.watch_id, answer.events.len(), answer.created), (0, 0, false));
        if answer.header.unwrap().revision >= written {
            break;
        }
    }
    let nothing = timeout(every * 3, silent.answers.message()).await;
    assert!(nothing.is_err(), "a watch told what it was not asked: {nothing:?}");
}

/// A thousand streams would wake each other otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_asked_of_the_watches_of_one_stream() {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await.unwrap();
    let kv = store.keyspace(Keyspace::Applications);
    let watch = |group| {
        let range = KeyRange::single("a");
        let request = atoll_store::kv::WatchRequest { range, start_revision: None, prev_kv: false };
        kv.watch_of(request, group)
    };
    let (mut asked, mut other) = (watch(1), watch(2));
    for _ in 0..3 {
        let revision = kv.request_progress_of(1).await.unwrap();
        let told = timeout(PATIENCE, asked.next()).await.expect("it answers").unwrap().unwrap();
        assert_eq!(told, WatchBatch { revision, events: Vec::new() });
    }
    let nothing = timeout(Duration::from_millis(100), other.next()).await;
    assert!(nothing.is_err(), "another stream's watch was woken: {nothing:?}");
    kv.request_progress().await.unwrap();
    timeout(PATIENCE, other.next()).await.expect("one that is asked of all is answered by all");
}
