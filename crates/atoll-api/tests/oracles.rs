//! The table, the defaults and the columns against what kube-apiserver v1.36 answered.
//!
//! The recordings lie beside the repository and are not part of it; without them these tests
//! say that they skipped.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests count as tests")]

use std::path::PathBuf;

use atoll_api::kinds::{self, ResourceInfo, Scope};
use atoll_api::schema;
use serde_json::{Value, json};

fn oracle(file: &str) -> Option<Value> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles");
    match std::fs::read(root.join(file)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(error) => {
            println!("skipped: no recording {file} ({error})");
            None
        }
    }
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().into_iter().flatten();
    list.map(|one| one.as_str().unwrap().to_owned()).collect()
}

fn compare_names(row: &ResourceInfo, recorded: &Value) {
    let resource = row.qualified_resource();
    assert_eq!(
        row.short_names.to_vec(),
        strings(&recorded["shortNames"]),
        "short names of {resource}"
    );
    assert_eq!(
        row.categories.to_vec(),
        strings(&recorded["categories"]),
        "categories of {resource}"
    );
    assert_eq!(row.verbs, strings(&recorded["verbs"]), "verbs of {resource}");
}

#[test]
fn core_rows_are_those_of_discovery() {
    let Some(recorded) = oracle("discovery/api__v1.json") else { return };
    let (mut resources, mut parts) = (0, 0);
    for entry in recorded["resources"].as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let (resource, part) = name.split_once('/').unwrap_or((name, ""));
        let row = kinds::find("", "v1", resource).unwrap_or_else(|| panic!("no row {resource}"));
        if part.is_empty() {
            resources += 1;
            assert_eq!(*row.kind, entry["kind"], "{name}");
            assert_eq!(*row.singular, entry["singularName"], "{name}");
            assert_eq!(row.scope == Scope::Namespaced, entry["namespaced"], "{name}");
            compare_names(row, entry);
        } else {
            parts += 1;
            let sub = row.subresources.iter().find(|sub| sub.name == part).unwrap();
            assert_eq!(*sub.kind, entry["kind"], "{name}");
            assert_eq!(sub.verbs, strings(&entry["verbs"]), "{name}");
            assert_eq!(json!(sub.group), entry.get("group").cloned().unwrap_or(json!("")));
            assert_eq!(json!(sub.version), entry.get("version").cloned().unwrap_or(json!("")));
        }
    }
    let rows: Vec<_> = kinds::builtin().iter().filter(|row| row.group.is_empty()).collect();
    assert_eq!(rows.len(), resources);
    assert_eq!(rows.iter().map(|row| row.subresources.len()).sum::<usize>(), parts);
    println!("{resources} core resources and {parts} subresources as recorded");
}

#[test]
fn group_rows_are_those_of_discovery() {
    let Some(recorded) = oracle("discovery/aggregated_v2.json") else { return };
    let mut order = Vec::new();
    for group in recorded["items"].as_array().unwrap() {
        let name = group["metadata"]["name"].as_str().unwrap();
        for version in group["versions"].as_array().unwrap() {
            let number = version["version"].as_str().unwrap();
            if number.contains("alpha") || number.contains("beta") {
                continue;
            }
            for entry in version["resources"].as_array().unwrap() {
                let resource = entry["resource"].as_str().unwrap();
                let row = kinds::find(name, number, resource)
                    .unwrap_or_else(|| panic!("no row {resource}.{name}"));
                compare_aggregated(row, entry);
                order.push(row.gvr());
            }
        }
    }
    let rows = kinds::builtin().iter().filter(|row| !row.group.is_empty());
    assert_eq!(rows.map(ResourceInfo::gvr).collect::<Vec<_>>(), order);
    println!("{} resources of groups as recorded, in order", order.len());
}

fn compare_aggregated(row: &ResourceInfo, entry: &Value) {
    assert_eq!(*row.kind, entry["responseKind"]["kind"]);
    assert_eq!(*row.singular, entry["singularResource"]);
    let scope = if row.namespaced() { "Namespaced" } else { "Cluster" };
    assert_eq!(scope, entry["scope"]);
    compare_names(row, entry);
    let parts: Vec<Value> = row
        .subresources
        .iter()
        .map(|sub| {
            json!({"subresource": sub.name, "verbs": sub.verbs, "responseKind":
                {"group": sub.group, "version": sub.version, "kind": sub.kind}})
        })
        .collect();
    assert_eq!(json!(parts), entry.get("subresources").cloned().unwrap_or(json!([])));
}

