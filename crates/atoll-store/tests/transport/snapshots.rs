//! Snapshots arrive whole or not at all, at a limited rate, and do not hold up messages.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_store::cluster::{Lane, OutgoingSnapshot};
use atoll_store::kv::Error;
use atoll_store::transport::TransportConfig;
use bytes::Bytes;

use crate::server::{Server, eventually, pair, until_set};

/// Chunks of odd sizes, from nothing to more than a frame holds.
fn chunks() -> Vec<Bytes> {
    let sizes = [1, 0, 1000, 262_144, 262_145, 700_001, 5, 2_000_000];
    (1_u8..).zip(sizes).map(|(byte, size)| vec![byte; size].into()).collect()
}

fn snapshot<I>(to: u64, content: I) -> OutgoingSnapshot
where
    I: IntoIterator<Item = Result<Bytes, Error>>,
    I::IntoIter: Send + 'static,
{
    let message = Bytes::from(vec![9; 200_000]);
    OutgoingSnapshot { to, message, content: Box::new(content.into_iter()) }
}

async fn outcome(server: &Server) -> (u64, bool) {
    eventually("the outcome is told", || server.store.seen(|seen| !seen.sent.is_empty())).await;
    server.store.seen(|seen| seen.sent[0])
}

fn broken() -> Error {
    Error::Unavailable { detail: "a record cannot be read".to_owned() }
}

#[tokio::test]
async fn a_snapshot_arrives_whole() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    one.net().send_snapshot(snapshot(2, chunks().into_iter().map(Ok)));
    assert_eq!(outcome(&one).await, (2, true));
    let got = two.store.seen(|seen| seen.snapshots.clone());
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].from, got[0].is_finished), (1, true));
    assert_eq!(got[0].message, vec![9; 200_000]);
    assert_eq!(got[0].content, chunks().concat());
    // And the next one too.
    one.net().send_snapshot(snapshot(2, Vec::new()));
    eventually("an empty one arrives", || {
        one.store.seen(|seen| seen.sent.len()) == 2
            && two.store.seen(|seen| seen.snapshots[1].is_finished)
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_to_its_end_is_given_up_on_both_sides() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    let content = chunks().into_iter().map(Ok).chain([Err(broken())]);
    one.net().send_snapshot(snapshot(2, content.collect::<Vec<_>>()));
    assert_eq!(outcome(&one).await, (2, false));
    assert!(two.store.seen(|seen| seen.snapshots.iter().all(|got| !got.is_finished)));
    // A panic of the reader is not the end of the content.
    let mut left = chunks().into_iter();
    let content = std::iter::from_fn(move || Some(Ok(left.next().expect("a planted panic"))));
    one.net().send_snapshot(snapshot(2, content));
    eventually("it is told", || one.store.seen(|seen| seen.sent.len()) == 2).await;
    assert_eq!(one.store.seen(|seen| seen.sent[1]), (2, false));
    assert!(two.store.seen(|seen| seen.snapshots.iter().all(|got| !got.is_finished)));
    // The way is free for the next.
    one.net().send_snapshot(snapshot(2, chunks().into_iter().map(Ok)));
    eventually("the next arrives", || one.store.seen(|seen| seen.sent.contains(&(2, true)))).await;
}

#[tokio::test]
async fn a_receiver_whose_disk_is_full_says_so() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    two.store.manners.lock().unwrap().sink_fails_at = Some(300_000);
    one.net().send_snapshot(snapshot(2, chunks().into_iter().map(Ok)));
    assert_eq!(outcome(&one).await, (2, false));
    assert!(two.store.seen(|seen| !seen.snapshots[0].is_finished));
    assert!(one.status(2).connected_since.is_some(), "messages have another connection");
}

#[tokio::test]
async fn a_receiver_that_goes_away_ends_it() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    let go_on = Arc::new(AtomicBool::new(false));
    let wait = go_on.clone();
    let content = chunks().into_iter().enumerate().map(move |(at, chunk)| {
        if at == 3 {
            until_set(&wait);
        }
        Ok(chunk)
    });
    one.net().send_snapshot(snapshot(2, content));
    eventually("it has begun", || {
        two.store.seen(|seen| seen.snapshots.first().is_some_and(|got| got.content.len() >= 1001))
    })
    .await;
    two.shut_down().await;
    go_on.store(true, Ordering::Release);
    assert_eq!(outcome(&one).await, (2, false));
}

#[tokio::test]
async fn one_at_a_time_goes_to_one_member() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    let go_on = Arc::new(AtomicBool::new(false));
    let wait = go_on.clone();
    let slow = chunks().into_iter().map(move |chunk| {
        until_set(&wait);
        Ok(chunk)
    });
    one.net().send_snapshot(snapshot(2, slow));
    eventually("it is on its way", || one.status(2).is_sending_snapshot).await;
    one.net().send_snapshot(snapshot(2, chunks().into_iter().map(Ok)));
    assert_eq!(outcome(&one).await, (2, false));
    go_on.store(true, Ordering::Release);
    eventually("the first arrives", || one.store.seen(|seen| seen.sent.contains(&(2, true)))).await;
    assert_eq!(two.store.seen(|seen| seen.snapshots.len()), 1);
    assert!(!one.status(2).is_sending_snapshot);
    // To somebody who is no peer none is sent.
    one.net().send_snapshot(snapshot(7, Vec::new()));
    eventually("it is told", || one.store.seen(|seen| seen.sent.contains(&(7, false)))).await;
}

#[tokio::test]
async fn a_disk_that_is_slow_on_either_side_is_waited_for() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    let content = chunks().into_iter().enumerate().map(|(at, chunk)| {
        if at == 4 {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(2500) {
                std::thread::yield_now();
            }
        }
        Ok(chunk)
    });
    one.net().send_snapshot(snapshot(2, content));
    assert_eq!(outcome(&one).await, (2, true));
    assert_eq!(two.store.seen(|seen| seen.snapshots[0].content.clone()), chunks().concat());
}

#[tokio::test]
async fn a_snapshot_is_slowed_down_and_messages_are_not() {
    let rate = NonZeroU64::new(2 << 20).unwrap();
    let config = TransportConfig { snapshot_bytes_per_second: rate, ..TransportConfig::default() };
    let (mut one, two) = pair(config).await;
    let start = Instant::now();
    let content = vec![Ok(Bytes::from(vec![1; 256 << 10])); 8];
    one.net().send_snapshot(snapshot(2, content));
    let mut sent = 0;
    while one.store.seen(|seen| seen.sent.is_empty()) {
        let asked = Instant::now();
        one.send(2, Lane::Urgent, "heartbeat");
        sent += 1;
        eventually("it arrives", || two.store.seen(|seen| seen.delivered.len()) == sent).await;
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    assert_eq!(outcome(&one).await, (2, true));
    let took = start.elapsed();
    // 2 MiB at 2 MiB/s; the last piece is not waited for.
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(5), "{took:?}");
    assert!(sent > 20, "{sent}");
}
