//! Every twentieth packet of a node is lost, in each direction: all goes on, more slowly.

use crate::Table;
use atoll_e2e::{
    Cluster,
    http::{Load, Origin, Shot},
    is_root,
};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// Three lost packets in a row cost 7 s (the kernel waits 1, 2, then 4 s).
const PATIENCE: Duration = Duration::from_secs(12);
const LOSSY_FOR: Duration = Duration::from_secs(15);

const LOSS: &str = "
    chain in {
        type filter hook prerouting priority -310
        iifname eth0 numgen random mod 100 < 5 counter drop
    }
    chain out {
        type filter hook postrouting priority 310
        oifname eth0 numgen random mod 100 < 5 counter drop
    }";

#[test]
fn a_node_that_loses_packets_is_no_lost_node() {
    if !is_root("network_faults") {
        return;
    }
    let cluster = Cluster::start(3);
    let address = cluster.hello();
    let (health, containers) = (cluster.node_health(), cluster.containers());
    let loss = Table::add(cluster.netns("node-2"), "e2e_loss", LOSS);
    let begun = Instant::now();
    let from = |node: &str| Origin::Namespace(cluster.netns(node));
    // Out of the node and into it.
    let loads = ["node-2", "node-1"]
        .map(|node| Load::start_patient(&from(node), address, "/", 50, 50, PATIENCE));
    while begun.elapsed() < LOSSY_FOR {
        let ready = ["get", "deployment", "hello", "-o", "jsonpath={.status.readyReplicas}"];
        assert_eq!(cluster.kubectl(&ready).ok(), "5");
        assert_eq!(cluster.node_health(), health, "a node was taken for lost");
        sleep(Duration::from_millis(500));
    }
    looked_into(&cluster);
    let shots: Vec<Shot> = loads.into_iter().flat_map(Load::stop).collect();
    let failed: Vec<&Shot> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), shots.len(), failed[0]);
    let again = shots.iter().filter(|shot| shot.took > Duration::from_millis(200)).count();
    let lost = loss.packets();
    assert!(again > 0 && lost > 100, "{lost} packets lost, {again} requests waited for it");
    drop(loss);
    assert_eq!(cluster.node_health(), health, "a node was taken for lost");
    assert_eq!(cluster.containers(), containers, "no container was started again");
}

/// Through the kubelet of the node.
fn looked_into(cluster: &Cluster) {
    let there = ["get", "pods", "--field-selector=spec.nodeName=node-2", "-o", "name"];
    let pods = cluster.kubectl(&there).ok();
    let pod = pods.lines().next().unwrap();
    let said = cluster.kubectl(&["exec", pod, "--", "/atoll", "--version"]).ok();
    assert!(said.starts_with("atoll "), "{said}");
    let said = cluster.kubectl(&["logs", pod, "--tail=1"]).ok();
    assert!(said.starts_with("GET "), "{said}");
}
