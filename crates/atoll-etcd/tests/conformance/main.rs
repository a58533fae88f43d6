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
mod world;

use atoll_etcd::external::{ExternalConfig, ExternalStore};
use atoll_etcd::server::{Config, EtcdServer};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use etcd::{Etcd, Release};
use world::World;

/// Behind this, a watch that is not read is ended; small, so that it can be tried.
const WATCH_BEHIND_BYTES_MAX: usize = 1 << 20;

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
        let world = (subject.make)().await;
        // A task of its own, so that one that fails does not end the others.
        let mut task = JoinSet::new();
        task.spawn(check(world));
        match task.join_next().await {
            Some(Ok(())) => held += 1,
            _ => broken.push(name),
        }
    }
    println!("{held} statements hold");
    assert!(broken.is_empty(), "these do not hold: {broken:?}");
}

fn embedded(keyspace: Keyspace) -> Subject {
    let make: Make = Box::new(move || {
        Box::pin(async move {
            let dir = TempDir::new().expect("a temporary folder");
            let config = StoreConfig {
                dir: dir.path().to_owned(),
                watch_ring_bytes: 64 << 10,
                watch_behind_bytes_max: WATCH_BEHIND_BYTES_MAX as u64,
                ..StoreConfig::default()
            };
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

/// Our own gRPC over a store in this process, and the client of an external etcd over that. It
/// ends with what is returned.
async fn own_grpc() -> (String, (JoinSet<()>, EmbeddedStore, TempDir)) {
    let dir = TempDir::new().expect("a temporary folder");
    let config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await.expect("the folder opens");
    let kv = store.keyspace(Keyspace::Applications);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let config = Config { cluster_id: 7, member_id: store.member_id(), ..Config::default() };
    let server = EtcdServer::new(kv, store.cluster(), config);
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let (stream, remote) = listener.accept().await.ok()?;
        Some(((stream, Some(remote)), listener))
    });
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        server.serve(Box::pin(accepted), None, CancellationToken::new()).await;
    });
    (endpoint, (serving, store, dir))
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
async fn our_own_grpc() {
    let (endpoint, serving) = own_grpc().await;
    hold(Subject { make: external(endpoint), skipped: &[] }).await;
    drop(serving);
}
