//! Watches bring every event, once, in order, whole revisions at a time.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::request_op::Request as Op;
use atoll_etcd::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use atoll_etcd::server::Config;
use atoll_store::StoreConfig;

use crate::load::{Load, delete, put};
use crate::raw::Raw;
use crate::served::{PATIENCE, Served};
use crate::stream::{Stream, prefix};

/// So little is remembered in memory that a watch that is behind reads the state.
fn forgetful() -> StoreConfig {
    StoreConfig { watch_ring_bytes: 8 << 10, ..StoreConfig::default() }
}

async fn one(store: StoreConfig) -> (Served, Raw) {
    let served = Served::start_with(1, store, Config::default()).await;
    let raw = Raw::open(served.address(0)).await;
    (served, raw)
}

/// [`Stream`] looks at every answer: an event at or before what progress said fails it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15220_progress_never_overtakes_events() {
    let served = Served::start(3).await;
    let addresses: Vec<_> = (0..3).map(|number| served.address(number)).collect();
    for address in &addresses {
        let mut raw = Raw::open(*address).await;
        let load = Load::start("w", &addresses, 6);
        let mut stream = Stream::open(&mut raw, prefix("w/", 1)).await;
        load.more(1).await;
        let (mut told, mut events) = (0, 0);
        while told < 40 || events < 60 {
            stream.ask_progress().await;
            loop {
                let answer = stream.next().await;
                events += answer.events.len();
                if answer.watch_id == -1 {
                    told += 1;
                    break;
                }
            }
        }
        let acknowledged = load.stop().await;
        let last = acknowledged.values().max().copied().unwrap();
        stream.until(last).await;
    }
}

fn txn(round: usize) -> TxnRequest {
    let puts = (0..60).map(|key| {
        let value = vec![b'x'; 400 + round];
        Op::RequestPut(PutRequest {
            key: format!("t/{key:02}").into(),
            value: value.into(),
            ..PutRequest::default()
        })
    });
    let gone = DeleteRangeRequest { key: "t/x".into(), range_end: "t/y".into(), prev_kv: false };
    let ops = puts.chain([Op::RequestDeleteRange(gone)]);
    let success = ops.map(|op| RequestOp { request: Some(op) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_17247_events_of_a_transaction_come_once_and_together() {
    let (_served, mut raw) = one(forgetful()).await;
    let first = put(&mut raw, "t/x1", "goes").await.unwrap();
    let mut present = Stream::open(&mut raw, prefix("t/", 0)).await;
    let mut written = Vec::new();
    for round in 0..40 {
        let done = raw.kv.txn(txn(round)).await.unwrap().into_inner();
        written.push(done.header.unwrap().revision);
        put(&mut raw, "t/x1", "goes again").await.unwrap();
    }
    let end = put(&mut raw, "t/end", "1").await.unwrap();
    // From the present, from the beginning, and from the middle of it all.
    let past = Stream::open(&mut raw, prefix("t/", first)).await;
    let middle = Stream::open(&mut raw, prefix("t/", written[20])).await;
    let mut all = vec![(present.until(end).await, 0)];
    for (mut stream, from) in [(past, 0), (middle, 20)] {
        all.push((stream.until(end).await, from));
    }
    for (seen, from) in all {
        for revision in &written[from..] {
            let events = seen.iter().filter(|(at, _)| at == revision).count();
            assert_eq!(events, 61, "at {revision}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_17529_a_client_that_reads_slowly_loses_no_event() {
    let store = StoreConfig { watch_behind_bytes_max: 1 << 20, ..forgetful() };
    let (_served, mut raw) = one(store).await;
    // Connections of their own, so that only these are slow.
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::open(_served.address(0)).await;
        slow.push(Stream::open(&mut raw, prefix("s/", 0)).await);
    }
    let value = "x".repeat(60_000);
    let mut written = Vec::new();
    for number in 0..500 {
        written.push(put(&mut raw, &format!("s/{number}"), &value).await.unwrap());
        if number % 50 == 0 {
            // One reads a little, the others nothing.
            slow[0].answer(Duration::from_millis(5)).await.inspect(|_| {});
        }
    }
    drop(slow.remove(0));
    for stream in &mut slow {
        let mut seen = Vec::new();
        while seen.last() != written.last() {
            seen.extend(
                stream.next().await.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision),
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(seen, written);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_18089_a_deletion_at_the_compacted_revision_is_not_lost_to_a_watch_behind() {
    let (_served, mut raw) = one(forgetful()).await;
    let large = "x".repeat(20_000);
    for round in 0..8 {
        let first = put(&mut raw, "d/a", &large).await.unwrap();
        for _ in 0..10 {
            put(&mut raw, "d/b", &large).await.unwrap();
        }
        // It has read nothing when its history goes.
        let mut slow = Raw::open(_served.address(0)).await;
        let mut behind = Stream::open(&mut slow, prefix("d/", first)).await;
        let gone = delete(&mut raw, "d/a", "").await;
        let compaction = CompactionRequest { revision: gone, physical: round % 2 == 0 };
        let mut at = Stream::open(&mut slow, prefix("d/", gone)).await;
        raw.kv.compact(compaction).await.unwrap();
        let mut after = Stream::open(&mut slow, prefix("d/", gone)).await;
        let end = put(&mut raw, "d/end", "1").await.unwrap();
        for stream in [&mut at, &mut after] {
            let seen = stream.until(end).await;
            assert_eq!(seen[0], (gone, "d/a".to_owned()), "the deletion is lost: {seen:?}");
        }
        // All of it, or the word that it is gone.
        let mut seen = Vec::new();
        loop {
            let answer = behind.answer(PATIENCE).await.expect("it moves or ends");
            if answer.canceled {
                assert_eq!(answer.compact_revision, gone);
                break;
            }
            seen.extend(answer.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision));
            if seen.last() == Some(&end) {
                assert!(seen.contains(&gone), "the deletion is lost: {seen:?}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_19179_a_watch_at_the_compacted_revision_sees_all_that_follows() {
    let (_served, mut raw) = one(forgetful()).await;
    let mut revisions = Vec::new();
    for number in 0_u64..600 {
        let key = format!("c/{}", number % 40);
        revisions.push(if number % 7 == 6 {
            put(&mut raw, &key, "x").await.unwrap();
            delete(&mut raw, &key, "").await
        } else {
            put(&mut raw, &key, "x").await.unwrap()
        });
    }
    let end = *revisions.last().unwrap();
    let mut watched = 0;
    for at in revisions.iter().copied().skip(60).step_by(60) {
        let compaction = CompactionRequest { revision: at, physical: false };
        let mut compacting = raw.clone();
        let (compacted, mut stream) =
            tokio::join!(async move { compacting.kv.compact(compaction).await }, async {
                let mut raw = Raw::open(_served.address(0)).await;
                Stream::open(&mut raw, prefix("c/", at)).await
            });
        compacted.unwrap();
        let mut seen: Vec<_> = stream.until(end).await.into_iter().map(|(at, _)| at).collect();
        seen.dedup();
        let wanted: Vec<_> = (at..=end).collect();
        assert_eq!(seen, wanted, "from {at} on");
        watched += 1;
    }
    assert!(watched > 5);
}
