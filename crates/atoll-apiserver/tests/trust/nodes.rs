//! Nodes: what they may touch, and what becomes of silent ones.

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::client::{Caller, Cluster};

fn node(cluster: &Cluster, name: &str) -> Caller {
    cluster.with_certificate(&format!("system:node:{name}"), &["system:nodes"])
}

async fn register(cluster: &Cluster, name: &str, port: u16) {
    let body = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        },
    });
    let caller = node(cluster, name);
    let (code, answer) = cluster.call(&caller, Method::POST, "/api/v1/nodes", &body).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    let path = format!("/api/v1/nodes/{name}/status");
    let mut current = answer;
    current["status"] = body["status"].clone();
    let (code, answer) = cluster.call(&caller, Method::PUT, &path, &current).await;
    assert_eq!(code, 200, "{answer}");
}

async fn ping(cluster: &Cluster, caller: &Caller, name: &str) -> (u16, Value) {
    let path = format!("/atoll/v1/nodes/{name}/ping");
    cluster.call(caller, Method::POST, &path, &Value::Null).await
}

async fn ready(cluster: &Cluster, name: &str) -> Value {
    let path = format!("/api/v1/nodes/{name}");
    let (_, node) = cluster.call(&cluster.admin(), Method::GET, &path, &Value::Null).await;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["type"] == "Ready").unwrap_or_default()
}

/// A port where nothing listens: connections are refused.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn a_node_touches_itself_only() {
    let cluster = Cluster::start().await;
    register(&cluster, "node-1", 1).await;
    let other = node(&cluster, "node-2");
    let path = "/api/v1/nodes/node-1/status";
    let current = "/api/v1/nodes/node-1";
    let (_, current) = cluster.call(&cluster.admin(), Method::GET, current, &Value::Null).await;
    let (code, answer) = cluster.call(&other, Method::PUT, path, &current).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        r#"nodes "node-1" is forbidden: node "node-2" is not allowed to modify node "node-1""#
    );
    assert_eq!(ping(&cluster, &other, "node-1").await.0, 403);
    assert_eq!(ping(&cluster, &other, "node-2").await.0, 200);
    let path = "/api/v1/nodes/node-2";
    assert_eq!(cluster.call(&other, Method::DELETE, path, &Value::Null).await.0, 403);
    // Agents route between nodes, so they see all of them.
    assert_eq!(cluster.call(&other, Method::GET, "/api/v1/nodes", &Value::Null).await.0, 200);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_reads_secrets_of_its_own_pods_only() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let make = |kind: &str, rest: Value| {
        let mut body = json!({"apiVersion": "v1", "kind": kind});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        body
    };
    let base = "/api/v1/namespaces/default";
    for (resource, body) in [
        ("serviceaccounts", make("ServiceAccount", json!({"metadata": {"name": "default"}}))),
        ("secrets", make("Secret", json!({"metadata": {"name": "s"}}))),
        ("secrets", make("Secret", json!({"metadata": {"name": "other"}}))),
        (
            "pods",
            make(
                "Pod",
                json!({"metadata": {"name": "p"}, "spec": {
                    "nodeName": "node-1",
                    "containers": [{"name": "c", "image": "i"}],
                    "volumes": [{"name": "v", "secret": {"secretName": "s"}}],
                }}),
            ),
        ),
    ] {
        let (code, answer) =
            cluster.call(&admin, Method::POST, &format!("{base}/{resource}"), &body).await;
        assert!(code == 201 || code == 409, "{answer}");
    }
    cluster.server.core().registry.catch_up().await.unwrap();
    let secret = format!("{base}/secrets/s");
    let (one, two) = (node(&cluster, "node-1"), node(&cluster, "node-2"));
    assert_eq!(cluster.call(&one, Method::GET, &secret, &Value::Null).await.0, 200);
    let (code, answer) = cluster.call(&two, Method::GET, &secret, &Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "secrets \"s\" is forbidden: User \"system:node:node-2\" cannot get resource \"secrets\" \
         in API group \"\" in the namespace \"default\": no relationship found between node \
         'node-2' and this object"
    );
    let other = format!("{base}/secrets/other");
    assert_eq!(cluster.call(&one, Method::GET, &other, &Value::Null).await.0, 403);
    let token = format!("{base}/serviceaccounts/default/token");
    let pod = format!("{base}/pods/p");
    let (_, pod) = cluster.call(&one, Method::GET, &pod, &Value::Null).await;
    let ask = |bound: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": bound});
    let (code, answer) = cluster.call(&one, Method::POST, &token, &ask(json!({}))).await;
    assert_eq!(code, 403, "{answer}");
    let bound = json!({"boundObjectRef": {
        "kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"],
    }});
    let (code, answer) = cluster.call(&one, Method::POST, &token, &ask(bound)).await;
    assert!(code == 201 || code == 403, "{answer}");
    cluster.shutdown().await;
}

