//! The store as its users see it: on a real disk, through the public trait alone.

use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{
    Compare, CompareTarget, Error, EventKind, KeyRange, KvStore, Op, OpResult, PutRequest,
    RangeRequest, Relation, Txn, TxnResult, WatchBatch, WatchRequest,
};
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;

type Watch = BoxStream<'static, Result<WatchBatch, Error>>;

/// Long enough for a slow disk; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(dir: &TempDir) -> StoreConfig {
    StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() }
}

async fn open(dir: &TempDir) -> (EmbeddedStore, Arc<dyn KvStore>) {
    let store = EmbeddedStore::open(config(dir)).await.expect("the folder opens");
    let keyspace = store.keyspace(Keyspace::Cluster);
    (store, keyspace)
}

fn put(key: &str, value: &str) -> Op {
    put_with_lease(key, value, 0)
}

fn put_with_lease(key: &str, value: &str, lease: i64) -> Op {
    Op::Put(PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease,
        prev_kv: true,
    })
}

fn delete(range: KeyRange) -> Op {
    Op::Delete { range, prev_kv: true }
}

fn key(key: &str) -> KeyRange {
    KeyRange::single(Bytes::copy_from_slice(key.as_bytes()))
}

fn prefix(prefix: &str) -> KeyRange {
    KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes()))
}

async fn write(kv: &Arc<dyn KvStore>, op: Op) -> TxnResult {
    kv.txn(Txn { success: vec![op], ..Txn::default() }).await.expect("the write succeeds")
}

async fn values(kv: &Arc<dyn KvStore>, range: KeyRange, revision: Option<i64>) -> Vec<String> {
    let request = RangeRequest { revision, ..RangeRequest::new(range) };
    let found = kv.range(request).await.expect("the read succeeds");
    found
        .kvs
        .iter()
        .map(|kv| {
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            format!("{}={value}", String::from_utf8_lossy(&kv.key))
        })
        .collect()
}

async fn next(watch: &mut Watch) -> Result<WatchBatch, Error> {
    let found = tokio::time::timeout(PATIENCE, watch.next()).await;
    found.expect("the watch moves").expect("the watch goes on")
}

#[tokio::test]
async fn an_empty_store_is_at_revision_one_and_writes_raise_it() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    assert_eq!(kv.range(RangeRequest::new(prefix("a"))).await.unwrap().revision, 1);
    assert_eq!(write(&kv, put("a", "1")).await.revision, 2);
    assert_eq!(write(&kv, put("a", "2")).await.revision, 3);
    assert_eq!(write(&kv, delete(key("b"))).await.revision, 3);
    assert_eq!(values(&kv, key("a"), None).await, ["a=2"]);
    assert_eq!(values(&kv, key("a"), Some(2)).await, ["a=1"]);
    let status = kv.status().await.unwrap();
    assert_eq!((status.revision, status.is_leader), (3, true));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let (store, kv) = open(&dir).await;
    for number in 0..50 {
        write(&kv, put(&format!("k{number:02}"), "v")).await;
    }
    write(&kv, delete(key("k07"))).await;
    let id = store.cluster_id().to_owned();
    store.shutdown().await;
    assert!(matches!(
        kv.range(RangeRequest::new(key("k01"))).await,
        Err(Error::Unavailable { .. })
    ));
    drop(store);
    let (store, kv) = open(&dir).await;
    assert_eq!(store.cluster_id(), id);
    let found = kv.range(RangeRequest::new(prefix("k"))).await.unwrap();
    assert_eq!((found.count, found.revision), (49, 52));
    assert_eq!(found.kvs[0].value, "v");
    assert_eq!(write(&kv, put("k07", "again")).await.revision, 53);
}

#[tokio::test]
async fn the_keyspaces_do_not_see_each_other() {
    let dir = TempDir::new().unwrap();
    let (store, cluster) = open(&dir).await;
    let applications = store.keyspace(Keyspace::Applications);
    write(&cluster, put("a", "cluster")).await;
    assert_eq!(write(&applications, put("b", "application")).await.revision, 2);
    assert_eq!(values(&cluster, prefix("b"), None).await.len(), 0);
    assert_eq!(values(&applications, prefix("b"), None).await, ["b=application"]);
}

