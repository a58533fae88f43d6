//! What a watch adds to a list is what a later list shows, whoever writes in between.

use std::collections::BTreeMap;

use atoll_store::Keyspace;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::client::{Answer, Api, CONFIG_MAPS, config_map};

const WRITERS: u64 = 4;
const WRITES: usize = 60;
/// Few names, so that writers meet.
const NAMES: u32 = 7;

type Objects = BTreeMap<String, String>;

/// Name and resourceVersion of everything in a list.
fn objects(list: &Value) -> Objects {
    let items = list["items"].as_array().unwrap();
    items.iter().filter(|item| ours(item)).map(entry).collect()
}

fn entry(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    (text("name"), text("resourceVersion"))
}

fn ours(object: &Value) -> bool {
    object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("p-"))
}

async fn write(api: &Api, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for count in 0..WRITES {
        let name = format!("p-{}", random.random_range(0..NAMES));
        let one = format!("{CONFIG_MAPS}/{name}");
        let label = json!({"metadata": {"labels": {"x": random.random_range(0..2).to_string()}}});
        // Any of them may meet what another writer did: that is the point.
        match random.random_range(0..4) {
            0 => drop(api.delete(&one).await),
            1 => drop(api.merge(&one, &label).await),
            2 => drop(api.merge(&one, &json!({"data": {"a": count.to_string()}})).await),
            _ => drop(api.create(CONFIG_MAPS, &config_map(&name)).await),
        }
    }
}

