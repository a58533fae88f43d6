//! One suite over every store: each statement of `checks` holds for all of them.
//!
//! What an old etcd is known to do otherwise is skipped by the name of its bug.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, one that does not run says so"
)]

mod certificates;
mod checks;
mod etcd;
mod external;
#[path = "../surroundings/served.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod served;
mod spread;
mod world;

use std::sync::Arc;

use atoll_etcd::external::{ExternalConfig, ExternalStore};
use atoll_etcd::server::Config;
use atoll_store::kv::KvStore;
use atoll_store::testing::TestCluster;
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::task::JoinSet;

use etcd::{Etcd, Release};
use served::Served;
use spread::Spread;
use world::World;

/// Behind this, a watch that is not read is ended; small, so that it can be tried.
const WATCH_BEHIND_BYTES_MAX: usize = 1 << 20;

/// A statement that takes longer is named.
const SLOW: std::time::Duration = std::time::Duration::from_secs(1);

type Make = Box<dyn Fn() -> BoxFuture<'static, World> + Send + Sync>;

/// A store that the suite runs over.
struct Subject {
    make: Make,
    /// A statement, and why it does not hold there.
    skipped: &'static [(&'static str, &'static str)],
}

/// Runs every statement on a fresh store, and fails with the names of those that do not hold.
async fn hold(subject: Subject) {
    let mut broken = Vec::new();
    let mut held = 0;
    for (name, check) in checks::all() {
        if let Some((_, why)) = subject.skipped.iter().find(|(skipped, _)| *skipped == name) {
            println!("skipped: {name}: {why}");
            continue;
        }
        let began = std::time::Instant::now();
        let world = (subject.make)().await;
        // A task of its own, so that one that fails does not end the others.
        let mut task = JoinSet::new();
        task.spawn(check(world));
        match task.join_next().await {
            Some(Ok(())) => {
                held += 1;
                if began.elapsed() > SLOW {
                    println!("{name} took {:?}", began.elapsed());
                }
            }
            _ => broken.push(name),
        }
    }
    println!("{held} statements hold");
    assert!(broken.is_empty(), "these do not hold: {broken:?}");
}

fn small_watches(config: StoreConfig) -> StoreConfig {
    StoreConfig {
        watch_ring_bytes: 64 << 10,
        watch_behind_bytes_max: WATCH_BEHIND_BYTES_MAX as u64,
        ..config
    }
}

fn embedded(keyspace: Keyspace) -> Subject {
    let make: Make = Box::new(move || {
        Box::pin(async move {
            let dir = TempDir::new().expect("a temporary folder");
            let config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
            let config = small_watches(config);
            let store = EmbeddedStore::open(config).await.expect("the folder opens");
            let other = match keyspace {
                Keyspace::Cluster => Keyspace::Applications,
                Keyspace::Applications => Keyspace::Cluster,
            };
            World {
                kv: store.keyspace(keyspace),
                other: store.keyspace(other),
                owns_revisions: true,
                _keep: Box::new((store, dir)),
            }
        })
    });
    Subject { make, skipped: &[] }
}

/// A cluster of its own for each statement, all in one etcd.
fn external(endpoint: String) -> Make {
    Box::new(move || {
        let endpoint = endpoint.clone();
        Box::pin(async move {
            let id = format!("{:032x}", rand::random::<u128>());
            let mut config = ExternalConfig::new(vec![endpoint], id);
            config.compact = true;
            config.watch_queue_bytes_max = WATCH_BEHIND_BYTES_MAX;
            let store = ExternalStore::open(config).await.expect("the etcd can be the store");
            World {
                kv: store.keyspace(Keyspace::Cluster),
                other: store.keyspace(Keyspace::Applications),
                owns_revisions: false,
                _keep: Box::new(store),
            }
        })
    })
}

/// Three members in this process, emptied before each statement; calls go to all in turn.
async fn embedded_by_three() -> (Subject, TempDir) {
    let dir = TempDir::new().expect("a temporary folder");
    let config = small_watches(StoreConfig::default());
    let cluster = TestCluster::start_with(dir.path(), 3, config).await;
    let cluster = Arc::new(cluster.expect("three members start"));
    let make: Make = Box::new(move || {
        let cluster = cluster.clone();
        Box::pin(async move {
            let spread = |keyspace| {
                let members = cluster.numbers().into_iter();
                Spread::over(members.map(|one| cluster.store(one).keyspace(keyspace)).collect())
            };
            let (kv, other) = (spread(Keyspace::Applications), spread(Keyspace::Cluster));
            for keyspace in [&kv, &other] {
                keyspace.txn(world::ops([world::delete(world::everything())])).await.unwrap();
                end_leases(keyspace).await;
            }
            World { kv, other, owns_revisions: false, _keep: Box::new(cluster) }
        })
    });
    (Subject { make, skipped: &[] }, dir)
}

/// Those of earlier statements would end within a later one.
async fn end_leases(kv: &Arc<dyn KvStore>) {
    for lease in kv.leases().await.unwrap() {
        // It may end by itself meanwhile.
        drop(kv.lease_revoke(lease).await);
    }
}

/// Clients of their own for each endpoint, all with the same keys; calls go to each in turn.
fn external_by_each(served: &Served) -> Make {
    let endpoints = served.endpoints();
    let everything = served.members.store(0).keyspace(Keyspace::Applications);
    Box::new(move || {
        let (endpoints, everything) = (endpoints.clone(), everything.clone());
        Box::pin(async move {
            end_leases(&everything).await;
            let id = format!("{:032x}", rand::random::<u128>());
            let mut stores = Vec::new();
            for endpoint in endpoints {
                let mut config = ExternalConfig::new(vec![endpoint], id.clone());
                (config.compact, config.is_known) = (true, !stores.is_empty());
                config.watch_queue_bytes_max = WATCH_BEHIND_BYTES_MAX;
                let store = ExternalStore::open(config).await;
                stores.push(store.expect("the member can be the store"));
            }
            let spread = |keyspace| {
                Spread::over(stores.iter().map(|store| store.keyspace(keyspace)).collect())
            };
            World {
                kv: spread(Keyspace::Cluster),
                other: spread(Keyspace::Applications),
                owns_revisions: false,
                _keep: Box::new(stores),
            }
        })
    })
}

async fn our_own_grpc(servers: usize) -> Served {
    Served::start_with(servers, StoreConfig::default(), Config::default()).await
}

/// Fixed long ago, but not in these two.
const OLD_ETCD: &[(&str, &str)] = &[(
    "a_watch_at_the_compacted_revision_sees_the_deletion_there",
    "etcd #19179, fixed in 3.4.36 and 3.5.18",
)];

async fn over_etcd(release: Release) {
    let Some(program) = release.program() else { return };
    let etcd = Etcd::start(&program).await;
    let subject = Subject { make: external(etcd.endpoint()), skipped: OLD_ETCD };
    hold(subject).await;
    drop(etcd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_one_server_the_cluster() {
    hold(embedded(Keyspace::Cluster)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_one_server_the_applications() {
    hold(embedded(Keyspace::Applications)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_etcd_3_5() {
    over_etcd(Release::Distro35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_etcd_3_4() {
    over_etcd(Release::Debian34).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_with_three_servers() {
    let (subject, dir) = embedded_by_three().await;
    hold(subject).await;
    drop(dir);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_grpc_with_one_server() {
    let served = our_own_grpc(1).await;
    hold(Subject { make: external_by_each(&served), skipped: &[] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_grpc_with_three_servers() {
    let served = our_own_grpc(3).await;
    let make = external_by_each(&served);
    hold(Subject { make, skipped: &[] }).await;
}
