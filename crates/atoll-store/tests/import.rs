//! A history that another store had is continued at its revisions, or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_store::kv::{
    Error, EventKind, HistoryRecord, ImportEnd, ImportPiece, KeyRange, KeyValue, KvStore, Op,
    PutRequest, RangeRequest, Txn, WatchRequest,
};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt;

const LEASE: i64 = 7;

async fn open(dir: &Path) -> (EmbeddedStore, Arc<dyn KvStore>) {
    let config = StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await.unwrap();
    let keyspace = store.keyspace(Keyspace::Applications);
    (store, keyspace)
}

fn version(key: &str, at: (i64, u32), created: i64, version: i64, lease: i64) -> HistoryRecord {
    let kv = KeyValue {
        key: key.to_owned().into(),
        value: format!("{key} at {}", at.0).into(),
        create_revision: created,
        mod_revision: at.0,
        version,
        lease,
    };
    HistoryRecord { kv, sub: at.1, deletion: false }
}

fn deletion(key: &str, at: (i64, u32)) -> HistoryRecord {
    let kv = KeyValue { key: key.to_owned().into(), mod_revision: at.0, ..KeyValue::default() };
    HistoryRecord { kv, sub: at.1, deletion: true }
}

/// As an etcd has it that was compacted at 20.
fn pieces() -> [ImportPiece; 2] {
    let first = vec![version("a", (12, 0), 5, 4, 0), version("b", (20, 0), 20, 1, LEASE)];
    let second = vec![
        version("a", (21, 0), 5, 5, LEASE),
        version("c", (21, 1), 21, 1, 0),
        deletion("c", (30, 0)),
        version("d", (31, 0), 31, 1, 9),
    ];
    let end = ImportEnd { revision: 40, compacted_revision: 20, leases: vec![(LEASE, 600)] };
    [
        ImportPiece { after: 1, records: first, end: None },
        ImportPiece { after: 20, records: second, end: Some(end) },
    ]
}

/// Above level 1, which a new store reaches by itself.
async fn import(keyspace: &Arc<dyn KvStore>, piece: &ImportPiece) -> Result<i64, Error> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match keyspace.import(piece.clone()).await {
            Err(Error::Unavailable { detail })
                if detail.contains("format level") && Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome,
        }
    }
}

async fn all(keyspace: &Arc<dyn KvStore>, revision: Option<i64>) -> Vec<KeyValue> {
    let range = KeyRange { key: "\0".into(), end: Some("\0".into()) };
    let request = RangeRequest { revision, ..RangeRequest::new(range) };
    keyspace.range(request).await.unwrap().kvs
}

async fn records(keyspace: &Arc<dyn KvStore>) -> Vec<HistoryRecord> {
    let batches: Vec<_> = keyspace.history().await.unwrap().records.collect().await;
    batches.into_iter().flat_map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_history_is_continued_at_its_revisions() {
    let folder = tempfile::tempdir().unwrap();
    let (store, keyspace) = open(folder.path()).await;
    let everything = KeyRange { key: "\0".into(), end: Some("\0".into()) };
    let start_revision = Some(21);
    let request = WatchRequest { range: everything, start_revision, prev_kv: false };
    let mut watch = keyspace.watch(request);
    let [first, second] = pieces();
    assert_eq!(import(&keyspace, &first).await, Ok(20));
    assert_eq!(import(&keyspace, &second).await, Ok(40));
    // A piece whose answer was lost is not taken twice.
    let again = import(&keyspace, &second).await.unwrap_err().to_string();
    assert!(again.contains("after revision 20, and the keyspace is at 40"), "{again}");
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let batch = watch.next().await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| (event.kv.mod_revision, event.kind)));
    }
    let put = EventKind::Put;
    assert_eq!(seen, [(21, put), (21, put), (30, EventKind::Delete), (31, put)]);
    holds_it(&keyspace).await;
    store.shutdown().await;
    // From the log, and once it is flushed from the state file.
    for _ in 0..2 {
        let (store, keyspace) = open(folder.path()).await;
        holds_it(&keyspace).await;
        store.shutdown().await;
    }
    let (_store, keyspace) = open(folder.path()).await;
    keyspace.lease_revoke(LEASE).await.unwrap();
    let keys: Vec<_> = all(&keyspace, None).await.into_iter().map(|kv| kv.key).collect();
    assert_eq!(keys, ["d"]);
}

async fn holds_it(keyspace: &Arc<dyn KvStore>) {
    let [first, second] = pieces();
    let live = [&second.records[0], &first.records[1], &second.records[3]];
    assert_eq!(all(keyspace, None).await, live.map(|record| record.kv.clone()));
    let then = [&second.records[0], &first.records[1], &second.records[1]];
    assert_eq!(all(keyspace, Some(29)).await, then.map(|record| record.kv.clone()));
    let compacted = keyspace
        .range(RangeRequest { revision: Some(19), ..RangeRequest::new(KeyRange::single("a")) });
    assert!(matches!(compacted.await, Err(Error::Compacted { .. })));
    assert_eq!(keyspace.status().await.unwrap().revision, 40);
    let lease = keyspace.lease_info(LEASE).await.unwrap();
    assert_eq!((lease.ttl, lease.keys.len()), (600, 2));
    assert!(lease.remaining > 500);
    // The version of `a` that was replaced after the compaction is kept for reads at 20.
    let kept: Vec<_> = records(keyspace).await.iter().map(|one| one.kv.mod_revision).collect();
    assert_eq!(kept, [12, 20, 21, 21, 30, 31]);
}

#[tokio::test]
async fn what_has_no_place_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, keyspace) = open(folder.path()).await;
    let refused = |records: Vec<HistoryRecord>, end: Option<ImportEnd>| {
        let keyspace = keyspace.clone();
        async move {
            let piece = ImportPiece { after: 1, records, end };
            import(&keyspace, &piece).await.unwrap_err().to_string()
        }
    };
    let a = || version("a", (5, 0), 5, 1, 0);
    let early = refused(vec![version("a", (1, 0), 1, 1, 0)], None).await;
    assert!(early.contains("not in its place"), "{early}");
    let twice = refused(vec![a(), a()], None).await;
    assert!(twice.contains("not in its place"), "{twice}");
    let end = |revision, compacted_revision| {
        Some(ImportEnd { revision, compacted_revision, leases: Vec::new() })
    };
    assert!(refused(vec![a()], end(4, 0)).await.contains("cannot end"));
    assert!(refused(vec![a()], end(5, 6)).await.contains("cannot end"));
    assert!(all(&keyspace, None).await.is_empty());
    assert_eq!(keyspace.status().await.unwrap().revision, 1);
    // Somebody else was first.
    let put = PutRequest { key: "x".into(), value: "y".into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    keyspace.txn(txn).await.unwrap();
    assert!(refused(vec![a()], None).await.contains("somebody else writes"));
    assert_eq!(all(&keyspace, None).await.len(), 1);
}
