//! Secrets as they stand in the store, and a new key for them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_apiserver::Config;
use atoll_apiserver::encryption::{Encryption, new_key_file};
use atoll_store::Keyspace;
use atoll_store::kv::{KeyRange, Op, PutRequest, RangeRequest, Txn};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const NEEDLE: &str = "correct-horse-battery";

type File = Arc<Mutex<String>>;

fn encryption(file: &File, resources: &[&str]) -> Arc<Encryption> {
    let (text, saved) = (file.lock().unwrap().clone(), file.clone());
    let save = Arc::new(move |text: &str| {
        text.clone_into(&mut saved.lock().unwrap());
        Ok(())
    });
    let resources: Vec<String> = resources.iter().map(|&one| one.to_owned()).collect();
    Arc::new(Encryption::new(&text, save, b"shared", &resources).unwrap())
}

fn sealing(file: &File) -> impl FnOnce(&mut Config) {
    sealing_only(file, &["secrets"])
}

fn sealing_only(file: &File, resources: &[&str]) -> impl FnOnce(&mut Config) {
    let encryption = encryption(file, resources);
    move |config| config.encryption = Some(encryption)
}

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "stringData": {"password": NEEDLE}})
}

async fn raw(api: &Api, name: &str) -> Bytes {
    let key = format!("/registry/core/secrets/default/{name}");
    let range = RangeRequest::new(KeyRange::single(key));
    let found = api.store.keyspace(Keyspace::Cluster).range(range).await.unwrap();
    found.kvs[0].value.clone()
}

fn holds(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        let bytes = std::fs::read(&path).unwrap();
        bytes.windows(needle.len()).any(|part| part == needle)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_the_store_shows_a_secret() {
    let file: File = Arc::new(Mutex::new(new_key_file().unwrap()));
    let api = Api::start_with(sealing(&file)).await;
    api.create(SECRETS, &secret("s")).await.ok();
    let mut plain = config_map("m");
    plain["data"]["a"] = json!("in-the-open-for-all");
    api.create(CONFIG_MAPS, &plain).await.ok();
    let read = api.get(&format!("{SECRETS}/s")).await.ok();
    let encoded = read["data"]["password"].as_str().unwrap().to_owned();
    assert_eq!(encoded, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
    api.merge(&format!("{SECRETS}/s"), &json!({"metadata": {"labels": {"a": "b"}}})).await.ok();
    assert!(raw(&api, "s").await.starts_with(b"atoll:sealed:1:"));
    let dir = api.dir().to_owned();
    let kept = api.stop().await;
    assert!(holds(&dir, b"in-the-open-for-all"), "the search finds what is not sealed");
    assert!(!holds(&dir, encoded.as_bytes()) && !holds(&dir, NEEDLE.as_bytes()));
    drop(kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_values_of_before_are_read_and_sealed() {
    let file: File = Arc::default();
    let api = Api::start().await;
    api.create(SECRETS, &secret("old")).await.ok();
    assert!(raw(&api, "old").await.starts_with(b"{"));
    let api = api.restart_with(sealing(&file)).await;
    eventually(|| async { raw(&api, "old").await.starts_with(b"atoll:sealed:1:") }).await;
    assert_eq!(api.get(&format!("{SECRETS}/old")).await.code, 200);
    eventually(|| async { stand(&api).await["rotation"].is_null() }).await;
    assert!(!stand(&api).await["key"].as_str().unwrap().is_empty());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_everything_and_the_old_one_is_dropped() {
    let file: File = Arc::new(Mutex::new(new_key_file().unwrap()));
    let api = Api::start_with(sealing(&file)).await;
    for number in 0..450 {
        api.create(SECRETS, &secret(&format!("s-{number}"))).await.ok();
    }
    let (before, was) = (raw(&api, "s-7").await, stand(&api).await["key"].clone());
    let begun = api.send(Method::POST, "/atoll/v1/secrets/rotate-key", &[], "").await.ok();
    let key = begun["rotation"]["key"].as_str().unwrap().to_owned();
    eventually(|| async { stand(&api).await["rotation"].is_null() }).await;
    let now = stand(&api).await;
    assert_eq!(now["key"], key);
    assert_ne!(now["key"], was);
    assert_eq!(now["servers"][0]["keys"], json!([key]));
    assert_ne!(raw(&api, "s-7").await, before);
    for number in [0, 199, 200, 449] {
        let value = raw(&api, &format!("s-{number}")).await;
        assert!(value.starts_with(format!("atoll:sealed:1:{key}:").as_bytes()));
        assert_eq!(api.get(&format!("{SECRETS}/s-{number}")).await.code, 200);
    }
    assert!(file.lock().unwrap().contains(&key));
    assert!(!file.lock().unwrap().contains(was.as_str().unwrap()), "dropped from the file");
    let api = api.restart_with(sealing(&file)).await;
    assert_eq!(api.get(&format!("{SECRETS}/s-7")).await.code, 200);
    api.shutdown().await;
}

/// What was sealed when more resources were is not lost with the key.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_sealed_opens_after_a_new_key() {
    let file: File = Arc::new(Mutex::new(new_key_file().unwrap()));
    let api = Api::start_with(sealing(&file)).await;
    api.create(SECRETS, &secret("old")).await.ok();
    let api = api.restart_with(sealing_only(&file, &[])).await;
    assert!(raw(&api, "old").await.starts_with(b"atoll:sealed:1:"));
    api.send(Method::POST, "/atoll/v1/secrets/rotate-key", &[], "").await.ok();
    eventually(|| async { stand(&api).await["rotation"].is_null() }).await;
    assert!(raw(&api, "old").await.starts_with(b"{"));
    let api = api.restart_with(sealing_only(&file, &[])).await;
    let read = api.get(&format!("{SECRETS}/old")).await.ok();
    assert_eq!(read["data"]["password"], "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
    api.shutdown().await;
}

/// A value that an earlier rotation lost; failing on it, none would ever end.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_key_opens_holds_up_no_rotation() {
    let file: File = Arc::new(Mutex::new(new_key_file().unwrap()));
    let api = Api::start_with(sealing(&file)).await;
    api.create(SECRETS, &secret("s")).await.ok();
    let key = stand(&api).await["key"].as_str().unwrap().to_owned();
    let sealed = raw(&api, "s").await;
    let other: String = key.chars().rev().collect();
    assert_ne!(other, key);
    let at = sealed.windows(key.len()).position(|part| part == key.as_bytes()).unwrap();
    let lost = [&sealed[..at], other.as_bytes(), &sealed[at + key.len()..]].concat();
    // Of a kind that is served no more.
    let place = Bytes::from_static(b"/registry/example.com/lanterns/default/lost");
    let put =
        PutRequest { key: place.clone(), value: lost.clone().into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    api.store.keyspace(Keyspace::Cluster).txn(txn).await.unwrap();
    api.send(Method::POST, "/atoll/v1/secrets/rotate-key", &[], "").await.ok();
    eventually(|| async { stand(&api).await["rotation"].is_null() }).await;
    assert_ne!(stand(&api).await["key"], key);
    let range = RangeRequest::new(KeyRange::single(place));
    let kept = api.store.keyspace(Keyspace::Cluster).range(range).await.unwrap();
    assert_eq!(kept.kvs[0].value, lost, "it is left as it is");
    assert_eq!(api.get(&format!("{SECRETS}/s")).await.code, 200);
    api.shutdown().await;
}

async fn stand(api: &Api) -> Value {
    api.get("/atoll/v1/secrets").await.ok()
}

async fn eventually<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within thirty seconds");
}
