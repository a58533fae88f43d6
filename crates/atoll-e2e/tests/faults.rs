//! Processes killed under load, a supervisor killed, and what is left when a cluster ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::{binary, run},
    eventually,
    http::{Load, Origin},
    is_root, system,
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

#[test]
fn nothing_is_lost_when_processes_are_killed() {
    if !is_root("faults") {
        return;
    }
    let mut cluster = Cluster::start(3);
    let address = cluster.hello();
    let before = cluster.containers();

    let load = Load::start(address, "/", 200, 8);
    for role in ["server --data-dir", "agent --join", "dns --listen"] {
        let killed = kill(&cluster, role);
        assert!(killed > 0, "no process is an `atoll {role}`");
        sleep(Duration::from_secs(3));
    }
    cluster.kill();
    sleep(Duration::from_secs(2));
    second_on_the_same_folder(&mut cluster);
    let shots = load.stop();
    let failed: Vec<_> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} of {}, from {:?} to {:?}\n{before:?}\n{:?}\n{}",
        failed.len(),
        shots.len(),
        failed.first(),
        failed.last(),
        cluster.containers(),
        cluster.logs()
    );

    eventually(Duration::from_secs(20), "the containers are the same", || {
        let now = cluster.containers();
        if now == before { Ok(()) } else { Err(format!("{now:?} instead of {before:?}")) }
    });
    cluster.stop();
    leaves_nothing(&cluster);
}

#[test]
fn an_isolated_node_is_replaced_and_comes_back() {
    if !is_root("faults") {
        return;
    }
    let cluster = Cluster::start(NODES);
    let address = cluster.hello();
    // Upstream calls a zone disrupted from three lost nodes on, if they are the most of it.
    most_nodes_vanish(&cluster, &["node-2", "node-3", "node-4"]);
    most_nodes_vanish(&cluster, &["node-1"]);
    one_node_vanishes(&cluster, address);
}

const NODES: u32 = 4;
const ALL: usize = NODES as usize;

/// That looks like a network that failed: nothing is thrown out. With the server on node-1
/// isolated, the others are the lost ones.
fn most_nodes_vanish(cluster: &Cluster, isolated: &[&str]) {
    let before = cluster.containers();
    for node in isolated {
        cluster.chaos("isolate", node);
    }
    nodes_ready(cluster, 1, Duration::from_secs(8));
    // Pods tolerate a lost node for 5 s; after twice that they would be gone.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(10) {
        let pods = cluster.json(&["pods"]);
        let pods = pods["items"].as_array().unwrap();
        assert_eq!(pods.len(), 5, "{pods:?}");
        assert!(pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "{pods:?}");
        sleep(Duration::from_millis(500));
    }
    for node in isolated {
        cluster.chaos("heal", node);
    }
    nodes_ready(cluster, ALL, Duration::from_secs(15));
    cluster.pods_ready("app=hello", 5, Duration::from_secs(15));
    assert_eq!(cluster.containers(), before, "no container was started again");
}

