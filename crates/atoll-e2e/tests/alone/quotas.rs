//! Quotas over the life of what they count.

use atoll_e2e::eventually;
use serde_json::{Value, json};

use super::{Alone, SOON, controller, template};

fn quota(name: &str, hard: Value, scopes: &[&str]) -> Value {
    let mut quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": name}, "spec": {"hard": hard}});
    if !scopes.is_empty() {
        quota["spec"]["scopes"] = json!(scopes);
    }
    quota
}

/// Waits until the quota says that this is used.
#[track_caller]
fn used(alone: &Alone, name: &str, expected: &Value) {
    eventually(SOON, &format!("{name} has {expected}"), || {
        let found = alone.get(&["quota", name])["status"]["used"].clone();
        let fits = |(key, value): (&String, &Value)| found[key] == *value;
        let fits = expected.as_object().unwrap().iter().all(fits);
        if fits { Ok(()) } else { Err(found.to_string()) }
    });
}

/// How much of each is there already.
fn before(alone: &Alone, name: &str, keys: &[&str]) -> Vec<u64> {
    eventually(SOON, "the quota has counted", || {
        let found = alone.get(&["quota", name])["status"]["used"].clone();
        let count = |key: &&str| found[*key].as_str().and_then(|text| text.parse().ok());
        keys.iter().map(count).collect::<Option<Vec<u64>>>().ok_or_else(|| found.to_string())
    })
}

pub(crate) fn every_kind_is_counted_and_given_back(alone: &Alone) {
    let keys = [
        "configmaps",
        "secrets",
        "services",
        "replicationcontrollers",
        "count/replicasets.apps",
        "persistentvolumeclaims",
        "resourcequotas",
    ];
    let mut hard: serde_json::Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), json!("20"))).collect();
    hard.insert("requests.storage".to_owned(), json!("10Gi"));
    hard.insert("services.nodeports".to_owned(), json!("1"));
    alone.create(&[quota("kinds", Value::Object(hard), &[])]);
    let before = before(alone, "kinds", &keys);
    let counted = |more: u64, storage: &str, ports: &str| {
        let counts = keys.iter().zip(&before).map(|(key, count)| {
            let more = if *key == "resourcequotas" { 0 } else { more };
            ((*key).to_owned(), json!((count + more).to_string()))
        });
        let mut counts: serde_json::Map<String, Value> = counts.collect();
        counts.insert("requests.storage".to_owned(), json!(storage));
        counts.insert("services.nodeports".to_owned(), json!(ports));
        Value::Object(counts)
    };
    let object = |version: &str, kind: &str, mut object: Value| {
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({"name": "counted"});
        object
    };
    alone.create(&[
        object("v1", "ConfigMap", json!({})),
        object("v1", "Secret", json!({})),
        object("v1", "Service", json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}})),
        controller("counted", 0, &[]),
        object(
            "apps/v1",
            "ReplicaSet",
            json!({"spec": {"replicas": 0,
            "selector": {"matchLabels": {"app": "x"}}, "template": template("x", &[])}}),
        ),
        object(
            "v1",
            "PersistentVolumeClaim",
            json!({"spec": {"storageClassName": "none",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
    ]);
    used(alone, "kinds", &counted(1, "1Gi", "1"));
    let second = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "second"},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let refused = alone.kubectl(&["create", "-f", "-"], &second.to_string()).fails();
    let why = "exceeded quota: kinds, requested: services.nodeports=1, used: services.nodeports=1, \
               limited: services.nodeports=1";
    assert!(refused.contains(why), "{refused}");
    for kind in ["configmap", "secret", "service", "rc", "replicaset", "pvc"] {
        alone.delete(&[kind, "counted"], "background");
    }
    used(alone, "kinds", &counted(0, "0", "0"));
    alone.delete(&["quota", "kinds"], "background");
}

fn pod(name: &str, resources: &Value, more: &Value) -> Value {
    let mut pod = template("asks", &[]);
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!(name);
    pod["spec"]["containers"][0]["resources"] = resources.clone();
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// Storage of the node, and resources that nobody knows, as well.
pub(crate) fn pods_are_counted_in_all_they_ask(alone: &Alone) {
    let hard = json!({"pods": "5", "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
        "requests.example.com/dongle": "3"});
    alone.create(&[quota("pods", hard, &[])]);
    let none = json!({"pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0",
        "requests.example.com/dongle": "0"});
    used(alone, "pods", &none);
    let asks = json!({
        "requests": {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
            "example.com/dongle": "2"},
        "limits": {"example.com/dongle": "2"},
    });
    alone.create(&[pod("first", &asks, &json!({}))]);
    used(
        alone,
        "pods",
        &json!({"pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
            "requests.example.com/dongle": "2"}),
    );
    let too_much = [
        json!({"requests": {"cpu": "600m", "memory": "1Mi", "ephemeral-storage": "1Gi"}}),
        json!({"requests": {"cpu": "1m", "memory": "1Mi", "ephemeral-storage": "1Gi",
            "example.com/dongle": "2"}, "limits": {"example.com/dongle": "2"}}),
    ];
    for asks in too_much {
        let second = pod("second", &asks, &json!({})).to_string();
        let refused = alone.kubectl(&["create", "-f", "-"], &second).fails();
        assert!(refused.contains("exceeded quota: pods, requested: "), "{refused}");
    }
    // Labels do not count, and what is asked for does not change.
    alone.patch(&["pod", "first"], &json!({"metadata": {"labels": {"changed": "yes"}}}));
    alone.delete(&["pod", "first"], "background");
    used(alone, "pods", &none);
    alone.delete(&["quota", "pods"], "background");
}

/// Pods with and without a deadline, and with and without requests.
pub(crate) fn scopes_part_the_pods(alone: &Alone) {
    let few = || json!({"pods": "5"});
    let names = [
        ("terminating", "Terminating"),
        ("lasting", "NotTerminating"),
        ("best-effort", "BestEffort"),
        ("asking", "NotBestEffort"),
    ];
    let quotas: Vec<Value> =
        names.iter().map(|(name, scope)| quota(name, few(), &[scope])).collect();
    alone.create(&quotas);
    let counted = |counts: [u8; 4]| {
        for ((name, _), count) in names.iter().zip(counts) {
            used(alone, name, &json!({"pods": count.to_string()}));
        }
    };
    counted([0, 0, 0, 0]);
    let asks = json!({"requests": {"cpu": "1m"}});
    alone.create(&[pod("stays", &json!({}), &json!({}))]);
    counted([0, 1, 1, 0]);
    alone.create(&[pod("ends", &asks, &json!({"activeDeadlineSeconds": 3600}))]);
    counted([1, 1, 1, 1]);
    alone.delete(&["pod", "stays"], "background");
    counted([1, 0, 0, 1]);
    alone.delete(&["pod", "ends"], "background");
    counted([0, 0, 0, 0]);
    for (name, _) in names {
        alone.delete(&["quota", name], "background");
    }
}
