//! What the system says of this process (proc(5)).

use std::fs;

use atoll_etcd::server::Process;

/// In which the kernel counts for programs (`USER_HZ`), whatever its own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

pub fn figures() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let system = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok().and_then(|all| u64::try_from(all.count()).ok());
    let booted = system.lines().find_map(|line| line.strip_prefix("btime "));
    let booted = booted.and_then(|seconds| seconds.trim().parse::<f64>().ok());
    let began = field(&stat, 22).map(|at| at / TICKS_PER_SECOND);
    Process {
        cpu_seconds: field(&stat, 14)
            .zip(field(&stat, 15))
            .map(|(user, own)| (user + own) / TICKS_PER_SECOND),
        resident_bytes: kib(&status, "VmRSS:"),
        virtual_bytes: kib(&status, "VmSize:"),
        // Not the folder itself, which is open while it is read.
        open_files: open.map(|count| count.saturating_sub(1)),
        open_files_max: soft_limit(&limits, "Max open files"),
        start_seconds: booted.zip(began).map(|(booted, began)| booted + began),
    }
}

/// A field of `/proc/self/stat`, counted from 1 as proc(5) does.
fn field(stat: &str, number: usize) -> Option<f64> {
    // The name, the second one, may hold anything.
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Nothing where there is no limit.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let now = jiff::Timestamp::now().as_second() as f64;
        let found = figures();
        let start = found.start_seconds.unwrap();
        assert!((now - 3600.0..now + 2.0).contains(&start), "{found:?}");
        assert!(found.virtual_bytes > found.resident_bytes, "{found:?}");
        assert!(found.open_files.is_some_and(|count| count >= 3), "{found:?}");
        assert!(found.cpu_seconds.is_some_and(|seconds| seconds < 3600.0), "{found:?}");
    }

    #[test]
    fn a_name_with_parentheses_and_spaces_shifts_nothing() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 9 0 1234 5";
        let found = [14, 15, 22].map(|number| field(stat, number));
        assert_eq!(found, [Some(250.0), Some(50.0), Some(1234.0)]);
        assert_eq!(field("", 14), None);
        let limits = "Max cpu time  unlimited unlimited s\nMax open files  1024  4096  files\n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max cpu time"), None);
    }
}
