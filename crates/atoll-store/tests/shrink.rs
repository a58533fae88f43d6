//! The state file gives back what it does not need: by itself, and when it is asked to.

use std::path::Path;
use std::time::{Duration, Instant};

use atoll_store::kv::{KeyRange, KvStore, Op, PutRequest, RangeRequest, Status, Txn};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tempfile::TempDir;

const KEYS: usize = 6000;
const VALUE_BYTES: usize = 4000;

fn config(dir: &Path) -> StoreConfig {
    let flush_every = Duration::from_millis(200);
    StoreConfig { dir: dir.to_owned(), flush_every, ..StoreConfig::default() }
}

fn put(number: usize, bytes: usize) -> Txn {
    let (key, value) = (format!("key/{number:06}").into(), vec![b'v'; bytes].into());
    let put = Op::Put(PutRequest { key, value, lease: 0, prev_kv: false });
    Txn { success: vec![put], ..Txn::default() }
}

async fn fill(kv: &dyn KvStore) {
    let puts = (0..KEYS).map(|number| kv.txn(put(number, VALUE_BYTES)));
    for done in futures::future::join_all(puts).await {
        done.expect("a put succeeds");
    }
}

/// All but every hundredth.
async fn delete_most(kv: &dyn KvStore) {
    for hundred in 0..KEYS / 100 {
        let key = format!("key/{:06}", hundred * 100 + 1).into();
        let range = KeyRange { key, end: Some(format!("key/{:06}", hundred * 100 + 100).into()) };
        let delete = Op::Delete { range, prev_kv: false };
        kv.txn(Txn { success: vec![delete], ..Txn::default() }).await.expect("a delete succeeds");
    }
    let revision = status(kv).await.revision;
    kv.compact(revision).await.expect("a compaction succeeds");
}

async fn status(kv: &dyn KvStore) -> Status {
    kv.status().await.expect("a status")
}

async fn until(what: &str, kv: &dyn KvStore, is_so: impl Fn(&Status) -> bool) -> Status {
    let start = Instant::now();
    loop {
        let now = status(kv).await;
        if is_so(&now) {
            return now;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn check_rest(kv: &dyn KvStore) {
    let found = kv.range(RangeRequest::new(KeyRange::prefix("key/"))).await.expect("readable");
    assert_eq!(found.kvs.len(), KEYS / 100);
    assert!(found.kvs.iter().all(|kv| kv.value.len() == VALUE_BYTES));
}

#[tokio::test(flavor = "multi_thread")]
async fn defragment_answers_when_the_file_is_small_and_writes_go_on_meanwhile() {
    let dir = TempDir::new().expect("a temporary folder");
    let store = EmbeddedStore::open(config(dir.path())).await.expect("it opens");
    let kv = store.keyspace(Keyspace::Applications);
    fill(&*kv).await;
    let full = until("flushed", &*kv, |now| now.state_bytes > (KEYS * VALUE_BYTES) as u64).await;
    println!("{full:?}");
    // Nothing can go yet; it is no less for that.
    kv.defragment().await.expect("nothing to do");
    println!("after defragment: {:?}", status(&*kv).await);
    delete_most(&*kv).await;
    let writer = store.keyspace(Keyspace::Cluster);
    let writes = async {
        let mut longest = Duration::ZERO;
        for number in 0..400 {
            let start = Instant::now();
            writer.txn(put(number % 10, 100)).await.expect("a put succeeds");
            longest = longest.max(start.elapsed());
        }
        longest
    };
    let (done, longest) = tokio::join!(kv.defragment(), writes);
    done.expect("it is done");
    let small = status(&*kv).await;
    assert!(small.state_bytes * 10 < full.state_bytes, "{small:?} after {full:?}");
    println!("the longest write took {longest:?}");
    check_rest(&*kv).await;
    // What is asked for twice at once is done for both.
    let (one, other) = tokio::join!(kv.defragment(), kv.defragment());
    assert!(one.is_ok() && other.is_ok(), "{one:?}, {other:?}");
    store.shutdown().await;
    let store = EmbeddedStore::open(config(dir.path())).await.expect("it opens again");
    check_rest(&*store.keyspace(Keyspace::Applications)).await;
    let stopping = store.keyspace(Keyspace::Applications);
    let (asked, ()) = tokio::join!(stopping.defragment(), store.shutdown());
    drop(asked);
    assert!(!dir.path().join("rewrite.tmp").exists(), "it was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_most_is_of_no_use_shrinks_by_itself() {
    let dir = TempDir::new().expect("a temporary folder");
    let shrink_from_bytes = 8 << 20;
    let config = StoreConfig { shrink_from_bytes, ..config(dir.path()) };
    let store = EmbeddedStore::open(config).await.expect("it opens");
    let kv = store.keyspace(Keyspace::Applications);
    fill(&*kv).await;
    let full = until("flushed", &*kv, |now| now.state_bytes > (KEYS * VALUE_BYTES) as u64).await;
    // A reader from before keeps what it reads.
    let snapshot = kv.snapshot().await.expect("a snapshot begins");
    delete_most(&*kv).await;
    until("smaller", &*kv, |now| now.state_bytes * 10 < full.state_bytes).await;
    check_rest(&*kv).await;
    let copied: u64 = futures::StreamExt::fold(snapshot, 0, async |sum, chunk| {
        sum + chunk.expect("a chunk").len() as u64
    })
    .await;
    assert!(copied > 0);
    store.shutdown().await;
}
