//! Upstream's golden files: one object of every type, in JSON and protobuf.
//!
//! They are not in this repository; without them the test says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use atoll_api::{proto, schema, tree};
use serde_json::Value;

fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/api-testdata");
    if root.is_dir() {
        return Some(root);
    }
    println!("skipped: {} is not there", root.display());
    None
}

/// Stem and object of every file that has a type which is built in.
fn served(root: &Path) -> Vec<(String, Value)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let object = tree::from_json(&std::fs::read(&path).unwrap()).unwrap().object;
        let text = |field: &str| object[field].as_str().unwrap_or("").to_owned();
        if schema::by_gvk_text(&text("apiVersion"), &text("kind")) {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            files.push((stem, object));
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    files
}

/// The first place where two trees differ.
fn difference(path: &str, left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys());
            keys.map(String::as_str)
                .find_map(|key| difference(&format!("{path}.{key}"), &left[key], &right[key]))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => (0..a.len())
            .find_map(|index| difference(&format!("{path}[{index}]"), &a[index], &b[index])),
        _ if left == right => None,
        _ => Some(format!("{path}: expected {left}, found {right}")),
    }
}

#[test]
fn protobuf_decodes_to_the_same_object_as_json() {
    let Some(root) = folder() else { return };
    let files = served(&root);
    assert!(files.len() >= 100, "only {} types", files.len());
    let mut failures = Vec::new();
    for (stem, mut expected) in files.clone() {
        let bytes = std::fs::read(root.join(format!("{stem}.pb"))).unwrap();
        let schema = schema::by_type(
            expected["apiVersion"].as_str().unwrap(),
            expected["kind"].as_str().unwrap(),
        );
        schema::prune_and_check(schema.unwrap(), &mut expected).unwrap();
        match proto::decode(&bytes) {
            Ok((_, found)) => {
                failures.extend(difference("", &expected, &found).map(|at| format!("{stem}{at}")));
            }
            Err(error) => failures.push(format!("{stem}: {error}")),
        }
    }
    println!("{} of {} types agree", files.len() - failures.len(), files.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_field_of_the_golden_objects_is_known() {
    let Some(root) = folder() else { return };
    let mut failures = Vec::new();
    for (stem, mut object) in served(&root) {
        let (version, kind) = (object["apiVersion"].clone(), object["kind"].clone());
        let schema = schema::by_type(version.as_str().unwrap(), kind.as_str().unwrap()).unwrap();
        match schema::prune_and_check(schema, &mut object) {
            Ok(unknown) if unknown.is_empty() => {}
            other => failures.push(format!("{stem}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn json_encodes_to_the_same_bytes_as_gos() {
    let Some(root) = folder() else { return };
    let mut failures = Vec::new();
    let files = served(&root);
    for (stem, object) in &files {
        let bytes = std::fs::read(root.join(format!("{stem}.pb"))).unwrap();
        match proto::encode(object) {
            Ok(found) if found == bytes => {}
            Ok(found) => {
                let at = found.iter().zip(&bytes).position(|(a, b)| a != b);
                let again = proto::decode(&found).unwrap().1;
                let differs = difference("", object, &again);
                failures.push(format!("{stem}: differs at byte {at:?}, {differs:?}"));
            }
            Err(error) => failures.push(format!("{stem}: {error}")),
        }
    }
    println!("{} of {} are the same bytes", files.len() - failures.len(), files.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What was read from protobuf is written as it came.
#[test]
fn protobuf_survives_the_way_through_json() {
    let Some(root) = folder() else { return };
    for (stem, _) in served(&root) {
        let bytes = std::fs::read(root.join(format!("{stem}.pb"))).unwrap();
        let (_, object) = proto::decode(&bytes).unwrap();
        assert_eq!(proto::encode(&object).unwrap(), bytes, "{stem}");
    }
}

#[test]
fn yaml_decodes_to_the_same_object_as_json() {
    let Some(root) = folder() else { return };
    for (stem, expected) in served(&root) {
        let bytes = std::fs::read(root.join(format!("{stem}.yaml"))).unwrap();
        let found = tree::from_yaml(&bytes).unwrap().object;
        assert_eq!(difference("", &expected, &found), None, "{stem}");
        let written = tree::to_yaml(&expected);
        let again = tree::from_yaml(written.as_bytes()).unwrap().object;
        assert_eq!(difference("", &expected, &again), None, "{stem}");
    }
}

/// Every kind of upstream's discovery has a schema, those of subresources too.
#[test]
fn every_discovered_kind_has_a_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/discovery");
    let Ok(bytes) = std::fs::read(root.join("aggregated_v2.json")) else {
        println!("skipped: {} is not there", root.display());
        return;
    };
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let mut missing = Vec::new();
    let mut seen = 0;
    for group in document["items"].as_array().unwrap() {
        let group_name = group["metadata"]["name"].as_str().unwrap_or("");
        for version in group["versions"].as_array().unwrap() {
            for resource in version["resources"].as_array().unwrap() {
                let parts = resource["subresources"].as_array().into_iter().flatten();
                for one in std::iter::once(resource).chain(parts) {
                    let kind = &one["responseKind"];
                    let text = |name: &str| kind[name].as_str().unwrap_or("");
                    // Empty group and version are those of the list.
                    let (group, own) = match text("version") {
                        "" => (group_name, version["version"].as_str().unwrap()),
                        own => (text("group"), own),
                    };
                    seen += 1;
                    if schema::by_gvk(group, own, text("kind")).is_none() {
                        missing.push(format!("{group}/{own} {}", text("kind")));
                    }
                }
            }
        }
    }
    println!("{} of {seen} kinds have a schema", seen - missing.len());
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
