//! What belongs to the connection: deadlines, pings, calls that there are not.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::{RangeRequest, RangeResponse, WatchRequest};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::etcd::Release;
use crate::random::Pair;
use crate::raw::{Channel, Raw};
use crate::served::{PATIENCE, Served};

type Told = (Code, String);

fn told<T>(answer: Result<T, Status>) -> Option<Told> {
    answer.err().map(|status| (status.code(), status.message().to_owned()))
}

/// How a stream of watches ends that is given so long.
async fn stream_with(raw: &mut Raw, deadline: &'static str) -> Option<Told> {
    let (_open, receiver) = mpsc::channel::<WatchRequest>(1);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
    let mut answers = match raw.watch.watch(request).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return told::<()>(Err(status)),
    };
    told(timeout(PATIENCE, answers.message()).await.expect("the stream ends"))
}

pub(crate) async fn call(channel: &Channel, path: &'static str) -> Option<Told> {
    let mut grpc = tonic::client::Grpc::with_origin(channel.clone(), channel.origin());
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
    let request = Request::new(RangeRequest { key: "a".into(), ..RangeRequest::default() });
    told(grpc.unary(request, PathAndQuery::from_static(path), codec).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_unknown_calls_are_answered_as_by_grpc_go() {
    let Some(mut pair) = Pair::start(Release::Distro35).await else { return };
    let (ours, theirs) = (&mut pair.ours.raw, &mut pair.theirs.raw);
    let ended = tokio::join!(stream_with(ours, "300m"), stream_with(theirs, "300m"));
    let (ours_ended, theirs_ended) = (ended.0.unwrap(), ended.1.unwrap());
    assert_eq!(ours_ended.1, theirs_ended.1);
    // That release has no code of its own for it, unless its transport is the first to notice.
    assert_eq!(ours_ended.0, Code::DeadlineExceeded);
    assert!([Code::DeadlineExceeded, Code::Unknown].contains(&theirs_ended.0));
    for path in [
        "/etcdserverpb.KV/Nothing",
        "/nothing.Nothing/Range",
        "/etcdserverpb.KV/Range",
        "/etcdserverpb.KV/Range/",
    ] {
        let answers = (call(&ours.channel, path).await, call(&theirs.channel, path).await);
        assert_eq!(answers.0, answers.1, "{path}");
    }
    for path in ["/foo", "/etcdserverpb.KV"] {
        let answers = (call(&ours.channel, path).await, call(&theirs.channel, path).await);
        // Releases of grpc-go differ in the code; ours is that of later ones.
        let (answer, expected) = (answers.0.unwrap(), answers.1.unwrap());
        assert_eq!((answer.0, answer.1), (Code::Unimplemented, expected.1), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_is_none_is_refused() {
    let served = Served::start(1).await;
    let mut raw = Raw::open(served.address(0)).await;
    for text in ["1x", "S", "1234567890S"] {
        let refused = stream_with(&mut raw, text).await.expect("it is refused");
        assert_eq!(refused.0, Code::Internal, "{refused:?}");
        assert!(refused.1.starts_with("malformed grpc-timeout"), "{refused:?}");
    }
}

/// Clients of etcd ask every 10 s or 30 s whether it is there; here they hurry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_pings_is_not_sent_away() {
    let served = Served::start(1).await;
    let ping_every = Some(Duration::from_millis(20));
    let channel = Channel::open_pinging(served.address(0), ping_every).await.unwrap();
    let mut raw = Raw::over(channel.clone());
    let request = RangeRequest { key: "a".into(), ..RangeRequest::default() };
    raw.kv.range(request.clone()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!channel.is_closed(), "the connection was ended");
    raw.kv.range(request).await.expect("the connection goes on");
}
