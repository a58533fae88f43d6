//! The rows of `kubectl get`, cell by cell.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use atoll_api::kinds;
use serde_json::{Value, json};

fn cells(group: &str, kind: &str, mut object: Value) -> Value {
    let row = kinds::find_kind(group, "v1", kind).unwrap();
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    json!((row.hooks.row)(&object, "2026-01-01T00:05:30Z".parse().unwrap()))
}

#[test]
fn deployments_count_their_pods() {
    let made = cells(
        "apps",
        "Deployment",
        json!({
            "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"},
                "matchExpressions": [{"key": "t", "operator": "NotIn", "values": ["b", "a"]}]},
                "template": {"spec": {"containers": [
                    {"name": "a", "image": "i:1"}, {"name": "b", "image": "j:2"}]}}},
            "status": {"readyReplicas": 3, "updatedReplicas": 4, "availableReplicas": 2},
        }),
    );
    assert_eq!(made, json!(["x", "3/5", 4, 2, "5m30s", "a,b", "i:1,j:2", "app=web,t notin (a,b)"]));
}

#[test]
fn services_show_how_they_are_reached() {
    let spec = json!({"type": "NodePort", "clusterIPs": ["10.43.0.7"], "selector": {"a": "b"},
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                  {"port": 53, "protocol": "UDP"}]});
    assert_eq!(
        cells("", "Service", json!({"spec": spec})),
        json!(["x", "NodePort", "10.43.0.7", "<none>", "80:30080/TCP,53/UDP", "5m30s", "a=b"])
    );
    let balanced = json!({"spec": {"type": "LoadBalancer"}});
    assert_eq!(cells("", "Service", balanced)[3], "<pending>");
}

#[test]
fn nodes_show_condition_and_roles() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "a": "b"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "10.41.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"},
        },
    });
    assert_eq!(
        cells("", "Node", node),
        json!([
            "x",
            "NotReady,SchedulingDisabled",
            "control-plane",
            "5m30s",
            "v1.36.0",
            "10.41.0.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ])
    );
}

#[test]
fn events_of_both_groups_look_alike() {
    let event = json!({
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        "type": "Warning", "reason": "BackOff", "message": "again \n",
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:05:00Z",
        "count": 7,
    });
    let wanted = json!([
        "30s",
        "Warning",
        "BackOff",
        "pod/p",
        "spec.containers{c}",
        "kubelet, node-1",
        "again",
        "5m30s",
        7,
        "x"
    ]);
    assert_eq!(cells("", "Event", event.clone()), wanted);
    let mut other = event;
    kinds::event::from_core(&mut other);
    assert_eq!(cells("events.k8s.io", "Event", other), wanted);
}

#[test]
fn endpoints_are_cut_after_three() {
    let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    let endpoints = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(
        cells("", "Endpoints", endpoints)[1],
        "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more..."
    );
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(
        cells("discovery.k8s.io", "EndpointSlice", slice),
        json!(["x", "IPv4", "<unset>", "10.0.0.1", "5m30s"])
    );
}