#[test]
fn columns_are_those_of_the_recorded_tables() {
    let Some(recorded) = oracle("printer-columns.json") else { return };
    let mut compared = 0;
    for row in kinds::builtin().iter().filter(|row| row.served && !row.virtual_only) {
        let key = format!("{}/{}/{}", row.group, row.version, row.resource);
        let columns: Vec<Value> = row
            .hooks
            .columns
            .iter()
            .map(|column| {
                json!({"name": column.name, "type": column.kind, "format": column.format,
                       "priority": column.priority})
            })
            .collect();
        assert_eq!(json!(columns), recorded[&key], "columns of {key}");
        let cells = (row.hooks.row)(&json!({}), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(cells.len(), columns.len(), "cells of {key}");
        compared += 1;
    }
    println!("columns of {compared} resources as recorded");
}

#[test]
fn defaults_are_those_of_the_recorded_objects() {
    let Some(recorded) = oracle("defaults.json") else { return };
    let (mut compared, mut different) = (0, Vec::new());
    for case in recorded.as_array().unwrap() {
        let request = &case["request"];
        let api_version = request["apiVersion"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = request["kind"].as_str().unwrap();
        let row = kinds::find_kind(group, version, kind).unwrap();
        if !row.served || case["status"] != 201 {
            continue;
        }
        let made = make(row, request, &case["response"]["metadata"]["uid"]);
        compared += 1;
        let wanted = expected(row, &case["response"]);
        let unknown = schema::prune_and_check(row.schema().unwrap(), &mut made.clone());
        assert_eq!(unknown.unwrap(), [""; 0], "defaults of {kind} that no schema knows");
        if made != wanted {
            different.push(format!("{kind}\n  made   {made}\n  wanted {wanted}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    println!("{compared} objects defaulted as recorded");
}

#[test]
fn a_refused_request_gets_the_recorded_words() {
    let Some(recorded) = oracle("defaults.json") else { return };
    let case = recorded.as_array().unwrap().iter().find(|case| case["status"] == 422).unwrap();
    let row = kinds::find_kind("certificates.k8s.io", "v1", "CertificateSigningRequest").unwrap();
    let errors = row.validate_create(&case["request"]);
    let message = atoll_api::field::invalid_message(&row.qualified_kind(), "p", &errors);
    assert_eq!(message, case["response"]["message"]);
    let causes: Vec<Value> = errors
        .iter()
        .map(
            |error| json!({"reason": error.reason(), "message": error.body(), "field": error.path}),
        )
        .collect();
    assert_eq!(json!(causes), case["response"]["details"]["causes"]);
}

#[test]
fn warnings_are_those_that_were_recorded() {
    let Some(recorded) = oracle("defaults.json") else { return };
    for case in recorded.as_array().unwrap() {
        let api_version = case["request"]["apiVersion"].as_str().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = case["request"]["kind"].as_str().unwrap();
        let row = kinds::find_kind(group, version, kind).unwrap();
        if !row.served {
            continue;
        }
        let mut object = case["request"].clone();
        if let Some(default) = row.hooks.default {
            default(&mut object);
        }
        let warnings = row.hooks.warnings.map(|all| all(&object, None)).unwrap_or_default();
        let wanted = case["warning"].as_str().map(|text| text.replacen("299 - ", "", 1));
        let made = warnings.first().map(|text| format!("{text:?}"));
        assert_eq!(made, wanted, "{kind}");
    }
}

#[test]
fn every_row_has_a_schema() {
    let missing: Vec<&str> = kinds::builtin()
        .iter()
        .filter(|row| row.schema().is_none())
        .map(|row| &*row.definition)
        .collect();
    assert_eq!(missing, [""; 0]);
}

/// Objects with every field set leave nothing to default.
#[test]
fn defaulting_keeps_every_field_that_is_set() {
    let (mut compared, mut different) = (0, Vec::new());
    for row in kinds::builtin().iter().filter(|row| row.served) {
        let group = if row.group.is_empty() { "core" } else { &row.group };
        let file = format!("api-testdata/{group}.{}.{}.json", row.version, row.kind);
        let Some(recorded) = oracle(&file) else { continue };
        let mut made = recorded.clone();
        if let Some(default) = row.hooks.default {
            default(&mut made);
        }
        compare(&format!("{} ", row.kind), &made, &recorded, &mut different);
        compared += 1;
    }
    if compared == 0 {
        return;
    }
    // These follow from another field that is set, or are always written.
    let expected = [
        "Namespace .metadata.labels.kubernetes.io/metadata.name: \"nameValue\" instead of null",
        "Pod .spec.containers[0].resources.requests.limitsKey: \"0\" instead of null",
        "Pod .spec.initContainers[0].resources.requests.limitsKey: \"0\" instead of null",
        "Pod .spec.serviceAccount: \"serviceAccountNameValue\" instead of \"serviceAccountValue\"",
        "Secret .data.stringDataKey: \"c3RyaW5nRGF0YVZhbHVl\" instead of null",
        "Secret .stringData: null instead of {\"stringDataKey\":\"stringDataValue\"}",
        "DaemonSet .metadata.annotations.deprecated.daemonset.template.generation: \"0\" instead of null",
        "StatefulSet .spec.volumeClaimTemplates[0].apiVersion: \"v1\" instead of null",
        "StatefulSet .spec.volumeClaimTemplates[0].kind: \"PersistentVolumeClaim\" instead of null",
    ];
    different.retain(|text| !text.contains(".template.spec.serviceAccount:"));
    assert_eq!(different, expected);
    println!("{compared} objects with every field set came through");
}

fn compare(at: &str, made: &Value, recorded: &Value, different: &mut Vec<String>) {
    match (made, recorded) {
        (Value::Object(made), Value::Object(recorded)) => {
            for key in made.keys().chain(recorded.keys().filter(|key| !made.contains_key(*key))) {
                let (one, other) = (made.get(key), recorded.get(key));
                let at = format!("{at}.{key}");
                let null = Value::Null;
                compare(&at, one.unwrap_or(&null), other.unwrap_or(&null), different);
            }
        }
        (Value::Array(made), Value::Array(recorded)) if made.len() == recorded.len() => {
            for (index, (made, recorded)) in made.iter().zip(recorded).enumerate() {
                compare(&format!("{at}[{index}]"), made, recorded, different);
            }
        }
        _ if made != recorded => different.push(format!("{at}: {made} instead of {recorded}")),
        _ => {}
    }
}

/// Runs an object down the path of a create, but for what admission and allocation do.
fn make(row: &ResourceInfo, request: &Value, uid: &Value) -> Value {
    let mut object = request.clone();
    if row.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    if let Some(default) = row.hooks.default {
        default(&mut object);
    }
    row.prepare_create(&mut object);
    object["metadata"]["uid"] = uid.clone();
    if let Some(identified) = row.hooks.identified {
        identified(&mut object);
    }
    row.default(&mut object);
    match &*row.kind {
        "Service" => {
            kinds::service::default_families(&mut object, "IPv4");
            if kinds::service::needs_cluster_ip(&object) {
                kinds::service::set_cluster_ip(&mut object, "10.96.0.0");
            }
            for port in kinds::service::node_ports(&object) {
                object["spec"]["ports"][port.index]["nodePort"] = json!(32769);
            }
        }
        "Node" => kinds::node::taint_not_ready(&mut object),
        _ => {}
    }
    let mut admitted = object.clone();
    if row.kind == "Pod" {
        admitted["spec"]["serviceAccountName"] = json!("default");
    }
    let errors = row.validate_create(&admitted);
    assert!(errors.is_empty(), "{errors:?}");
    object["metadata"].as_object_mut().unwrap().remove("uid");
    without_nulls_of_templates(&mut object);
    object
}

/// An empty metadata of a template is written by us and left out by upstream's JSON.
fn without_nulls_of_templates(object: &mut Value) {
    if let Some(template) = object.pointer_mut("/spec/template/metadata")
        && template == &json!({})
    {
        *template = Value::Null;
    }
}

/// The recorded object without what only the server or admission knows.
fn expected(row: &ResourceInfo, response: &Value) -> Value {
    let mut object = response.clone();
    for field in ["uid", "creationTimestamp", "managedFields"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    if row.kind == "Pod" {
        without_admission(object["spec"].as_object_mut().unwrap());
    }
    if row.kind.starts_with("PersistentVolume") {
        object["metadata"].as_object_mut().unwrap().remove("finalizers");
        object["status"].as_object_mut().unwrap().remove("lastPhaseTransitionTime");
    }
    object
}

fn without_admission(spec: &mut serde_json::Map<String, Value>) {
    let injected = |item: &Value| {
        item["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-"))
            || item["tolerationSeconds"] == 300
    };
    for field in ["priority", "preemptionPolicy"] {
        spec.remove(field);
    }
    for list in ["volumes", "tolerations"] {
        let items = spec[list].as_array_mut().unwrap();
        items.retain(|item| !injected(item));
        if items.is_empty() {
            spec.remove(list);
        }
    }
    if !spec.contains_key("hostNetwork") {
        spec.remove("serviceAccountName");
        spec.remove("serviceAccount");
    }
    for container in spec["containers"].as_array_mut().unwrap() {
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !injected(mount));
        if mounts.is_empty() {
            container.as_object_mut().unwrap().remove("volumeMounts");
        }
    }
}
