//! What the server makes of requests is what kube-apiserver 1.36 made of them.

use atoll_api::kinds;
use serde_json::{Value, json};

use crate::client::{Api, JSON, oracle};
use crate::corpus::without_uids;

/// Fields that are another cluster's, or chosen at random.
const OWN: [&str; 3] = ["uid", "creationTimestamp", "resourceVersion"];

/// Where ownership of fields differs: both are filled in by defaulting here, later upstream.
const KNOWN: [&str; 4] = ["f:clusterIPs", "f:eventTime", "f:firstTimestamp", "f:lastTimestamp"];

fn comparable(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        OWN.iter().for_each(|field| drop(metadata.remove(*field)));
    }
    if let Some(ports) = object["spec"]["ports"].as_array_mut() {
        for port in ports.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
    }
    let headless = object["spec"]["clusterIP"] == "None";
    if let Some(spec) = object["spec"].as_object_mut()
        && !headless
    {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
        // Upstream's API server leaves these to a controller.
        spec.remove("podCIDR");
        spec.remove("podCIDRs");
    }
    if let Some(status) = object["status"].as_object_mut() {
        status.remove("lastPhaseTransitionTime");
    }
    known_name(&mut object);
    if let Some(entries) = object["metadata"]["managedFields"].as_array_mut() {
        entries
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(|one| drop(one.remove("time")));
    }
    object
}

/// The name of the volume with the ServiceAccount's token ends at random, and so do uids.
fn known_name(value: &mut Value) {
    match value {
        Value::String(text) if text.starts_with("kube-api-access-") => {
            text.truncate("kube-api-access-".len());
        }
        // A Job is selected by the uid that it was given.
        Value::String(text) => *text = without_uids(text),
        Value::Array(items) => items.iter_mut().for_each(known_name),
        Value::Object(map) => map.values_mut().for_each(known_name),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_upstreams() {
    let Some(file) = oracle("defaults.json") else { return };
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let api = Api::start().await;
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in &cases {
        let path = case["path"].as_str().unwrap();
        let resource = path.rsplit('/').next().unwrap();
        let served = kinds::builtin().iter().any(|row| row.served && row.resource == resource);
        if !served || case["request"].is_null() {
            continue;
        }
        let body = case["request"].to_string();
        let url = format!("{path}?dryRun=All&fieldManager=x");
        let answer = api.send(http::Method::POST, &url, &[JSON], body).await;
        compared += 1;
        let (own, theirs) = (comparable(answer.body), comparable(case["response"].clone()));
        let mut difference = difference("", &own, &theirs);
        difference.retain(|one| !KNOWN.iter().any(|known| one.contains(known)));
        if !difference.is_empty() {
            failures.push(format!("{path} {}: {difference:#?}", case["request"]));
        }
    }
    assert!(compared > 10, "only {compared} cases are served");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    api.shutdown().await;
}

fn difference(at: &str, own: &Value, theirs: &Value) -> Vec<String> {
    match (own, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            let nothing = json!(null);
            keys.into_iter()
                .flat_map(|key| {
                    let place = format!("{at}.{key}");
                    difference(
                        &place,
                        a.get(key).unwrap_or(&nothing),
                        b.get(key).unwrap_or(&nothing),
                    )
                })
                .collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(index, (a, b))| difference(&format!("{at}[{index}]"), a, b))
            .collect(),
        (a, b) if a == b => Vec::new(),
        (a, b) => vec![format!("{at}: ours {a}, upstream's {b}")],
    }
}
