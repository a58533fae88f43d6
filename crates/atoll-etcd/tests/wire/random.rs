//! The same random messages to our server and to a real etcd.

use std::net::SocketAddr;
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, WatchCreateRequest,
};
use atoll_etcd::server::{Config, Process};
use atoll_store::StoreConfig;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout};

use crate::etcd::{Etcd, Release};
use crate::plan::{Plan, Step};
use crate::served::{PATIENCE, Served};
use crate::side::{Answer, Side};
use crate::watching::{Log, SYNC_ID, SYNC_KEY, Watching};

/// Sequences of the sample, and messages of each.
const SEEDS: u64 = 10;
const STEPS: usize = 220;
/// What should not come any more has this long to come.
const QUIET: Duration = Duration::from_millis(150);

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match (number("ATOLL_WIRE_SEED"), number("ATOLL_WIRE_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

/// Ours and theirs, at the same revision.
pub(crate) struct Pair {
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
    _served: Served,
    _etcd: Etcd,
}

/// One of which everything is known.
fn a_process() -> Process {
    Process {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(1 << 20),
        virtual_bytes: Some(1 << 21),
        open_files: Some(7),
        open_files_max: Some(1024),
        start_seconds: Some(1e9),
    }
}

impl Pair {
    /// `None` where that etcd is not installed.
    pub(crate) async fn start(release: Release) -> Option<Self> {
        let etcd = Etcd::start(&release.program()?).await;
        let config = Config { process: a_process, ..Config::default() };
        let served = Served::start_with(1, StoreConfig::default(), config).await;
        let ours = Side::open(served.address(0)).await;
        let theirs = etcd.endpoint().trim_start_matches("http://").parse().unwrap();
        let mut pair =
            Self { ours, theirs: Side::open(theirs).await, _served: served, _etcd: etcd };
        // An etcd listens before it has a leader.
        let deadline = Instant::now() + PATIENCE;
        let put = PutRequest { key: "first".into(), ..PutRequest::default() };
        let first = Step::Put(put);
        while !timeout(PATIENCE, pair.theirs.take(&first)).await.is_ok_and(|put| put.is_ok()) {
            assert!(Instant::now() < deadline, "the etcd answers nothing");
        }
        while pair.ours.revision().await < pair.theirs.revision().await {
            assert!(pair.ours.take(&first).await.is_ok(), "ours does not write");
        }
        Some(pair)
    }

    /// Of ours and of theirs.
    pub(crate) fn addresses(&self) -> [SocketAddr; 2] {
        let theirs = self._etcd.endpoint().trim_start_matches("http://").parse().unwrap();
        [self._served.address(0), theirs]
    }

    /// The answer that both give.
    pub(crate) async fn both(&mut self, step: &Step, context: &str) -> Answer {
        let (ours, theirs) = tokio::join!(
            timeout(PATIENCE, self.ours.take(step)),
            timeout(PATIENCE, self.theirs.take(step))
        );
        let ours = ours.unwrap_or_else(|_| panic!("ours does not answer, {context}: {step:?}"));
        let theirs = theirs.unwrap_or_else(|_| panic!("no answer of theirs, {context}: {step:?}"));
        assert!(
            ours.text == theirs.text,
            "{context}: {step:?}\nours: {ours:?}\ntheirs: {theirs:?}"
        );
        ours
    }

    /// Nothing is left, and both begin a stream.
    async fn begin(&mut self, context: &str) -> i64 {
        let all = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: false };
        self.both(&Step::Put(PutRequest { key: "a".into(), ..Default::default() }), context).await;
        let emptied = self.both(&Step::Delete(all), context).await.revision.unwrap();
        for id in crate::plan::LEASES {
            self.both(&Step::Revoke(id), context).await;
        }
        let compaction = CompactionRequest { revision: emptied, physical: true };
        self.both(&Step::Compact(compaction), context).await;
        self.ours.watching = Some(Watching::open(&mut self.ours.raw).await);
        self.theirs.watching = Some(Watching::open(&mut self.theirs.raw).await);
        emptied
    }

    fn watchings(&mut self) -> (&mut Watching, &mut Watching) {
        (self.ours.watching.as_mut().unwrap(), self.theirs.watching.as_mut().unwrap())
    }

    async fn put(&mut self, key: bytes::Bytes, context: &str) -> i64 {
        let put = PutRequest { key, value: "w".into(), ..PutRequest::default() };
        self.both(&Step::Put(put), context).await.revision.expect("it is written")
    }

    /// Both have shown all that there is.
    async fn settle(&mut self, context: &str) -> i64 {
        let at = self.put(SYNC_KEY.into(), context).await;
        let (ours, theirs) = self.watchings();
        tokio::join!(ours.reached(SYNC_ID, at), theirs.reached(SYNC_ID, at));
        let deadline = Instant::now() + PATIENCE;
        while ours.log() != theirs.log() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_same(&ours.log(), &theirs.log(), context);
        at
    }

    async fn create(&mut self, create: &WatchCreateRequest, context: &str) {
        let (ours, theirs) = self.watchings();
        let made = tokio::join!(ours.create(create.clone()), theirs.create(create.clone()));
        println!("{context}: watch {:?} is {create:?}", made.0);
        assert_eq!(made.0, made.1, "ids of a watch, {context}: {create:?}");
        // An etcd brings an old watch up to date some time later; it is waited for, by events of
        // its own.
        let Some(id) = made.0 else { return };
        let no_delete = create.filters.contains(&1);
        let key = if create.key.is_empty() { "\0".into() } else { create.key.clone() };
        let put = self.put(key.clone(), context).await;
        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let delete = self.both(&Step::Delete(delete), context).await.revision.unwrap();
        let until = if no_delete { put } else { delete };
        let (ours, theirs) = self.watchings();
        if create.start_revision <= put {
            tokio::join!(ours.reached(id, until), theirs.reached(id, until));
        }
    }

    async fn on_watches(&mut self, step: &Step, context: &str) {
        if let Step::Watch(create) = step {
            let mut create = create.clone();
            // And does not give its id to another.
            if self.watchings().0.was_compacted(create.watch_id) {
                create.watch_id = 0;
            }
            return self.create(&create, context).await;
        }
        let (ours, theirs) = self.watchings();
        match step {
            // An etcd answers once more for one that it has ended itself.
            Step::CancelWatch(id) if ours.was_compacted(*id) => {}
            Step::CancelWatch(id) => {
                let was_open = ours.is_open(*id);
                tokio::join!(ours.cancel(*id), theirs.cancel(*id));
                // Its answer says the present revision, which is raised next.
                if was_open {
                    tokio::join!(ours.reached(*id, i64::MAX), theirs.reached(*id, i64::MAX));
                }
            }
            Step::WatchProgress => {
                let count = ours.log().get(&-1).map_or(0, Vec::len) + 1;
                tokio::join!(ours.ask_progress(), theirs.ask_progress());
                tokio::join!(ours.told(count), theirs.told(count));
            }
            _ => {}
        }
        self.settle(context).await;
    }

    async fn sequence(&mut self, seed: u64) {
        let base = self.begin(&format!("seed {seed}, at the beginning")).await;
        let mut plan = Plan::new(StdRng::seed_from_u64(seed), base);
        for number in 0..STEPS {
            let context = format!("seed {seed}, step {number}");
            // Probes of watches have raised it.
            plan.revision = plan.revision.max(self.ours.revision().await);
            let step = plan.next();
            if matches!(step, Step::Watch(_) | Step::CancelWatch(_) | Step::WatchProgress) {
                self.on_watches(&step, &context).await;
                continue;
            }
            if matches!(step, Step::Compact(_)) {
                plan.revision = self.settle(&context).await;
            }
            let answer = self.both(&step, &context).await;
            if let (Step::Compact(compaction), true) = (&step, answer.is_ok()) {
                plan.compacted = compaction.revision;
            }
        }
        let context = format!("seed {seed}, at the end");
        self.settle(&context).await;
        tokio::time::sleep(QUIET).await;
        let (ours, theirs) = self.watchings();
        assert_same(&ours.log(), &theirs.log(), &context);
        self.both(&Step::HashKv(0), &context).await;
    }
}

/// What the watches brought; where it differs, from there on.
fn assert_same(ours: &Log, theirs: &Log, context: &str) {
    for id in ours.keys().chain(theirs.keys()) {
        let of = |log: &Log| log.get(id).cloned().unwrap_or_default();
        let (ours, theirs) = (of(ours), of(theirs));
        let same = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
        let (ours, theirs) = (&ours[same..], &theirs[same..]);
        assert!(
            ours.is_empty() && theirs.is_empty(),
            "{context}: watch {id}, after {same} the same\nours: {ours:?}\ntheirs: {theirs:?}"
        );
    }
}

async fn same_answers(release: Release) {
    let Some(mut pair) = Pair::start(release).await else { return };
    for seed in seeds() {
        pair.sequence(seed).await;
    }
    println!("{} sequences of {STEPS} messages: no difference", seeds().count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_messages_are_answered_as_by_etcd_3_5() {
    same_answers(Release::Distro35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_messages_are_answered_as_by_etcd_3_4() {
    same_answers(Release::Debian34).await;
}