#[tokio::test]
async fn a_transaction_takes_one_branch_at_one_revision() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let create = |value: &str| Txn {
        compare: vec![Compare {
            range: key("a"),
            relation: Relation::Equal,
            target: CompareTarget::ModRevision(0),
        }],
        success: vec![put("a", value), put("b", value)],
        failure: vec![Op::Range(RangeRequest::new(key("a")))],
    };
    let first = kv.txn(create("1")).await.unwrap();
    assert!(first.succeeded);
    assert_eq!(first.revision, 2);
    let second = kv.txn(create("2")).await.unwrap();
    assert!(!second.succeeded);
    let [OpResult::Range(found)] = &second.responses[..] else { panic!("{second:?}") };
    assert_eq!(found.kvs[0].value, "1");
    assert_eq!((second.revision, found.kvs[0].mod_revision), (2, 2));
}

#[tokio::test]
async fn inner_transactions_share_the_revision_and_decide_from_before() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let inner = Txn {
        compare: vec![Compare {
            range: key("a"),
            relation: Relation::Equal,
            target: CompareTarget::Version(0),
        }],
        success: vec![put("b", "inner")],
        failure: vec![put("c", "other")],
    };
    let outer = Txn {
        success: vec![
            put("a", "outer"),
            Op::Txn(Box::new(inner)),
            Op::Range(RangeRequest::new(prefix(""))),
        ],
        ..Txn::default()
    };
    // An empty prefix is no key.
    assert_eq!(kv.txn(outer.clone()).await, Err(Error::EmptyKey));
    let mut outer = outer;
    outer.success.pop();
    outer.success.push(Op::Range(RangeRequest::new(KeyRange {
        key: Bytes::from_static(b"\0"),
        end: Some(Bytes::from_static(b"\0")),
    })));
    let result = kv.txn(outer).await.unwrap();
    let OpResult::Txn(inner) = &result.responses[1] else { panic!("{result:?}") };
    assert!(inner.succeeded);
    assert_eq!((inner.revision, result.revision), (2, 2));
    let OpResult::Range(found) = &result.responses[2] else { panic!("{result:?}") };
    assert_eq!(found.count, 2);
    assert_eq!(found.kvs[1].mod_revision, 2);
}

#[tokio::test]
async fn transactions_that_make_no_sense_are_refused_whole() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let twice = Txn { success: vec![put("a", "1"), put("a", "2")], ..Txn::default() };
    assert_eq!(kv.txn(twice).await, Err(Error::DuplicateKey));
    let deleted = Txn { success: vec![put("a", "1"), delete(prefix("a"))], ..Txn::default() };
    assert_eq!(kv.txn(deleted).await, Err(Error::DuplicateKey));
    let lease = Txn { success: vec![put("a", "1"), put_with_lease("b", "1", 9)], ..Txn::default() };
    assert_eq!(kv.txn(lease).await, Err(Error::LeaseNotFound { id: 9 }));
    let many = Txn { success: vec![put("a", "1"); 129], ..Txn::default() };
    assert_eq!(kv.txn(many).await, Err(Error::TooManyOperations { operations: 129, limit: 128 }));
    let large = Txn { success: vec![put("a", &"x".repeat(2 << 20))], ..Txn::default() };
    assert!(matches!(kv.txn(large).await, Err(Error::TooLarge { .. })));
    assert_eq!(kv.status().await.unwrap().revision, 1);
}

