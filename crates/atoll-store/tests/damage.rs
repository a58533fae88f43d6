//! A folder that was changed behind the store's back, on a real disk.

use std::fs;
use std::path::{Path, PathBuf};

use atoll_store::kv::{Error, KeyRange, Op, PutRequest, RangeRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use tempfile::TempDir;

fn config(dir: &Path) -> StoreConfig {
    StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() }
}

async fn filled(dir: &Path) {
    let store = EmbeddedStore::open(config(dir)).await.expect("an empty folder opens");
    let kv = store.keyspace(Keyspace::Cluster);
    for number in 0..10 {
        let put = PutRequest {
            key: format!("key/{number}").into(),
            value: vec![b'v'; 700 * number].into(),
            lease: 0,
            prev_kv: false,
        };
        let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
        kv.txn(txn).await.expect("a put succeeds");
    }
    store.shutdown().await;
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("wal")).expect("there is a log");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_refused_with_file_and_offset_and_nothing_is_cut() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let file = log_files(dir.path()).pop().expect("a segment");
    let good = fs::read(&file).expect("readable");
    let used = good.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
    for offset in (0..used).step_by(used / 60) {
        let mut bad = good.clone();
        bad[offset] ^= 0x10;
        fs::write(&file, &bad).expect("writable");
        let refused = EmbeddedStore::open(config(dir.path())).await;
        let Err(OpenError::Corrupt { file: named, .. }) = &refused else {
            panic!("a flipped bit at {offset} of {used}: {refused:?}");
        };
        assert_eq!(Path::new(named), file);
        assert_eq!(fs::read(&file).expect("readable"), bad, "the log was changed");
    }
    fs::write(&file, &good).expect("writable");
    let store = EmbeddedStore::open(config(dir.path())).await.expect("the log is whole again");
    let kv = store.keyspace(Keyspace::Cluster);
    let found = kv.range(RangeRequest::new(KeyRange::prefix("key/"))).await.expect("readable");
    assert_eq!(found.count, 10);
}

#[tokio::test]
async fn a_log_or_a_member_file_that_is_gone_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let member = dir.path().join("member.json");
    let content = fs::read(&member).expect("readable");
    fs::remove_file(&member).expect("removable");
    let refused = EmbeddedStore::open(config(dir.path())).await.expect_err("no member file");
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
    fs::write(&member, content).expect("writable");
    for file in log_files(dir.path()) {
        fs::remove_file(file).expect("removable");
    }
    let refused = EmbeddedStore::open(config(dir.path())).await.expect_err("no log");
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_folder_of_a_newer_format_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let member = dir.path().join("member.json");
    let content = fs::read_to_string(&member).expect("readable");
    fs::write(&member, content.replace("\"format\": 2", "\"format\": 3")).expect("writable");
    let refused = EmbeddedStore::open(config(dir.path())).await.expect_err("a newer format");
    let text = format!("{refused:?}");
    assert!(text.contains("found: 3"), "{text}");
}

async fn values(store: &EmbeddedStore) -> Result<Vec<Vec<u8>>, Error> {
    let kv = store.keyspace(Keyspace::Cluster);
    let found = kv.range(RangeRequest::new(KeyRange::prefix("key/"))).await?;
    Ok(found.kvs.iter().map(|kv| kv.value.to_vec()).collect())
}

