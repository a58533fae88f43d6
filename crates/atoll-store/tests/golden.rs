//! What releases wrote is read for ever: each folder in `tests/golden` is a store as one of them
//! left it (`cargo xtask golden` adds that of this one), and its snapshot.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_store::kv::{
    EventKind, KeyRange, KvStore, Op, PutRequest, RangeRequest, Revision, Txn, WatchRequest,
};
use atoll_store::restore::{REVISIONS_SKIPPED, Restore};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt as _;

fn releases() -> Vec<PathBuf> {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut found: Vec<_> = fs::read_dir(all)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    assert!(found.len() >= 2, "{found:?}");
    found
}

fn unpack(release: &Path, dir: &Path) {
    fs::create_dir_all(dir.join("wal")).unwrap();
    for entry in fs::read_dir(release).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".zst") else { continue };
        let content = zstd::bulk::decompress(&fs::read(&path).unwrap(), 64 << 20).unwrap();
        fs::write(dir.join(name.replace('+', "/")), content).unwrap();
    }
}

async fn open(dir: &Path) -> EmbeddedStore {
    let config = StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() };
    EmbeddedStore::open(config).await.unwrap()
}

async fn values(kv: &Arc<dyn KvStore>, revision: Option<Revision>) -> Vec<(String, String)> {
    let mut request = RangeRequest::new(KeyRange { key: "a".into(), end: Some("{".into()) });
    request.revision = revision;
    let found = kv.range(request).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let short = |value: String| if value.len() > 20 { "long".to_owned() } else { value };
    found.kvs.iter().map(|kv| (text(&kv.key), short(text(&kv.value)))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn put(kv: &Arc<dyn KvStore>, key: &str) -> Revision {
    let (key, value) = (key.to_owned().into(), "new".into());
    let put = PutRequest { key, value, lease: 0, prev_kv: false };
    kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap().revision
}

/// All that was ever written there, at its revisions.
async fn check(store: &EmbeddedStore, skipped: Revision) {
    let kv = Keyspace::ALL.map(|keyspace| store.keyspace(keyspace));
    let cluster = [("in the log", "a"), ("kept", "second"), ("large", "long"), ("leased", "x")];
    assert_eq!(values(&kv[0], None).await, pairs(&cluster));
    let applications = [("in the log", "b"), ("kept", "second"), ("leased", "x")];
    assert_eq!(values(&kv[1], None).await, pairs(&applications));
    for (keyspace, revision) in kv.iter().zip([19, 7]) {
        assert_eq!(keyspace.status().await.unwrap().revision, revision + skipped);
        let lease = keyspace.lease_info(77).await.unwrap();
        assert_eq!((lease.ttl, lease.keys.len()), (1_000_000, 1));
    }
}

/// The past, which a restored store has not.
async fn check_past(store: &EmbeddedStore) {
    let kv = Keyspace::ALL.map(|keyspace| store.keyspace(keyspace));
    assert_eq!(values(&kv[0], Some(2)).await, pairs(&[("kept", "first")]));
    assert_eq!(values(&kv[1], Some(4)).await, pairs(&[("gone", "1"), ("kept", "second")]));
    assert_eq!(kv[1].status().await.unwrap().compacted_revision, 3);
    let range = KeyRange::single("gone");
    let watch = WatchRequest { range, start_revision: Some(4), prev_kv: false };
    let events = kv[1].watch(watch).take(1).collect::<Vec<_>>().await;
    let kinds: Vec<_> = events[0].as_ref().unwrap().events.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [EventKind::Put, EventKind::Delete]);
}

#[tokio::test]
async fn what_every_release_left_is_opened_and_gone_on_with() {
    for release in releases() {
        println!("{}", release.display());
        let dir = tempfile::tempdir().unwrap();
        unpack(&release, dir.path());
        let store = open(dir.path()).await;
        check(&store, 0).await;
        check_past(&store).await;
        // Its level rises by itself, as that of any sole server.
        let formats = store.cluster().formats();
        assert_eq!(formats.level, formats.supported);
        assert_eq!(put(&store.keyspace(Keyspace::Cluster), "zz").await, 20);
        store.shutdown().await;
        let store = open(dir.path()).await;
        let found = values(&store.keyspace(Keyspace::Cluster), None).await;
        assert_eq!(found.last(), pairs(&[("zz", "new")]).last());
        store.shutdown().await;
    }
}

#[tokio::test]
async fn the_snapshots_of_every_release_are_restored() {
    for release in releases() {
        println!("{}", release.display());
        let dir = tempfile::tempdir().unwrap();
        let mut restore = Restore::begin(&dir.path().join("store")).unwrap();
        restore.push(&fs::read(release.join("snapshot")).unwrap()).unwrap();
        restore.finish().unwrap();
        let store = open(&dir.path().join("store")).await;
        check(&store, REVISIONS_SKIPPED).await;
        store.shutdown().await;
    }
}
