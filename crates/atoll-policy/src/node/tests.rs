//! What a node may read and write.

use serde_json::json;

use super::*;

const GROUPS: [&str; 2] = ["system:nodes", "system:authenticated"];

fn graph() -> NodeGraph {
    let mut graph = NodeGraph::new(crate::bootstrap::node_rules());
    graph.apply_pod(&json!({
        "metadata": {"namespace": "team", "name": "web"},
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "app",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env"}}}]}],
            "volumes": [
                {"name": "v", "configMap": {"name": "settings"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "p", "projected": {"sources": [{"configMap": {"name": "root"}}]}},
            ],
        },
    }));
    graph
}

fn verdict(graph: &NodeGraph, node: &str, change: impl FnOnce(&mut Request<'_>)) -> NodeVerdict {
    let user = format!("system:node:{node}");
    let groups = GROUPS.map(str::to_owned);
    let mut request = Request {
        user: &user,
        groups: &groups,
        verb: "get",
        resource_request: true,
        group: "",
        resource: "secrets",
        subresource: "",
        namespace: "team",
        name: "",
        path: "",
        field_selector: "",
    };
    change(&mut request);
    graph.authorize(&request).unwrap()
}

fn reads(graph: &NodeGraph, node: &str, resource: &'static str, name: &'static str) -> bool {
    verdict(graph, node, |r| (r.resource, r.name) = (resource, name)) == NodeVerdict::Allowed
}

#[test]
fn a_node_reads_what_its_pods_refer_to() {
    let graph = graph();
    for (resource, name) in [
        ("secrets", "env"),
        ("secrets", "pull"),
        ("configmaps", "settings"),
        ("configmaps", "root"),
        ("persistentvolumeclaims", "disk"),
        ("pods", "web"),
    ] {
        assert!(reads(&graph, "node-1", resource, name), "{resource} {name}");
        assert!(!reads(&graph, "node-2", resource, name), "{resource} {name} by another");
    }
    assert!(!reads(&graph, "node-1", "secrets", "other"));
}

#[test]
fn a_pod_that_left_takes_its_rights_along() {
    let mut graph = graph();
    graph.remove_pod("team", "web");
    assert!(!reads(&graph, "node-1", "secrets", "env"));
    assert!(graph.readers.is_empty());
}

#[test]
fn secrets_are_not_listed_and_not_written() {
    let graph = graph();
    let list = verdict(&graph, "node-1", |r| r.verb = "list");
    assert_eq!(list, NodeVerdict::NoOpinion("No Object name found".to_owned()));
    let update = verdict(&graph, "node-1", |r| (r.verb, r.name) = ("update", "env"));
    let why = "can only read resources of this type";
    assert_eq!(update, NodeVerdict::NoOpinion(why.to_owned()));
}

#[test]
fn a_refusal_names_the_missing_relation() {
    assert_eq!(
        verdict(&graph(), "node-2", |r| r.name = "env"),
        NodeVerdict::NoOpinion(
            "no relationship found between node 'node-2' and this object".to_owned()
        )
    );
}

#[test]
fn a_volume_opens_its_secrets_to_the_claims_readers() {
    let mut graph = graph();
    graph.apply_volume(&json!({
        "metadata": {"name": "pv"},
        "spec": {
            "claimRef": {"namespace": "team", "name": "disk"},
            "csi": {"nodePublishSecretRef": {"name": "mount", "namespace": "sys"}},
        },
    }));
    assert!(reads(&graph, "node-1", "persistentvolumes", "pv"));
    let mount = |node| {
        verdict(&graph, node, |r| (r.namespace, r.name) = ("sys", "mount")) == NodeVerdict::Allowed
    };
    assert!(mount("node-1"));
    assert!(!mount("node-2"));
    graph.remove_volume("pv");
    assert!(!reads(&graph, "node-1", "persistentvolumes", "pv"));
}

#[test]
fn pods_are_listed_by_their_own_node_name() {
    let graph = graph();
    let list = |selector: &'static str| {
        verdict(&graph, "node-1", |r| {
            (r.verb, r.resource, r.namespace) = ("list", "pods", "");
            r.field_selector = selector;
        }) == NodeVerdict::Allowed
    };
    assert!(list("spec.nodeName=node-1"));
    assert!(list("status.phase!=Failed,spec.nodeName==node-1"));
    assert!(!list("spec.nodeName=node-2"));
    assert!(!list("spec.nodeName!=node-1"));
    assert!(!list(""));
}

#[test]
fn tokens_are_made_for_accounts_of_own_pods() {
    let graph = graph();
    let token = |node, name: &'static str| {
        verdict(&graph, node, |r| {
            (r.verb, r.resource, r.subresource, r.name) =
                ("create", "serviceaccounts", "token", name);
        }) == NodeVerdict::Allowed
    };
    assert!(token("node-1", "app"));
    assert!(!token("node-2", "app"));
    assert!(!token("node-1", "other"));
}

#[test]
fn leases_are_its_own() {
    let graph = graph();
    let lease = |name: &'static str, namespace: &'static str| {
        verdict(&graph, "node-1", |r| {
            (r.group, r.resource, r.verb) = ("coordination.k8s.io", "leases", "update");
            (r.name, r.namespace) = (name, namespace);
        }) == NodeVerdict::Allowed
    };
    assert!(lease("node-1", "kube-node-lease"));
    assert!(!lease("node-2", "kube-node-lease"));
    assert!(!lease("node-1", "default"));
}

#[test]
fn others_are_none_of_its_business() {
    let request = Request {
        user: "system:node:node-1",
        groups: &[],
        verb: "get",
        resource_request: true,
        group: "",
        resource: "secrets",
        subresource: "",
        namespace: "team",
        name: "env",
        path: "",
        field_selector: "",
    };
    assert_eq!(graph().authorize(&request), None, "not in the group of nodes");
}

#[test]
fn a_node_looks_after_the_volumes_that_are_its_folders() {
    let mut graph = graph();
    let volume = |made_by: &str| {
        json!({
            "metadata": {"name": "v", "annotations": {"pv.kubernetes.io/provisioned-by": made_by}},
            "spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]}]}}},
        })
    };
    let may = |graph: &NodeGraph, node: &str, verb: &'static str, part: &'static str| {
        let change = |r: &mut Request<'_>| {
            (r.resource, r.name, r.verb, r.subresource) = ("persistentvolumes", "v", verb, part);
            r.namespace = "";
        };
        verdict(graph, node, change) == NodeVerdict::Allowed
    };
    graph.apply_volume(&volume("atoll.dev/local"));
    for verb in ["get", "list", "watch", "patch"] {
        assert!(may(&graph, "node-1", verb, ""), "{verb}");
        assert!(!may(&graph, "node-2", verb, ""), "{verb}");
    }
    assert!(!may(&graph, "node-1", "delete", "") && !may(&graph, "node-1", "patch", "status"));
    graph.apply_volume(&volume("somebody.else/x"));
    assert!(!may(&graph, "node-1", "patch", ""));
    graph.apply_volume(&volume("atoll.dev/local"));
    graph.remove_volume("v");
    assert!(!may(&graph, "node-1", "get", ""));
}
