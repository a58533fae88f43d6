//! Service addresses: spreading, node ports, hairpins, affinity, refusals, changes.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use atoll_network::{Endpoint, Protocol, ServiceChange, ServicePort, TrafficPolicy, netns};

use crate::world::{Sandbox, World, call, call_here, count, is_root};

async fn servers(world: &mut World, places: &[usize]) -> Vec<Sandbox> {
    let mut all = Vec::new();
    for (number, node) in places.iter().enumerate() {
        all.push(world.server(*node, &format!("s{number}")).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_requests_spread_evenly() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let all = servers(&mut world, &[0, 0, 0, 1, 1]).await;
    let client = world.sandbox(0, "client").await;
    world.sync(|w, k| vec![w.service(k, 20, &all.iter().collect::<Vec<_>>())]).await;
    let counts = count(&client.netns, world.service_address(20), 80, 20_000);
    assert_eq!(counts.len(), 5, "{counts:?}");
    for (server, answers) in &counts {
        assert!((3_600..=4_400).contains(answers), "{server}: {counts:?}");
    }
}

#[tokio::test]
async fn a_service_is_reached_from_sandboxes_nodes_and_host() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let all = servers(&mut world, &[0, 1]).await;
    world.sync(|w, k| vec![w.service(k, 20, &[&all[1]])]).await;
    let to = world.service_address(20);
    let answer = call(&all[0].netns, to, 80).unwrap();
    assert_eq!(answer.saw, all[0].lease.address, "sandboxes keep their address");
    assert_eq!(call(&world.node_netns(0), to, 80).unwrap().from, "s1");
    assert_eq!(call(&world.node_netns(1), to, 80).unwrap().from, "s1");
    assert_eq!(call_here(to, 80).unwrap().from, "s1");
}

#[tokio::test]
async fn a_sandbox_reaches_itself_through_its_service() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let alone = world.server(0, "alone").await;
    world.sync(|w, k| vec![w.service(k, 20, &[&alone])]).await;
    let answer = call(&alone.netns, world.service_address(20), 80).unwrap();
    assert_eq!(answer.from, "alone");
    assert_eq!(answer.saw, world.cluster.nodes[0].pod_cidr.nth(1).unwrap());
}

#[tokio::test]
async fn node_ports_and_external_addresses_answer_on_every_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let all = servers(&mut world, &[0, 1]).await;
    // The host sends what is for this address into the cluster, as a load balancer would.
    let external = world.service_address(250);
    world
        .sync(|w, k| {
            let mut port = w.service(k, 20, &[&all[1]]);
            port.node_port = Some(30080);
            port.external_addresses = vec![external];
            vec![port]
        })
        .await;
    for node in &world.cluster.nodes {
        assert_eq!(call_here(node.address, 30080).unwrap().from, "s1");
        assert_eq!(call(&all[0].netns, node.address, 30080).unwrap().from, "s1");
        assert_eq!(call(&world.node_netns(0), node.address, 30080).unwrap().from, "s1");
    }
    assert_eq!(call_here(external, 80).unwrap().from, "s1");
    assert!(call(&world.node_netns(0), Ipv4Addr::LOCALHOST, 30080).is_err());
}

#[tokio::test]
async fn local_external_traffic_keeps_its_source_and_never_leaves_the_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let all = servers(&mut world, &[0, 1]).await;
    world
        .sync(|w, k| {
            let mut port = w.service(k, 20, &[&all[0]]);
            port.node_port = Some(30080);
            port.external_policy = TrafficPolicy::Local;
            vec![port]
        })
        .await;
    let [one, two] = [world.cluster.nodes[0].address, world.cluster.nodes[1].address];
    assert_eq!(call_here(one, 30080).unwrap().saw, world.cluster.host_address());
    assert_eq!(call_here(two, 30080).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(call(&all[1].netns, two, 30080).unwrap().from, "s0", "from inside it may");
}

