//! Manifests as people write them, and what becomes of each: the object as it is stored, or the
//! refusal in upstream's words.
//!
//! A file of `tests/corpus` holds YAML documents with `case`, `manifest`, and `stored` or
//! `refused`. With `ATOLL_CORPUS_WRITE=1` the files are written anew with what the server says
//! now; the difference is to be read, line by line, before it is kept.

use std::path::{Path, PathBuf};

use atoll_api::kinds::{self, ResourceInfo};
use atoll_api::tree;
use serde_json::{Value, json};

use crate::client::{Api, JSON};

/// How many manifests there are at least, and of how many kinds.
const CASES_MIN: usize = 300;

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn row(manifest: &Value) -> &'static ResourceInfo {
    let api_version = manifest["apiVersion"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = manifest["kind"].as_str().unwrap();
    kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no {kind} of {api_version}"))
}

fn url(manifest: &Value) -> String {
    let row = row(manifest);
    let root = if row.group.is_empty() {
        format!("/api/{}", row.version)
    } else {
        format!("/apis/{}/{}", row.group, row.version)
    };
    let namespace = if row.namespaced() { "/namespaces/default" } else { "" };
    let dry = if row.virtual_only { "" } else { "?dryRun=All&fieldValidation=Strict" };
    format!("{root}{namespace}/{}{dry}", row.resource)
}

/// The object without what the server alone decides.
fn comparable(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for own in ["uid", "creationTimestamp", "resourceVersion", "managedFields"] {
            metadata.remove(own);
        }
    }
    settle(&mut object);
    object
}

/// Times, uids and what is chosen at random: an address, a port, the end of a name.
fn settle(value: &mut Value) {
    match value {
        Value::String(text) => *text = settled(text),
        Value::Array(items) => items.iter_mut().for_each(settle),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match key.as_str() {
                    "clusterIP" if value.as_str().is_some_and(|ip| ip.starts_with("10.43.")) => {
                        *value = json!("(an address)");
                    }
                    "clusterIPs"
                        if value[0].as_str().is_some_and(|ip| ip.starts_with("10.43.")) =>
                    {
                        *value = json!(["(an address)"]);
                    }
                    "nodePort" | "healthCheckNodePort" if value.as_i64() >= Some(30_086) => {
                        *value = json!("(a port)");
                    }
                    _ => settle(value),
                }
            }
        }
        _ => {}
    }
}

fn settled(text: &str) -> String {
    if text.starts_with("kube-api-access-") {
        return "kube-api-access-(random)".to_owned();
    }
    let text = &without_uids(text);
    // The tests' own year: whatever is later was set by the server.
    let now = text.len() >= 20 && text.ends_with('Z') && text.as_bytes()[4] == b'-';
    if now && text.as_str() > "2026-06" { "(now)".to_owned() } else { text.to_owned() }
}

/// Uids, also in the middle of a message.
pub(crate) fn without_uids(text: &str) -> String {
    const LENGTH: usize = 36;
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        if rest.get(..LENGTH).is_some_and(is_uid) {
            out.push_str("(a uid)");
            rest = &rest[LENGTH..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

fn is_uid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

async fn outcome(api: &Api, manifest: &Value) -> (&'static str, Value) {
    let answer = api.send(http::Method::POST, &url(manifest), &[JSON], manifest.to_string()).await;
    if answer.code == 201 {
        ("stored", comparable(answer.body))
    } else {
        let message = answer.body["message"].as_str().unwrap_or("").to_owned();
        ("refused", json!(format!("{} {}", answer.code, without_uids(&message))))
    }
}

#[allow(clippy::disallowed_methods, reason = "a switch of this test alone")]
#[tokio::test(flavor = "multi_thread")]
async fn manifests_become_what_upstream_makes_of_them() {
    let write = std::env::var("ATOLL_CORPUS_WRITE").is_ok_and(|value| value == "1");
    let api = Api::start().await;
    let (mut failures, mut seen, mut kinds_seen) =
        (Vec::new(), 0, std::collections::BTreeSet::new());
    for file in files() {
        let documents = tree::from_yaml_all(&std::fs::read(&file).unwrap()).unwrap();
        let mut written = String::new();
        for document in documents {
            let case = document.decoded.object;
            let manifest = &case["manifest"];
            kinds_seen.insert((row(manifest).group.to_string(), row(manifest).kind.to_string()));
            seen += 1;
            let (key, made) = outcome(&api, manifest).await;
            if case.get(key) != Some(&made) {
                let file = file.file_name().unwrap().to_string_lossy();
                failures.push(format!("{file}: {}: {key} {made}", case["case"]));
            }
            let case = json!({"case": case["case"], "manifest": manifest, key: made});
            written.push_str(&format!("---\n{}", tree::to_yaml(&case)));
        }
        if write {
            std::fs::write(&file, written).unwrap();
        }
    }
    assert!(write || failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    let missing: Vec<String> = kinds::builtin()
        .iter()
        .filter(|row| row.served && row.allows("create"))
        .filter(|row| !kinds_seen.contains(&(row.group.to_string(), row.kind.to_string())))
        .map(|row| format!("{} {}", row.api_version(), row.kind))
        .collect();
    assert!(missing.is_empty(), "kinds without a manifest: {missing:?}");
    assert!(seen >= CASES_MIN, "only {seen} manifests");
    api.shutdown().await;
}
