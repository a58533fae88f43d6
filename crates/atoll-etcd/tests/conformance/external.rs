//! What is peculiar to an etcd that others run: it dies and comes back, and it holds their keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use atoll_etcd::external::{ExternalConfig, ExternalStore, OpenError};
use atoll_store::Keyspace;
use atoll_store::kv::{Error, KvStore, RangeRequest, Revision};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::etcd::{Etcd, Release};
use crate::world::{PATIENCE, everything, next, ops, put, revision, shown, single};

/// Times that an etcd is killed under load, and acknowledged writes before each.
const KILLS: usize = 3;
const WRITES: usize = 30;

fn fresh(endpoints: &[String]) -> ExternalConfig {
    ExternalConfig::new(endpoints.to_vec(), format!("{:032x}", rand::random::<u128>()))
}

async fn open(config: ExternalConfig) -> (ExternalStore, Arc<dyn KvStore>) {
    let store = ExternalStore::open(config).await.expect("the etcd can be the store");
    let kv = store.keyspace(Keyspace::Cluster);
    (store, kv)
}

async fn start(release: Release) -> Option<Etcd> {
    Some(Etcd::start(&release.program()?).await)
}

/// Writes until it is told to stop. Which revisions were acknowledged, with their values.
async fn write(
    kv: Arc<dyn KvStore>,
    (stop, done): (Arc<AtomicBool>, Arc<AtomicUsize>),
) -> BTreeMap<Revision, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let value = number.to_string();
        match kv.txn(ops([put("a", &value)])).await {
            Ok(written) => {
                acknowledged.insert(written.revision, value);
                done.fetch_add(1, Ordering::Release);
            }
            // Nobody knows, or certainly not.
            Err(
                Error::Timeout { maybe_applied: true }
                | Error::Unavailable { .. }
                | Error::NoLeader,
            ) => {}
            Err(other) => panic!("{other}"),
        }
    }
    acknowledged
}