/// `node-1` on a machine that answers no dial: at a broadcast address, anywhere.
async fn unreachable(cluster: &Cluster) -> Caller {
    register(cluster, "node-1", 1).await;
    let caller = node(cluster, "node-1");
    let own = "/api/v1/nodes/node-1";
    let (_, mut current) = cluster.call(&caller, Method::GET, own, &Value::Null).await;
    current["status"]["addresses"][0]["address"] = json!("255.255.255.255");
    let path = "/api/v1/nodes/node-1/status";
    assert_eq!(cluster.call(&caller, Method::PUT, path, &current).await.0, 200);
    caller
}

async fn becomes(cluster: &Cluster, status: &str) {
    let started = Instant::now();
    let mut condition = ready(cluster, "node-1").await;
    while condition["status"] != status && started.elapsed() < Duration::from_secs(8) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        condition = ready(cluster, "node-1").await;
    }
    assert_eq!(condition["status"], status, "{condition}");
}

/// Its pings reach other servers, by one of which it writes its Lease.
#[tokio::test]
async fn a_node_that_reaches_another_server_is_not_lost() {
    let cluster = Cluster::start().await;
    let caller = unreachable(&cluster).await;
    assert_eq!(ping(&cluster, &caller, "node-1").await.1["leads"], true);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node-1"},
        "spec": {"holderIdentity": "node-1", "leaseDurationSeconds": 40},
    });
    let (code, mut lease) = cluster.call(&caller, Method::POST, leases, &lease).await;
    assert_eq!(code, 201, "{lease}");
    for renewal in 0..16 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lease["spec"]["renewTime"] = json!(format!("2026-01-01T00:00:{renewal:02}.000000Z"));
        let path = format!("{leases}/node-1");
        let (code, renewed) = cluster.call(&caller, Method::PUT, &path, &lease).await;
        assert_eq!(code, 200, "{renewed}");
        lease = renewed;
    }
    assert_eq!(ready(&cluster, "node-1").await["status"], "True");
    becomes(&cluster, "Unknown").await;
    // It writes its status, also by way of another server; then it is silent for good.
    let own = "/api/v1/nodes/node-1";
    let (_, mut current) = cluster.call(&caller, Method::GET, own, &Value::Null).await;
    current["status"]["conditions"][0]["status"] = json!("True");
    let path = "/api/v1/nodes/node-1/status";
    assert_eq!(cluster.call(&caller, Method::PUT, path, &current).await.0, 200);
    becomes(&cluster, "Unknown").await;
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_lost_after_two_seconds() {
    let cluster = Cluster::start().await;
    let caller = unreachable(&cluster).await;
    let own = "/api/v1/nodes/node-1";
    let path = "/api/v1/nodes/node-1/status";
    let (code, answer) = ping(&cluster, &caller, "node-1").await;
    assert_eq!((code, &answer["republish"]), (200, &json!(false)));
    assert_eq!(answer["servers"], json!([cluster.server.core().config.advertise.to_string()]));
    let started = Instant::now();
    let mut condition = ready(&cluster, "node-1").await;
    while condition["status"] != "Unknown" && started.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        condition = ready(&cluster, "node-1").await;
    }
    let took = started.elapsed();
    assert_eq!(condition["reason"], "NodeStatusUnknown", "{condition}");
    assert_eq!(condition["message"], "Kubelet stopped posting node status.");
    assert!(took > Duration::from_millis(1_800) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(ping(&cluster, &caller, "node-1").await.1["republish"], true);
    // The agent posts its status, and all is as it was.
    let (_, mut current) = cluster.call(&caller, Method::GET, own, &Value::Null).await;
    current["status"]["conditions"][0]["status"] = json!("True");
    assert_eq!(cluster.call(&caller, Method::PUT, path, &current).await.0, 200);
    cluster.server.core().registry.catch_up().await.unwrap();
    assert_eq!(ping(&cluster, &caller, "node-1").await.1["republish"], false);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_refused_port_keeps_a_node_for_a_while() {
    let cluster = Cluster::start().await;
    register(&cluster, "node-1", closed_port().await).await;
    let caller = node(&cluster, "node-1");
    assert_eq!(ping(&cluster, &caller, "node-1").await.0, 200);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ready(&cluster, "node-1").await["status"], "True");
    cluster.shutdown().await;
}
