//! What a watch adds to a list is what a later list shows, whoever writes in between.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};

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
