//! Several definitions side by side: their documents, their own status, and their collection.

use serde_json::{Value, json};

use super::{DEFINITIONS, soon};
use crate::client::{Answer, Api};

/// A definition with these versions, each of which has a field by its own name.
fn definition(group: &str, kind: &str, versions: &[&str]) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    let versions = versions.iter().enumerate().map(|(index, name)| {
        let own = json!({"type": "string", "description": format!("Only in {name}.")});
        let properties = json!({"spec": {"type": "object", "properties": {*name: own}}});
        json!({"name": name, "served": true, "storage": index == 0, "schema":
            {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    });
    let versions: Vec<Value> = versions.collect();
    json!({
        "metadata": {"name": format!("{plural}.{group}"), "labels": {"several": "yes"}},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind}, "versions": versions},
    })
}

fn document(group: &str, version: &str) -> String {
    format!("/openapi/v3/apis/{group}/{version}")
}

/// Where a version's field stands in the document of its group and version.
fn field(kind: &str, group: &str, version: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    let name = format!("{}.{version}.{kind}", parts.join("."));
    format!("/components/schemas/{name}/properties/spec/properties/{version}")
}

/// Waits until the documents of both forms know the kind.
async fn documented(api: &Api, kind: &str, group: &str, version: &str) {
    let at = field(kind, group, version);
    let knows = |answer: &Answer| answer.code == 200 && answer.body.pointer(&at).is_some();
    let shown = soon(api, &document(group, version), knows).await;
    let description = format!("Only in {version}.");
    assert_eq!(shown.body.pointer(&at).unwrap()["description"], description);
    let older = at.replace("/components/schemas/", "/definitions/");
    soon(api, "/openapi/v2", |answer| answer.body.pointer(&older).is_some()).await;
}

