//! What pods get, and what they are told of it.

use super::*;
use serde_json::json;

fn pod(containers: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap()
}

fn web() -> Pod {
    pod(&json!([{"name": "web", "ports": [{"name": "http", "containerPort": 8080},
        {"containerPort": 9090}]}]))
}

#[test]
fn no_two_pods_have_a_port_in_common_and_each_keeps_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let node = NodePorts::new(dir.path());
    // Uids that begin at the same place.
    let all: Vec<PodPorts> =
        ["ab", "bC"].iter().map(|uid| node.assign(uid, &web()).unwrap()).collect();
    let ports: BTreeSet<u16> = all.iter().flat_map(PodPorts::on_node).collect();
    assert_eq!(ports.len(), 4);
    assert_eq!(node.assign("ab", &web()).unwrap(), all[0]);
    let restarted = NodePorts::new(dir.path());
    assert_eq!(restarted.assign("bC", &web()).unwrap(), all[1]);
}

#[test]
fn a_port_that_another_program_has_is_passed_over() {
    let port = free("x", &BTreeSet::new()).unwrap();
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_ne!(free("x", &BTreeSet::new()), Some(port));
}

#[test]
fn the_program_is_told_its_ports_unless_the_pod_tells_it() {
    let mut taken = BTreeSet::new();
    let ports = assign("u", &web(), &mut taken).unwrap();
    let variables: BTreeMap<String, String> = ports.variables("web").into_iter().collect();
    assert_eq!(variables["PORT"], ports.node_port(8080).to_string());
    assert_eq!(variables["PORT_9090"], ports.node_port(9090).to_string());
    let told = pod(&json!([{"name": "c", "env": [{"name": "PORT", "value": "81"}],
        "ports": [{"containerPort": 81}]}, {"name": "d"},
        {"name": "e", "ports": [{"containerPort": 80, "hostPort": 20100}]}]));
    let ports = assign("u", &told, &mut taken).unwrap();
    assert!(ports.variables("c").is_empty() && ports.node_port(81) == 81);
    assert!(ports.variables("d").iter().any(|(name, _)| name == "PORT"));
    assert_eq!(ports.node_port(80), 20100);
}

#[test]
fn who_shares_the_nodes_network_has_the_nodes_ports() {
    let mut pod = web();
    pod.spec.as_mut().unwrap().host_network = Some(true);
    let ports = assign("u", &pod, &mut BTreeSet::new()).unwrap();
    assert_eq!(ports.node_port(8080), 8080);
}

#[test]
fn probes_and_hooks_ask_the_nodes_port() {
    let pod = web();
    let ports = assign("u", &pod, &mut BTreeSet::new()).unwrap();
    let declared = pod.spec.unwrap().containers[0].ports.clone().unwrap();
    let node = i32::from(ports.node_port(8080));
    let probe = |value| ports.probe(serde_json::from_value(value).unwrap(), &declared);
    let http = probe(json!({"httpGet": {"port": "http", "path": "/"}}));
    assert_eq!(http.http_get.unwrap().port, IntOrString::Int(node));
    let tcp = probe(json!({"tcpSocket": {"port": 8080}}));
    assert_eq!(tcp.tcp_socket.unwrap().port, IntOrString::Int(node));
    assert_eq!(probe(json!({"grpc": {"port": 8080}})).grpc.unwrap().port, node);
    let elsewhere = probe(json!({"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}));
    assert_eq!(elsewhere.tcp_socket.unwrap().port, IntOrString::Int(8080));
    let hook = serde_json::from_value(json!({"httpGet": {"port": 8080, "path": "/"}})).unwrap();
    let hook = ports.hook(hook, &declared);
    assert_eq!(hook.http_get.unwrap().port, IntOrString::Int(node));
}
