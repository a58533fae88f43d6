//! What a command and all that it has started use, where no cgroup counts it.

use std::collections::{HashMap, HashSet};
use std::fs;

use crate::runtime::Stats;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Fields of `/proc/<pid>/stat`.
struct Process {
    parent: i32,
    /// Of it and of its children that have ended, in clock ticks.
    cpu_ticks: u64,
    resident_pages: u64,
}

/// Counts the process and its descendants. Shared memory counts once for each.
pub(crate) fn of_family(pid: i32) -> Stats {
    let Ok(entries) = fs::read_dir("/proc") else { return Stats::default() };
    let all: HashMap<i32, Process> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))
        })
        .collect();
    let family = family(pid, &all);
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let tick = NANOS_PER_SECOND / rustix::param::clock_ticks_per_second().max(1);
    let members = || family.iter().filter_map(|pid| all.get(pid));
    let resident = members().map(|p| p.resident_pages).sum::<u64>() * page;
    Stats {
        cpu_usage_ns: members().map(|p| p.cpu_ticks).sum::<u64>() * tick,
        memory_usage_bytes: resident,
        memory_working_set_bytes: resident,
        memory_rss_bytes: resident,
        memory_limit_bytes: None,
        pids: u64::try_from(family.len()).unwrap_or(0),
    }
}

fn family(pid: i32, all: &HashMap<i32, Process>) -> HashSet<i32> {
    let mut family: HashSet<i32> = all.contains_key(&pid).then_some(pid).into_iter().collect();
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, process)| !family.contains(*pid) && family.contains(&process.parent))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

fn parse(stat: &str) -> Option<Process> {
    // The command name may hold spaces and parentheses: count from the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        cpu_ticks: (11..=14).filter_map(number).sum(),
        resident_pages: number(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_told_from_strangers() {
        let line = |parent| {
            format!("1 (a (b) c) S {parent} 1 1 0 -1 4 0 0 0 0 10 20 3 4 20 0 1 0 9 100 7 0")
        };
        let process = parse(&line(5)).unwrap();
        assert_eq!((process.parent, process.cpu_ticks, process.resident_pages), (5, 37, 7));
        let all = [(5, 1), (6, 5), (7, 6), (8, 1)]
            .map(|(pid, parent)| (pid, parse(&line(parent)).unwrap()))
            .into();
        assert_eq!(family(5, &all), [5, 6, 7].into());
        assert_eq!(family(9, &all), [].into());
    }

    #[test]
    fn this_process_uses_memory() {
        // Older kernels count 64 pages at a time.
        let kept = std::hint::black_box(vec![1u8; 4 << 20]);
        let own = of_family(i32::try_from(std::process::id()).unwrap());
        assert!(own.pids >= 1 && own.memory_rss_bytes > 2 << 20, "{own:?}");
        drop(std::hint::black_box(kept));
    }
}
