//! A restore that ends at any of its steps leaves the old store or the new one, and can be
//! repeated.

use super::super::{check_folder, survivor::Target};
use super::*;
use atoll_store::{
    EmbeddedStore, Keyspace, StoreConfig,
    kv::{KeyRange, Op, PutRequest, RangeRequest, Txn},
    restore::{REVISIONS_SKIPPED, Survivor},
};

async fn open(dir: &Path) -> EmbeddedStore {
    let config = StoreConfig { dir: dir.join("store"), ..StoreConfig::default() };
    EmbeddedStore::open(config).await.unwrap()
}

/// The data folder of a server that has written something.
async fn server(dir: &Path) -> String {
    let store = open(dir).await;
    let put = PutRequest { key: "a".into(), value: "kept".into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    store.keyspace(Keyspace::Cluster).txn(txn).await.unwrap();
    store.shutdown().await;
    fs::create_dir(dir.join("keys")).unwrap();
    fs::write(dir.join("keys/serving-ca.key"), "secret").unwrap();
    store.cluster_id().to_owned()
}

/// The cluster's id, and the revision after its last restore.
async fn look(dir: &Path) -> (String, i64) {
    assert!(dir.join("keys/serving-ca.key").exists());
    check_unfinished(dir).unwrap();
    let store = open(dir).await;
    let all = RangeRequest::new(KeyRange::prefix("a"));
    let found = store.keyspace(Keyspace::Cluster).range(all).await.unwrap();
    assert_eq!(found.kvs[0].value, "kept");
    store.shutdown().await;
    (store.cluster_id().to_owned(), found.revision)
}

fn read(dir: &Path) -> Survivor {
    Survivor::read(&dir.join(STORE)).unwrap()
}

fn begin(from: &Path, dir: &Path) -> Filling {
    let mut filling = Filling::begin(dir).unwrap();
    read(from).chunks().for_each(|chunk| filling.push(&chunk.unwrap()).unwrap());
    filling
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn again(dir: &Path) {
    let aside = Target::InPlace(dir.to_owned()).fill(dir, &read(dir)).unwrap().unwrap();
    assert!(aside.join("member.json").exists() && !aside.join(MARK).exists());
    assert!(!dir.join(UNFINISHED).exists() && !dir.join(STORE).join(MARK).exists());
}

#[tokio::test]
async fn in_place_there_is_the_old_store_or_the_new_one_at_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let old = server(dir).await;
    std::mem::forget(Filling::begin(dir).unwrap());
    assert_eq!(look(dir).await, (old.clone(), 2));
    std::mem::forget(begin(dir, dir));
    assert_eq!(look(dir).await, (old.clone(), 2));
    let mut complete = begin(dir, dir);
    complete.complete().unwrap();
    std::mem::forget(complete);
    assert_eq!(look(dir).await, (old.clone(), 2));

    let mut exchanged = begin(dir, dir);
    let restored = exchanged.complete().unwrap();
    exchanged.exchange().unwrap();
    std::mem::forget(exchanged);
    let new = (restored.cluster_id.clone(), 2 + REVISIONS_SKIPPED);
    assert_eq!(look(dir).await, new);
    // The former store has no name of its own yet, and is not lost.
    again(dir);
    let aside: Vec<_> = names(dir).into_iter().filter(|name| name.contains("before")).collect();
    assert_eq!(aside.len(), 2, "{aside:?}");
    let kept = fs::read_to_string(dir.join(&aside[0]).join("member.json")).unwrap();
    assert!(kept.contains(&old), "{kept}");
    assert_eq!(look(dir).await.1, 2 + 2 * REVISIONS_SKIPPED);
}

#[tokio::test]
async fn a_failure_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let old = server(dir).await;
    let before = names(dir);
    drop(begin(dir, dir));
    let mut complete = begin(dir, dir);
    complete.complete().unwrap();
    drop(complete);
    assert_eq!(names(dir), before);
    assert_eq!(look(dir).await, (old, 2));
    // A server that runs keeps its store.
    let store = open(dir).await;
    let refused = Survivor::read(&dir.join(STORE)).unwrap_err().to_string();
    assert!(refused.contains("stop that server first"), "{refused}");
    drop(store);
}

#[tokio::test]
async fn no_server_begins_anew_in_a_new_folder_that_is_half_named() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir(&from).unwrap();
    server(&from).await;
    let mut filling = begin(&from, &to);
    filling.complete().unwrap();
    // As in `name`, which does not come to the store.
    fs::create_dir(filling.unfinished.join("keys")).unwrap();
    fs::write(filling.unfinished.join(NAMING), "").unwrap();
    fs::rename(filling.unfinished.join("keys"), to.join("keys")).unwrap();
    std::mem::forget(filling);
    let refused = check_unfinished(&to).unwrap_err().to_string();
    assert!(refused.contains("did not come to its end"), "{refused}");
    check_folder(&to).unwrap();
    Target::New(to.clone()).fill(&from, &read(&from)).unwrap();
    assert_eq!(look(&to).await.1, 2 + REVISIONS_SKIPPED);
    assert_eq!(names(&to), ["keys", "store"]);
    // Keys that no restore has put there stay.
    fs::remove_dir_all(to.join("store")).unwrap();
    assert!(check_folder(&to).unwrap_err().to_string().contains("(keys)"));
}
