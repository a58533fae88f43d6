//! Deployments on three nodes: placed, served, looked into, healed, updated.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::workspace,
    eventually,
    http::{Load, Shot, get},
    is_root,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

const FIVE: Duration = Duration::from_secs(60);

fn hello(cluster: &Cluster) -> SocketAddr {
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    cluster.pods_ready("app=hello", 5, FIVE);
    let service = cluster.json(&["service", "hello"]);
    let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let address = SocketAddr::new(address, 80);
    eventually(Duration::from_secs(10), "the service answers", || get(address, "/"));
    address
}

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
    let address = hello(&cluster);
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

/// A pod asks the cluster's DNS by the short name of the Service.
fn names(cluster: &Cluster) {
    let dns = "10.43.0.10";
    let service = cluster.json(&["service", "hello"]);
    let expected = service["spec"]["clusterIP"].as_str().unwrap();
    let netns = cluster.json(&["service", "kubernetes"]);
    assert!(!netns["spec"]["clusterIP"].is_null());
    let mut command = std::process::Command::new("dig");
    let address = cluster.json(&["service", "kubernetes"])["spec"]["clusterIP"].clone();
    let dns = address.as_str().map_or(dns.to_owned(), |ip| {
        let mut parts: Vec<&str> = ip.split('.').collect();
        parts[3] = "10";
        parts.join(".")
    });
    command.args(["+short", "+time=2", &format!("@{dns}"), "hello.default.svc.cluster.local"]);
    let answer = atoll_e2e::cluster::run(command, "");
    assert_eq!(answer.stdout.trim(), expected, "{answer:?}");
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

fn a_node_dies(cluster: &Cluster, address: SocketAddr) {
    let load = Load::start(address, "/", 200, 16);
    std::thread::sleep(Duration::from_secs(1));
    cluster.chaos("kill", "node-3");
    let killed_at = Duration::from_secs(1);
    eventually(Duration::from_secs(30), "five pods on two nodes", || {
        let pods = cluster.json(&["pods", "-l", "app=hello"]);
        let ready =
            pods["items"].as_array().into_iter().flatten().filter(|pod| {
                atoll_e2e::cluster::is_ready(pod) && pod["spec"]["nodeName"] != "node-3"
            });
        match ready.count() {
            5 => Ok(()),
            count => Err(format!("{count} ready")),
        }
    });
    std::thread::sleep(Duration::from_secs(2));
    let shots = load.stop();
    let failed = failures(&shots);
    let last = failed.iter().map(|shot| shot.at).max().unwrap_or_default();
    // A request that failed at last had two seconds to do so.
    assert!(last < killed_at + Duration::from_secs(6), "the last failure began at {last:?}");
    cluster.chaos("heal", "node-3");
    eventually(Duration::from_secs(30), "node-3 is back", || {
        let nodes = cluster.kubectl(&["get", "nodes"]).ok();
        let line =
            nodes.lines().find(|line| line.starts_with("node-3")).unwrap_or_default().to_owned();
        if line.contains(" Ready") { Ok(()) } else { Err(nodes) }
    });
}