#[tokio::test]
async fn local_internal_traffic_stays_on_the_node() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(2).await;
    let all = servers(&mut world, &[0, 1]).await;
    world
        .sync(|w, k| {
            let mut port = w.service(k, 20, &[&all[0], &all[1]]);
            port.internal_policy = TrafficPolicy::Local;
            vec![port]
        })
        .await;
    for sandbox in &all {
        let counts = count(&sandbox.netns, world.service_address(20), 80, 20);
        assert_eq!(counts.keys().collect::<Vec<_>>(), [&sandbox.uid]);
    }
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_until_that_goes() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let all = servers(&mut world, &[0, 0, 0, 0]).await;
    let client = world.sandbox(0, "client").await;
    let with = |w: &World, endpoints: &[&Sandbox]| {
        let mut port = w.service(0, 20, endpoints);
        port.affinity = Some(Duration::from_secs(3600));
        vec![port]
    };
    let everyone: Vec<_> = all.iter().collect();
    world.sync(|w, _| with(w, &everyone)).await;
    let to = world.service_address(20);
    let counts = count(&client.netns, to, 80, 30);
    assert_eq!(counts.len(), 1, "{counts:?}");
    let first = counts.into_keys().next().unwrap();
    // A restart of the agent forgets nobody.
    world.nodes[0] = world.start_agent(0).await;
    world.sync(|w, _| with(w, &everyone)).await;
    assert_eq!(count(&client.netns, to, 80, 30).keys().collect::<Vec<_>>(), [&first]);
    let rest: Vec<_> = all.iter().filter(|sandbox| sandbox.uid != first).collect();
    world.sync(|w, _| with(w, &rest)).await;
    let counts = count(&client.netns, to, 80, 30);
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert!(!counts.contains_key(&first));
}

#[tokio::test]
async fn affinity_ends_with_its_time() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let all = servers(&mut world, &[0, 0, 0, 0]).await;
    let client = world.sandbox(0, "client").await;
    world
        .sync(|w, k| {
            let mut port = w.service(k, 20, &all.iter().collect::<Vec<_>>());
            port.affinity = Some(Duration::from_secs(1));
            vec![port]
        })
        .await;
    let mut seen = HashSet::new();
    for _ in 0..8 {
        seen.insert(call(&client.netns, world.service_address(20), 80).unwrap().from);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        if seen.len() > 1 {
            return;
        }
    }
    panic!("eight calls, each after the affinity's end, all reached {seen:?}");
}

#[tokio::test]
async fn no_endpoints_an_unknown_port_and_an_unknown_address_are_told_apart() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let client = world.server(0, "client").await;
    world
        .sync(|w, k| {
            let mut empty = w.service(k, 20, &[]);
            empty.node_port = Some(30080);
            vec![empty, w.service(k, 21, &[&client])]
        })
        .await;
    let refused = |from: &std::path::Path, last, port| {
        let begun = Instant::now();
        let error = call(from, world.service_address(last), port).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(begun.elapsed() < Duration::from_millis(500));
    };
    for from in [client.netns.clone(), world.node_netns(0)] {
        refused(&from, 20, 80);
        refused(&from, 21, 81);
        let error = call(&from, world.service_address(99), 80).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "nobody has this address");
    }
    let error = call_here(world.service_address(20), 80).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = call_here(world.cluster.nodes[0].address, 30080).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn changes_take_effect_and_removal_is_complete() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let all = servers(&mut world, &[0, 0]).await;
    let client = world.sandbox(0, "client").await;
    let node = &world.nodes[0];
    let to = world.service_address(20);
    let port = world.service(0, 20, &[&all[0]]);
    let error = node.apply(vec![ServiceChange::Set(port.clone())]).await.unwrap_err();
    assert!(error.to_string().contains("synchronised once"), "{error}");
    node.sync_services(Vec::new()).await.unwrap();
    node.apply(vec![ServiceChange::Set(port)]).await.unwrap();
    assert_eq!(call(&client.netns, to, 80).unwrap().from, "s0");
    let both = world.service(0, 20, &[&all[0], &all[1]]);
    node.apply(vec![ServiceChange::Set(both.clone())]).await.unwrap();
    assert_eq!(count(&client.netns, to, 80, 100).len(), 2);
    let second = world.service(0, 20, &[&all[1]]);
    node.apply(vec![ServiceChange::Set(second)]).await.unwrap();
    assert_eq!(count(&client.netns, to, 80, 50).keys().collect::<Vec<_>>(), ["s1"]);
    node.apply(vec![ServiceChange::Set(world.service(0, 20, &[]))]).await.unwrap();
    assert_eq!(call(&client.netns, to, 80).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    node.apply(vec![ServiceChange::Remove(both.key.clone())]).await.unwrap();
    assert_eq!(call(&client.netns, to, 80).unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn an_established_connection_survives_a_restart_of_the_agent() {
    if !is_root() {
        return;
    }
    use std::io::{Read, Write};
    let mut world = World::with_nodes(1).await;
    let server = world.sandbox(0, "server").await;
    let client = world.sandbox(0, "client").await;
    let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080));
    let listener = netns::listen_tcp(&server.netns, listen).unwrap();
    world.sync(|w, k| vec![w.service(k, 20, &[&server])]).await;
    let to = SocketAddr::from((world.service_address(20), 80));
    let mut out = netns::dial_tcp(&client.netns, to, Duration::from_secs(2)).unwrap();
    let (mut into, _) = listener.accept().unwrap();
    world.nodes.clear();
    let again = world.start_agent(0).await;
    world.nodes.push(again);
    // Not an endpoint any more: what is established goes on all the same.
    world.sync(|w, k| vec![w.service(k, 20, &[])]).await;
    for stream in [&out, &into] {
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    let mut buffer = [0; 4];
    out.write_all(b"ping").unwrap();
    into.read_exact(&mut buffer).unwrap();
    into.write_all(b"pong").unwrap();
    out.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"pong");
    let forgotten = world.nodes[0].forget_flows(vec![server.lease.address]).await.unwrap();
    assert!(forgotten >= 1);
}

