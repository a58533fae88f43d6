//! What kube-apiserver made of requests to create objects: who owns which field afterwards.
//!
//! The recordings are not in this repository; without them the test says so and passes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking")]

use std::path::Path;

use atoll_api::apply::{self, FieldSet, Manager, Operation};
use atoll_api::{schema, tree};
use serde_json::Value;

/// Parts of paths that upstream sets after it has attributed the others: by admission, by
/// allocation, and in the strategies that prepare an object for creation.
const SET_LATER: &[&str] = &[
    "kubernetes.io/serviceaccount",
    "volumeMounts",
    "kube-api-access",
    ".spec.volumes",
    ".spec.preemptionPolicy",
    ".spec.priority",
    ".spec.serviceAccount",
    ".spec.tolerations",
    ".spec.clusterIP",
    ".spec.ipFamil",
    ".nodePort",
    ".spec.finalizers",
    ".metadata.finalizers",
    ".metadata.labels",
    ".spec.selector",
];

fn recordings() -> Option<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles/defaults.json");
    let Ok(bytes) = std::fs::read(&path) else {
        println!("skipped: {} is not there", path.display());
        return None;
    };
    tree::from_json(&bytes).unwrap().object.as_array().cloned()
}

#[test]
fn a_new_objects_fields_are_owned_as_upstream_says() {
    let Some(recordings) = recordings() else { return };
    let (mut failures, mut compared) = (Vec::new(), 0);
    for recording in recordings {
        let mut object = recording["response"].clone();
        let Some(expected) = object["metadata"].get("managedFields").cloned() else { continue };
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        let version = object["apiVersion"].as_str().unwrap().to_owned();
        let kind = object["kind"].as_str().unwrap().to_owned();
        let entry = &expected[0];
        let manager = Manager {
            name: entry["manager"].as_str().unwrap().to_owned(),
            operation: Operation::Update,
            api_version: version.clone(),
            subresource: String::new(),
        };
        let schema = schema::by_type(&version, &kind).unwrap();
        schema::prune_and_check(schema, &mut object).unwrap();
        apply::update(schema, None, &mut object, &manager, entry["time"].as_str().unwrap());
        compared += 1;
        let found = &object["metadata"]["managedFields"];
        assert_eq!(found.as_array().unwrap().len(), 1);
        let paths = |entries: &Value| FieldSet::parse(&entries[0]["fieldsV1"]).unwrap().paths();
        let (wanted, found) = (paths(&expected), paths(found));
        let later = |path: &&String| SET_LATER.iter().any(|part| path.contains(part));
        let more = found.iter().filter(|path| !wanted.contains(path) && !later(path));
        let missing: Vec<_> = wanted.iter().filter(|path| !found.contains(path)).collect();
        let more: Vec<_> = more.collect();
        if !more.is_empty() || !missing.is_empty() {
            failures.push(format!("{kind}: too many {more:?}, missing {missing:?}"));
        }
    }
    println!("{} of {compared} objects are owned alike", compared - failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_recorded_request_fits_its_schema() {
    let Some(recordings) = recordings() else { return };
    for recording in recordings {
        for part in ["request", "response"] {
            let mut object = recording[part].clone();
            let version = object["apiVersion"].as_str().unwrap_or("").to_owned();
            let kind = object["kind"].as_str().unwrap_or("").to_owned();
            let Some(schema) = schema::by_type(&version, &kind) else { continue };
            let unknown = schema::prune_and_check(schema, &mut object);
            assert_eq!(unknown, Ok(Vec::new()), "{kind}");
        }
    }
}
