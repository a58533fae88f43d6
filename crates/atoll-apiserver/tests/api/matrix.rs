//! Every row of the table through the same life: one path serves all kinds, and this is how
//! we know.

mod parts;

use atoll_api::kinds::{self, ResourceInfo};
use serde_json::{Value, json};

use crate::client::{Api, MERGE, STRATEGIC, oracle};
use crate::samples::{numbered, sample};

fn collection(row: &ResourceInfo) -> String {
    let root = if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    };
    let namespace = if row.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}{namespace}/{}", row.resource)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_lives_the_same_life() {
    let api = Api::start().await;
    for row in kinds::builtin().iter().filter(|row| row.served && row.allows("update")) {
        // The server itself writes the status of definitions: `crds` has their life.
        if row.kind == "CustomResourceDefinition" {
            continue;
        }
        life(&api, row).await;
    }
    api.shutdown().await;
}

async fn life(api: &Api, row: &ResourceInfo) {
    let kind = format!("{} {}", row.api_version(), row.kind);
    let (all, object) = (collection(row), sample(row));
    let name = object["metadata"]["name"].as_str().unwrap();
    let one = format!("{all}/{name}");

    let dry = api.create(&format!("{all}?dryRun=All"), &object).await;
    assert_eq!(dry.code, 201, "{kind}: dry create: {}", dry.body);
    assert_eq!(api.get(&one).await.code, 404, "{kind}: a dry create left something");

    let created = api.create(&all, &object).await;
    assert_eq!(created.code, 201, "{kind}: create: {}", created.body);
    assert_eq!(created.body["kind"], *row.kind);
    assert!(created.body["metadata"]["uid"].is_string(), "{kind}: no uid");
    assert_eq!(api.create(&all, &object).await.code, 409, "{kind}: created twice");

    let mut read = api.get(&one).await.ok();
    if row.kind == "CustomResourceDefinition" {
        read = established(api, &one).await;
    } else {
        assert_eq!(read, created.body, "{kind}: get differs from what create answered");
    }
    let revision = read["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let list = api.get(&all).await.ok();
    assert_eq!(list["kind"], *row.list_kind);
    let listed =
        list["items"].as_array().unwrap().iter().find(|own| own["metadata"]["name"] == name);
    assert!(listed.is_some_and(|own| own.get("kind").is_none()), "{kind}: not listed as it should");

    let same = api.put(&one, &read).await;
    assert_eq!(same.code, 200, "{kind}: put: {}", same.body);
    assert_eq!(same.body["metadata"]["resourceVersion"], revision, "{kind}: a no-op wrote");

    let patch = json!({"metadata": {"labels": {"l": "1"}}});
    let dry = api.merge(&format!("{one}?dryRun=All"), &patch).await.ok();
    assert_eq!(dry["metadata"]["labels"]["l"], "1");
    assert_eq!(api.get(&one).await.ok(), read, "{kind}: a dry patch wrote");
    let patched = api.patch(&one, MERGE, &patch).await;
    assert_eq!(patched.code, 200, "{kind}: patch: {}", patched.body);
    assert_ne!(patched.body["metadata"]["resourceVersion"], revision);

    patches(api, row, &one).await;
    parts::status(api, row, &one).await;
    parts::scale(api, row, &one).await;
    parts::approval(api, row, &one).await;
    everywhere(api, row, name).await;
    shapes(api, row, &all, name).await;
    let url = format!("{all}?fieldValidation=Strict&dryRun=All");
    let strict = api.create(&url, &unknown(&object)).await;
    assert_eq!(strict.code, 400, "{kind}: {}", strict.body);
    let text = strict.body["message"].as_str().unwrap();
    assert!(text.ends_with("strict decoding error: unknown field \"foo\""), "{kind}: {text}");

    unconditional(api, row, &one).await;
    let stale = api.put(&one, &changed(&read)).await;
    assert_eq!(stale.code, 409, "{kind}: a stale put passed: {}", stale.body);

    goes(api, row, &all, name, &revision).await;
    if row.allows("deletecollection") {
        collection_goes(api, row, &all).await;
    }
}

/// The end of an object, and what a watch tells of it since a revision.
async fn goes(api: &Api, row: &ResourceInfo, all: &str, name: &str, revision: &str) {
    let (kind, one) = (&row.kind, format!("{all}/{name}"));
    let from = format!("{all}?watch=1&resourceVersion={revision}&labelSelector=l=1");
    let mut watch = api.watch(&from, "application/json").await;
    assert_eq!(watch.step().await, ("ADDED".to_owned(), name.to_owned()), "{kind}");

    let dry = api.delete(&format!("{one}?dryRun=All")).await;
    assert_eq!(dry.code, 200, "{kind}: dry delete: {}", dry.body);
    assert_eq!(api.get(&one).await.code, 200, "{kind}: a dry delete deleted");
    let deleted = api.delete(&one).await;
    assert_eq!(deleted.code, 200, "{kind}: delete: {}", deleted.body);
    if row.kind == "Namespace" {
        finish_namespace(api, &one).await;
    } else {
        finish(api, &one).await;
    }
    assert_eq!(api.get(&one).await.code, 404, "{kind}: still there");
    loop {
        match watch.step().await {
            (event, own) if event == "DELETED" => break assert_eq!(own, name),
            (event, _) => assert_eq!(event, "MODIFIED", "{kind}"),
        }
    }
}

/// Every form of a patch, dry and in earnest; each object is its own proof.
async fn patches(api: &Api, row: &ResourceInfo, one: &str) {
    let kind = &row.kind;
    let json = json!([{"op": "add", "path": "/metadata/labels/j", "value": "1"}]);
    let strategic = json!({"metadata": {"labels": {"s": "1"}}});
    let formats = [("application/json-patch+json", json, "j"), (STRATEGIC, strategic, "s")];
    for (format, patch, label) in formats {
        let before = api.get(one).await.ok();
        let dry = api.patch(&format!("{one}?dryRun=All"), format, &patch).await.ok();
        assert_eq!(dry["metadata"]["labels"][label], "1", "{kind} {format}");
        assert_eq!(api.get(one).await.ok(), before, "{kind} {format}: a dry patch wrote");
        let done = api.patch(one, format, &patch).await.ok();
        assert_eq!(done["metadata"]["labels"][label], "1", "{kind} {format}");
        assert_eq!(api.get(one).await.ok(), done, "{kind} {format}");
    }
    let mut config = json!({"apiVersion": row.api_version(), "kind": kind});
    config["metadata"] = json!({"labels": {"a": "1"}});
    let apply = "application/apply-patch+yaml";
    let url = format!("{one}?fieldManager=matrix");
    let before = api.get(one).await.ok();
    let dry = api.patch(&format!("{url}&dryRun=All"), apply, &config).await.ok();
    assert_eq!(dry["metadata"]["labels"]["a"], "1", "{kind}: dry apply");
    assert_eq!(api.get(one).await.ok(), before, "{kind}: a dry apply wrote");
    let once = api.patch(&url, apply, &config).await.ok();
    assert_eq!(once["metadata"]["labels"]["a"], "1", "{kind}: apply");
    let twice = api.patch(&url, apply, &config).await.ok();
    assert_eq!(once, twice, "{kind}: an apply twice is an apply once");
}

/// A replacement that states no revision counts as one of whatever is there, or is refused.
async fn unconditional(api: &Api, row: &ResourceInfo, one: &str) {
    let mut blind = api.get(one).await.ok();
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let answer = api.put(&format!("{one}?dryRun=All"), &blind).await;
    if row.hooks.unconditional_update {
        assert_eq!(answer.code, 200, "{}: {}", row.kind, answer.body);
        return;
    }
    let text = answer.body["message"].as_str().unwrap();
    let why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
    assert!(answer.code == 422 && text.ends_with(why), "{}: {text}", row.kind);
}

/// The list over all namespaces shows the object too.
async fn everywhere(api: &Api, row: &ResourceInfo, name: &str) {
    let all = collection(row).replace("/namespaces/default/", "/");
    let list = api.get(&format!("{all}?fieldSelector=metadata.name={name}")).await.ok();
    assert!(!list["items"].as_array().unwrap().is_empty(), "{}: not in {all}", row.kind);
}

/// As Table, as metadata, as YAML; one object and the list.
async fn shapes(api: &Api, row: &ResourceInfo, all: &str, name: &str) {
    let kind = &row.kind;
    for place in [all.to_owned(), format!("{all}/{name}")] {
        let get = async |accept: &str| {
            let headers = [("accept", accept)];
            api.send(http::Method::GET, &place, &headers, "").await.ok()
        };
        let table = get("application/json;as=Table;v=v1;g=meta.k8s.io").await;
        assert_eq!(table["kind"], "Table", "{kind}");
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        let rows = table["rows"].as_array().unwrap();
        assert!(columns > 0 && !rows.is_empty(), "{kind}: {table}");
        for line in rows {
            assert_eq!(line["cells"].as_array().unwrap().len(), columns, "{kind}: {line}");
            assert_eq!(line["object"]["kind"], "PartialObjectMetadata", "{kind}");
        }
        let form = if place == all { "PartialObjectMetadataList" } else { "PartialObjectMetadata" };
        let partial = get(&format!("application/json;as={form};v=v1;g=meta.k8s.io")).await;
        assert_eq!(partial["kind"], form, "{kind}");
        let yaml = get("application/yaml").await;
        assert!(yaml.as_str().is_some_and(|text| text.contains(name)), "{kind}: {yaml}");
    }
}

/// A collection goes by its labels, and nothing else goes with it.
async fn collection_goes(api: &Api, row: &ResourceInfo, all: &str) {
    let kind = &row.kind;
    let mut names = Vec::new();
    for (index, label) in ["go", "go", "stay"].iter().enumerate() {
        let mut one = numbered(row, index);
        let name = one["metadata"]["name"].as_str().unwrap().to_owned();
        one["metadata"]["labels"] = json!({"fate": label});
        api.create(all, &one).await.ok();
        names.push(name);
    }
    let dry = api.delete(&format!("{all}?labelSelector=fate=go&dryRun=All")).await.ok();
    assert_eq!(dry["items"].as_array().unwrap().len(), 2, "{kind}");
    assert_eq!(api.get(&format!("{all}/{}", names[0])).await.code, 200, "{kind}: dry run deleted");
    api.delete(&format!("{all}?labelSelector=fate=go")).await.ok();
    for name in &names[..2] {
        finish(api, &format!("{all}/{name}")).await;
    }
    let codes: Vec<u16> = futures::future::join_all(
        names.iter().map(|name| async move { api.get(&format!("{all}/{name}")).await.code }),
    )
    .await;
    assert_eq!(codes, [404, 404, 200], "{kind}");
    api.delete(&format!("{all}/{}", names[2])).await.ok();
}

fn unknown(object: &Value) -> Value {
    let mut object = object.clone();
    object["foo"] = json!(1);
    object["metadata"]["name"] = json!("unknown");
    object
}

fn changed(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["labels"] = json!({"stale": "1"});
    object
}

/// A definition once the server has said of it all that it has to say.
async fn established(api: &Api, one: &str) -> Value {
    for _ in 0..100 {
        let read = api.get(one).await.ok();
        if read["status"]["conditions"].as_array().is_some_and(|all| all.len() == 2) {
            return read;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{one} was not established within two seconds");
}

/// Controllers take finalizers away; here there are none.
async fn finish(api: &Api, one: &str) {
    let left = api.get(one).await;
    if left.code == 200 && left.body["metadata"]["deletionTimestamp"].is_string() {
        let freed = api.patch(one, MERGE, &json!({"metadata": {"finalizers": null}})).await;
        // The server's own work may be done by now.
        assert!(matches!(freed.code, 200 | 404), "{}", freed.body);
    }
}

async fn finish_namespace(api: &Api, one: &str) {
    let mut object = api.get(one).await.ok();
    assert_eq!(object["status"]["phase"], "Terminating");
    object["spec"]["finalizers"] = json!([]);
    api.put(&format!("{one}/finalize"), &object).await.ok();
}

/// Objects that upstream wrote with every field set pass our decoder without a complaint.
#[tokio::test(flavor = "multi_thread")]
async fn upstreams_own_objects_have_no_unknown_fields() {
    let Some(dir) = oracle("api-testdata") else { return };
    let api = Api::start().await;
    let mut seen = 0;
    for row in kinds::builtin().iter().filter(|row| row.served && !row.virtual_only) {
        let group = if row.group.is_empty() { "core" } else { &row.group };
        let file = dir.join(format!("{group}.{}.{}.json", row.version, row.kind));
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let mut object: Value = serde_json::from_str(&text).unwrap();
        object["metadata"]["namespace"] = json!("default");
        let url = format!("{}?dryRun=All&fieldValidation=Strict", collection(row));
        let answer = api.create(&url, &object).await;
        let message = answer.body["message"].as_str().unwrap_or("");
        assert!(!message.contains("cannot be handled"), "{}: {message}", row.kind);
        seen += 1;
    }
    assert!(seen > 10, "only {seen} objects were there");
    api.shutdown().await;
}