#[tokio::test]
async fn ranges_are_limited_counted_and_read_in_the_past() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    for name in ["p/a", "p/b", "p/c", "q"] {
        write(&kv, put(name, "v")).await;
    }
    let limited = RangeRequest { limit: 2, ..RangeRequest::new(prefix("p/")) };
    let found = kv.range(limited).await.unwrap();
    assert_eq!((found.kvs.len(), found.count, found.more), (2, 3, true));
    let counted = RangeRequest { count_only: true, ..RangeRequest::new(prefix("p/")) };
    let found = kv.range(counted).await.unwrap();
    assert_eq!((found.kvs.len(), found.count, found.more), (0, 3, false));
    let keys = RangeRequest { keys_only: true, ..RangeRequest::new(key("q")) };
    assert!(kv.range(keys).await.unwrap().kvs[0].value.is_empty());
    assert_eq!(values(&kv, prefix("p/"), Some(3)).await, ["p/a=v", "p/b=v"]);
    let future = RangeRequest { revision: Some(9), ..RangeRequest::new(key("q")) };
    assert_eq!(kv.range(future).await, Err(Error::Future { requested: 9, current: 5 }));
}

#[tokio::test]
async fn a_watch_sees_every_change_of_its_range_in_order() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    write(&kv, put("a/1", "old")).await;
    let mut now =
        kv.watch(WatchRequest { range: prefix("a/"), start_revision: None, prev_kv: true });
    let mut past =
        kv.watch(WatchRequest { range: prefix("a/"), start_revision: Some(2), prev_kv: false });
    write(&kv, put("b", "elsewhere")).await;
    write(&kv, put("a/1", "new")).await;
    write(&kv, delete(key("a/1"))).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next(&mut now).await.unwrap().events);
    }
    assert_eq!((seen[0].kind, seen[0].kv.mod_revision), (EventKind::Put, 4));
    assert_eq!(seen[0].prev_kv.as_ref().unwrap().value, "old");
    assert_eq!((seen[1].kind, seen[1].kv.mod_revision), (EventKind::Delete, 5));
    assert_eq!(seen[1].prev_kv.as_ref().unwrap().value, "new");
    let mut revisions = Vec::new();
    while revisions.len() < 3 {
        let batch = next(&mut past).await.unwrap();
        revisions.extend(batch.events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(revisions, [2, 4, 5]);
    assert_eq!(kv.request_progress().await.unwrap(), 5);
    let progress = next(&mut now).await.unwrap();
    assert_eq!((progress.revision, progress.events.len()), (5, 0));
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_without_a_gap() {
    let dir = TempDir::new().unwrap();
    let (store, kv) = open(&dir).await;
    write(&kv, put("a", "1")).await;
    write(&kv, put("a", "2")).await;
    let mut watch =
        kv.watch(WatchRequest { range: key("a"), start_revision: Some(2), prev_kv: true });
    assert_eq!(next(&mut watch).await.unwrap().revision, 3);
    store.shutdown().await;
    assert!(watch.next().await.is_none());
    drop(store);
    let (_store, kv) = open(&dir).await;
    write(&kv, put("a", "3")).await;
    let mut watch =
        kv.watch(WatchRequest { range: key("a"), start_revision: Some(3), prev_kv: true });
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(next(&mut watch).await.unwrap().events);
    }
    let shown = seen
        .iter()
        .map(|event| (event.kv.mod_revision, event.prev_kv.as_ref().unwrap().value.clone()));
    assert_eq!(shown.collect::<Vec<_>>(), [(3, Bytes::from("1")), (4, Bytes::from("2"))]);
}

#[tokio::test]
async fn compaction_keeps_the_newest_and_ends_older_reads_and_watches() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    for value in ["1", "2", "3"] {
        write(&kv, put("a", value)).await;
    }
    write(&kv, put("gone", "x")).await;
    write(&kv, delete(key("gone"))).await;
    kv.compact(4).await.unwrap();
    assert_eq!(kv.compact(4).await, Err(Error::Compacted { requested: 4, compacted: 4 }));
    assert_eq!(kv.compact(9).await, Err(Error::Future { requested: 9, current: 6 }));
    assert_eq!(values(&kv, key("a"), Some(4)).await, ["a=3"]);
    let old = RangeRequest { revision: Some(3), ..RangeRequest::new(key("a")) };
    assert_eq!(kv.range(old).await, Err(Error::Compacted { requested: 3, compacted: 4 }));
    let mut watch =
        kv.watch(WatchRequest { range: key("a"), start_revision: Some(2), prev_kv: false });
    assert_eq!(next(&mut watch).await, Err(Error::Compacted { requested: 2, compacted: 4 }));
    assert!(watch.next().await.is_none());
    let mut watch =
        kv.watch(WatchRequest { range: prefix("g"), start_revision: Some(5), prev_kv: false });
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        kinds.extend(next(&mut watch).await.unwrap().events.iter().map(|event| event.kind));
    }
    assert_eq!(kinds, [EventKind::Put, EventKind::Delete]);
}

