//! Which pods a DaemonSet has on which nodes.

use super::*;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(strategy: &Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": { "name": "ds", "namespace": "ns", "uid": "set", "generation": 3 },
        "spec": { "selector": {}, "updateStrategy": strategy,
                  "template": { "spec": { "containers": [] } } },
    }))
    .unwrap()
}

fn rolling(unavailable: Value, surge: Value) -> DaemonSet {
    set(&json!({ "type": "RollingUpdate", "rollingUpdate":
        { "maxUnavailable": unavailable, "maxSurge": surge } }))
}

/// `tainted` ones take no new pods, `closed` ones none at all.
fn node(name: &str, kind: &str) -> Arc<Node> {
    let taints = match kind {
        "tainted" => json!([{ "key": "x", "effect": "NoSchedule" }]),
        "closed" => json!([{ "key": "x", "effect": "NoExecute" }]),
        _ => json!([]),
    };
    let node = json!({ "metadata": { "name": name }, "spec": { "taints": taints } });
    Arc::new(serde_json::from_value(node).unwrap())
}

/// `kind` is `ready`, `pending`, `failed`, `done`, `going` or `unbound`.
fn pod(name: &str, node: &str, kind: &str, hash: &str) -> Arc<Pod> {
    let phase = match kind {
        "failed" => "Failed",
        "done" => "Succeeded",
        "ready" | "going" => "Running",
        _ => "Pending",
    };
    let ready = if phase == "Running" { "True" } else { "False" };
    let bound = if kind == "unbound" { "" } else { node };
    let term = json!({ "matchFields":
        [{ "key": "metadata.name", "operator": "In", "values": [node] }] });
    let mut pod = json!({
        "metadata": { "name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                      "labels": { "controller-revision-hash": hash } },
        "spec": { "containers": [], "nodeName": bound, "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution":
                { "nodeSelectorTerms": [term] } } } },
        "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready,
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    if kind == "going" {
        pod["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn scene<'a>(set: &'a DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> Scene<'a> {
    Scene {
        set,
        nodes: nodes.to_vec(),
        pods: super::super::by_node(pods),
        hash: "new",
        held: &|_| None,
        now: NOW.parse().unwrap(),
    }
}

/// Nodes that get a pod, and names of the pods that go.
fn decided(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>) {
    let plan = plan(&scene(set, nodes, pods));
    (plan.nodes, plan.doomed.iter().map(|doomed| doomed.pod.name_any()).collect())
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn three() -> [Arc<Node>; 3] {
    [node("a", ""), node("b", ""), node("c", "")]
}

#[test]
fn every_node_gets_one() {
    let set = rolling(json!(1), json!(0));
    let pods = [pod("pa", "a", "ready", "new"), pod("pb", "b", "unbound", "new")];
    assert_eq!(decided(&set, &three(), &pods), (words(&["c"]), words(&[])));
    let twice = [pod("p1", "a", "ready", "new"), pod("p2", "a", "unbound", "new")];
    assert_eq!(decided(&set, &[node("a", "")], &twice), (words(&[]), words(&["p2"])));
}

#[test]
fn taints_keep_out_or_drive_out() {
    let set = rolling(json!(1), json!(0));
    let nodes = [node("a", "tainted"), node("b", "tainted"), node("c", "closed")];
    let pods = [pod("pb", "b", "ready", "new"), pod("pc", "c", "ready", "new")];
    assert_eq!(decided(&set, &nodes, &pods), (words(&[]), words(&["pc"])));
    let status = super::super::status::derive(&scene(&set, &nodes, &pods), 0, true);
    assert_eq!((status.desired_number_scheduled, status.number_misscheduled), (0, 2));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn pods_of_a_node_that_is_gone_go_unless_they_are_bound() {
    let set = rolling(json!(1), json!(0));
    let pods = [pod("p1", "gone", "unbound", "new"), pod("p2", "gone", "ready", "new")];
    assert_eq!(decided(&set, &[], &pods), (words(&[]), words(&["p1"])));
}

#[test]
fn failed_pods_are_deleted_but_not_at_once_again() {
    let set = rolling(json!(1), json!(0));
    let (nodes, pods) = ([node("a", "")], [pod("p", "a", "failed", "new")]);
    assert_eq!(decided(&set, &nodes, &pods), (words(&[]), words(&["p"])));
    let held = |_: &str| Some(Duration::from_secs(7));
    let plan = plan(&Scene { held: &held, ..scene(&set, &nodes, &pods) });
    assert!(plan.doomed.is_empty() && plan.retry == Some(Duration::from_secs(7)));
    let done = [pod("p", "a", "done", "new")];
    assert_eq!(decided(&set, &nodes, &done), (words(&[]), words(&["p"])));
}

#[test]
fn an_update_leaves_as_few_nodes_as_may_be_without() {
    let pods = |a: &str, a_hash: &str, b: &str| {
        [pod("pa", "a", a, a_hash), pod("pb", "b", b, "old"), pod("pc", "c", "ready", "old")]
    };
    let one = rolling(json!(1), json!(0));
    assert_eq!(decided(&one, &three(), &pods("ready", "old", "ready")).1, words(&["pa"]));
    // A new one that is not available counts, a pod that is going too.
    assert_eq!(decided(&one, &three(), &pods("pending", "new", "ready")).1, words(&[]));
    assert_eq!(decided(&one, &three(), &pods("going", "old", "ready")).1, words(&[]));
    assert_eq!(decided(&one, &three(), &pods("ready", "new", "ready")).1, words(&["pb"]));
    // An old one that is not available goes anyway.
    assert_eq!(decided(&one, &three(), &pods("pending", "new", "pending")).1, words(&["pb"]));
    let half = rolling(json!("50%"), json!(0));
    assert_eq!(decided(&half, &three(), &pods("ready", "old", "ready")).1, words(&["pa", "pb"]));
}

#[test]
fn on_delete_nothing_is_replaced() {
    let set = set(&json!({ "type": "OnDelete" }));
    let pods = [pod("pa", "a", "ready", "old")];
    assert_eq!(decided(&set, &[node("a", "")], &pods), (words(&[]), words(&[])));
}

#[test]
fn with_surge_new_pods_come_before_old_ones_go() {
    let set = rolling(json!(0), json!(1));
    let olds = || vec![pod("oa", "a", "ready", "old"), pod("ob", "b", "ready", "old")];
    let nodes = [node("a", ""), node("b", "")];
    assert_eq!(decided(&set, &nodes, &olds()), (words(&["a"]), words(&[])));
    let with = |kind: &str| {
        let mut pods = olds();
        pods.push(pod("na", "a", kind, "new"));
        pods
    };
    assert_eq!(decided(&set, &nodes, &with("pending")), (words(&[]), words(&[])));
    assert_eq!(decided(&set, &nodes, &with("ready")), (words(&[]), words(&["oa"])));
    // Where the old one is not ready nobody waits for the new one.
    let broken = [
        pod("oa", "a", "pending", "old"),
        pod("na", "a", "pending", "new"),
        pod("ob", "b", "ready", "old"),
    ];
    assert_eq!(decided(&set, &nodes, &broken), (words(&[]), words(&["oa"])));
    let replaced = [pod("oa", "a", "going", "old"), pod("ob", "b", "ready", "old")];
    assert_eq!(decided(&set, &nodes, &replaced), (words(&["a"]), words(&[])));
}

#[test]
fn a_status_counts_nodes() {
    let set = rolling(json!(1), json!(0));
    let pods = [pod("pa", "a", "ready", "new"), pod("pb", "b", "pending", "old")];
    let status = super::super::status::derive(&scene(&set, &three(), &pods), 0, true);
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 2));
    assert_eq!((status.number_ready, status.number_available), (1, Some(1)));
    assert_eq!((status.updated_number_scheduled, status.number_unavailable), (Some(1), Some(2)));
}