/// So many more than now.
async fn until_written(done: &AtomicUsize, more: usize) {
    let wanted = done.load(Ordering::Acquire) + more;
    let deadline = Instant::now() + PATIENCE;
    while done.load(Ordering::Acquire) < wanted {
        assert!(Instant::now() < deadline, "writes do not go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn watches_go_on_over_kills(release: Release) {
    let Some(mut etcd) = start(release).await else { return };
    let (_store, kv) = open(fresh(&[etcd.endpoint()])).await;
    let base = revision(&kv).await;
    let mut watch = kv.watch(atoll_store::kv::WatchRequest {
        range: everything(),
        start_revision: Some(base + 1),
        prev_kv: true,
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut writer = JoinSet::new();
    let done = Arc::new(AtomicUsize::new(0));
    writer.spawn(write(kv.clone(), (stop.clone(), done.clone())));
    for _ in 0..KILLS {
        until_written(&done, WRITES).await;
        etcd.kill();
        etcd.start_again().await;
    }
    until_written(&done, WRITES).await;
    stop.store(true, Ordering::Release);
    let acknowledged = writer.join_next().await.expect("one writer").expect("it ends");
    let present = kv.request_progress().await.expect("it is back");
    let mut seen = BTreeMap::new();
    let mut before = None;
    loop {
        let batch = next(&mut watch).await.expect("the watch goes on");
        for event in batch.events {
            let at = event.kv.mod_revision;
            let value = String::from_utf8_lossy(&event.kv.value).into_owned();
            let replaced = event.prev_kv.map(|kv| kv.mod_revision);
            assert_eq!(replaced, before, "a gap or a repetition at {at}");
            before = Some(at);
            assert_eq!(seen.insert(at, value), None);
        }
        if batch.revision >= present {
            break;
        }
    }
    for (at, value) in &acknowledged {
        assert_eq!(seen.get(at), Some(value), "an acknowledged write was lost");
    }
    println!("{} acknowledged, {} seen", acknowledged.len(), seen.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_over_kills_of_etcd_3_5() {
    watches_go_on_over_kills(Release::Distro35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_over_kills_of_etcd_3_4() {
    watches_go_on_over_kills(Release::Debian34).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_on_one_etcd_do_not_meet() {
    let Some(etcd) = start(Release::Distro35).await else { return };
    let (_one_store, one) = open(fresh(&[etcd.endpoint()])).await;
    let (_other_store, other) = open(fresh(&[etcd.endpoint()])).await;
    let mut watch = one.watch(atoll_store::kv::WatchRequest {
        range: everything(),
        start_revision: Some(revision(&one).await + 1),
        prev_kv: false,
    });
    let (lease, _) = other.lease_grant(0, 60).await.unwrap();
    let (chosen, _) = other.lease_grant(4711, 60).await.unwrap();
    other.txn(ops([put("a", "other")])).await.unwrap();
    one.txn(ops([put("a", "one")])).await.unwrap();
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events.len(), 1);
    assert_eq!(batch.events[0].kv.value, "one");
    let values = |kv: Arc<dyn KvStore>| async move {
        shown(&kv.range(RangeRequest::new(everything())).await.unwrap())
    };
    assert_eq!(values(one.clone()).await, ["a=one"]);
    assert_eq!(values(other.clone()).await, ["a=other"]);
    assert_eq!(one.leases().await.unwrap(), [0_i64; 0]);
    for id in [lease, chosen] {
        assert_eq!(one.lease_revoke(id).await, Err(Error::LeaseNotFound { id }));
        other.lease_keep_alive(id).await.unwrap();
    }
    let gone = atoll_store::kv::Op::Delete { range: everything(), prev_kv: false };
    one.txn(ops([gone])).await.unwrap();
    assert_eq!(values(other).await, ["a=other"]);
}

/// An etcd that is not given to us whole is never compacted by us.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_keep_is_not_compacted_unless_it_is_said() {
    let Some(etcd) = start(Release::Distro35).await else { return };
    let config = fresh(&[etcd.endpoint()]);
    let (_store, kv) = open(config.clone()).await;
    let first = kv.txn(ops([put("a", "1")])).await.unwrap().revision;
    let last = kv.txn(ops([put("a", "2")])).await.unwrap().revision;
    kv.compact(last).await.unwrap();
    let past = RangeRequest { revision: Some(first), ..RangeRequest::new(single("a")) };
    assert_eq!(shown(&kv.range(past.clone()).await.unwrap()), ["a=1"]);
    assert_eq!(kv.status().await.unwrap().compacted_revision, 0);
    let (owner, ours) = open(ExternalConfig { compact: true, is_known: true, ..config }).await;
    // Applications have no say over the history of the cluster.
    owner.keyspace(Keyspace::Applications).compact(last).await.unwrap();
    assert_eq!(shown(&kv.range(past.clone()).await.unwrap()), ["a=1"]);
    ours.compact(last).await.unwrap();
    let refused = kv.range(past).await;
    assert_eq!(refused, Err(Error::Compacted { requested: first, compacted: last }));
}

async fn refused(config: ExternalConfig) -> OpenError {
    ExternalStore::open(config).await.expect_err("it must be refused")
}

/// Writes a key outside of every prefix of ours.
fn put_foreign(etcd: &Etcd, key: &str, value: &str) {
    let ctl = Release::Distro35.program().expect("it was there").with_file_name("etcdctl");
    let done = std::process::Command::new(ctl)
        .args(["--endpoints", &etcd.endpoint(), "put", key, value])
        .output()
        .expect("etcdctl runs");
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_others_under_our_prefix_are_refused_and_left_alone() {
    let Some(etcd) = start(Release::Distro35).await else { return };
    // Before the cluster begins.
    let config = fresh(&[etcd.endpoint()]);
    put_foreign(&etcd, &format!("/atoll/{}/other", config.cluster_id), "x");
    let error = refused(config.clone()).await;
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    // Afterwards.
    let config = fresh(&[etcd.endpoint()]);
    drop(open(config.clone()).await);
    let known = ExternalConfig { is_known: true, ..config.clone() };
    drop(open(known.clone()).await);
    let foreign = format!("/atoll/{}/other", config.cluster_id);
    put_foreign(&etcd, &foreign, "x");
    let error = refused(known.clone()).await;
    assert!(matches!(&error, OpenError::ForeignKeys { keys, .. } if *keys == foreign), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    // A cluster next to it is none of its business.
    drop(open(fresh(&[etcd.endpoint()])).await);
    // A marker of a release to come, of another cluster, of nobody.
    let marker = |config: &ExternalConfig| format!("/atoll/{}/format", config.cluster_id);
    let config = fresh(&[etcd.endpoint()]);
    let newer = format!(r#"{{"cluster":"{}","format":99}}"#, config.cluster_id);
    put_foreign(&etcd, &marker(&config), &newer);
    let error = refused(config).await;
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    for strange in [r#"{"cluster":"another","format":1}"#, "not JSON"] {
        let config = fresh(&[etcd.endpoint()]);
        put_foreign(&etcd, &marker(&config), strange);
        let error = refused(config).await;
        assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_lost_the_cluster_is_not_taken_for_a_new_one() {
    let Some(etcd) = start(Release::Distro35).await else { return };
    let config = ExternalConfig { is_known: true, ..fresh(&[etcd.endpoint()]) };
    let error = refused(config.clone()).await;
    assert!(matches!(error, OpenError::Gone { .. }), "{error}");
    // And nothing was written meanwhile.
    let error = refused(config).await;
    assert!(matches!(error, OpenError::Gone { .. }), "{error}");
    let unnamed = ExternalConfig::new(vec![etcd.endpoint()], "short".to_owned());
    assert!(matches!(refused(unnamed).await, OpenError::ClusterId { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_that_answers_is_enough_and_two_etcds_are_too_many() {
    let Some(etcd) = start(Release::Distro35).await else { return };
    let dead = "http://127.0.0.1:1".to_owned();
    let (_store, kv) = open(fresh(&[dead.clone(), etcd.endpoint()])).await;
    kv.txn(ops([put("a", "1")])).await.unwrap();
    let Some(another) = start(Release::Distro35).await else { return };
    let error = refused(fresh(&[etcd.endpoint(), another.endpoint()])).await;
    assert!(error.to_string().contains("not all of one etcd"), "{error}");
    let mut nobody = fresh(&[dead]);
    nobody.retry_for = Duration::from_millis(300);
    let error = refused(nobody).await;
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

/// An etcd that is away is waited for; whoever waits for too long is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_an_etcd_that_comes_back_and_not_for_ever() {
    let Some(mut etcd) = start(Release::Distro35).await else { return };
    let mut config = fresh(&[etcd.endpoint()]);
    config.retry_for = Duration::from_millis(700);
    let (_store, kv) = open(config).await;
    kv.txn(ops([put("a", "1")])).await.unwrap();
    etcd.kill();
    let refused = kv.range(RangeRequest::new(single("a"))).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    // Never sent, so it is certain that it did not happen.
    let refused = kv.txn(ops([put("a", "2")])).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let waiting = kv.clone();
    let mut reads = JoinSet::new();
    reads.spawn(async move {
        loop {
            if let Ok(found) = waiting.range(RangeRequest::new(single("a"))).await {
                return shown(&found);
            }
        }
    });
    etcd.start_again().await;
    assert_eq!(reads.join_next().await.unwrap().unwrap(), ["a=1"]);
}

/// A real etcd with certificates on both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_shown_and_checked() {
    let Some(program) = Release::Distro35.program() else { return };
    let dir = TempDir::new().unwrap();
    let made = crate::certificates::make(dir.path());
    let etcd = Etcd::start_tls(&program, &made).await;
    let mut config = fresh(&[etcd.endpoint()]);
    config.tls = Some(made.client.clone());
    let (_store, kv) = open(config.clone()).await;
    kv.txn(ops([put("a", "1")])).await.unwrap();
    let mut anonymous = config.clone();
    anonymous.retry_for = Duration::from_millis(300);
    anonymous.tls = anonymous.tls.map(|mut tls| {
        tls.identity = None;
        tls
    });
    let error = refused(anonymous).await;
    assert!(matches!(error, OpenError::Away { .. }), "{error}");
    let mut strangers = config;
    strangers.retry_for = Duration::from_millis(300);
    strangers.tls = Some(made.stranger);
    let error = refused(strangers).await;
    assert!(error.to_string().contains("TLS"), "{error}");
}
