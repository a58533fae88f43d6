//! Sandboxes reach each other, their node and the world; agents come and go.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use atoll_network::{HostPort, NodeNetwork, Protocol, netns};

use crate::world::{World, call, call_here, is_root};

#[tokio::test]
async fn sandboxes_reach_each_other_with_their_own_addresses() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let here = world.server(0, "here").await;
    let beside = world.server(0, "beside").await;
    let there = world.server(1, "there").await;
    for (from, to) in [(&here, &beside), (&here, &there), (&there, &beside), (&here, &here)] {
        let answer = call(&from.netns, to.lease.address, 8080).unwrap();
        assert_eq!((answer.from, answer.saw), (to.uid.clone(), from.lease.address));
    }
}

#[tokio::test]
async fn nodes_and_the_host_reach_sandboxes() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let pod = world.server(1, "pod").await;
    let node = world.cluster.nodes[0].address;
    assert_eq!(call(&world.node_netns(0), pod.lease.address, 8080).unwrap().saw, node);
    let host = world.cluster.host_address();
    assert_eq!(call_here(pod.lease.address, 8080).unwrap().saw, host);
    // Its own node talks to it from the first address of the node's range.
    let gateway = world.cluster.nodes[1].pod_cidr.nth(1).unwrap();
    assert_eq!(call(&world.node_netns(1), pod.lease.address, 8080).unwrap().saw, gateway);
}

#[tokio::test]
async fn a_sandbox_leaves_the_cluster_as_its_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let pod = world.sandbox(0, "pod").await;
    world.serve(&world.node_netns(1), 9000, "other-node");
    let answer = call(&pod.netns, world.cluster.nodes[1].address, 9000).unwrap();
    assert_eq!(answer.saw, world.cluster.nodes[0].address);
}

#[tokio::test]
async fn host_ports_lead_into_the_sandbox() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let port = |host_ip, host_port| HostPort {
        host_ip,
        host_port,
        container_port: 8080,
        protocol: Protocol::Tcp,
    };
    let node = world.cluster.nodes[0].address;
    let (elsewhere, local) = (Ipv4Addr::new(10, 9, 9, 9), Ipv4Addr::LOCALHOST);
    let ports =
        [port(None, 81), port(Some(node), 82), port(Some(elsewhere), 83), port(Some(local), 84)];
    let pod = world.sandbox_with_ports(0, "pod", &ports).await;
    world.serve(&pod.netns, 8080, "pod");
    for port in [81, 82] {
        assert_eq!(call_here(node, port).unwrap().from, "pod");
        assert_eq!(call(&world.node_netns(1), node, port).unwrap().from, "pod");
        assert_eq!(call(&world.node_netns(0), node, port).unwrap().from, "pod");
        assert_eq!(call(&pod.netns, node, port).unwrap().from, "pod", "hairpin");
    }
    for port in [81, 84] {
        assert_eq!(call(&world.node_netns(0), local, port).unwrap().from, "pod", "{port}");
    }
    for (address, port) in [(node, 83), (node, 84), (local, 82)] {
        assert!(call(&world.node_netns(0), address, port).is_err(), "{address}:{port}");
    }
    world.nodes[0].detach("pod").await.unwrap();
    assert!(call_here(node, 81).is_err());
}

#[tokio::test]
async fn a_new_agent_finds_everything_as_it_was() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let old = world.server(0, "old").await;
    world.nodes.remove(0);
    let client = world.node_netns(1);
    assert!(call(&client, old.lease.address, 8080).is_ok(), "the agent is dead");
    let again = world.start_agent(0).await;
    assert_eq!(again.attach("old", &old.netns, &[]).await.unwrap(), old.lease);
    assert!(call(&client, old.lease.address, 8080).is_ok(), "the agent is back");
    world.nodes.insert(0, again);
    let new = world.server(0, "new").await;
    assert_ne!(new.lease.address, old.lease.address);
}

#[tokio::test]
async fn a_remade_sandbox_of_the_same_name_works() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let first = world.sandbox(0, "pod").await;
    netns::remove(&first.netns).unwrap();
    let second = world.server(0, "pod").await;
    assert_eq!(second.lease, first.lease);
    assert_eq!(call(&world.node_netns(0), second.lease.address, 8080).unwrap().from, "pod");
}

#[tokio::test]
async fn sweep_detaches_only_the_unknown() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let kept = world.server(0, "kept").await;
    let gone = world.server(0, "gone").await;
    let known = HashSet::from(["kept".to_owned()]);
    assert_eq!(world.nodes[0].sweep(known).await.unwrap(), ["gone"]);
    assert!(call(&world.node_netns(0), kept.lease.address, 8080).is_ok());
    assert!(call(&world.node_netns(0), gone.lease.address, 8080).is_err());
    assert_eq!(world.nodes[0].leases().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_peer_that_left_has_no_route() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let there = world.server(1, "there").await;
    assert!(call(&world.node_netns(0), there.lease.address, 8080).is_ok());
    world.nodes[0].sync_peers(Vec::new()).await.unwrap();
    let output = std::process::Command::new("nsenter")
        .arg(format!("--net={}", world.node_netns(0).display()))
        .args(["ip", "-4", "route", "show"])
        .output()
        .unwrap();
    let routes = String::from_utf8(output.stdout).unwrap();
    let mut through = routes.lines().filter(|line| line.contains(" via "));
    // The default route is nobody's podCIDR: pods reach the outside by it.
    assert!(through.next().is_some_and(|line| line.starts_with("default via")), "{routes}");
    assert_eq!(through.next(), None, "{routes}");
}

#[tokio::test]
async fn a_node_address_that_is_nowhere_is_named() {
    if !is_root() {
        return;
    }
    let world = World::with_nodes(1).await;
    let mut config = world.config(0);
    config.node_address = Ipv4Addr::new(192, 0, 2, 99);
    let error = NodeNetwork::setup_in(&world.node_netns(0), config).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.99"), "{error}");
}

#[tokio::test]
async fn two_hundred_sandboxes_leave_nothing() {
    if !is_root() {
        return;
    }
    let world = World::with_nodes(1).await;
    let netns = world.node_netns(0);
    let links =
        move || netns::in_netns(&netns, || std::fs::read_to_string("/proc/thread-self/net/dev"));
    let before = links().unwrap().unwrap().lines().count();
    for k in 0..200 {
        let uid = format!("s{k}");
        let path = world.sandbox_netns(&uid);
        netns::make(&path).unwrap();
        world.nodes[0].attach(&uid, &path, &[]).await.unwrap();
        world.nodes[0].detach(&uid).await.unwrap();
        netns::remove(&path).unwrap();
    }
    assert_eq!(links().unwrap().unwrap().lines().count(), before);
    assert!(world.nodes[0].leases().await.unwrap().is_empty());
}
