//! A file system that is full, for real: a tmpfs of a few megabytes. Needs root.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{Error, KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A mounted tmpfs, or `None` where this user may not mount.
struct SmallDisk {
    dir: TempDir,
}

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = TempDir::new().expect("a temporary folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        if mounted {
            return Some(Self { dir });
        }
        #[allow(clippy::disallowed_methods, reason = "only this tells that a skip is a failure")]
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "a tmpfs cannot be mounted, and this is CI");
        report_skip();
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

#[allow(clippy::print_stdout, reason = "a skipped test says why")]
fn report_skip() {
    println!("skipped: mounting a tmpfs needs root");
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "the tmpfs stays mounted");
    }
}

async fn put(kv: &Arc<dyn KvStore>, number: usize) -> Result<(), Error> {
    let put = PutRequest {
        key: format!("key/{number}").into(),
        value: vec![b'v'; 20_000].into(),
        lease: 0,
        prev_kv: false,
    };
    kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.map(drop)
}

async fn count(kv: &Arc<dyn KvStore>) -> u64 {
    let request = RangeRequest::new(KeyRange::prefix("key/"));
    let found = kv.range(request).await.expect("reads go on");
    assert!(found.kvs.iter().all(|kv| kv.value.len() == 20_000));
    found.count
}

#[tokio::test]
async fn writes_are_refused_while_the_disk_is_full_and_reads_go_on() {
    let Some(disk) = SmallDisk::mount(16) else { return };
    let config = StoreConfig {
        dir: disk.path().join("store"),
        flush_every: Duration::from_millis(50),
        ..StoreConfig::default()
    };
    let store = EmbeddedStore::open(config.clone()).await.expect("there is room");
    let kv = store.keyspace(Keyspace::Cluster);
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).expect("there is room");

    let mut written = 0;
    let refused = loop {
        match put(&kv, written).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 2000, "the disk was never full");
    };
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused:?}");
    assert_eq!(count(&kv).await, written as u64);
    let range = KeyRange::single("key/0");
    let delete = Op::Delete { range, prev_kv: false };
    kv.txn(Txn { success: vec![delete], ..Txn::default() }).await.expect("deletes go on");
    assert_eq!(count(&kv).await, written as u64 - 1);

    fs::remove_file(&ballast).expect("removable");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while put(&kv, written).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no write after there was room again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(count(&kv).await, written as u64);
    store.shutdown().await;
    let store = EmbeddedStore::open(config).await.expect("it opens again");
    assert_eq!(count(&store.keyspace(Keyspace::Cluster)).await, written as u64);
    store.shutdown().await;
}

#[tokio::test]
async fn opening_on_a_full_disk_says_so() {
    let Some(disk) = SmallDisk::mount(1) else { return };
    fs::write(disk.path().join("ballast"), vec![1; 2 << 20]).expect_err("it fills up");
    let config = StoreConfig { dir: disk.path().join("store"), ..StoreConfig::default() };
    let refused = EmbeddedStore::open(config).await.expect_err("there is no room");
    assert!(matches!(refused, OpenError::NoSpace { .. }), "{refused:?}");
}

/// A start on a full disk does not write its epoch, so the next one finds the epoch before.
#[tokio::test(flavor = "multi_thread")]
async fn writes_count_after_a_start_that_could_not_write_its_epoch() {
    let dir = TempDir::new().expect("a temporary folder");
    let config = || StoreConfig {
        dir: dir.path().to_owned(),
        request_timeout: PATIENCE,
        ..StoreConfig::default()
    };
    let store = EmbeddedStore::open(config()).await.expect("it opens");
    put(&store.keyspace(Keyspace::Cluster), 0).await.expect("written");
    store.shutdown().await;
    let member = fs::read(dir.path().join("member.json")).expect("the member's file");
    for round in 1..4 {
        let store = EmbeddedStore::open(config()).await.expect("it opens");
        let kv = store.keyspace(Keyspace::Cluster);
        put(&kv, round).await.expect("written");
        let all = RangeRequest::new(KeyRange::prefix("key/"));
        assert_eq!(kv.range(all).await.expect("read").kvs.len(), round + 1);
        store.shutdown().await;
        fs::write(dir.path().join("member.json"), &member).expect("the former file");
    }
}