/// Whatever is changed is refused or does not matter, and never a panic.
#[tokio::test]
async fn a_state_file_that_holds_nonsense_is_an_error_and_no_panic() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let file = dir.path().join("state.redb");
    let good = fs::read(&file).expect("readable");
    let mut refused = 0;
    for block in 0..good.len().min(64 << 10) / 512 {
        let mut bad = good.clone();
        bad[block * 512..(block + 1) * 512].fill(0xff);
        fs::write(&file, &bad).expect("writable");
        let config = config(dir.path());
        let opened = tokio::task::spawn_blocking(|| EmbeddedStore::open_blocking(config));
        match opened.await.expect("no panic") {
            Ok(store) => {
                let all = (0..10).map(|number| vec![b'v'; 700 * number]).collect::<Vec<_>>();
                assert_eq!(values(&store).await, Ok(all), "block {block}");
                store.shutdown().await;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "nothing was noticed");
    fs::write(&file, &good).expect("writable");
}

#[tokio::test]
async fn a_bit_that_flips_in_a_value_is_found_at_the_start_and_while_it_runs() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let file = dir.path().join("state.redb");
    let good = fs::read(&file).expect("readable");
    let inside = good.windows(600).position(|window| window == [b'v'; 600]).expect("a value");
    let mut bad = good.clone();
    bad[inside + 300] ^= 1;
    fs::write(&file, &bad).expect("writable");
    let refused = EmbeddedStore::open(config(dir.path())).await.expect_err("a changed value");
    assert!(refused.to_string().contains("a record is not what was written"), "{refused}");

    fs::write(&file, &good).expect("writable");
    let config = StoreConfig { cache_bytes: 0, ..config(dir.path()) };
    let store = EmbeddedStore::open(config).await.expect("whole again");
    values(&store).await.expect("readable");
    let disk = fs::OpenOptions::new().write(true).open(&file).expect("writable");
    std::os::unix::fs::FileExt::write_all_at(&disk, b"w", inside as u64 + 300).expect("written");
    let refused = values(&store).await.expect_err("a changed value").to_string();
    assert!(refused.contains("state.redb, revision"), "{refused}");
    assert!(store.unfit().is_some_and(|why| refused.contains(&why)), "{refused}");
    let kv = store.keyspace(Keyspace::Cluster);
    let other = kv.range(RangeRequest::new(KeyRange::single("key/0"))).await;
    assert!(other.is_err(), "it still answers");
    store.shutdown().await;
}

async fn put(store: &EmbeddedStore, key: String, bytes: usize) -> Result<(), Error> {
    let put =
        PutRequest { key: key.into(), value: vec![b'v'; bytes].into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    store.keyspace(Keyspace::Cluster).txn(txn).await.map(drop)
}

/// Reads, writes, flushes and copies all that there is; the first that is refused ends it.
async fn use_all(store: &EmbeddedStore) -> Result<(), Error> {
    let all = (0..10).map(|number| vec![b'v'; 700 * number]).collect::<Vec<_>>();
    for round in 0..3 {
        assert_eq!(values(store).await?, all, "what was not written");
        for number in 0..40 {
            put(store, format!("other/{round}/{number}"), 300).await?;
        }
        store.keyspace(Keyspace::Cluster).defragment().await?;
    }
    Ok(())
}

/// Whatever page is changed under a store that runs: it goes on with what is right, or says that its
/// state file is damaged and answers nothing more. None of its threads ends.
#[tokio::test]
async fn a_page_that_is_changed_while_it_runs_is_the_same_verdict_and_no_panic() {
    let dir = TempDir::new().expect("a temporary folder");
    filled(dir.path()).await;
    let file = dir.path().join("state.redb");
    let pages = fs::metadata(&file).expect("readable").len() / 4096;
    let mut condemned = 0;
    for page in 0..pages.min(40) {
        let dir = TempDir::new().expect("a temporary folder");
        filled(dir.path()).await;
        let config = StoreConfig { cache_bytes: 0, ..config(dir.path()) };
        let store = EmbeddedStore::open(config).await.expect("it is whole");
        let disk = fs::OpenOptions::new().write(true).open(dir.path().join("state.redb"));
        let disk = disk.expect("writable");
        let nonsense = if page % 2 == 0 { [0xff; 4096] } else { [0x01; 4096] };
        std::os::unix::fs::FileExt::write_all_at(&disk, &nonsense, page * 4096).expect("written");
        let used = use_all(&store).await;
        match store.unfit() {
            Some(why) => {
                condemned += 1;
                assert!(why.contains("state.redb"), "page {page}: {why}");
                assert!(values(&store).await.is_err(), "page {page}: it still answers");
            }
            None => assert_eq!((used, store.failure()), (Ok(()), None), "page {page}"),
        }
        store.shutdown().await;
    }
    assert!(condemned > 3, "{condemned} of {pages} pages were noticed");
}
