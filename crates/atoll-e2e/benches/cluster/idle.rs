//! What a cluster of one node uses while nothing happens.

use crate::{
    figure::Figure,
    processes::{self, Memory, Process},
};
use atoll_e2e::Cluster;
use std::{thread::sleep, time::Duration};

/// First work is over by then.
const SETTLE: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(60);

pub fn run(runs: usize) -> Vec<Figure> {
    let all = "one idle node, all its processes";
    let mut memory = Figure::new(&format!("{all}: proportional set size"), "MB", "100 MB");
    let mut cpu = Figure::new(&format!("{all}: CPU"), "% of a core", "1 %");
    let mut disk = Figure::new(&format!("{all}: written to disk"), "MB an hour", "");
    let mut parts: Vec<Figure> = ["dev", "server", "agent", "dns"]
        .iter()
        .map(|part| Figure::new(&format!("`atoll {part}` of these: PSS"), "MB", ""))
        .collect();
    for _ in 0..runs {
        let cluster = Cluster::start(1);
        sleep(SETTLE);
        let before = processes::of(&cluster);
        let (cpu_s, written) = totals(&before);
        sleep(WATCHED);
        let after = processes::of(&cluster);
        let (cpu_s_then, written_then) = totals(&after);
        memory.add(megabytes(processes::sum(&after, pss_kb)));
        cpu.add((cpu_s_then - cpu_s) / WATCHED.as_secs_f64() * 100.0);
        disk.add((written_then - written) / 1e6 * 3600.0 / WATCHED.as_secs_f64());
        for (figure, part) in parts.iter_mut().zip(["dev", "server", "agent", "dns"]) {
            let of_part = after.iter().filter(|process| process.is(part));
            figure.add(megabytes(of_part.map(pss_kb).sum()));
        }
    }
    parts.insert(0, memory);
    parts.extend([cpu, disk]);
    parts
}

fn totals(processes: &[Process]) -> (f64, f64) {
    (processes::sum(processes, Process::cpu_s), processes::sum(processes, Process::written_bytes))
}

fn pss_kb(process: &Process) -> f64 {
    process.memory_kb(Memory::Proportional)
}

fn megabytes(kilobytes: f64) -> f64 {
    kilobytes * 1024.0 / 1e6
}
