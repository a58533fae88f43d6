//! Applies and updates as users meet them.

use super::{ApplyError, FieldSet, Manager, Operation, apply, update};
use crate::schema;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-02T00:00:00Z";

fn manager(name: &str, operation: Operation) -> Manager {
    Manager { name: name.into(), operation, api_version: "v1".into(), subresource: String::new() }
}

fn schema_of(kind: &str) -> schema::SchemaId {
    schema::by_gvk(if kind == "Deployment" { "apps" } else { "" }, "v1", kind).unwrap()
}

fn applied(kind: &str, live: Option<&Value>, config: &Value, by: &str) -> Value {
    let by = manager(by, Operation::Apply);
    apply(schema_of(kind), live, config, &by, false, NOW).unwrap()
}

fn config_map(entries: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": entries})
}

fn managers(object: &Value) -> Vec<(String, String)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let entries = entries.iter().map(|entry| {
        let owner = format!(
            "{} {}",
            entry["operation"].as_str().unwrap(),
            entry["manager"].as_str().unwrap()
        );
        (owner, entry["fieldsV1"].to_string())
    });
    entries.collect()
}

#[test]
fn removes_what_is_stated_no_longer_unless_others_own_it() {
    let object = applied("ConfigMap", None, &config_map(&json!({"a": "1", "b": "2"})), "one");
    let object =
        applied("ConfigMap", Some(&object), &config_map(&json!({"b": "2", "c": "3"})), "two");
    let object = applied("ConfigMap", Some(&object), &config_map(&json!({})), "one");
    assert_eq!(object["data"], json!({"b": "2", "c": "3"}));
    assert_eq!(
        managers(&object),
        [
            ("Apply one".into(), r#"{"f:data":{}}"#.into()),
            ("Apply two".into(), r#"{"f:data":{"f:b":{},"f:c":{}}}"#.into()),
        ]
    );
}

#[test]
fn names_conflicts_in_upstreams_words() {
    let mut live = config_map(&json!({"a": "1", "b": "1"}));
    update(schema_of("ConfigMap"), None, &mut live, &manager("m1", Operation::Update), NOW);
    let by = manager("m2", Operation::Apply);
    let error = apply(
        schema_of("ConfigMap"),
        Some(&live),
        &config_map(&json!({"a": "2"})),
        &by,
        false,
        NOW,
    );
    let ApplyError::Conflict { message, causes } = error.unwrap_err() else { panic!() };
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"m1\" using v1: .data.a");
    assert_eq!(causes, [("conflict with \"m1\" using v1".to_owned(), ".data.a".to_owned())]);
    let config = config_map(&json!({"a": "2", "b": "2"}));
    let error = apply(schema_of("ConfigMap"), Some(&live), &config, &by, false, NOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"m1\" using v1:\n- .data.a\n- .data.b"
    );
    let forced = apply(schema_of("ConfigMap"), Some(&live), &config, &by, true, NOW).unwrap();
    assert_eq!(
        managers(&forced),
        [
            ("Apply m2".into(), r#"{"f:data":{"f:a":{},"f:b":{}}}"#.into()),
            ("Update m1".into(), r#"{"f:data":{}}"#.into()),
        ]
    );
}

#[test]
fn refuses_what_the_schema_does_not_declare() {
    let mut config = config_map(&json!({}));
    config["foo"] = json!(1);
    let by = manager("m", Operation::Apply);
    let error = apply(schema_of("ConfigMap"), None, &config, &by, false, NOW).unwrap_err();
    assert_eq!(error, ApplyError::Typed(
        "failed to create typed patch object (/x; /v1, Kind=ConfigMap): .foo: field not declared in schema".into()
    ));
    let config = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "a", "imag": "x"}, {"image": "y"}]}});
    let error = apply(schema_of("Pod"), None, &config, &by, false, NOW).unwrap_err().to_string();
    assert!(error.contains("(n/p; /v1, Kind=Pod): errors:\n  .spec.containers[name=\"a\"].imag: field not declared in schema\n  .spec.containers: element 1: associative list with keys has an element that omits key field \"name\""), "{error}");
}

