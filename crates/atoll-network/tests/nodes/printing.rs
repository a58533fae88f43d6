//! What outside programs read of a node's rules.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use atoll_network::{HostPort, Protocol, ServicePort, TrafficPolicy};

use crate::world::{Sandbox, World, call, count, is_root};

/// `None` where there is no `nft`, which is no reason to skip in CI.
fn nft(netns: &Path, words: &[&str]) -> Option<String> {
    if !Path::new("/usr/sbin/nft").exists() {
        #[allow(clippy::disallowed_methods, reason = "tests ask whether they run in CI")]
        let ci = std::env::var("CI").is_ok();
        assert!(!ci, "CI must have nft: scripts/prepare installs it");
        println!("skipped: there is no /usr/sbin/nft");
        return None;
    }
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .arg("/usr/sbin/nft")
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {words:?} ended with {}: {said}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A service of every kind; the k-th has the address k.
fn every_kind(world: &World, node: usize, servers: &[Sandbox]) -> Vec<ServicePort> {
    let everyone: Vec<&Sandbox> = servers.iter().collect();
    let service = |last: u8, change: &dyn Fn(&mut ServicePort)| {
        let mut port = world.service(node, last, &everyone);
        change(&mut port);
        port
    };
    let hour = Some(Duration::from_secs(3600));
    let elsewhere = Ipv4Addr::new(192, 0, 2, 7);
    vec![
        service(20, &|_| {}),
        service(21, &|port| port.protocol = Protocol::Udp),
        service(22, &|port| port.protocol = Protocol::Sctp),
        service(23, &|port| port.node_port = Some(30_023)),
        service(24, &|port| {
            port.node_port = Some(30_024);
            port.external_policy = TrafficPolicy::Local;
        }),
        service(25, &|port| port.external_addresses = vec![elsewhere]),
        service(26, &|port| port.internal_policy = TrafficPolicy::Local),
        service(27, &|port| port.affinity = hour),
        service(28, &|port| {
            port.affinity = hour;
            port.node_port = Some(30_028);
            port.external_policy = TrafficPolicy::Local;
            port.internal_policy = TrafficPolicy::Local;
        }),
        service(29, &|port| {
            port.endpoints.clear();
            port.node_port = Some(30_029);
        }),
        service(30, &|port| {
            port.endpoints.retain(|endpoint| !endpoint.local);
            port.node_port = Some(30_030);
            port.internal_policy = TrafficPolicy::Local;
            port.external_policy = TrafficPolicy::Local;
        }),
    ]
}

#[tokio::test]
async fn debians_nft_prints_the_rules_of_a_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let host_port = |host_ip, host_port| HostPort {
        host_ip,
        host_port,
        container_port: 8080,
        protocol: Protocol::Tcp,
    };
    let ports = [host_port(None, 81), host_port(Some(world.cluster.nodes[0].address), 82)];
    let with_ports = world.sandbox_with_ports(0, "with-ports", &ports).await;
    world.serve(&with_ports.netns, 8080, "with-ports");
    let servers = [with_ports, world.server(1, "there").await];
    let client = world.sandbox(0, "client").await;
    world.sync(|world, node| every_kind(world, node, &servers)).await;
    // A client is remembered.
    assert_eq!(count(&client.netns, world.service_address(27), 80, 5).len(), 1);
    let node = world.node_netns(0);
    let Some(rules) = nft(&node, &["list", "ruleset"]) else { return };
    for last in 20..=30 {
        let address = world.service_address(last);
        assert!(rules.contains(&format!("{address} . ")), "{address} is missing:\n{rules}");
    }
    for text in ["30023", "30030", "192.0.2.7 . ", "numgen random mod 2", "dnat", "masquerade"] {
        assert!(rules.contains(text), "{text} is missing:\n{rules}");
    }
    let remembered = format!("{} timeout 1h", client.lease.address);
    assert!(rules.contains(&remembered), "{remembered} is missing:\n{rules}");
    let tables = nft(&node, &["list", "tables"]).unwrap_or_default();
    assert!(tables.starts_with("table ip atoll-"), "{tables}");
    // And they are the rules that work.
    assert!(call(&client.netns, world.service_address(20), 80).is_ok());
}
