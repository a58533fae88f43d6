//! What goes wrong around a node: rules and routes that others remove, peers that cannot
//! be, packets and flows that nobody wants.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_network::{HostPort, Ipv4Net, Peer, Protocol, ServiceChange, netns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use crate::world::{World, call, is_root};

fn within(netns: &Path, words: &[&str]) {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn rules_and_routes_that_others_remove_are_put_back() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let port =
        HostPort { host_ip: None, host_port: 81, container_port: 8080, protocol: Protocol::Tcp };
    let there = world.server(1, "there").await;
    let here = world.sandbox_with_ports(0, "here", &[port]).await;
    world.serve(&here.netns, 8080, "here");
    world.sync(|world, k| vec![world.service(k, 20, &[&there])]).await;
    let (node, to) = (world.node_netns(0), world.service_address(20));
    assert_eq!(world.nodes[0].repair().await.unwrap(), Vec::<&str>::new(), "all is well");
    within(&node, &["nft", "flush", "ruleset"]);
    assert!(call(&here.netns, to, 80).is_err());
    assert_eq!(world.nodes[0].repair().await.unwrap(), ["the rules"]);
    assert_eq!(call(&here.netns, to, 80).unwrap().from, "there");
    let own = world.cluster.nodes[0].address;
    assert_eq!(call(&world.node_netns(1), own, 81).unwrap().from, "here");
    within(&node, &["ip", "link", "set", "eth0", "down"]);
    within(&node, &["ip", "link", "set", "eth0", "up"]);
    assert!(call(&here.netns, to, 80).is_err());
    let repaired = world.nodes[0].repair().await.unwrap();
    assert_eq!(repaired, ["the route to the services", "routes to other nodes"]);
    assert_eq!(call(&here.netns, to, 80).unwrap().from, "there");
    assert_eq!(call(&node, to, 80).unwrap().from, "there");
}

#[tokio::test]
async fn services_are_written_though_the_table_is_gone() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let server = world.server(0, "server").await;
    let node = &world.nodes[0];
    node.sync_services(Vec::new()).await.unwrap();
    within(&world.node_netns(0), &["nft", "flush", "ruleset"]);
    let port = world.service(0, 20, &[&server]);
    assert!(node.apply(vec![ServiceChange::Set(port.clone())]).await.is_err());
    node.sync_services(vec![port]).await.unwrap();
    assert_eq!(call(&world.node_netns(0), world.service_address(20), 80).unwrap().from, "server");
}

#[tokio::test]
async fn a_peer_that_cannot_be_takes_nothing_from_the_others() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let there = world.server(1, "there").await;
    let here = world.server(0, "here").await;
    let real = &world.cluster.nodes[1];
    let peer =
        |name: &str, node_address, pod_cidr| Peer { name: name.to_owned(), node_address, pod_cidr };
    let pods = world.cluster.ranges.pods;
    let range = |k: u32| Ipv4Net::new(pods.nth(k << 8).unwrap(), 24);
    let everything = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0);
    let elsewhere = Ipv4Addr::new(192, 0, 2, 9);
    let second = world.cluster.nodes[0].address;
    world.nodes[0].sync_peers(Vec::new()).await.unwrap();
    let peers = vec![
        peer("a-takes-all", real.address, everything),
        peer("b-takes-services", real.address, world.cluster.ranges.services),
        peer("c-takes-ours", real.address, world.cluster.nodes[0].pod_cidr),
        peer("d-unreachable", elsewhere, range(7)),
        peer("node-2", real.address, real.pod_cidr),
        peer("y-takes-node-2", second.to_bits().checked_add(7).unwrap().into(), real.pod_cidr),
    ];
    let error = world.nodes[0].sync_peers(peers.clone()).await.unwrap_err();
    assert!(error.to_string().contains(&range(7).to_string()), "{error}");
    let node = world.node_netns(0);
    assert_eq!(call(&node, there.lease.address, 8080).unwrap().from, "there");
    assert_eq!(call(&node, here.lease.address, 8080).unwrap().from, "here");
    let routes = Command::new("nsenter")
        .arg(format!("--net={}", node.display()))
        .args(["ip", "-4", "route", "show", "proto", "167"])
        .output()
        .unwrap();
    let routes = String::from_utf8(routes.stdout).unwrap();
    let through = routes.lines().filter(|line| line.contains(" via "));
    let through: Vec<&str> = through.filter(|line| !line.starts_with("default")).collect();
    assert_eq!(through.len(), 1, "{routes}");
}