#[tokio::test]
async fn a_lease_takes_its_keys_with_it() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let (lease, ttl) = kv.lease_grant(0, 1).await.unwrap();
    assert_eq!(ttl, 2);
    assert_eq!(kv.lease_grant(lease, 5).await, Err(Error::LeaseExists { id: lease }));
    write(&kv, put_with_lease("a", "1", lease)).await;
    write(&kv, put_with_lease("b", "1", lease)).await;
    write(&kv, put("b", "free again")).await;
    let shown = kv.lease_info(lease).await.unwrap();
    assert_eq!((shown.ttl, shown.keys), (2, vec![Bytes::from("a")]));
    assert_eq!(kv.lease_keep_alive(lease).await, Ok(2));
    let mut watch = kv.watch(WatchRequest { range: key("a"), start_revision: None, prev_kv: true });
    let gone = next(&mut watch).await.unwrap();
    assert_eq!(gone.events[0].kind, EventKind::Delete);
    assert_eq!(gone.events[0].prev_kv.as_ref().unwrap().value, "1");
    assert_eq!(values(&kv, prefix("b"), None).await, ["b=free again"]);
    assert_eq!(kv.leases().await.unwrap(), [0_i64; 0]);
    assert_eq!(kv.lease_keep_alive(lease).await, Err(Error::LeaseNotFound { id: lease }));
}

#[tokio::test]
async fn a_second_open_of_a_folder_names_it_and_the_process() {
    let dir = TempDir::new().unwrap();
    let (_store, _kv) = open(&dir).await;
    let refused = EmbeddedStore::open(config(&dir)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }));
    let text = refused.to_string();
    assert!(text.contains(&dir.path().display().to_string()), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
}

