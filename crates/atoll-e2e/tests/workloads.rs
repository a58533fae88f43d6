//! Deployments on three nodes: placed, served, looked into, healed, updated.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and says what it measured"
)]

use atoll_e2e::{
    Cluster,
    cluster::run,
    http::{Load, Origin, Shot, get},
    is_root,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const FIVE: Duration = Duration::from_secs(60);

fn nodes_of(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for pod in cluster.pods_ready("app=hello", 5, FIVE) {
        *nodes.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    nodes
}

fn failures(shots: &[Shot]) -> Vec<&Shot> {
    shots.iter().filter(|shot| shot.result.is_err()).collect()
}

#[test]
fn five_replicas_over_three_nodes() {
    if !is_root("workloads") {
        return;
    }
    let cluster = Cluster::start(3);
    let address = cluster.hello();
    spread(&cluster, address);
    looked_into(&cluster);
    names(&cluster);
    rolling_update(&cluster, address);
    a_node_dies(&cluster, address);
}

fn spread(cluster: &Cluster, address: SocketAddr) {
    let nodes = nodes_of(cluster);
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    assert!(nodes.values().all(|count| *count <= 2), "{nodes:?}");
    let mut hits: BTreeMap<String, usize> = BTreeMap::new();
    const REQUESTS: usize = 20_000;
    for _ in 0..REQUESTS {
        let body = get(address, "/").unwrap();
        let pod = body.split_whitespace().nth(2).unwrap().to_owned();
        *hits.entry(pod).or_insert(0) += 1;
    }
    assert_eq!(hits.len(), 5, "{hits:?}");
    for count in hits.values() {
        let percent = count * 100 / REQUESTS;
        assert!((18..22).contains(&percent), "{hits:?}");
    }
}

fn looked_into(cluster: &Cluster) {
    let described = cluster.kubectl(&["describe", "deployment", "hello"]).ok();
    assert!(described.contains("5 desired | 5 updated | 5 total | 5 available"), "{described}");
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=hello", "-o", "name"]).ok();
    let pod = pod.lines().next().unwrap();
    let described = cluster.kubectl(&["describe", pod]).ok();
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(reason), "{reason}: {described}");
    }
    let log = cluster.kubectl(&["logs", pod]).ok();
    assert!(log.contains("hello from"), "{log}");
    let version = cluster.kubectl(&["exec", pod, "--", "/atoll", "--version"]).ok();
    assert!(version.starts_with("atoll "), "{version}");
    let failed = cluster.kubectl(&["exec", pod, "--", "/atoll", "no-such-command"]);
    assert_eq!(failed.code, 2, "{failed:?}");
    let why = cluster.atoll(&["why", "deployment/hello"]).ok();
    assert_eq!(why, "deployment/hello is well.\n");
}

/// The cluster's DNS has the tenth address of the Services.
fn names(cluster: &Cluster) {
    let IpAddr::V4(first) = cluster.service_ip("kubernetes") else { panic!("not IPv4") };
    let dns = Ipv4Addr::from(u32::from(first) + 9);
    let mut dig = Command::new("dig");
    dig.args(["+short", "+time=2", &format!("@{dns}"), "hello.default.svc.cluster.local"]);
    let answer = run(dig, "").ok();
    assert_eq!(answer.trim(), cluster.service_ip("hello").to_string());
}

fn rolling_update(cluster: &Cluster, address: SocketAddr) {
    let load = Load::start(address, "/", 200, 8);
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"hello","env":[{"name":"VERSION","value":"2"}]}]}}}}"#;
    cluster.kubectl(&["patch", "deployment", "hello", "-p", patch]).ok();
    let status = cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]).ok();
    assert!(status.contains("successfully rolled out"), "{status}");
    cluster.pods_ready("app=hello", 5, FIVE);
    let shots = load.stop();
    let failed = failures(&shots);
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:?}",
        failed.len(),
        shots.len(),
        &failed[..failed.len().min(5)]
    );
    let versions: BTreeSet<&str> = shots
        .iter()
        .filter_map(|shot| shot.result.as_ref().ok())
        .filter_map(|body| body.split("version ").nth(1))
        .filter_map(|rest| rest.split(',').next())
        .collect();
    assert!(versions.contains("1") && versions.contains("2"), "{versions:?}");
    let history = cluster.kubectl(&["rollout", "history", "deployment/hello"]).ok();
    assert!(history.contains("1 ") && history.contains("2 "), "{history}");
}

/// The bar: five again within 12 s, and no request fails that began later than 3 s after
/// the node's end.
fn a_node_dies(cluster: &Cluster, address: SocketAddr) {
    let from = Origin::Namespace(cluster.netns("node-2"));
    let load = Load::start_from(&from, address, "/", 200, 48);
    let load_began = Instant::now();
    sleep(Duration::from_secs(1));
    let killed = Instant::now();
    cluster.chaos("kill", "node-3");
    cluster.ready_elsewhere("app=hello", "node-3", 5, Duration::from_secs(12));
    let back = killed.elapsed();
    sleep(Duration::from_secs(2));
    let shots = load.stop();
    let killed_at = killed.duration_since(load_began);
    let failing = failures(&shots).iter().map(|shot| shot.at.saturating_sub(killed_at)).max();
    println!("five again after {back:?}, the last failure began after {failing:?}");
    assert!(failing <= Some(Duration::from_secs(3)), "the last failure began after {failing:?}");
    cluster.chaos("heal", "node-3");
    cluster.node_ready("node-3", Duration::from_secs(30));
}
