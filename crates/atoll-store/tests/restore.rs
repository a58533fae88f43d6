//! A store's snapshot becomes another store, whose clients notice.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use atoll_store::kv::{Error, KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn, WatchRequest};
use atoll_store::restore::{REVISIONS_SKIPPED, Restore, RestoreError, SnapshotCheck};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt;

async fn open(dir: &Path) -> EmbeddedStore {
    let config = StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() };
    EmbeddedStore::open(config).await.unwrap()
}

async fn put(kv: &Arc<dyn KvStore>, key: &str, value: &str, lease: i64) -> i64 {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        prev_kv: false,
    };
    kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap().revision
}

async fn values(kv: &Arc<dyn KvStore>) -> Vec<(String, String, i64)> {
    let old = KeyRange { key: "a".into(), end: Some("c".into()) };
    let found = kv.range(RangeRequest::new(old)).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value), kv.mod_revision)).collect()
}

async fn snapshot(store: &EmbeddedStore) -> Vec<u8> {
    let mut chunks = store.snapshots().take().await.unwrap().chunks;
    let mut all = Vec::new();
    while let Some(chunk) = chunks.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

#[tokio::test]
async fn a_restored_store_has_what_the_snapshot_had_at_later_revisions() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = open(&folder.path().join("old")).await;
    let (cluster, applications) =
        (store.keyspace(Keyspace::Cluster), store.keyspace(Keyspace::Applications));
    let (lease, _) = applications.lease_grant(0, 600).await.unwrap();
    put(&cluster, "a", "1", 0).await;
    put(&cluster, "a", "2", 0).await;
    put(&applications, "b", "3", lease).await;
    let bytes = snapshot(&store).await;
    // Lost: whoever has seen it must notice.
    let lost = put(&cluster, "a", "lost", 0).await;
    let old_cluster = store.cluster_id().to_owned();
    store.shutdown().await;

    let mut check = SnapshotCheck::default();
    check.push(&bytes).unwrap();
    let contents = check.finish().unwrap();
    assert_eq!((contents.cluster_revision, contents.applications_revision), (3, 2));
    assert_eq!(contents.records, 3);

    let dir = folder.path().join("new");
    let mut restore = Restore::begin(&dir).unwrap();
    bytes.chunks(1000).for_each(|piece| restore.push(piece).unwrap());
    assert_eq!(restore.finish().unwrap().contents, contents);
    // Twice, as a log that was not there before must be found again.
    for start in 0..2 {
        let store = open(&dir).await;
        assert_ne!(store.cluster_id(), old_cluster);
        let (cluster, applications) =
            (store.keyspace(Keyspace::Cluster), store.keyspace(Keyspace::Applications));
        assert_eq!(values(&cluster).await, [("a".into(), "2".into(), 3)], "start {start}");
        assert_eq!(values(&applications).await, [("b".into(), "3".into(), 2)]);
        let info = applications.lease_info(lease).await.unwrap();
        assert_eq!((info.ttl, info.keys.len()), (600, 1));
        assert!(cluster.status().await.unwrap().revision >= 3 + REVISIONS_SKIPPED);
        let watch = WatchRequest {
            range: KeyRange::prefix("a"),
            start_revision: Some(lost),
            prev_kv: false,
        };
        let told = cluster.watch(watch).next().await.unwrap().unwrap_err();
        assert!(matches!(told, Error::Compacted { .. }), "{told}");
        let next = put(&cluster, "new", "4", 0).await;
        assert_eq!(next, 4 + REVISIONS_SKIPPED + start);
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_folder_with_something_in_it_and_half_a_snapshot_are_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = open(&folder.path().join("old")).await;
    put(&store.keyspace(Keyspace::Cluster), "a", "1", 0).await;
    let bytes = snapshot(&store).await;
    store.shutdown().await;
    let refused = Restore::begin(&folder.path().join("old")).unwrap_err();
    assert!(matches!(refused, RestoreError::NotEmpty { .. }), "{refused}");

    let dir = folder.path().join("new");
    let mut restore = Restore::begin(&dir).unwrap();
    restore.push(&bytes[..bytes.len() - 1]).unwrap();
    let refused = restore.finish().unwrap_err().to_string();
    assert!(refused.contains("cut short"), "{refused}");
    assert!(!dir.join("state.redb").exists());
}
