//! `reasons` against small hand-made clusters.

use super::*;
use crate::cluster::Cluster;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

fn node(name: &str, more: Value) -> Value {
    let mut node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": {},
        "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3" } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        for (field, value) in value.as_object().into_iter().flatten() {
            node[key][field] = value.clone();
        }
    }
    node
}

fn pod(uid: &str, spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": { "name": uid, "uid": uid, "namespace": "default", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c" }] },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

fn cluster(nodes: Vec<Value>, running: Vec<(&str, Pod)>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.set_node(Arc::new(serde_json::from_value(node).unwrap()));
    }
    for (node, pod) in running {
        cluster.set_pod(Arc::new(pod), node);
    }
    cluster
}

fn why(cluster: &Cluster, pod: &Pod) -> Vec<String> {
    let labels = BTreeMap::new();
    let topology = Topology { namespace_labels: &labels, has_repelling: true };
    let nodes: Vec<&NodeState> = cluster.nodes().collect();
    let request = Request::new(pod, &nodes, &topology);
    let refused = nodes.iter().map(|node| refusal(&request, node).unwrap_or_default());
    refused.map(|one| one.reasons.join("; ")).collect()
}

fn cpu(amount: &str) -> Value {
    json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": amount } } }] })
}

#[test]
fn room_counts_what_runs_already() {
    let cluster = cluster(vec![node("a", json!({}))], vec![("a", pod("1", cpu("1500m")))]);
    assert_eq!(why(&cluster, &pod("2", cpu("500m"))), [""]);
    assert_eq!(why(&cluster, &pod("2", cpu("501m"))), ["Insufficient cpu"]);
    let gpu = json!({ "containers": [{ "name": "c", "resources": { "requests": { "example.com/gpu": "1" } } }] });
    assert_eq!(why(&cluster, &pod("2", gpu)), ["Insufficient example.com/gpu"]);
}

#[test]
fn a_node_runs_only_so_many_pods() {
    let running = (0..3).map(|index| ("a", pod(&format!("r{index}"), json!({})))).collect();
    let cluster = cluster(vec![node("a", json!({}))], running);
    assert_eq!(why(&cluster, &pod("p", json!({}))), ["Too many pods"]);
}

#[test]
fn taints_repel_and_cordons_close() {
    let taints =
        json!({ "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] } });
    let cordoned = json!({ "spec": { "unschedulable": true } });
    let cluster = cluster(vec![node("a", taints), node("b", cordoned)], vec![]);
    let expected = ["node(s) had untolerated taint(s)", "node(s) were unschedulable"];
    assert_eq!(why(&cluster, &pod("p", json!({}))), expected);
    let tolerant = json!({ "tolerations": [{ "operator": "Exists" }] });
    assert_eq!(why(&cluster, &pod("p", tolerant)), ["", ""]);
}

#[test]
fn selectors_and_node_affinity_must_match() {
    let cluster = cluster(vec![node("a", json!({})), node("b", json!({}))], vec![]);
    let selector = json!({ "nodeSelector": { "kubernetes.io/hostname": "b" } });
    let expected = ["node(s) didn't match Pod's node affinity/selector", ""];
    assert_eq!(why(&cluster, &pod("p", selector)), expected);
    let affinity = json!({ "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["b"] }] },
        ] } } } });
    assert_eq!(why(&cluster, &pod("p", affinity)), expected);
}

#[test]
fn host_ports_are_exclusive() {
    let port = || json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 80 }] }] });
    let cluster = cluster(vec![node("a", json!({}))], vec![("a", pod("1", port()))]);
    let expected = ["node(s) didn't have free ports for the requested pod ports"];
    assert_eq!(why(&cluster, &pod("2", port())), expected);
    // A sidecar runs as long as its pod; another init container is over before it matters.
    let init = |policy: Value| {
        let ports = json!([{ "containerPort": 80, "hostPort": 80 }]);
        json!({ "initContainers": [{ "name": "i", "restartPolicy": policy, "ports": ports }] })
    };
    assert_eq!(why(&cluster, &pod("3", init(json!("Always")))), expected);
    assert_eq!(why(&cluster, &pod("4", init(json!(null)))), [""]);
}

fn anti_affinity() -> Value {
    json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } },
    ] } } })
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let nodes = || vec![node("a", json!({})), node("b", json!({}))];
    let plain_runs = cluster(nodes(), vec![("a", pod("1", json!({})))]);
    let expected = ["node(s) didn't match pod anti-affinity rules", ""];
    assert_eq!(why(&plain_runs, &pod("2", anti_affinity())), expected);
    let shy_runs = cluster(nodes(), vec![("a", pod("1", anti_affinity()))]);
    let expected = ["node(s) didn't satisfy existing pods anti-affinity rules", ""];
    assert_eq!(why(&shy_runs, &pod("2", json!({}))), expected);
}

#[test]
fn the_first_of_a_group_may_go_anywhere_and_the_rest_follow() {
    let near = || {
        json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
        { "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } },
    ] } } })
    };
    let nodes = || vec![node("a", json!({})), node("b", json!({}))];
    assert_eq!(why(&cluster(nodes(), vec![]), &pod("1", near())), ["", ""]);
    let one_runs = cluster(nodes(), vec![("a", pod("1", near()))]);
    let expected = ["", "node(s) didn't match pod affinity rules"];
    assert_eq!(why(&one_runs, &pod("2", near())), expected);
}

#[test]
fn hard_spread_keeps_the_skew() {
    let spread = || {
        json!({ "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } },
    }] })
    };
    let nodes = vec![node("a", json!({})), node("b", json!({}))];
    let cluster = cluster(nodes, vec![("a", pod("1", spread()))]);
    let expected = ["node(s) didn't match pod topology spread constraints", ""];
    assert_eq!(why(&cluster, &pod("2", spread())), expected);
}

#[test]
fn only_what_other_pods_take_can_be_freed() {
    let cluster = cluster(vec![node("a", json!({}))], vec![("a", pod("1", cpu("1500m")))]);
    let is_final = |spec: Value| {
        let labels = BTreeMap::new();
        let topology = Topology { namespace_labels: &labels, has_repelling: true };
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let pod = pod("2", spec);
        let request = Request::new(&pod, &nodes, &topology);
        refusal(&request, nodes[0]).unwrap().is_final
    };
    assert!(!is_final(cpu("1")));
    assert!(is_final(cpu("3")));
    assert!(is_final(json!({ "nodeSelector": { "disk": "ssd" } })));
}

#[test]
fn a_spread_constraint_without_selector_counts_nobody() {
    let constraint = json!([{ "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule" }]);
    let running = vec![("a", pod("1", json!({}))), ("a", pod("2", json!({})))];
    let cluster = cluster(vec![node("a", json!({})), node("b", json!({}))], running);
    let spread = pod("3", json!({ "topologySpreadConstraints": constraint }));
    assert_eq!(why(&cluster, &spread), ["", ""]);
}