fn one_node_vanishes(cluster: &Cluster, address: SocketAddr) {
    let pods = cluster.pods_ready("app=hello", 5, Duration::from_secs(15));
    let there: Vec<SocketAddr> = pods
        .iter()
        .filter(|pod| pod["spec"]["nodeName"] == "node-3")
        .map(|pod| pod["status"]["podIP"].as_str().unwrap().parse().unwrap())
        .map(|ip| SocketAddr::new(ip, 8080))
        .collect();
    assert!(!there.is_empty(), "node-3 has pods");
    let others =
        Load::start_from(&Origin::Namespace(cluster.netns("node-2")), address, "/", 100, 16);
    let inside =
        Load::start_from(&Origin::Namespace(cluster.netns("node-3")), there[0], "/", 20, 2);
    sleep(Duration::from_secs(1));
    cluster.chaos("isolate", "node-3");
    nodes_ready(cluster, ALL - 1, Duration::from_secs(5));
    eventually(Duration::from_secs(2), "its endpoints leave", || {
        let ready = ready_endpoints(cluster);
        match there.iter().find(|gone| ready.contains(&gone.ip().to_string())) {
            Some(still) => Err(format!("{still} of {ready:?}")),
            None => Ok(()),
        }
    });
    eventually(Duration::from_secs(14), "five pods on the other nodes", || {
        let pods = cluster.json(&["pods", "-l", "app=hello"]);
        let pods = pods["items"].as_array().unwrap();
        let ready = pods
            .iter()
            .filter(|pod| atoll_e2e::cluster::is_ready(pod) && pod["spec"]["nodeName"] != "node-3");
        match ready.count() {
            5 => Ok(()),
            count => Err(format!("{count} ready")),
        }
    });
    // Its pods still serve whoever reaches them.
    let shots = inside.stop();
    let failed: Vec<_> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    assert!(failed.is_empty(), "inside: {} of {}: {:?}", failed.len(), shots.len(), failed[0]);
    let shots = others.stop();
    let last = shots.iter().filter(|shot| shot.result.is_err()).map(|shot| shot.at).max();
    // Isolated a second after the load began; see the bar of a node that dies.
    assert!(last < Some(Duration::from_secs(5)), "the last failure began at {last:?}");

    cluster.chaos("heal", "node-3");
    nodes_ready(cluster, ALL, Duration::from_secs(10));
    eventually(Duration::from_secs(20), "the replaced pods are gone from node-3", || {
        let pods = cluster.json(&["pods", "-A"]);
        let pods = pods["items"].as_array().unwrap();
        let assigned = pods.iter().filter(|pod| pod["spec"]["nodeName"] == "node-3").count();
        let left = system::inside(&cluster.dir);
        let sandboxes =
            left.iter().filter(|line| line.starts_with("node-3 ns: ") && line.ends_with("/net"));
        match (pods.len(), sandboxes.count()) {
            (5, sandboxes) if sandboxes == assigned => Ok(()),
            other => Err(format!("{other:?} with {assigned} assigned")),
        }
    });
}

fn nodes_ready(cluster: &Cluster, count: usize, within: Duration) {
    eventually(within, &format!("{count} nodes are ready"), || {
        let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
        let ready = nodes.lines().filter(|line| line.contains(" Ready ")).count();
        if ready == count { Ok(()) } else { Err(nodes) }
    });
}

fn ready_endpoints(cluster: &Cluster) -> BTreeSet<String> {
    let slices = cluster.json(&["endpointslices", "-l", "kubernetes.io/service-name=hello"]);
    let slices = slices["items"].as_array().into_iter().flatten();
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().cloned()).flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(ToOwned::to_owned))
        .collect()
}

/// Starts the cluster again, and refuses another one on its folder.
fn second_on_the_same_folder(cluster: &mut Cluster) {
    cluster.launch();
    let mut command = Command::new(binary());
    command.arg("dev").arg("--data-dir").arg(&cluster.dir).args(["--port", "0"]);
    let refused = run(command, "").fails();
    assert!(refused.contains("in use by another `atoll dev`"), "{refused}");
    assert!(refused.contains(&cluster.pid().to_string()), "{refused}");
}

/// Kills the cluster's processes of one role with -9; returns how many.
fn kill(cluster: &Cluster, role: &str) -> usize {
    let pids = cluster.pids(role);
    for pid in &pids {
        let pid = rustix::process::Pid::from_raw(*pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    pids.len()
}

fn leaves_nothing(cluster: &Cluster) {
    let text = std::fs::read_to_string(cluster.dir.join("cluster.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = record["id"].as_str().unwrap();
    let mut links = Command::new("ip");
    links.args(["-br", "link"]);
    let shown = [run(links, "").ok(), std::fs::read_to_string("/proc/mounts").unwrap()].concat();
    let left: Vec<&str> = shown.lines().filter(|line| line.contains(id)).collect();
    assert!(left.is_empty(), "{left:?}");
    let folder = std::path::Path::new("/run/atoll").join(id);
    assert!(!folder.exists(), "{} is left", folder.display());
    let mut cgroups = Command::new("find");
    cgroups.args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")]);
    assert_eq!(run(cgroups, "").stdout, "");
}
