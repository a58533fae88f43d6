//! Ports of a node: one number for several addresses and protocols, and who comes too late.

use super::{HOUR_GLASS, node_ip, who};
use atoll_e2e::{
    Cluster,
    cluster::{is_ready, run},
    eventually,
    http::{Origin, datagram},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, process::Command};

const PORT: u16 = 18_123;
const TAKEN: u16 = 18_124;

fn pod(cluster: &Cluster, name: &str, port: &Value) {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "terminationGracePeriodSeconds": 1,
            "nodeSelector": { "kubernetes.io/hostname": "node-1" },
            "containers": [{ "name": "c", "image": "atoll.local/hello", "ports": [port],
                "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 } }] } });
    cluster.apply(&pod.to_string());
}

pub(super) fn apply(cluster: &Cluster) {
    let own = node_ip(cluster, "node-1");
    let port = |ip: &str, protocol: &str| json!({ "containerPort": 8080, "hostPort": PORT, "hostIP": ip, "protocol": protocol });
    pod(cluster, "port-loopback", &port("127.0.0.1", "TCP"));
    pod(cluster, "port-own", &port(&own.to_string(), "TCP"));
    pod(cluster, "port-udp", &port(&own.to_string(), "UDP"));
    pod(cluster, "port-all", &json!({ "containerPort": 8080, "hostPort": TAKEN }));
}

pub(super) fn check(cluster: &Cluster) {
    for name in ["port-loopback", "port-own", "port-udp", "port-all"] {
        cluster.pod_becomes(name, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    let own = node_ip(cluster, "node-1");
    let node = cluster.netns("node-1");
    for (host, pod) in [("127.0.0.1".to_owned(), "port-loopback"), (own.to_string(), "port-own")] {
        let mut curl = Command::new("nsenter");
        curl.arg(format!("--net={}", node.display()));
        curl.args(["curl", "-s", "--max-time", "5", "--interface", &own.to_string()]);
        curl.arg(format!("http://{host}:{PORT}/"));
        assert_eq!(who(&run(curl, "").ok()).as_deref(), Ok(pod), "at {host}");
    }
    let answer = datagram(&Origin::Namespace(node), SocketAddr::new(own, PORT)).unwrap();
    assert_eq!(who(&answer).as_deref(), Ok("port-udp"));

    // A port of all addresses is one of each.
    let late = json!({ "containerPort": 8080, "hostPort": TAKEN, "hostIP": "127.0.0.1" });
    pod(cluster, "port-late", &late);
    let wanted = "node(s) didn't have free ports for the requested pod ports";
    cluster.pod_becomes("port-late", HOUR_GLASS, |pod| {
        pod["status"]["conditions"].to_string().contains(wanted).then_some(())
    });
    cluster.kubectl(&["delete", "pod", "port-all"]).ok();
    eventually(HOUR_GLASS, "who waits gets the port", || {
        let pod = cluster.json(&["pod", "port-late"]);
        if is_ready(&pod) { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}
