//! Where volumes let a pod run.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{Needs, NodeState, Waiting, claims_of, sentence, suits};
use crate::cluster::Cluster;

fn parse<K: k8s_openapi::serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).unwrap())
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.set_node(parse::<Node>(json!({"metadata": {"name": name,
            "labels": {"kubernetes.io/hostname": name, "zone": format!("zone-{name}")}}})));
    }
    cluster
}

fn volume(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}},
        "status": {"phase": "Available"}})
}

fn class(more: Value) -> Value {
    let mut class = json!({"metadata": {"name": "local"}, "provisioner": "atoll.dev/local",
        "volumeBindingMode": "WaitForFirstConsumer"});
    for (key, value) in more.as_object().into_iter().flatten() {
        class[key] = value.clone();
    }
    class
}

fn claim(annotations: Value) -> Value {
    json!({"metadata": {"name": "c", "namespace": "n", "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "resources": {"requests": {"storage": "1Gi"}}}})
}

/// Which of the nodes `a` and `b` the needs leave.
fn open(needs: &Needs) -> Vec<String> {
    let cluster = cluster();
    let nodes: Vec<&NodeState> = cluster.nodes().collect();
    let fine = nodes.iter().filter(|node| needs.refusal(node).is_none());
    fine.map(|node| node.node.metadata.name.clone().unwrap()).collect()
}

#[test]
fn a_bound_volume_pins_its_pod() {
    let held = vec![Some(parse(volume("v", "b")))];
    assert_eq!(open(&Needs { held, ..Needs::default() }), ["b"]);
    assert!(open(&Needs { held: vec![None], ..Needs::default() }).is_empty());
}

#[test]
fn a_waiting_claim_goes_where_its_volume_can_be() {
    let waiting = |class: Value, annotations: Value, free: Vec<Value>| Needs {
        waiting: vec![Waiting {
            claim: parse(claim(annotations)),
            class: parse(class),
            free: free.into_iter().map(parse).collect(),
        }],
        ..Needs::default()
    };
    assert_eq!(open(&waiting(class(json!({})), json!({}), vec![])), ["a", "b"]);
    let chosen = json!({"volume.kubernetes.io/selected-node": "b"});
    assert_eq!(open(&waiting(class(json!({})), chosen, vec![])), ["b"]);
    let static_only = class(json!({"provisioner": "kubernetes.io/no-provisioner"}));
    assert_eq!(open(&waiting(static_only, json!({}), vec![volume("v", "a")])), ["a"]);
    let zoned = class(json!({"allowedTopologies": [
        {"matchLabelExpressions": [{"key": "zone", "values": ["zone-b"]}]}]}));
    assert_eq!(open(&waiting(zoned, json!({}), vec![])), ["b"]);
}

#[test]
fn a_claim_for_one_pod_is_taken_while_another_has_it() {
    let pod = |uid: &str| {
        parse::<Pod>(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid},
            "spec": {"containers": [], "volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}))
    };
    let mut cluster = cluster();
    cluster.set_pod(pod("first"), "a");
    let nodes: Vec<&NodeState> = cluster.nodes().collect();
    let needs = Needs { alone: vec![atoll_informer::Key::new("n", "c")], ..Needs::default() };
    assert!(needs.is_taken(&pod("second"), &nodes).is_some());
    assert!(needs.is_taken(&pod("first"), &nodes).is_none());
    assert!(Needs::default().is_taken(&pod("second"), &nodes).is_none());
}

#[test]
fn only_free_volumes_of_the_class_suit() {
    let claim = serde_json::from_value(claim(json!({}))).unwrap();
    let fits = |change: fn(&mut Value)| {
        let mut object = volume("v", "a");
        change(&mut object);
        suits(&serde_json::from_value(object).unwrap(), &claim, "local")
    };
    assert!(fits(|_| {}));
    assert!(!fits(|one| one["status"]["phase"] = json!("Released")));
    assert!(!fits(|one| one["spec"]["capacity"]["storage"] = json!("1Mi")));
    assert!(!fits(|one| one["spec"]["volumeMode"] = json!("Block")));
    assert!(!fits(|one| one["spec"]["storageClassName"] = json!("other")));
    assert!(!fits(|one| one["spec"]["claimRef"] = json!({"name": "x", "namespace": "y"})));
}

#[test]
fn claims_of_the_pods_own_volumes_count() {
    let pod =
        parse::<Pod>(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
        {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}));
    assert_eq!(claims_of(&pod), [("p-v".to_owned(), true)]);
}

#[test]
fn the_sentence_is_kube_schedulers() {
    assert_eq!(
        sentence(2, "pod has unbound immediate PersistentVolumeClaims"),
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. preemption: \
         0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}