/// Neither form knows the kind any more.
async fn forgotten(api: &Api, kind: &str, group: &str, version: &str) {
    let at = field(kind, group, version);
    soon(api, &document(group, version), |answer| answer.body.pointer(&at).is_none()).await;
    let older = at.replace("/components/schemas/", "/definitions/");
    soon(api, "/openapi/v2", |answer| answer.body.pointer(&older).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_know_all_of_them() {
    let api = Api::start().await;
    let (here, there) = ("here.example.com", "there.example.com");
    // Of one group and version, and of another group.
    for (group, kind) in [(here, "Cup"), (here, "Plate"), (there, "Cup")] {
        api.create(DEFINITIONS, &definition(group, kind, &["v1"])).await.ok();
    }
    // One group in several versions.
    api.create(DEFINITIONS, &definition(there, "Fork", &["v2", "v3"])).await.ok();
    let all = [
        ("Cup", here, "v1"),
        ("Plate", here, "v1"),
        ("Cup", there, "v1"),
        ("Fork", there, "v2"),
        ("Fork", there, "v3"),
    ];
    for (kind, group, version) in all {
        documented(&api, kind, group, version).await;
    }
    let index = api.get("/openapi/v3").await.ok();
    for (group, version) in [(here, "v1"), (there, "v1"), (there, "v2"), (there, "v3")] {
        assert!(index["paths"].get(format!("apis/{group}/{version}")).is_some(), "{index}");
    }
    // A version by another name.
    let place = format!("{DEFINITIONS}/forks.{there}");
    let mut renamed = api.get(&place).await.ok();
    renamed["spec"]["versions"] =
        definition(there, "Fork", &["v2", "v4"])["spec"]["versions"].clone();
    api.put(&place, &renamed).await.ok();
    documented(&api, "Fork", there, "v4").await;
    forgotten(&api, "Fork", there, "v3").await;
    documented(&api, "Fork", there, "v2").await;
    // One that is served no more.
    let mut hidden = api.get(&place).await.ok();
    hidden["spec"]["versions"][1]["served"] = json!(false);
    api.put(&place, &hidden).await.ok();
    forgotten(&api, "Fork", there, "v4").await;
    let gone = format!("/apis/{there}/v4/namespaces/default/forks");
    soon(&api, &gone, |answer| answer.code == 404).await;
    documented(&api, "Fork", there, "v2").await;
    documented(&api, "Cup", there, "v1").await;
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_listed_watched_and_deleted_together() {
    let api = Api::start().await;
    let selected = format!("{DEFINITIONS}?labelSelector=several=yes");
    let mut watch = api.watch(&format!("{selected}&watch=1"), "application/json").await;
    for kind in ["Cup", "Plate"] {
        let made = definition("here.example.com", kind, &["v1"]);
        api.create(DEFINITIONS, &made).await.ok();
    }
    let list = api.get(&selected).await.ok();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["kind"], "CustomResourceDefinitionList");
    let cup = "cups.here.example.com";
    let note = json!({"metadata": {"annotations": {"seen": "yes"}}});
    api.merge(&format!("{DEFINITIONS}/{cup}"), &note).await.ok();
    loop {
        let event = watch.next().await.unwrap();
        if event["object"]["metadata"]["annotations"]["seen"] == "yes" {
            break assert_eq!(event["type"], "MODIFIED", "{event}");
        }
    }
    api.delete(&selected).await.ok();
    let mut gone = 0;
    while gone < 2 {
        let (event, _) = watch.step().await;
        gone += usize::from(event == "DELETED");
    }
    assert_eq!(api.get(&selected).await.ok()["items"], json!([]));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_definition_is_a_part_of_its_own() {
    let api = Api::start().await;
    api.create(DEFINITIONS, &definition("here.example.com", "Cup", &["v1"])).await.ok();
    let one = format!("{DEFINITIONS}/cups.here.example.com");
    let part = format!("{one}/status");
    soon(&api, "/apis/here.example.com/v1/cups", |answer| answer.code == 200).await;
    let has = |object: &Value, message: &str| {
        let conditions = object["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["message"] == message))
    };
    let condition = |message: &str| json!([{"type": "", "status": "", "message": message}]);
    // The server writes there as well.
    loop {
        let mut status = api.get(&part).await.ok();
        let before = status["spec"].clone();
        status["status"]["conditions"] = condition("updated");
        status["spec"]["names"]["plural"] = json!("others");
        let answer = api.put(&part, &status).await;
        if answer.code != 409 {
            let updated = answer.ok();
            assert!(has(&updated, "updated"), "{updated}");
            break assert_eq!(updated["spec"], before);
        }
    }
    let patch = json!({"status": {"conditions": condition("patched")}});
    let patched = api.merge(&part, &patch).await.ok();
    assert!(has(&patched, "patched"), "{patched}");
    // What the server has to say comes back.
    soon(&api, &one, |answer| {
        answer.body["status"]["conditions"].to_string().contains("\"Established\"")
    })
    .await;
    api.shutdown().await;
}

/// A default that is taken away is in what was stored with it, and in nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_can_be_taken_away() {
    let api = Api::start().await;
    let mut made = definition("here.example.com", "Cup", &["v1"]);
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    made.pointer_mut(at).unwrap()["a"] = json!({"type": "string", "default": "A"});
    made.pointer_mut(at).unwrap()["b"] = json!({"type": "string"});
    api.create(DEFINITIONS, &made).await.ok();
    let all = "/apis/here.example.com/v1/namespaces/default/cups";
    soon(&api, all, |answer| answer.code == 200).await;
    let cup = |name: &str| {
        json!({"apiVersion": "here.example.com/v1", "kind": "Cup", "metadata": {"name": name},
            "spec": {}})
    };
    let first = api.create(all, &cup("first")).await.ok();
    assert_eq!(first["spec"], json!({"a": "A"}));
    let place = format!("{DEFINITIONS}/cups.here.example.com");
    let mut other = api.get(&place).await.ok();
    other.pointer_mut(at).unwrap()["a"] = json!({"type": "string"});
    other.pointer_mut(at).unwrap()["b"] = json!({"type": "string", "default": "B"});
    api.put(&place, &other).await.ok();
    let first = format!("{all}/first");
    let read = soon(&api, &first, |answer| answer.body["spec"]["b"] == "B").await;
    assert_eq!(read.body["spec"], json!({"a": "A", "b": "B"}));
    let second = api.create(all, &cup("second")).await.ok();
    assert_eq!(second["spec"], json!({"b": "B"}));
    api.shutdown().await;
}
