//! Room in a store: history that goes by itself, quotas, and what goes through without room.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{Error, KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn, TxnResult};
use atoll_store::{EmbeddedStore, Keyspace, Retention, StoreConfig};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::Instant;

/// Long enough for a slow disk, and for history that is kept for ten seconds at least.
const PATIENCE: Duration = Duration::from_secs(40);
const QUOTA_BYTES: u64 = 4 << 20;
const VALUE_BYTES: usize = 200_000;

async fn open(dir: &TempDir, change: impl FnOnce(&mut StoreConfig)) -> EmbeddedStore {
    let mut config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    change(&mut config);
    EmbeddedStore::open(config).await.expect("the folder opens")
}

fn put(key: &str, bytes: usize) -> Op {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(vec![b'x'; bytes]));
    Op::Put(PutRequest { key, value, lease: 0, prev_kv: false })
}

fn delete(prefix: &str) -> Op {
    let range = KeyRange::prefix(Bytes::from(prefix.to_owned()));
    Op::Delete { range, prev_kv: false }
}

async fn write(kv: &Arc<dyn KvStore>, op: Op) -> Result<TxnResult, Error> {
    kv.txn(Txn { success: vec![op], ..Txn::default() }).await
}

async fn read_at(kv: &Arc<dyn KvStore>, revision: i64) -> Result<u64, Error> {
    let range = KeyRange::prefix(Bytes::new());
    let range = KeyRange { key: Bytes::from_static(b"\0"), ..range };
    let request = RangeRequest { revision: Some(revision), ..RangeRequest::new(range) };
    Ok(kv.range(request).await?.count)
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Puts keys until there is no room.
async fn fill(kv: &Arc<dyn KvStore>, key: impl Fn(usize) -> String) {
    for number in 0..100 {
        match write(kv, put(&key(number), VALUE_BYTES)).await {
            Ok(_) => {}
            Err(Error::NoSpace { detail }) => {
                assert!(detail.contains(&format!("of {QUOTA_BYTES} bytes")), "{detail}");
                assert!(detail.contains("delete"), "{detail}");
                return;
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it is never full");
}

#[tokio::test]
async fn history_older_than_its_period_goes_by_itself_and_the_present_stays() {
    let dir = TempDir::new().unwrap();
    let period = Retention::Period(Duration::from_secs(1));
    let store = open(&dir, |config| config.applications.retention = period).await;
    let kv = store.keyspace(Keyspace::Applications);
    let other = store.keyspace(Keyspace::Cluster);
    for keyspace in [&kv, &other] {
        for _ in 0..5 {
            write(keyspace, put("a", 10)).await.unwrap();
        }
    }
    assert_eq!(read_at(&kv, 2).await, Ok(1));
    eventually("old history goes", || async {
        matches!(read_at(&kv, 5).await, Err(Error::Compacted { .. }))
    })
    .await;
    assert_eq!(read_at(&kv, 6).await, Ok(1));
    let status = kv.status().await.unwrap();
    assert!(status.compacted_revision <= 6, "{status:?}");
    // The other keyspace has a retention of its own.
    assert_eq!(read_at(&other, 2).await, Ok(1));
    store.shutdown().await;
}

#[tokio::test]
async fn a_full_keyspace_takes_deletes_and_compaction_and_leaves_the_other_alone() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, |config| config.applications.quota_bytes = QUOTA_BYTES).await;
    let kv = store.keyspace(Keyspace::Applications);
    fill(&kv, |number| format!("key/{number}")).await;
    let status = kv.status().await.unwrap();
    assert!(status.no_space && status.quota_bytes == QUOTA_BYTES, "{status:?}");
    // Small ones too, and leases, for they stay.
    assert!(matches!(write(&kv, put("b", 1)).await, Err(Error::NoSpace { .. })));
    assert!(matches!(kv.lease_grant(0, 60).await, Err(Error::NoSpace { .. })));
    let cluster = store.keyspace(Keyspace::Cluster);
    assert!(!cluster.status().await.unwrap().no_space);
    write(&cluster, put("a", VALUE_BYTES)).await.unwrap();

    // A restart knows it too.
    drop(kv);
    store.shutdown().await;
    let store = open(&dir, |config| config.applications.quota_bytes = QUOTA_BYTES).await;
    let kv = store.keyspace(Keyspace::Applications);
    assert!(kv.status().await.unwrap().no_space);
    assert!(matches!(write(&kv, put("b", 1)).await, Err(Error::NoSpace { .. })));

    let only_deletes = Txn {
        success: vec![delete("key/1"), delete("none")],
        failure: vec![delete("none")],
        ..Txn::default()
    };
    kv.txn(only_deletes).await.unwrap();
    let revision = write(&kv, delete("key/")).await.unwrap().revision;
    kv.compact(revision).await.unwrap();
    eventually("the alarm clears itself", || async { !kv.status().await.unwrap().no_space }).await;
    write(&kv, put("b", VALUE_BYTES)).await.unwrap();
    store.shutdown().await;
}

#[tokio::test]
async fn history_that_nobody_asked_to_keep_goes_before_writes_are_refused_for_long() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, |config| config.applications.quota_bytes = QUOTA_BYTES).await;
    let kv = store.keyspace(Keyspace::Applications);
    fill(&kv, |_| "one".to_owned()).await;
    assert!(kv.status().await.unwrap().no_space);
    // Nobody compacts and nobody deletes.
    eventually("there is room again", || async {
        write(&kv, put("one", VALUE_BYTES)).await.is_ok()
    })
    .await;
    assert!(!kv.status().await.unwrap().no_space);
    store.shutdown().await;
}

#[tokio::test]
async fn history_that_somebody_asked_to_keep_stays_whatever_the_room() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, |config| {
        config.applications.quota_bytes = QUOTA_BYTES;
        config.applications.retention = Retention::Period(Duration::from_secs(3600));
    })
    .await;
    let kv = store.keyspace(Keyspace::Applications);
    fill(&kv, |_| "one".to_owned()).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(matches!(write(&kv, put("one", VALUE_BYTES)).await, Err(Error::NoSpace { .. })));
    assert_eq!(read_at(&kv, 2).await, Ok(1));
    store.shutdown().await;
}
