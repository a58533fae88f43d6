//! What the processes of one cluster use: processor time, memory, bytes written.
//!
//! A cluster's processes are its supervisor and all whose program stands in its folder;
//! the programs in its containers are not counted.

use atoll_e2e::Cluster;
use std::path::{Path, PathBuf};

/// Clock ticks of `/proc/PID/stat` a second: fixed in Linux's interface on this platform.
const USER_HZ: f64 = 100.0;

pub struct Process {
    folder: PathBuf,
    pub words: String,
}

/// Kilobytes of one kind of memory; see `smaps_rollup` in proc(5).
#[derive(Debug, Clone, Copy)]
pub enum Memory {
    Proportional,
    /// All pages that stand in memory, those shared with others too: what `ps` calls RSS.
    Resident,
    /// Its own: heap, stacks, changed data. The program's pages are not in it, which are shared
    /// by all processes that run it.
    Anonymous,
}

impl Process {
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// Seconds of processor time, those of its ended children included.
    pub fn cpu_s(&self) -> f64 {
        let stat = self.read("stat");
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime, stime, cutime and cstime: fields 14 to 17 of the whole line.
        let ticks: f64 =
            fields.iter().skip(11).take(4).filter_map(|text| text.parse::<f64>().ok()).sum();
        ticks / USER_HZ
    }

    pub fn memory_kb(&self, kind: Memory) -> f64 {
        let rollup = self.read("smaps_rollup");
        let names: &[&str] = match kind {
            Memory::Proportional => &["Pss:"],
            Memory::Resident => &["Rss:"],
            Memory::Anonymous => &["Anonymous:"],
        };
        rollup
            .lines()
            .filter(|line| names.iter().any(|name| line.starts_with(name)))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .sum()
    }

    pub fn written_bytes(&self) -> f64 {
        let io = self.read("io");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Of one program that the caller started.
    pub fn of_pid(pid: u32) -> Self {
        Self { folder: format!("/proc/{pid}").into(), words: String::new() }
    }

    /// Whether it plays this part: server, agent, dns, shim or dev.
    pub fn is(&self, part: &str) -> bool {
        self.words.split(' ').nth(1) == Some(part)
    }
}

pub fn of(cluster: &Cluster) -> Vec<Process> {
    let dir = cluster.dir.canonicalize().unwrap();
    let supervisor = cluster.pid().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&line).replace('\0', " ");
        let program = words.split(' ').next().unwrap_or_default();
        if name == supervisor || Path::new(program).starts_with(&dir) {
            found.push(Process { folder: entry.path(), words });
        }
    }
    found
}

pub fn sum(processes: &[Process], value: impl Fn(&Process) -> f64) -> f64 {
    processes.iter().map(value).sum()
}