#[tokio::test]
async fn a_udp_client_that_came_before_the_host_port_is_led_into_the_sandbox() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let port =
        HostPort { host_ip: None, host_port: 5300, container_port: 53, protocol: Protocol::Udp };
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let client = netns::bind_udp(&world.node_netns(1), any(40_000)).unwrap();
    let to = SocketAddr::from((world.cluster.nodes[0].address, 5300));
    // A program of the node has the port for now, so the flow is tracked as answered.
    let former = netns::bind_udp(&world.node_netns(0), any(5300)).unwrap();
    let patience = Some(Duration::from_secs(2));
    former.set_read_timeout(patience).unwrap();
    client.send_to(b"early", to).unwrap();
    former.recv_from(&mut [0; 16]).unwrap();
    let pod = world.sandbox_with_ports(0, "pod", &[port]).await;
    let server = netns::bind_udp(&pod.netns, any(53)).unwrap();
    server.set_read_timeout(patience).unwrap();
    client.send_to(b"late", to).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"late");
}

#[tokio::test]
async fn a_packet_outside_of_its_connection_does_not_reach_the_client() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let server = world.server(1, "server").await;
    let client = world.sandbox(0, "client").await;
    world.sync(|world, k| vec![world.service(k, 20, &[&server])]).await;
    let raw = || {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Tcp)
            .unwrap()
    };
    let seen = netns::in_netns(&client.netns, raw).unwrap();
    let to = SocketAddr::from((world.service_address(20), 80));
    let stream = netns::dial_tcp(&client.netns, to, Duration::from_secs(2)).unwrap();
    let own = stream.local_addr().unwrap();
    // From the endpoint's port to the client's, but of no window: connection tracking does
    // not know it, so it does not get the service's address.
    let out = netns::in_netns(&server.netns, raw).unwrap();
    let mut header = [0u8; 20];
    header[0..2].copy_from_slice(&8080u16.to_be_bytes());
    header[2..4].copy_from_slice(&own.port().to_be_bytes());
    header[12] = 5 << 4;
    header[13] = 0x10;
    let [a, b, c, d] = client.lease.address.octets();
    sendto(out.as_raw_fd(), &header, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty()).unwrap();
    let mut from_service = false;
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        let mut packet = [0u8; 2048];
        if let Ok(length) = recv(seen.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            let [.., a, b, c, d] = packet[..16.min(length)] else { continue };
            let source = Ipv4Addr::new(a, b, c, d);
            assert_ne!(source, server.lease.address, "it got through");
            from_service |=
                SocketAddrV4::new(source, 80) == SocketAddrV4::new(world.service_address(20), 80);
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(from_service, "what belongs to the connection does get through");
}

#[tokio::test]
async fn two_sandboxes_of_one_link_name_do_not_take_it_from_each_other() {
    if !is_root() {
        return;
    }
    // Their hashes are the same in the 40 bits that a link's name has of them.
    let (first, second) = ("sandbox-3139366", "sandbox-3878671");
    let mut world = World::with_nodes(1).await;
    let holder = world.server(0, first).await;
    let netns = world.sandbox_netns("other");
    netns::make(&netns).unwrap();
    let error = world.nodes[0].attach(second, &netns, &[]).await.unwrap_err().to_string();
    netns::remove(&netns).unwrap();
    assert!(error.contains(first) && error.contains(second), "{error}");
    assert_eq!(call(&world.node_netns(0), holder.lease.address, 8080).unwrap().from, first);
    world.nodes[0].detach(second).await.unwrap();
    assert_eq!(call(&world.node_netns(0), holder.lease.address, 8080).unwrap().from, first);
}