#[test]
fn owns_on_create_what_upstream_owns() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "d", "labels": {"run": "p"}, "uid": "u", "creationTimestamp": NOW},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "dnsPolicy": "ClusterFirst", "securityContext": {}}, "status": {"phase": "Pending"}});
    update(schema_of("Pod"), None, &mut pod, &manager("kubectl-run", Operation::Update), NOW);
    let entry = &pod["metadata"]["managedFields"][0];
    assert_eq!(entry["time"], NOW);
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:run": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                "f:dnsPolicy": {}, "f:securityContext": {}},
        })
    );
}

#[test]
fn takes_the_default_of_a_key_that_is_not_stated() {
    let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let object = applied("Service", None, &config, "m");
    assert_eq!(
        managers(&object)[0].1,
        r#"{"f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}}}}"#
    );
    let mut stored = object.clone();
    stored["spec"]["ports"][0]["protocol"] = json!("TCP");
    let again = applied("Service", Some(&stored), &config, "m");
    assert_eq!(again, stored);
}

#[test]
fn a_write_that_changes_nothing_changes_no_time() {
    let mut live = config_map(&json!({"a": "1"}));
    let by = manager("m", Operation::Update);
    update(schema_of("ConfigMap"), None, &mut live, &by, NOW);
    let mut again = live.clone();
    update(schema_of("ConfigMap"), Some(&live), &mut again, &by, LATER);
    assert_eq!(again, live);
    let by = manager("a", Operation::Apply);
    let config = config_map(&json!({"a": "1"}));
    let object = apply(schema_of("ConfigMap"), Some(&live), &config, &by, false, NOW).unwrap();
    let again = apply(schema_of("ConfigMap"), Some(&object), &config, &by, false, LATER).unwrap();
    assert_eq!(again, object);
}

#[test]
fn updates_take_over_and_give_up() {
    let mut live = config_map(&json!({"a": "1", "b": "1"}));
    update(schema_of("ConfigMap"), None, &mut live, &manager("m1", Operation::Update), NOW);
    let mut new = live.clone();
    new["data"] = json!({"a": "2"});
    update(schema_of("ConfigMap"), Some(&live), &mut new, &manager("m2", Operation::Update), LATER);
    assert_eq!(
        managers(&new),
        [
            ("Update m1".into(), r#"{"f:data":{}}"#.into()),
            ("Update m2".into(), r#"{"f:data":{"f:a":{}}}"#.into()),
        ]
    );
}

#[test]
fn status_and_object_keep_apart() {
    let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1}, "status": {}});
    update(schema_of("Deployment"), None, &mut live, &manager("m", Operation::Update), NOW);
    let mut new = live.clone();
    new["status"]["replicas"] = json!(1);
    let mut by = manager("controller", Operation::Update);
    by.subresource = "status".into();
    update(schema_of("Deployment"), Some(&live), &mut new, &by, LATER);
    assert_eq!(managers(&new)[1].1, r#"{"f:status":{"f:replicas":{}}}"#);
    assert_eq!(new["metadata"]["managedFields"][1]["subresource"], "status");
}

