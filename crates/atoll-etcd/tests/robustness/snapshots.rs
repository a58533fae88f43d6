//! A member that was away gets the whole state, while watches are open on it and others ask it.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::{CompactionRequest, DefragmentRequest, WatchCreateRequest};
use atoll_etcd::server::Config;
use atoll_store::StoreConfig;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::load::{Load, assert_agreement, assert_kept, everything, put};
use crate::raw::Raw;
use crate::served::{PATIENCE, Served};
use crate::stream::{Stream, prefix};

/// Writes that a member misses; far more than a log that is kept for it.
const MISSED: i64 = 60;
const KEPT: usize = 20;

/// Whoever misses more than a few entries gets the whole state.
fn short_log() -> StoreConfig {
    StoreConfig { log_entries_max: KEPT, log_bytes_max: 64 << 10, ..StoreConfig::default() }
}

struct Away {
    served: Served,
    /// The one that is cut off and comes back.
    number: usize,
    id: u64,
    member: Raw,
    /// Another one, which goes on.
    other: Raw,
}

impl Away {
    async fn start(api: Config) -> Self {
        let served = Served::start_with(3, short_log(), api).await;
        let leader = served.members.leader().await.unwrap();
        let number = served.other_than(leader);
        let id = served.members.store(number).member_id();
        let member = Raw::open(served.address(number)).await;
        let other = Raw::open(served.address(leader)).await;
        Self { served, number, id, member, other }
    }

    /// The revision of the last write that it misses.
    async fn miss(&mut self, name: &str, writes: i64) -> i64 {
        self.served.members.network.isolate(self.id);
        let mut last = 0;
        for number in 0..writes {
            last = put(&mut self.other, &format!("{name}/{number}"), "v").await.unwrap();
        }
        last
    }

    fn come_back(&self) {
        self.served.members.network.heal();
    }

    async fn until_it_has(&mut self, revision: i64) {
        let deadline = Instant::now() + PATIENCE;
        while everything(&mut self.member).await.header.unwrap().revision < revision {
            assert!(Instant::now() < deadline, "it never caught up");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_15271_a_watch_never_goes_back_when_its_member_gets_a_snapshot() {
    let mut away = Away::start(Config::default()).await;
    let first = put(&mut away.other, "w/first", "v").await.unwrap();
    let mut past = Stream::open(&mut away.member, prefix("w/", first)).await;
    past.until(first).await;
    let mut present = Stream::open(&mut away.member, prefix("w/", first + 1)).await;
    for round in 0..2 {
        let last = away.miss(&format!("w/{round}"), MISSED).await;
        if round == 1 {
            // What it has missed is not all there any more.
            let compaction = CompactionRequest { revision: last - MISSED, physical: true };
            away.other.kv.compact(compaction).await.unwrap();
        }
        away.come_back();
        let wanted: Vec<_> = (last - MISSED + 1..=last).collect();
        for stream in [&mut past, &mut present] {
            let seen = stream.until(last).await;
            let seen: Vec<_> = seen.into_iter().map(|(at, _)| at).collect();
            assert_eq!(seen, wanted, "round {round}");
        }
    }
    assert_agreement(&away.served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_18055_snapshots_in_quick_succession_leave_members_the_same() {
    let mut away = Away::start(Config::default()).await;
    let address = away.served.address(away.served.other_than(away.number));
    let load = Load::start("l", &[address], 6);
    let mut last = 0;
    for round in 0..5 {
        last = away.miss(&format!("q/{round}"), 30).await;
        away.come_back();
        // Long enough for a snapshot to begin, not always for it to end.
        tokio::time::sleep(Duration::from_millis(40 * (round % 4))).await;
    }
    away.come_back();
    let acknowledged = load.stop().await;
    away.until_it_has(last).await;
    let revision = assert_kept(&mut away.member, &acknowledged).await;
    println!("{} writes, revision {revision}", acknowledged.len());
    assert_agreement(&away.served).await;
}

fn future(start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { progress_notify: true, ..prefix("f/", start_revision) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20221_a_watch_on_the_future_is_not_notified_before() {
    let every = Duration::from_millis(50);
    let mut away = Away::start(Config { progress_every: every, ..Config::default() }).await;
    let now = put(&mut away.other, "f/now", "v").await.unwrap();
    away.until_it_has(now).await;
    let start = now + MISSED + 30;
    let mut stream = Stream::open(&mut away.member, future(start)).await;
    stream.ask_progress().await;
    let early = stream.answer(every * 6).await;
    assert!(early.is_none(), "it was told {early:?}, and begins at {start}");
    // And not when its member gets the whole state meanwhile.
    let last = away.miss("f/missed", MISSED).await;
    away.come_back();
    away.until_it_has(last).await;
    stream.ask_progress().await;
    let early = stream.answer(every * 6).await;
    assert!(early.is_none(), "it was told {early:?}, and begins at {start}");
    let mut last = last;
    while last < start {
        last = put(&mut away.other, "elsewhere", "v").await.unwrap();
    }
    let answer = stream.next().await;
    assert!(answer.header.unwrap().revision >= start - 1 && answer.events.is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20221_a_watch_on_the_future_brings_nothing_older() {
    let mut away = Away::start(Config::default()).await;
    let now = put(&mut away.other, "f/now", "v").await.unwrap();
    away.until_it_has(now).await;
    // One begins within what the member misses, one after it.
    let starts = [now + MISSED / 2, now + MISSED + 20];
    let mut streams = Vec::new();
    for start in starts {
        streams.push(Stream::open(&mut away.member, prefix("f/", start)).await);
    }
    let missed = away.miss("f/missed", MISSED).await;
    away.come_back();
    away.until_it_has(missed).await;
    let mut last = missed;
    while last < starts[1] + 10 {
        last = put(&mut away.other, "f/later", "v").await.unwrap();
    }
    for (stream, start) in streams.iter_mut().zip(starts) {
        let seen: Vec<_> = stream.until(last).await.into_iter().map(|(at, _)| at).collect();
        assert_eq!(seen, (start..=last).collect::<Vec<_>>(), "from {start} on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_20271_a_snapshot_that_arrives_during_defragmentation_is_taken_whole() {
    let mut away = Away::start(Config::default()).await;
    let (stop, mut defragmenting) = (CancellationToken::new(), JoinSet::new());
    for number in 0..3 {
        let mut raw = Raw::open(away.served.address(number)).await;
        let stop = stop.clone();
        defragmenting.spawn(async move {
            let mut times = 0_u64;
            while !stop.is_cancelled() {
                raw.maintenance.defragment(DefragmentRequest {}).await.expect("it is done");
                times += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            times
        });
    }
    let mut last = 0;
    for round in 0..2 {
        last = away.miss(&format!("m/{round}"), MISSED).await;
        away.come_back();
        away.until_it_has(last).await;
    }
    stop.cancel();
    println!("defragmented {:?} times, revision {last}", defragmenting.join_all().await);
    assert_agreement(&away.served).await;
}
