//! Custom resources in several versions, converted by a webhook.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Api, MERGE};
use crate::hooked::Hook;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OLD: &str = "/apis/x.example.com/v1/namespaces/default/doors";
const NEW: &str = "/apis/x.example.com/v2/namespaces/default/doors";

/// v1 has `spec.size: "2x3"`, v2 has `spec.width` and `spec.height`.
fn convert(request: &Value) -> Value {
    let wanted = request["desiredAPIVersion"].as_str().unwrap();
    let converted = request["objects"].as_array().unwrap().iter().map(|object| {
        let mut object = object.clone();
        let spec = object["spec"].clone();
        object["spec"] = if wanted.ends_with("/v2") {
            let (width, height) = spec["size"].as_str().unwrap().split_once('x').unwrap();
            json!({"width": width, "height": height})
        } else {
            let text = |field: &str| spec[field].as_str().unwrap_or("").to_owned();
            json!({"size": format!("{}x{}", text("width"), text("height"))})
        };
        object["apiVersion"] = json!(wanted);
        object
    });
    json!({"result": {"status": "Success"}, "convertedObjects": converted.collect::<Vec<_>>()})
}

fn definition(hook: &Hook) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let fields: serde_json::Map<_, _> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        let selectable =
            json!([{"jsonPath": format!(".spec.{}", fields.keys().next_back().unwrap())}]);
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}},
            "selectableFields": selectable})
    };
    json!({
        "metadata": {"name": "doors.x.example.com"},
        "spec": {
            "group": "x.example.com", "scope": "Namespaced",
            "names": {"plural": "doors", "kind": "Door"},
            "versions": [version("v1", true, &["size"]), version("v2", false, &["width", "height"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {
                    "url": format!("https://localhost:{}/convert", hook.address.port()),
                    "caBundle": hook.bundle,
                },
            }},
        },
    })
}

async fn started(hook: &Hook) -> Api {
    let api = Api::start().await;
    api.create(DEFINITIONS, &definition(hook)).await.ok();
    let begun = Instant::now();
    while api.get(OLD).await.code != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    api
}

fn door(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("x.example.com/{version}"), "kind": "Door",
        "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_seen_and_written_in_every_version() {
    let hook = Hook::start(convert).await;
    let api = started(&hook).await;
    let mut watch = api.watch(&format!("{NEW}?watch=1"), "application/json").await;
    api.create(OLD, &door("v1", "a", json!({"size": "2x3"}))).await.ok();
    let made = api.create(NEW, &door("v2", "b", json!({"width": "4", "height": "5"}))).await.ok();
    assert_eq!(made["apiVersion"], "x.example.com/v2");
    assert_eq!(
        api.get(&format!("{NEW}/a")).await.ok()["spec"],
        json!({"width": "2", "height": "3"})
    );
    assert_eq!(api.get(&format!("{OLD}/b")).await.ok()["spec"], json!({"size": "4x5"}));
    let list = api.get(NEW).await.ok();
    let specs: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|one| &one["spec"]).collect();
    assert_eq!(json!(specs), json!([{"width": "2", "height": "3"}, {"width": "4", "height": "5"}]));
    let patch = json!({"spec": {"width": "9"}});
    api.patch(&format!("{NEW}/a"), MERGE, &patch).await.ok();
    assert_eq!(api.get(&format!("{OLD}/a")).await.ok()["spec"], json!({"size": "9x3"}));
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["spec"], json!({"width": "2", "height": "3"}));
    let seen = hook.seen();
    assert!(seen.iter().all(|(path, _)| path == "/convert?timeout=30s"), "{seen:?}");
    for wanted in ["x.example.com/v1", "x.example.com/v2"] {
        assert!(seen.iter().any(|(_, asked)| asked["desiredAPIVersion"] == wanted), "{seen:?}");
    }
    api.delete(&format!("{NEW}/a")).await.ok();
    assert_eq!(api.get(&format!("{OLD}/a")).await.code, 404);
    api.shutdown().await;
}

/// Each version has a field of its own to select by: `spec.size`, and `spec.width`.
#[tokio::test(flavor = "multi_thread")]
async fn objects_of_two_stored_versions_are_listed_and_selected() {
    let hook = Hook::start(convert).await;
    let api = started(&hook).await;
    api.create(OLD, &door("v1", "a", json!({"size": "2x3"}))).await.ok();
    let place = format!("{DEFINITIONS}/doors.x.example.com");
    let mut other = api.get(&place).await.ok();
    other["spec"]["versions"][0]["storage"] = json!(false);
    other["spec"]["versions"][1]["storage"] = json!(true);
    let stored = api.put(&place, &other).await.ok();
    assert_eq!(stored["status"]["storedVersions"], json!(["v1", "v2"]));
    api.server.core().registry.catch_up().await.unwrap();
    let made = door("v2", "b", json!({"width": "4", "height": "5"}));
    api.create(NEW, &made).await.ok();
    let specs = async |path: &str| {
        let list = api.get(path).await.ok();
        list["items"].as_array().unwrap().iter().map(|one| one["spec"].clone()).collect::<Vec<_>>()
    };
    let (a, b) = (json!({"width": "2", "height": "3"}), json!({"width": "4", "height": "5"}));
    assert_eq!(specs(NEW).await, [a.clone(), b.clone()]);
    assert_eq!(specs(OLD).await, [json!({"size": "2x3"}), json!({"size": "4x5"})]);
    assert_eq!(specs(&format!("{NEW}?fieldSelector=spec.width=4")).await, [b]);
    assert_eq!(specs(&format!("{NEW}?fieldSelector=spec.width!=4")).await, [a]);
    let size = format!("{OLD}?fieldSelector=spec.size=2x3");
    assert_eq!(specs(&size).await, [json!({"size": "2x3"})]);
    let mut watch = api.watch(&format!("{size}&watch=1"), "application/json").await;
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "a".to_owned()));
    api.merge(&format!("{NEW}/b"), &json!({"spec": {"width": "2", "height": "3"}})).await.ok();
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "b".to_owned()));
    api.merge(&format!("{NEW}/a"), &json!({"spec": {"height": "9"}})).await.ok();
    assert_eq!(watch.step().await, ("DELETED".to_owned(), "a".to_owned()));
    api.get(&format!("{OLD}?fieldSelector=spec.width=4"))
        .await
        .fails(400, "field label not supported: spec.width");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_fails_is_named() {
    let hook =
        Hook::start(|_| json!({"result": {"status": "Failed", "message": "not today"}})).await;
    let api = started(&hook).await;
    api.create(OLD, &door("v1", "a", json!({"size": "2x3"}))).await.ok();
    let why = "conversion webhook for x.example.com/v1, Kind=Door failed: not today";
    api.get(&format!("{NEW}/a")).await.fails(500, why);
    // Its own version needs nobody.
    api.get(&format!("{OLD}/a")).await.ok();
    api.shutdown().await;
}
