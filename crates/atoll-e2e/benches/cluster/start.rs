//! From nothing to a ready cluster, and from a manifest to ready replicas.

use crate::{figure::Figure, processes};
use atoll_e2e::{Cluster, cluster::workspace};
use std::time::{Duration, Instant};

pub fn run(runs: usize) -> Vec<Figure> {
    let mut wall = Figure::new("`atoll dev --nodes 1` until it is ready", "s", "1 s");
    let mut cpu = Figure::new("the same, CPU of all its processes", "CPU-s", "0.5 CPU-s");
    let mut three = Figure::new("`atoll dev --nodes 3` until it is ready", "s", "");
    for _ in 0..runs {
        let begun = Instant::now();
        let cluster = Cluster::start(1);
        wall.add(begun.elapsed().as_secs_f64());
        cpu.add(processes::sum(&processes::of(&cluster), processes::Process::cpu_s));
        drop(cluster);
        let begun = Instant::now();
        drop((Cluster::start(3), three.add(begun.elapsed().as_secs_f64())));
    }
    vec![wall, cpu, three]
}

/// Five replicas on three nodes, again and again.
pub fn apply(runs: usize) -> Vec<Figure> {
    let what = "5 of 5 ready after `kubectl apply -f examples/hello.yaml` on 3 nodes";
    let mut ready = Figure::new(what, "s", "2 s");
    let cluster = Cluster::start(3);
    let manifest = workspace().join("examples/hello.yaml");
    let manifest = manifest.to_str().unwrap();
    for _ in 0..runs {
        let begun = Instant::now();
        cluster.kubectl(&["apply", "-f", manifest]).ok();
        cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
        ready.add(begun.elapsed().as_secs_f64());
        cluster.kubectl(&["delete", "-f", manifest]).ok();
        cluster.pods_ready("app=hello", 0, Duration::from_secs(60));
    }
    vec![ready]
}
