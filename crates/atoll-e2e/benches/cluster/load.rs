//! A node killed and an update rolled out, under load from a node of the cluster.

use crate::figure::Figure;
use atoll_e2e::{
    Cluster,
    http::{Load, Origin, Shot},
};
use std::{
    net::SocketAddr,
    thread::sleep,
    time::{Duration, Instant},
};

const PER_SECOND: u32 = 200;
/// So many that requests which hang do not thin out the load.
const WORKERS: u32 = 48;
/// The load comes from here; the node that dies is another.
const FROM: &str = "node-2";
const VICTIM: &str = "node-3";

pub fn node_kill(runs: usize) -> Vec<Figure> {
    let mut back = Figure::new("node killed under 200 requests/s: 5 of 5 ready again", "s", "12 s");
    let what = "the same: from the kill to the begin of the last request that failed";
    let mut failing = Figure::new(what, "s", "3 s");
    let mut failed = Figure::new("the same: requests that failed", "% of those", "");
    let cluster = Cluster::start(3);
    let address = cluster.hello();
    for _ in 0..runs {
        let load = start_load(&cluster, address);
        let load_began = Instant::now();
        sleep(Duration::from_secs(2));
        let killed = Instant::now();
        cluster.chaos("kill", VICTIM);
        let killed_at = killed.duration_since(load_began);
        cluster.ready_elsewhere("app=hello", VICTIM, 5, Duration::from_secs(60));
        back.add(killed.elapsed().as_secs_f64());
        sleep(Duration::from_secs(3));
        let shots = load.stop();
        let bad: Vec<&Shot> = shots.iter().filter(|shot| shot.result.is_err()).collect();
        let last = bad.iter().map(|shot| shot.at).max().unwrap_or(killed_at);
        failing.add(last.saturating_sub(killed_at).as_secs_f64());
        failed.add(bad.len() as f64 / shots.len() as f64 * 100.0);
        cluster.chaos("heal", VICTIM);
        rebalance(&cluster);
    }
    vec![back, failing, failed]
}

pub fn rolling(runs: usize) -> Vec<Figure> {
    let mut time = Figure::new("rolling update of 5 replicas under 200 requests/s", "s", "");
    let mut failed = Figure::new("the same: requests that failed", "", "0");
    let cluster = Cluster::start(3);
    let address = cluster.hello();
    for run in 0..runs {
        let load = start_load(&cluster, address);
        sleep(Duration::from_secs(1));
        let begun = Instant::now();
        let version = format!("VERSION=run-{run}");
        cluster.kubectl(&["set", "env", "deployment/hello", &version]).ok();
        cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]).ok();
        time.add(begun.elapsed().as_secs_f64());
        cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
        let shots = load.stop();
        failed.add(shots.iter().filter(|shot| shot.result.is_err()).count() as f64);
    }
    vec![time, failed]
}

fn start_load(cluster: &Cluster, address: SocketAddr) -> Load {
    let origin = Origin::Namespace(cluster.netns(FROM));
    Load::start_from(&origin, address, "/", PER_SECOND, WORKERS)
}

/// Brings pods to the healed node again.
fn rebalance(cluster: &Cluster) {
    cluster.node_ready(VICTIM, Duration::from_secs(60));
    cluster.kubectl(&["rollout", "restart", "deployment/hello"]).ok();
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]).ok();
    cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
}
