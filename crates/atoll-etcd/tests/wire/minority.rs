//! Members that are cut off from the others: what they still answer, and in which words they
//! refuse the rest.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use atoll_etcd::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, MemberListRequest, PutRequest, RangeRequest,
    StatusRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::raw::Raw;
use crate::served::{PATIENCE, Served};
use crate::surface::get;

const NO_LEADER: (Code, &str) = (Code::Unavailable, "etcdserver: no leader");
/// A deadline that a read in a minority does not meet.
const SHORT: Duration = Duration::from_millis(100);

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

fn with_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().unwrap());
    request
}

fn range(key: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

fn stale(key: &'static str) -> RangeRequest {
    RangeRequest { serializable: true, ..range(key) }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

/// A stream with one watch that has begun. It goes on as long as the sender lives.
async fn watch(
    raw: &mut Raw,
    needs_leader: bool,
) -> (mpsc::Sender<WatchRequest>, Streaming<WatchResponse>) {
    let (sender, receiver) = mpsc::channel(1);
    let create = WatchCreateRequest { key: "a".into(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    sender.send(create).await.unwrap();
    let requests = ReceiverStream::new(receiver);
    let request = if needs_leader { with_leader(requests) } else { Request::new(requests) };
    let mut answers = raw.watch.watch(request).await.expect("a stream").into_inner();
    assert!(answers.message().await.unwrap().expect("an answer").created);
    (sender, answers)
}

/// Until it knows that it is alone, a member waits for the others.
async fn until_alone(raw: &mut Raw) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = raw.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
        if status.leader == 0 {
            assert_eq!(status.errors, ["etcdserver: no leader"]);
            return;
        }
        assert!(Instant::now() < deadline, "it never knew that it is alone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_says_that_it_has_no_leader_and_serves_stale_reads() {
    let served = Served::start(3).await;
    let leader = served.members.leader().await.unwrap();
    let other = served.other_than(leader);
    let mut raw = Raw::open(served.address(leader)).await;
    let mut majority = Raw::open(served.address(other)).await;
    raw.kv.put(put("a", "1")).await.unwrap();
    let lease = LeaseGrantRequest { ttl: 600, id: 7 };
    raw.lease.lease_grant(lease).await.unwrap();
    let (_asking, mut strict) = watch(&mut raw, true).await;
    let (_going_on, mut patient) = watch(&mut raw, false).await;
    let (_kept, keeping) = mpsc::channel::<LeaseKeepAliveRequest>(1);
    let keeping = with_leader(ReceiverStream::new(keeping));
    let mut keeping = raw.lease.lease_keep_alive(keeping).await.unwrap().into_inner();

    served.members.network.isolate(served.members.store(leader).member_id());
    // It does not know yet; whoever waits no longer is told so as by grpc-go.
    let mut hurried = Request::new(range("a"));
    hurried.set_timeout(SHORT);
    let began = Instant::now();
    let gave_up = refused(raw.kv.range(hurried).await);
    assert_eq!(gave_up, (Code::DeadlineExceeded, "context deadline exceeded".to_owned()));
    assert!(began.elapsed() >= SHORT, "after {:?}", began.elapsed());

    until_alone(&mut raw).await;
    let no_leader = (NO_LEADER.0, NO_LEADER.1.to_owned());
    assert_eq!(refused(raw.kv.range(range("a")).await), no_leader);
    assert_eq!(refused(raw.kv.put(put("a", "lost")).await), no_leader);
    assert_eq!(refused(raw.kv.range(with_leader(stale("a"))).await), no_leader);
    let asked = |linearizable| MemberListRequest { linearizable };
    assert_eq!(refused(raw.cluster.member_list(asked(true)).await), no_leader);
    raw.cluster.member_list(asked(false)).await.expect("what it knows");
    let alone = served.address(leader);
    assert!(get(alone, "/livez").await.0.contains("200"));
    let ready = get(alone, "/readyz?exclude=non_learner").await;
    assert!(ready.0.contains("503"), "{ready:?}");
    let lines = "[+]data_corruption ok\n[+]serializable_read ok\n\
                 [-]linearizable_read failed: etcdserver: no leader\n\n";
    assert_eq!(ready.1, lines);
    assert!(get(alone, "/readyz?exclude=linearizable_read").await.0.contains("200"));
    let health = get(alone, "/health").await;
    assert_eq!(health.1, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n");
    assert!(get(alone, "/health?serializable=true").await.0.contains("200"));
    let found = raw.kv.range(stale("a")).await.expect("a stale read").into_inner();
    assert_eq!(found.kvs[0].value, "1");

    let ended = timeout(PATIENCE, strict.message()).await.expect("the stream ends");
    assert_eq!(refused(ended), no_leader);
    let ended = timeout(PATIENCE, keeping.message()).await.expect("the stream ends");
    assert_eq!(refused(ended), no_leader);
    let (sender, receiver) = mpsc::channel::<WatchRequest>(1);
    let opened = raw.watch.watch(with_leader(ReceiverStream::new(receiver))).await;
    assert_eq!(refused(opened.map(drop)), no_leader);
    drop(sender);

    majority.kv.put(put("a", "2")).await.expect("the majority writes");
    served.members.network.heal();
    served.members.leader().await.unwrap();
    let back = timeout(PATIENCE, patient.message()).await.expect("the watch goes on");
    let event = back.unwrap().expect("an answer").events.remove(0);
    assert_eq!(event.kv.unwrap().value, "2");
    raw.kv.put(with_leader(put("a", "3"))).await.expect("it has a leader again");
}
