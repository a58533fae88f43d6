//! Whatever a tree holds, no hook of any kind panics: the server runs them on what clients send.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use atoll_api::kinds::{self, ResourceInfo};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A pod's spec with a little of everything.
fn pod_spec() -> Value {
    json!({
        "hostNetwork": true, "serviceAccountName": "sa", "dnsPolicy": "None",
        "terminationGracePeriodSeconds": 30, "activeDeadlineSeconds": 5,
        "securityContext": {"runAsUser": 1, "sysctls": [{"name": "net.core.somaxconn"}],
            "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}},
        "containers": [{
            "name": "c", "image": "i:1", "ports": [{"containerPort": 80, "name": "http"}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
            "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "X"}]}},
            "startupProbe": {"grpc": {"port": 1}},
            "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
            "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}],
            "securityContext": {"capabilities": {"add": ["X"]}, "allowPrivilegeEscalation": false},
        }],
        "initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always"}],
        "volumes": [{"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s", "items": [
                {"key": "k", "path": "p"}]}},
            {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]}}, {"name": "e"}, {"name": "h", "hostPath": {"path": "/x"}}],
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "k", "labelSelector": {
                    "matchLabels": {"a": "b"}}}}]},
        },
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z",
            "whenUnsatisfiable": "DoNotSchedule"}],
        "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"]},
        "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["h"]}],
    })
}

/// A body for each kind; kinds without one of their own get all of them together.
fn body(kind: &str) -> Value {
    match kind {
        "Pod" => json!({"spec": pod_spec(), "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}}],
            "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "x"}}}],
            "podIPs": [{"ip": "10.0.0.1"}]}}),
        "Deployment" | "ReplicaSet" => json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["b"]}]},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod_spec()}}}),
        "Service" => json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "name": "a"}, {"port": 81, "nodePort": 30000, "name": "b"}],
            "externalIPs": ["1.2.3.4"], "clusterIPs": ["10.0.0.1"], "clusterIP": "10.0.0.1"},
            "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
        _ => json!({
            "data": {"a": "b"}, "stringData": {"c": "d"}, "type": "kubernetes.io/tls",
            "spec": {"finalizers": ["kubernetes"], "taints": [{"key": "a", "effect": "x"}],
                "podCIDRs": ["10.0.0.0/24"], "request": "eA==", "signerName": "a.b/c",
                "usages": ["client auth"], "leaseDurationSeconds": 1, "token": "t",
                "resourceAttributes": {"verb": "get"}, "user": "u"},
            "status": {"capacity": {"cpu": "1"}, "conditions": [{"type": "Ready"}],
                "addresses": [{"type": "InternalIP", "address": "1.1.1.1"}]},
            "subsets": [{"addresses": [{"ip": "1.1.1.1"}], "ports": [{"port": 1}]}],
            "addressType": "IPv4", "endpoints": [{"addresses": ["1.1.1.1"]}],
            "ports": [{"port": 1}], "rules": [{"verbs": ["get"], "resources": ["x"]}],
            "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}],
            "involvedObject": {"name": "x"}, "regarding": {"name": "x"}, "series": {"count": 1},
            "value": 1, "revision": 1,
        }),
    }
}

fn sample(row: &ResourceInfo) -> Value {
    let mut object = body(&row.kind);
    object["metadata"] = json!({
        "name": "x", "labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["a/b"],
        "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}],
        "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
    });
    object["apiVersion"] = json!(row.api_version());
    object["kind"] = json!(row.kind);
    if row.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

fn exercise(row: &ResourceInfo, object: &Value, old: &Value) {
    let now = jiff::Timestamp::UNIX_EPOCH;
    let mut new = object.clone();
    if let Some(default) = row.hooks.default {
        default(&mut new);
    }
    let mut created = new.clone();
    row.prepare_create(&mut created);
    let _errors = row.validate_create(&created);
    for (one, other) in [(&new, old), (old, &new)] {
        let mut updated = one.clone();
        row.prepare_update(&mut updated, other);
        let _errors = row.validate_update(&updated, other);
        let mut updated = one.clone();
        row.prepare_status_update(&mut updated, other);
        let _errors = row.validate_status_update(&updated, other);
        for update in row.subresources.iter().filter_map(|part| part.update) {
            let mut updated = one.clone();
            (update.prepare)(&mut updated, other);
            let _errors = update.validate.map(|check| check(&updated, other));
        }
    }
    let _cells = (row.hooks.row)(&new, now);
    let _conditions = row.hooks.row_conditions.map(|all| all(&new));
    let fields = (row.hooks.selectable_fields)(&new);
    let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, row.hooks.selectable_names, "{}", row.kind);
    let _warnings = row.hooks.warnings.map(|all| all(&new, Some(old)));
    let _grace = row.hooks.graceful_delete.map(|grace| grace(&new, Some(-1)));
    for convert in [row.storage.to_storage, row.storage.from_storage].into_iter().flatten() {
        convert(&mut new.clone());
    }
    let _scale = kinds::scale::get(&new);
    kinds::scale::put(&mut new, object);
    let _class = kinds::pod::qos::class(&new);
    let _ports = kinds::service::node_ports(&new);
    kinds::service::set_cluster_ip(&mut new, "::1");
    kinds::service::default_families(&mut new, "IPv4");
    kinds::node::taint_not_ready(&mut new);
    let _bound = kinds::pod::bind(&mut new, object, "2026-01-01T00:00:00Z");
}

/// The number of places in a tree.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// Replaces what stands at the n-th place; gives how many places are left to go.
fn replace(value: &mut Value, place: usize, with: &Value) -> Option<usize> {
    if place == 0 {
        *value = with.clone();
        return None;
    }
    let mut left = place - 1;
    let children: Vec<&mut Value> = match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        left = replace(child, left, with)?;
    }
    Some(left)
}

fn strange() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([null, 1, "x", {}])),
        Just(json!({"x": null, "name": 7})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        Just(json!("-9223372036854775808Ei")),
        Just(json!("1e999999999")),
        Just(json!("0.00000000000000000000000000000000000000000000001")),
    ]
}

#[test]
fn samples_pass_through_every_hook() {
    for row in kinds::builtin().iter().filter(|row| row.served) {
        let object = sample(row);
        exercise(row, &object, &object);
        let mut once = object;
        if let Some(default) = row.hooks.default {
            default(&mut once);
            let mut twice = once.clone();
            default(&mut twice);
            assert_eq!(once, twice, "defaulting {} twice changes it", row.kind);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_hook_panics_on_strange_trees(
        row in 0..kinds::builtin().len(),
        places in prop::collection::vec((any::<prop::sample::Index>(), strange()), 1..4),
    ) {
        let row = &kinds::builtin()[row];
        let old = sample(row);
        let mut new = old.clone();
        for (place, with) in places {
            let place = place.index(size(&new));
            replace(&mut new, place, &with);
        }
        exercise(row, &new, &old);
    }
}