/// Follows a watch until it has seen everything up to the list, and compares.
async fn follow(api: &Api, selector: &str, first: &Value, last: &Value) {
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let goal: i64 = last["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let mut seen = objects(first);
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}{selector}");
    let mut watch = api.watch(&url, "application/json").await;
    let mut position = 0;
    while position < goal {
        let event = watch.next().await.expect("the watch goes on");
        let (name, revision) = entry(&event["object"]);
        let at: i64 = revision.parse().unwrap();
        assert!(at >= position, "{name} at {at} after {position}");
        position = at;
        if name == "end" {
            continue;
        }
        match event["type"].as_str().unwrap() {
            "DELETED" => assert!(seen.remove(&name).is_some(), "{name} was not there"),
            "ADDED" => assert!(seen.insert(name, revision).is_none(), "added twice: {event}"),
            "MODIFIED" => assert!(seen.insert(name, revision).is_some(), "not there: {event}"),
            other => panic!("{other}: {event}"),
        }
    }
    assert_eq!(seen, objects(last), "{selector:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_its_watch_are_the_later_list() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let api = Api::start().await;
    write(&api, seed).await;
    let selectors =
        ["", "&labelSelector=x=1", "&labelSelector=!x", "&fieldSelector=metadata.name!=p-1"];
    let mut begun = Vec::new();
    let writers = (1..=WRITERS).map(|writer| write(&api, seed.wrapping_add(writer)));
    let lists = async {
        for _ in 0..5 {
            for selector in selectors {
                let url = format!("{CONFIG_MAPS}?{}", selector.trim_start_matches('&'));
                begun.push((selector, api.get(&url).await.ok()));
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(futures::future::join_all(writers), lists);
    // Every selection sees this one, and so knows where it may stop.
    let mut end = config_map("end");
    for label in ["1", ""] {
        end["metadata"]["labels"] = if label.is_empty() { json!({}) } else { json!({"x": label}) };
        drop(api.delete(&format!("{CONFIG_MAPS}/end")).await);
        let created = api.create(CONFIG_MAPS, &end).await.ok();
        for (selector, first) in &begun {
            if selector.contains("!x") != label.is_empty() && !selector.is_empty() {
                continue;
            }
            let mut last =
                api.get(&format!("{CONFIG_MAPS}?{}", selector.trim_start_matches('&'))).await.ok();
            last["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
            follow(&api, selector, first, &last).await;
        }
    }
    api.shutdown().await;
}

/// Compacts what lies a few revisions back, again and again.
async fn compact(api: &Api, stop: &std::sync::atomic::AtomicBool) {
    let kv = api.store.keyspace(Keyspace::Cluster);
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let list = api.get(CONFIG_MAPS).await.ok();
        let now: i64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        // Somebody else's compaction may be further.
        drop(kv.compact(now - KEPT).await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Revisions that the compaction leaves; lists of older ones are refused.
const KEPT: i64 = 100;

/// The list at every revision that the watch tells of: as the watch says, or compacted.
async fn follow_exactly(api: &Api, first: &Value, events: usize) -> (usize, usize) {
    let mut seen = objects(first);
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}");
    let mut watch = api.watch(&url, "application/json").await;
    let (mut compared, mut compacted) = (0, 0);
    for _ in 0..events {
        let event = watch.next().await.expect("the watch goes on");
        let (name, revision) = entry(&event["object"]);
        match event["type"].as_str().unwrap() {
            "DELETED" => drop(seen.remove(&name)),
            _ => drop(seen.insert(name, revision.clone())),
        }
        let exact = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
        // In pages too, each of which may be compacted meanwhile.
        let list = if compared % 2 == 0 { api.get(&exact).await } else { pages(api, &exact).await };
        if list.code == 410 {
            compacted += 1;
            continue;
        }
        assert_eq!(objects(&list.ok()), seen, "at {revision}");
        compared += 1;
    }
    (compared, compacted)
}

/// The same list in pages of two; the first answer that is no page is the answer.
async fn pages(api: &Api, url: &str) -> Answer {
    let mut whole = api.get(&format!("{url}&limit=2")).await;
    while whole.code == 200 {
        let token = whole.body["metadata"]["continue"].as_str().unwrap_or("").to_owned();
        if token.is_empty() {
            break;
        }
        let next = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
        if next.code != 200 {
            return next;
        }
        let more = next.body["items"].as_array().unwrap().clone();
        whole.body["items"].as_array_mut().unwrap().extend(more);
        whole.body["metadata"] = next.body["metadata"].clone();
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_revision_the_list_is_what_the_watch_told() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let api = Api::start().await;
    write(&api, seed).await;
    let first = api.get(CONFIG_MAPS).await.ok();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let work = async {
        let writers = (1..=WRITERS).map(|writer| write(&api, seed.wrapping_add(writer)));
        // Each writer changes something at least every fourth time.
        let follower = follow_exactly(&api, &first, WRITES);
        let (_, found) = tokio::join!(futures::future::join_all(writers), follower);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        found
    };
    let ((compared, compacted), ()) = tokio::join!(work, compact(&api, &stop));
    println!("{compared} lists compared, {compacted} compacted");
    assert!(compared > WRITES / 4, "only {compared} lists were there to compare");
    api.shutdown().await;
}

/// Any JSON, smaller the deeper it is.
fn any_json(random: &mut StdRng, depth: u32) -> Value {
    match random.random_range(0..if depth > 3 { 5 } else { 7 }) {
        0 => json!(random.random::<bool>()),
        1 => json!(random.random::<i32>()),
        2 => json!(f64::from(random.random::<i16>()) / 8.0 + 0.0625),
        3 => json!(["", "a", "1", "null", "\u{1F3DD}", "2026-01-01"][random.random_range(0..6)]),
        4 => json!(i64::MIN),
        5 => (0..random.random_range(0..4)).map(|_| any_json(random, depth + 1)).collect(),
        _ => Value::Object(fields(random, depth)),
    }
}

fn fields(random: &mut StdRng, depth: u32) -> serde_json::Map<String, Value> {
    let count = random.random_range(0..5);
    let names = ["a", "b/c", "d.e", "~f", "metadata", "kind"];
    (0..count)
        .map(|_| (names[random.random_range(0..6)].to_owned(), any_json(random, depth + 1)))
        .collect()
}

/// Versions that differ by name alone: what is written in one is what is read in the other.
#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_the_same_in_every_version() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let api = Api::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.create(definitions, &crate::crds::fields::jars()).await.ok();
    let place =
        |version: &str| format!("/apis/fields.example.com/{version}/namespaces/default/jars");
    let (first, second) = (place("v1"), place("v2"));
    while api.get(&first).await.code != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for number in 0..60 {
        let spec = Value::Object(fields(&mut random, 0));
        let name = format!("r-{number}");
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        object["apiVersion"] = json!("fields.example.com/v1");
        object["kind"] = json!("Jar");
        let made = api.create(&first, &object).await.ok();
        assert_eq!(made["spec"], spec);
        let mut other = api.get(&format!("{second}/{name}")).await.ok();
        assert_eq!(other["apiVersion"], "fields.example.com/v2");
        assert_eq!(other["spec"], spec);
        let same = api.put(&format!("{second}/{name}"), &other).await.ok();
        assert_eq!(same, other, "what is put back as it was is no change");
        other["metadata"]["labels"] = json!({"seen": "yes"});
        api.put(&format!("{second}/{name}"), &other).await.ok();
        let back = api.get(&format!("{first}/{name}")).await.ok();
        assert_eq!(back["spec"], spec);
        assert_eq!(back["metadata"]["generation"], 1);
    }
    api.shutdown().await;
}
