//! What is handed out with an object: addresses, ports, pod networks.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::client::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"type": kind, "selector": {"a": "b"}, "ports": [{"port": 80}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_are_given_once_and_given_back() {
    let api = Api::start().await;
    let first = api.create(SERVICES, &service("a", "NodePort")).await.ok();
    let address = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let port = first["spec"]["ports"][0]["nodePort"].clone();
    assert!(address.starts_with("10.43."), "{address}");
    assert!((30_086..=32_767).contains(&port.as_u64().unwrap()), "{port}");
    let mut second = service("b", "NodePort");
    second["spec"]["clusterIP"] = json!(address);
    let taken = api.create(SERVICES, &second).await;
    assert_eq!(taken.code, 422);
    assert!(taken.body["message"].as_str().unwrap().ends_with("provided IP is already allocated"));
    let mut dual = service("b", "ClusterIP");
    dual["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    let refused = api.create(SERVICES, &dual).await;
    assert_eq!(refused.code, 422);
    let why = refused.body["message"].as_str().unwrap();
    assert!(why.ends_with("this cluster is not configured for dual-stack services"), "{why}");
    let mut second = service("b", "NodePort");
    second["spec"]["ports"][0]["nodePort"] = port.clone();
    let taken = api.create(SERVICES, &second).await;
    assert!(
        taken.body["message"].as_str().unwrap().ends_with("provided port is already allocated")
    );
    api.delete(&format!("{SERVICES}/a")).await.ok();
    second["spec"]["clusterIP"] = json!(address);
    let again = api.create(SERVICES, &second).await.ok();
    assert_eq!(again["spec"]["ports"][0]["nodePort"], port);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_needs_no_port_gives_it_back() {
    let api = Api::start().await;
    let made = api.create(SERVICES, &service("a", "NodePort")).await.ok();
    let port = made["spec"]["ports"][0]["nodePort"].clone();
    let one = format!("{SERVICES}/a");
    let patch = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}});
    let changed = api.merge(&one, &patch).await.ok();
    assert!(changed["spec"]["ports"][0].get("nodePort").is_none(), "{changed}");
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let mut other = service("b", "NodePort");
    other["spec"]["ports"][0]["nodePort"] = port;
    api.create(SERVICES, &other).await.ok();
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_share() {
    let api = Api::start().await;
    let creates = (0..40).map(|index| {
        let object = service(&format!("s{index}"), "NodePort");
        let api = &api;
        async move { api.create(SERVICES, &object).await.ok() }
    });
    let made = futures::future::join_all(creates).await;
    let addresses: HashSet<&str> =
        made.iter().map(|one| one["spec"]["clusterIP"].as_str().unwrap()).collect();
    let ports: HashSet<u64> =
        made.iter().map(|one| one["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_networks_that_do_not_overlap() {
    let api = Api::start().await;
    let nodes = "/api/v1/nodes";
    let node = |name: &str| json!({"metadata": {"name": name}});
    let a = api.create(nodes, &node("a")).await.ok();
    let b = api.create(nodes, &node("b")).await.ok();
    assert_eq!(a["spec"]["podCIDRs"], json!(["10.42.0.0/24"]));
    assert_eq!(b["spec"]["podCIDR"], "10.42.1.0/24");
    api.delete("/api/v1/nodes/a").await.ok();
    let c = api.create(nodes, &node("c")).await.ok();
    assert_eq!(c["spec"]["podCIDR"], "10.42.0.0/24");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_come_all_at_once_get_networks_too() {
    let api = Api::start().await;
    let made = (0..200).map(|number| {
        let node = json!({"metadata": {"name": format!("node-{number}")}});
        let api = &api;
        async move { api.create("/api/v1/nodes", &node).await.ok() }
    });
    let made = futures::future::join_all(made).await;
    let networks: HashSet<&str> =
        made.iter().map(|one| one["spec"]["podCIDR"].as_str().unwrap()).collect();
    assert_eq!(networks.len(), 200);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_has_a_service() {
    let api = Api::start().await;
    let own = api.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(own["spec"]["clusterIP"], "10.43.0.1");
    assert_eq!(own["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(own["spec"]["ipFamilyPolicy"], "SingleStack");
    let endpoints = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.ok();
    assert_eq!(endpoints["subsets"][0]["ports"][0]["name"], "https");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    api.get(slices).await.ok();
    // It comes back by itself.
    let mut watch = api.watch(&format!("{SERVICES}?watch=1"), "application/json").await;
    assert_eq!(watch.step().await.0, "ADDED");
    api.delete(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(watch.step().await.0, "DELETED");
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "kubernetes".to_owned()));
    api.shutdown().await;
}
