//! A snapshot is read back and compared with what was written.

use super::*;
use crate::embedded::{EmbeddedStore, Keyspace, StoreConfig};
use crate::kv::{KeyRange, KvStore, Op, PutRequest, Txn};

async fn put(kv: &Arc<dyn KvStore>, key: String, value: Vec<u8>) {
    let put = PutRequest { key: key.into(), value: value.into(), lease: 0, prev_kv: false };
    kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
}

async fn collect(kv: &Arc<dyn KvStore>) -> Bytes {
    let mut stream = kv.snapshot().await.unwrap();
    let mut all = Vec::new();
    while let Some(frame) = stream.next().await {
        all.extend_from_slice(&frame.unwrap());
    }
    Bytes::from(all)
}

#[tokio::test]
async fn a_snapshot_holds_what_is_on_disk_and_what_is_not_yet() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config.clone()).await.unwrap();
    let kv = store.keyspace(Keyspace::Cluster);
    for number in 0..40_u8 {
        put(&kv, format!("old/{number:02}"), vec![number; 20_000]).await;
    }
    // After a restart these are read from the state file.
    store.shutdown().await;
    let store = EmbeddedStore::open(config).await.unwrap();
    let kv = store.keyspace(Keyspace::Cluster);
    put(&kv, "old/00".into(), vec![1]).await;
    let range = KeyRange::single("old/39");
    let gone = Op::Delete { range, prev_kv: false };
    kv.txn(Txn { success: vec![gone], ..Txn::default() }).await.unwrap();
    let (lease, _) = kv.lease_grant(0, 500).await.unwrap();
    let snapshot = collect(&kv).await;
    let (header, records) = import(snapshot.clone()).unwrap();
    assert_eq!((header.revision, header.compacted), (43, 0));
    assert_eq!(header.leases, [(lease, 500, 0)]);
    assert_eq!(records.len(), 42);
    assert!(records.is_sorted_by_key(|(at, _)| *at));
    assert_eq!(records[7].1.value, vec![7; 20_000]);
    assert!(records[41].1.tombstone);
    let mut damaged = snapshot.to_vec();
    damaged[500] ^= 1;
    assert!(import(Bytes::from(damaged)).is_err());
}
