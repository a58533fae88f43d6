//! 110 pods on one node: how soon they are ready, and what each of them costs.

use crate::{
    figure::Figure,
    processes::{self, Memory, Process},
};
use atoll_e2e::Cluster;
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

const PODS: usize = 110;
/// What was freed has been given back by then.
const SETTLE: Duration = Duration::from_secs(15);
const MANIFEST: &str = include_str!("density.yaml");

pub fn run(runs: usize) -> Vec<Figure> {
    let mut ready = Figure::new("110 pods on one node, all ready", "s", "60 s");
    let mut cpu = Figure::new("the same, CPU of all processes", "CPU-s", "");
    let mut agent = Figure::new("agent, memory of its own for each pod more", "kB", "150 kB");
    let mut shim = Figure::new("shim, private memory", "kB", "300 kB");
    let mut gone = Figure::new("110 pods deleted, all gone", "s", "");
    for _ in 0..runs {
        let cluster = Cluster::start(1);
        sleep(Duration::from_secs(3));
        let before = agent_kb(&cluster);
        let cpu_before = processes::sum(&processes::of(&cluster), Process::cpu_s);
        let begun = Instant::now();
        cluster.kubectl_with(&["apply", "-f", "-"], MANIFEST).ok();
        let arguments = ["rollout", "status", "deployment/dense", "--timeout=300s"];
        cluster.kubectl(&arguments).ok();
        ready.add(begun.elapsed().as_secs_f64());
        let then = processes::of(&cluster);
        cpu.add(processes::sum(&then, Process::cpu_s) - cpu_before);
        sleep(SETTLE);
        agent.add((agent_kb(&cluster) - before) / PODS as f64);
        let shims: Vec<Process> =
            processes::of(&cluster).into_iter().filter(|one| one.is("shim")).collect();
        assert_eq!(shims.len(), PODS);
        shim.add(processes::sum(&shims, own_kb) / PODS as f64);
        let begun = Instant::now();
        cluster.kubectl(&["delete", "deployment", "dense", "--cascade=foreground"]).ok();
        cluster.pods_ready("app=dense", 0, Duration::from_secs(120));
        gone.add(begun.elapsed().as_secs_f64());
    }
    vec![ready, cpu, agent, shim, gone]
}

fn agent_kb(cluster: &Cluster) -> f64 {
    processes::of(cluster).iter().filter(|one| one.is("agent")).map(own_kb).sum()
}

fn own_kb(process: &Process) -> f64 {
    process.memory_kb(Memory::Anonymous)
}