#[tokio::test]
async fn a_full_keyspace_refuses_puts_until_something_is_deleted() {
    let dir = TempDir::new().unwrap();
    let mut small = config(&dir);
    small.cluster.quota_bytes = 2000;
    let store = EmbeddedStore::open(small).await.unwrap();
    let kv = store.keyspace(Keyspace::Cluster);
    write(&kv, put("a", &"x".repeat(1500))).await;
    let more = Txn { success: vec![put("b", &"x".repeat(1000))], ..Txn::default() };
    assert!(matches!(kv.txn(more.clone()).await, Err(Error::NoSpace { .. })));
    let revision = write(&kv, delete(key("a"))).await.revision;
    write(&kv, put("c", "x")).await;
    kv.compact(revision + 1).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while kv.txn(more.clone()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the quota did not recover");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_writers_share_syncs_and_each_gets_its_own_revision() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let kv = kv.clone();
        tasks.spawn(async move {
            let mut revisions = Vec::new();
            for number in 0..20 {
                revisions.push(write(&kv, put(&format!("w{writer}/{number}"), "v")).await.revision);
            }
            revisions
        });
    }
    let mut all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    assert_eq!(all, (2..2 + 64 * 20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_that_is_not_read_for_long_is_ended() {
    let dir = TempDir::new().unwrap();
    let small =
        StoreConfig { watch_ring_bytes: 10_000, watch_behind_bytes_max: 100_000, ..config(&dir) };
    let store = EmbeddedStore::open(small).await.unwrap();
    let kv = store.keyspace(Keyspace::Cluster);
    let watch =
        |start_revision| kv.watch(WatchRequest { range: key("a"), start_revision, prev_kv: false });
    let (mut idle, mut busy) = (watch(None), watch(None));
    let mut seen = 0;
    for _ in 0..30 {
        write(&kv, put("a", &"x".repeat(5000))).await;
        seen += next(&mut busy).await.unwrap().events.len();
    }
    assert_eq!(seen, 30);
    assert_eq!(next(&mut idle).await, Err(Error::WatchTooSlow));
    assert!(idle.next().await.is_none());
    // One that asks for the past reads it from the state, however much it is.
    let mut late = watch(Some(2));
    let mut revisions = Vec::new();
    while revisions.len() < 30 {
        let batch = next(&mut late).await.unwrap();
        revisions.extend(batch.events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(revisions, (2..32).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_on_a_future_revision_waits_for_it() {
    let dir = TempDir::new().unwrap();
    let (_store, kv) = open(&dir).await;
    let mut watch =
        kv.watch(WatchRequest { range: key("a"), start_revision: Some(4), prev_kv: false });
    for value in ["1", "2", "3"] {
        write(&kv, put("a", value)).await;
    }
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events.iter().map(|event| &event.kv.value[..]).collect::<Vec<_>>(), [b"3"]);
}

#[tokio::test]
async fn leases_survive_a_restart_with_their_keys() {
    let dir = TempDir::new().unwrap();
    let (store, kv) = open(&dir).await;
    let (lease, _) = kv.lease_grant(77, 600).await.unwrap();
    write(&kv, put_with_lease("a", "1", lease)).await;
    store.shutdown().await;
    drop(store);
    let (_store, kv) = open(&dir).await;
    let shown = kv.lease_info(77).await.unwrap();
    assert_eq!((shown.ttl, shown.keys), (600, vec![Bytes::from("a")]));
    assert!((1..=600).contains(&shown.remaining), "{} s left", shown.remaining);
    kv.lease_revoke(77).await.unwrap();
    assert_eq!(values(&kv, key("a"), None).await, [""; 0]);
    assert_eq!(kv.lease_revoke(77).await, Err(Error::LeaseNotFound { id: 77 }));
}

#[tokio::test]
async fn an_idle_store_writes_nothing() {
    let dir = TempDir::new().unwrap();
    let (store, kv) = open(&dir).await;
    write(&kv, put("a", "1")).await;
    // Until after the seal.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let before = store.log_bytes_written();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(store.log_bytes_written(), before);
}

#[tokio::test]
async fn a_long_list_comes_from_the_state_file_whole_and_at_any_revision() {
    let dir = TempDir::new().expect("a temporary folder");
    let (store, kv) = open(&dir).await;
    for number in 0..100 {
        write(&kv, put(&format!("key/{number:03}"), &format!("value {number}"))).await;
    }
    store.shutdown().await;
    let (store, kv) = open(&dir).await;
    let wanted: Vec<_> = (0..100).map(|number| format!("key/{number:03}=value {number}")).collect();
    // As in etcd, zero and below are the present.
    for revision in [None, Some(0), Some(-1), Some(101)] {
        assert_eq!(values(&kv, KeyRange::prefix("key/"), revision).await, wanted);
    }
    store.shutdown().await;
}

#[tokio::test]
async fn everything_in_a_request_counts_towards_its_size() {
    let dir = TempDir::new().expect("a temporary folder");
    let (store, kv) = open(&dir).await;
    let large = Bytes::from(vec![b'x'; 2 << 20]);
    let compare = Compare {
        range: key("a"),
        relation: Relation::Equal,
        target: CompareTarget::Value(large.clone()),
    };
    let compared = Txn { compare: vec![compare], success: vec![put("a", "1")], ..Txn::default() };
    let range = KeyRange { key: "a".into(), end: Some(large) };
    let deleted = Txn { success: vec![delete(range)], ..Txn::default() };
    for txn in [compared, deleted] {
        assert!(matches!(kv.txn(txn).await, Err(Error::TooLarge { .. })));
    }
    store.shutdown().await;
}
