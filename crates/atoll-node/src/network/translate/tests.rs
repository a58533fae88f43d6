//! Services and slices as the API has them, against what the node is told.

use serde_json::{Value, json};

use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(spec: Value) -> Arc<Service> {
    of(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec}))
}

fn slice(endpoints: Value) -> Arc<EndpointSlice> {
    of(json!({"metadata": {"name": "web-1", "namespace": "ns",
            "labels": {SERVICE_NAME_LABEL: "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
}

fn plain() -> Arc<Service> {
    service(json!({"clusterIP": "10.43.0.9", "clusterIPs": ["10.43.0.9"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}))
}

#[test]
fn only_ready_endpoints_get_connections() {
    let slice = slice(json!([
        {"addresses": ["10.42.0.5"], "nodeName": "node-1", "conditions": {"ready": true}},
        {"addresses": ["10.42.1.5"], "nodeName": "node-2", "conditions": {"ready": false}}]));
    let ports = service_ports(&[plain()], &[slice], "node-1");
    assert_eq!(ports.len(), 1);
    let port = &ports[0];
    assert_eq!((port.port, port.node_port), (80, Some(30080)));
    let endpoint = Endpoint { address: "10.42.0.5:8080".parse().unwrap(), local: true };
    assert_eq!(port.endpoints, [endpoint]);
}

#[test]
fn terminating_endpoints_serve_only_when_there_is_no_other() {
    let terminating = json!({"addresses": ["10.42.1.5"], "conditions": {"ready": false, "serving": true, "terminating": true}});
    let last = slice(json!([terminating]));
    assert_eq!(service_ports(&[plain()], &[last], "n")[0].endpoints.len(), 1);
    let other = slice(json!([terminating,
        {"addresses": ["10.42.0.5"], "conditions": {"ready": true}}]));
    let endpoints = service_ports(&[plain()], &[other], "n")[0].endpoints.clone();
    assert_eq!(endpoints[0].address.to_string(), "10.42.0.5:8080");
    assert_eq!(endpoints.len(), 1);
}

#[test]
fn headless_services_live_in_dns_alone() {
    let headless = service(json!({"clusterIP": "None", "clusterIPs": ["None"],
        "ports": [{"name": "http", "port": 80}]}));
    let slice = slice(json!([{"addresses": ["10.42.0.5"], "hostname": "web-0"}]));
    assert!(
        service_ports(std::slice::from_ref(&headless), std::slice::from_ref(&slice), "n")
            .is_empty()
    );
    let snapshot = snapshot(&[headless], &[slice], &[]);
    let dns = &snapshot.services[0];
    assert!(dns.cluster_addresses.is_empty());
    assert_eq!(dns.endpoints[0].hostname.as_deref(), Some("web-0"));
    assert!(dns.endpoints[0].ready);
}

#[test]
fn services_of_another_proxy_are_left_to_it_and_stay_in_dns() {
    let endpoints = || slice(json!([{"addresses": ["10.42.0.5"]}]));
    assert_eq!(service_ports(&[plain()], &[endpoints()], "n").len(), 1);
    for label in NOT_PROXIED {
        let labels = [(label.to_owned(), String::new())];
        let mut service = (*plain()).clone();
        service.metadata.labels = Some(labels.clone().into());
        let all = [Arc::new(service)];
        assert!(service_ports(&all, &[endpoints()], "n").is_empty(), "{label}");
        assert_eq!(snapshot(&all, &[endpoints()], &[]).services.len(), 1, "{label}");
        let mut slice = (*endpoints()).clone();
        slice.metadata.labels.get_or_insert_default().extend(labels);
        assert!(service_ports(&[plain()], &[Arc::new(slice)], "n")[0].endpoints.is_empty());
    }
}

#[test]
fn affinity_and_policies() {
    let service = service(json!({"clusterIP": "10.43.0.9", "sessionAffinity": "ClientIP",
        "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}));
    let port = &service_ports(&[service], &[], "n")[0];
    assert_eq!(port.affinity, Some(Duration::from_secs(10_800)));
    assert_eq!(port.external_policy, TrafficPolicy::Local);
    assert_eq!(port.internal_policy, TrafficPolicy::Cluster);
}

#[test]
fn a_peer_is_a_node_with_address_and_range() {
    let node = |name: &str, cidr: Option<&str>| {
        of::<Node>(json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.41.0.2"}]}}))
    };
    let nodes =
        [node("own", Some("10.42.0.0/24")), node("b", Some("10.42.1.0/24")), node("c", None)];
    let peers = peers(&nodes, "own");
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].name.as_str(), peers[0].pod_cidr.to_string()),
        ("b", "10.42.1.0/24".into())
    );
}