#[test]
fn a_write_of_the_object_takes_no_status_from_its_owner() {
    let mut live = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let mut by = manager("controller", Operation::Update);
    by.subresource = "status".into();
    update(schema_of("Deployment"), None, &mut live, &by, NOW);
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"paused": true}, "status": {"replicas": 5}});
    let object = applied("Deployment", Some(&live), &config, "m");
    assert_eq!(managers(&object)[0].1, r#"{"f:spec":{"f:paused":{}}}"#);
    assert_eq!(managers(&object)[1].1, r#"{"f:status":{"f:replicas":{}}}"#);
}

#[test]
fn keeps_no_more_than_ten_update_managers() {
    let mut live = config_map(&json!({"a": "0"}));
    for number in 0..15 {
        let mut new = live.clone();
        new["data"][format!("k{number}")] = json!("x");
        let time = format!("2026-01-01T00:00:{number:02}Z");
        let old = (number > 0).then_some(&live);
        update(
            schema_of("ConfigMap"),
            old,
            &mut new,
            &manager(&format!("m{number}"), Operation::Update),
            &time,
        );
        live = new;
    }
    let managers = managers(&live);
    assert_eq!(managers.len(), 10);
    assert!(managers.iter().any(|(owner, _)| owner == "Update ancient-changes"));
}

#[test]
fn resets_and_rewrites_managed_fields() {
    let mut live = config_map(&json!({"a": "1"}));
    live["metadata"]["uid"] = json!("u");
    update(schema_of("ConfigMap"), None, &mut live, &manager("m", Operation::Update), NOW);
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = json!("other");
    update(schema_of("ConfigMap"), Some(&live), &mut new, &manager("m", Operation::Update), LATER);
    assert_eq!(managers(&new)[0].0, "Update other");
    new["metadata"]["managedFields"] = json!([{}]);
    update(schema_of("ConfigMap"), Some(&live), &mut new, &manager("m", Operation::Update), LATER);
    assert!(new["metadata"].get("managedFields").is_none());
    let object = applied("ConfigMap", Some(&new), &config_map(&json!({"a": "1"})), "k");
    assert_eq!(managers(&object)[1].0, "Update before-first-apply");
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let last = "{\"apiVersion\":\"v1\",\"data\":{\"a\":\"1\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}}\n";
    let mut live = config_map(&json!({"a": "1"}));
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    update(
        schema_of("ConfigMap"),
        None,
        &mut live,
        &manager("kubectl-client-side-apply", Operation::Update),
        NOW,
    );
    let config = config_map(&json!({"a": "2"}));
    let object = applied("ConfigMap", Some(&live), &config, "kubectl");
    assert_eq!(object["data"]["a"], "2");
    let annotation =
        &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().unwrap().contains(r#""a":"2""#));
    let by = manager("helm", Operation::Apply);
    assert!(apply(schema_of("ConfigMap"), Some(&live), &config, &by, false, NOW).is_err());
}

#[test]
fn reads_what_it_writes() {
    let text = json!({"f:a": {".": {}, "k:{\"b\":1, \"a\":\"x\"}": {}, "v:\"x\"": {}, "i:3": {}}});
    let set = FieldSet::parse(&text).unwrap();
    assert_eq!(set.paths(), [".a", ".a[3]", ".a[a=\"x\",b=1]", ".a[=\"x\"]"]);
    assert_eq!(FieldSet::parse(&set.to_json()), Some(set));
    assert_eq!(FieldSet::parse(&json!({"x:a": {}})), None);
}

proptest::proptest! {
    #[test]
    fn applying_twice_is_applying_once(
        first in proptest::collection::btree_map("[a-d]", "[0-3]", 0..4),
        second in proptest::collection::btree_map("[a-d]", "[0-3]", 0..4),
        names in proptest::collection::btree_set("[a-e]", 0..4),
        others in proptest::collection::btree_set("[a-e]", 0..4),
    ) {
        let pod = |labels: &std::collections::BTreeMap<String, String>, names: &std::collections::BTreeSet<String>| {
            let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": name,
                "ports": [{"containerPort": 80}]})).collect();
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels,
                "finalizers": names}, "spec": {"containers": containers}})
        };
        let by = manager("m", Operation::Apply);
        let other = manager("o", Operation::Apply);
        let (one, two) = (pod(&first, &names), pod(&second, &others));
        let schema = schema_of("Pod");
        let live = apply(schema, None, &one, &by, true, NOW).unwrap();
        let live = apply(schema, Some(&live), &two, &other, true, NOW).unwrap();
        let once = apply(schema, Some(&live), &two, &by, true, NOW).unwrap();
        let twice = apply(schema, Some(&once), &two, &by, true, LATER).unwrap();
        proptest::prop_assert_eq!(&once, &twice);
        // Nobody else owns what is left, so the object is what was applied.
        let mut left = once.clone();
        left["metadata"].as_object_mut().unwrap().remove("managedFields");
        proptest::prop_assert_eq!(left["spec"]["containers"].as_array().unwrap().len(), others.len());
        proptest::prop_assert_eq!(&left["metadata"]["labels"], &two["metadata"]["labels"]);
    }
}
