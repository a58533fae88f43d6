//! The same random operations on our store and on a real etcd: every answer is compared, field
//! by field, revisions included.
//!
//! `ATOLL_DIFFERENTIAL_SEEDS=100` tries more than the sample, `ATOLL_DIFFERENTIAL_SEED=7` one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that cannot go on panics, one that does not run says so, and reads its seed"
)]

#[path = "../conformance/certificates.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod certificates;
#[path = "../conformance/etcd.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod etcd;
mod plan;
mod side;

use std::sync::Arc;

use atoll_etcd::external::{ExternalConfig, ExternalStore};
use atoll_store::kv::KvStore;
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tempfile::TempDir;

use etcd::{Etcd, Release};
use plan::{Plan, Step};
use side::{Answer, Side};

/// Sequences of the sample, and operations of each.
const SEEDS: u64 = 12;
const STEPS: usize = 300;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    match (number("ATOLL_DIFFERENTIAL_SEED"), number("ATOLL_DIFFERENTIAL_SEEDS")) {
        (Some(one), _) => one..one + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

async fn embedded(dir: &TempDir) -> (EmbeddedStore, Arc<dyn KvStore>) {
    let config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await.expect("the folder opens");
    let kv = store.keyspace(Keyspace::Applications);
    (store, kv)
}

/// A fresh cluster on the etcd, whose compactions are all ours.
async fn external(etcd: &Etcd) -> (ExternalStore, Arc<dyn KvStore>) {
    let id = format!("{:032x}", rand::random::<u128>());
    let mut config = ExternalConfig::new(vec![etcd.endpoint()], id);
    config.compact = true;
    let store = ExternalStore::open(config).await.expect("the etcd can be the store");
    let kv = store.keyspace(Keyspace::Cluster);
    (store, kv)
}

async fn same_answers(release: Release) {
    let Some(program) = release.program() else { return };
    let etcd = Etcd::start(&program).await;
    for seed in seeds() {
        let dir = TempDir::new().unwrap();
        let (ours, kv) = embedded(&dir).await;
        let mut ours_side = Side::new(kv).await;
        let (_theirs, kv) = external(&etcd).await;
        let mut theirs_side = Side::new(kv).await;
        let mut plan = Plan::new(StdRng::seed_from_u64(seed));
        for number in 0..STEPS {
            let step = plan.next();
            let ours = ours_side.take(&step).await;
            let theirs = theirs_side.take(&step).await;
            assert_eq!(ours, theirs, "seed {seed}, step {number}: {step:?}");
            plan.learn(&ours);
        }
        let (ours_last, theirs_last) =
            (ours_side.take(&Step::End).await, theirs_side.take(&Step::End).await);
        let (Answer::Watches(ours_last), Answer::Watches(theirs_last)) = (ours_last, theirs_last)
        else {
            panic!("the last step shows what the watches saw");
        };
        for (number, (ours, theirs)) in ours_last.iter().zip(&theirs_last).enumerate() {
            assert_eq!(ours.is_ok(), theirs.is_ok(), "seed {seed}, watch {number}");
            let (ours, theirs) = (ours.iter().flatten(), theirs.iter().flatten());
            for (ours, theirs) in ours.clone().zip(theirs.clone()) {
                assert_eq!(ours, theirs, "seed {seed}, watch {number}");
            }
            assert_eq!(ours.count(), theirs.count(), "seed {seed}, watch {number}");
        }
        ours.shutdown().await;
    }
    println!("{} sequences of {STEPS} operations: no difference", seeds().count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_answers_as_etcd_3_5() {
    same_answers(Release::Distro35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_answers_as_etcd_3_4() {
    same_answers(Release::Debian34).await;
}
