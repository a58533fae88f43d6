//! Servers of two releases side by side: the format level rises when the last of them supports it,
//! and whoever supports less than the cluster has is told so.

use std::error::Error as _;

use atoll_store::kv::{Op, PutRequest, Txn};
use atoll_store::testing::{TestCluster, TestError};
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use tempfile::TempDir;

/// A cluster of the release before.
async fn former(dir: &TempDir) -> TestCluster {
    let config = StoreConfig { level_max: 1, ..StoreConfig::default() };
    TestCluster::start_with(dir.path(), 3, config).await.expect("it starts")
}

async fn put(store: &EmbeddedStore, key: &str) {
    let (key, value) = (key.to_owned().into(), "1".into());
    let put = PutRequest { key, value, lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    store.keyspace(Keyspace::Cluster).txn(txn).await.expect("written");
}

fn level(store: &EmbeddedStore) -> u32 {
    store.cluster().formats().level
}

async fn upgrade(cluster: &mut TestCluster, number: usize) {
    cluster.stop(number).await;
    cluster.set_level_max(number, 2);
    cluster.open(number).await.expect("it opens what the release before wrote");
    cluster.leader().await.expect("a leader");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_rises_with_the_last_server_and_all_are_told_of_all_releases() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut cluster = former(&dir).await;
    cluster
        .until("the level of the release before", |cluster| {
            cluster.numbers().iter().all(|number| level(cluster.store(*number)) == 1)
        })
        .await
        .expect("a level");
    for number in [0, 1] {
        upgrade(&mut cluster, number).await;
        put(cluster.store(number), "between").await;
        // Time for whoever leads to do what it would do.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert!(cluster.numbers().iter().all(|number| level(cluster.store(*number)) == 1));
    }
    upgrade(&mut cluster, 2).await;
    cluster
        .until("level 2, and who runs what", |cluster| {
            cluster.numbers().iter().all(|number| {
                let formats = cluster.store(*number).cluster().formats();
                let known = |one: &atoll_store::cluster::MemberFormats| {
                    one.release.as_deref() == Some("of level 2")
                };
                (formats.level, formats.members.len()) == (2, 3)
                    && formats.members.values().all(known)
            })
        })
        .await
        .expect("the level rises");
    put(cluster.store(0), "after").await;
    // Its own folder says that it has come too late for the release before.
    cluster.stop(1).await;
    cluster.set_level_max(1, 1);
    let refused = cluster.open(1).await.expect_err("the level does not fall");
    let TestError::Open(OpenError::Newer { newer }) = refused else { panic!("{refused}") };
    assert_eq!((newer.found, newer.known), (2, 1));
    assert!(newer.to_string().contains("start the release that wrote it"), "{newer}");
    cluster.set_level_max(1, 2);
    cluster.open(1).await.expect("the right release opens it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_back_meanwhile_is_refused_by_the_others_in_words() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut cluster = former(&dir).await;
    upgrade(&mut cluster, 0).await;
    upgrade(&mut cluster, 1).await;
    // It greets as one that supports the level, and hears nothing of what follows.
    let id = |number| cluster.store(number).member_id();
    cluster.network.cut(id(0), id(2));
    cluster.network.cut(id(1), id(2));
    cluster.stop(2).await;
    cluster.set_level_max(2, 2);
    cluster.open(2).await.expect("it opens");
    let rises =
        |cluster: &TestCluster| level(cluster.store(0)) == 2 && level(cluster.store(1)) == 2;
    cluster.until("level 2", rises).await.expect("the level rises");
    cluster.kill(2).await;
    cluster.set_level_max(2, 1);
    cluster.open(2).await.expect("its folder knows nothing of it");
    cluster
        .until("it says why it stops", |cluster| cluster.store(2).failure().is_some())
        .await
        .expect("it stops");
    let failure = cluster.store(2).failure().expect("it stopped");
    let told = ["formats up to level 1", "has the level 2", "the release that the others run"];
    assert!(told.iter().all(|words| failure.contains(words)), "{failure}");
    put(cluster.store(0), "the rest goes on").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sole_server_goes_on_at_the_level_of_its_release() {
    let dir = TempDir::new().expect("a temporary folder");
    let config =
        |level_max| StoreConfig { dir: dir.path().to_owned(), level_max, ..StoreConfig::default() };
    for (level_max, expected) in [(1, 1), (2, 2)] {
        let store = EmbeddedStore::open(config(level_max)).await.expect("it opens");
        put(&store, "a").await;
        assert_eq!(level(&store), expected);
        store.shutdown().await;
    }
    let refused = EmbeddedStore::open(config(1)).await.expect_err("the level does not fall");
    assert!(matches!(refused, OpenError::Newer { .. }), "{refused}");
    for nonsense in [0, 3] {
        let refused = EmbeddedStore::open(config(nonsense)).await.expect_err("no such level");
        let why = refused.source().map(ToString::to_string).unwrap_or_default();
        assert!(why.contains("this release knows 1 to 2"), "{refused}: {why}");
    }
}