#[tokio::test]
async fn a_udp_client_moves_on_when_its_endpoint_goes() {
    if !is_root() {
        return;
    }
    let mut world = World::with_nodes(1).await;
    let one = world.sandbox(0, "one").await;
    let two = world.sandbox(0, "two").await;
    let client = world.sandbox(0, "client").await;
    let service = |endpoint: &Sandbox| ServicePort {
        key: "kube-system/dns:dns".to_owned(),
        protocol: Protocol::Udp,
        port: 53,
        cluster_addresses: vec![world.service_address(30)],
        external_addresses: Vec::new(),
        node_port: None,
        endpoints: vec![Endpoint {
            address: std::net::SocketAddrV4::new(endpoint.lease.address, 5353),
            local: true,
        }],
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    };
    let bind = |sandbox: &Sandbox, port| {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let socket = netns::bind_udp(&sandbox.netns, any).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    };
    let (at_one, at_two, from) = (bind(&one, 5353), bind(&two, 5353), bind(&client, 40_000));
    let to = SocketAddr::from((world.service_address(30), 53));
    let mut buffer = [0; 16];
    world.nodes[0].sync_services(vec![service(&one)]).await.unwrap();
    from.send_to(b"a", to).unwrap();
    at_one.recv_from(&mut buffer).unwrap();
    world.nodes[0].apply(vec![ServiceChange::Set(service(&two))]).await.unwrap();
    from.send_to(b"b", to).unwrap();
    at_two.recv_from(&mut buffer).unwrap();
    assert!(at_one.recv_from(&mut buffer).is_err());
}

/// Prints what a full and an incremental synchronisation cost.
#[tokio::test]
async fn a_thousand_services_are_written_in_one_transaction() {
    if !is_root() {
        return;
    }
    let world = World::with_nodes(1).await;
    let many = |count: u32| -> Vec<ServicePort> {
        (0..count)
            .map(|number| {
                let mut port = world.service(0, 0, &[]);
                port.key = format!("default/svc-{number}:http");
                port.cluster_addresses =
                    vec![world.cluster.ranges.services.nth(1_000 + number).unwrap()];
                port.endpoints = (0..5)
                    .map(|k| Endpoint {
                        address: std::net::SocketAddrV4::new(
                            world.cluster.ranges.pods.nth(number * 5 + k).unwrap(),
                            8080,
                        ),
                        local: k == 0,
                    })
                    .collect();
                port
            })
            .collect()
    };
    let ports = many(1_000);
    let node = &world.nodes[0];
    let begun = Instant::now();
    node.sync_services(ports.clone()).await.unwrap();
    let full = begun.elapsed();
    let mut changed = ports[500].clone();
    changed.endpoints.pop();
    let begun = Instant::now();
    node.apply(vec![ServiceChange::Set(changed)]).await.unwrap();
    let incremental = begun.elapsed();
    let begun = Instant::now();
    node.sync_services(ports).await.unwrap();
    if let Ok(listed) = std::process::Command::new("nsenter")
        .arg(format!("--net={}", world.node_netns(0).display()))
        .args(["nft", "list", "tables"])
        .output()
    {
        // An outside program reads what was written.
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.is_empty() || listed.contains("table ip atoll-"), "{listed}");
    }
    println!("full {full:?}, one change {incremental:?}, compared {:?}", begun.elapsed());
    assert!(full < Duration::from_secs(2) && incremental < Duration::from_millis(200));
}
