//! Members answer alike, whoever is asked.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::request_op::Request as Op;
use atoll_etcd::proto::etcdserverpb::*;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use crate::load::{Load, assert_agreement, assert_kept, everything, put};
use crate::raw::Raw;
use crate::served::Served;

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_14571_auth_calls_under_load_are_answered_as_without_authentication_and_members_agree()
{
    let served = Served::start(3).await;
    let addresses: Vec<_> = (0..3).map(|number| served.address(number)).collect();
    let load = Load::start("w", &addresses, 6);
    let text = |word: &str| word.to_owned();
    let says = |text: &str| (Code::FailedPrecondition, format!("etcdserver: {text}"));
    for round in 0..6 {
        let mut raw = Raw::open(served.address(round % 3)).await;
        let enabled = raw.auth.auth_enable(AuthEnableRequest {}).await;
        assert_eq!(refusal(enabled), says("root user does not exist"));
        let root = AuthenticateRequest { name: text("root"), password: text("secret") };
        let named = raw.auth.authenticate(root).await;
        assert_eq!(refusal(named), says("authentication is not enabled"));
        let status = raw.auth.auth_status(AuthStatusRequest {}).await.unwrap().into_inner();
        assert!(!status.enabled);
        raw.auth.auth_disable(AuthDisableRequest {}).await.expect("it is off already");
        load.more(20).await;
    }
    let acknowledged = load.stop().await;
    for number in 0..3 {
        assert_kept(&mut Raw::open(served.address(number)).await, &acknowledged).await;
    }
    assert_agreement(&served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_18667_a_transaction_that_reads_what_is_compacted_does_nothing_anywhere() {
    let served = Served::start(3).await;
    let mut raws = Vec::new();
    for number in 0..3 {
        raws.push(Raw::open(served.address(number)).await);
    }
    let mut refused = 0;
    for round in 0_usize..12 {
        let revision = put(&mut raws[round % 3], "a", &round.to_string()).await.unwrap();
        let read = RangeRequest { key: "a".into(), revision, ..RangeRequest::default() };
        let write = PutRequest { key: "b".into(), value: "x".into(), ..PutRequest::default() };
        let ops = [Op::RequestPut(write), Op::RequestRange(read)];
        let success = ops.map(|op| RequestOp { request: Some(op) }).into();
        let txn = TxnRequest { success, ..TxnRequest::default() };
        let compaction = CompactionRequest { revision: revision + 1, physical: false };
        put(&mut raws[round % 3], "c", "next").await.unwrap();
        let before = everything(&mut raws[0]).await;
        // Both at once, by different members: one of them comes first, everywhere.
        let (compacting, writing) = (raws[(round + 1) % 3].clone(), raws[(round + 2) % 3].clone());
        let (mut compacting, mut writing) = (compacting, writing);
        let (compacted, done) =
            tokio::join!(compacting.kv.compact(compaction), writing.kv.txn(txn));
        compacted.expect("it is compacted");
        let after = everything(&mut raws[round % 3]).await;
        let (before, after) = (before.header.unwrap().revision, after.header.unwrap().revision);
        match done {
            Ok(_) => assert_eq!(after, before + 1),
            Err(status) => {
                let text = "etcdserver: mvcc: required revision has been compacted";
                assert_eq!((status.code(), status.message()), (Code::OutOfRange, text));
                assert_eq!(after, before, "it was refused and has written");
                refused += 1;
            }
        }
    }
    println!("{refused} of 12 came after the compaction");
    assert_agreement(&served).await;
}

/// Reads at the member, again and again; each must see what was acknowledged before it began.
async fn read_on(
    mut raw: Raw,
    known: tokio::sync::watch::Receiver<i64>,
    stop: CancellationToken,
) -> (u64, u64) {
    let (mut answered, mut refused) = (0, 0);
    while !stop.is_cancelled() {
        let least = *known.borrow();
        let mut request = Request::new(RangeRequest { key: "a".into(), ..RangeRequest::default() });
        request.set_timeout(Duration::from_secs(5));
        match raw.kv.range(request).await {
            Ok(found) => {
                let at = found.into_inner().header.unwrap().revision;
                assert!(at >= least, "a stale read: {at}, and {least} was acknowledged");
                answered += 1;
            }
            Err(_) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    (answered, refused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20418_a_leader_that_was_cut_off_serves_no_stale_read() {
    let served = Served::start(3).await;
    let (known, seen) = tokio::sync::watch::channel(0);
    let mut answered = 0;
    for round in 0..2 {
        let old = served.members.leader().await.unwrap();
        let other = served.other_than(old);
        let mut majority = Raw::open(served.address(other)).await;
        known.send_replace(put(&mut majority, "a", "before").await.unwrap());
        let (stop, mut readers) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..4 {
            let raw = Raw::open(served.address(old)).await;
            readers.spawn(read_on(raw, seen.clone(), stop.clone()));
        }
        let id = served.members.store(old).member_id();
        served.members.network.isolate(id);
        let mut acknowledged = 0;
        while acknowledged < 10 {
            if let Ok(revision) = put(&mut majority, "a", "after").await {
                known.send_replace(revision);
                acknowledged += 1;
            }
        }
        if round == 1 {
            // It hears the others again before they hear it, as one that wakes up.
            served.members.network.heal();
            for number in served.apis.keys().filter(|number| **number != old) {
                served.members.network.cut(id, served.members.store(*number).member_id());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        served.members.network.heal();
        for _ in 0..10 {
            known.send_replace(put(&mut majority, "a", "healed").await.unwrap());
        }
        stop.cancel();
        for (read, refused) in readers.join_all().await {
            println!("round {round}: {read} reads, {refused} refused");
            answered += read;
        }
    }
    assert!(answered > 10, "only {answered} reads were answered");
    assert_agreement(&served).await;
}
