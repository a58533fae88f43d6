//! Control groups on v1, hybrid and v2 machines: paths, limits, counters, killing.
//!
//! Containers are put into their group by libcontainer; this is everything else.

mod unified;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::runtime::{CgroupVersion, Stats};
use crate::spec::Resources;

pub use unified::give_back;

const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of this machine. Serialised into the shim's configuration, so that no
/// shim has to read the mount table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cgroups {
    pub(crate) version: CgroupVersion,
    /// Mount point of each v1 hierarchy with the controllers in it.
    v1: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cgroup { path, what, source }
}

/// Every hierarchy of v1 that is mounted, those without a controller too.
pub(crate) fn v1_mounts() -> Result<Vec<PathBuf>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let table = fs::read_to_string(path).map_err(failed(path, "reading the mount table"))?;
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - cgroup ")?;
        let mount = left.split(' ').nth(4)?;
        (mount.starts_with(ROOT) && !right.is_empty()).then(|| PathBuf::from(mount))
    });
    Ok(mounts.collect())
}

/// Writes a file that is there: one that the kernel lacks is then "not found", and not
/// "permission denied" to make it.
fn put(path: impl AsRef<Path>, value: impl AsRef<[u8]>) -> io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(value.as_ref())
}

impl Cgroups {
    pub(crate) fn none() -> Cgroups {
        Cgroups { version: CgroupVersion::None, v1: Vec::new() }
    }

    /// Reads the mount table.
    pub(crate) fn detect() -> Result<Cgroups, Error> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(failed(path, "reading the mount table"))?;
        Ok(Cgroups::from_mountinfo(&table))
    }

    fn from_mountinfo(table: &str) -> Cgroups {
        let mut v1 = Vec::new();
        let (mut v2, mut unified) = (false, false);
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if mount == ROOT => v2 = true,
                Some("cgroup2") => unified = true,
                Some("cgroup") if mount.starts_with(ROOT) => {
                    let options = right.nth(1).unwrap_or_default();
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"))
                        .filter(|o| !o.contains('='))
                        .map(str::to_owned)
                        .collect();
                    if !controllers.is_empty() {
                        v1.push(Hierarchy { controllers, mount: PathBuf::from(mount) });
                    }
                }
                _ => {}
            }
        }
        let version = match (v2, v1.is_empty(), unified) {
            (true, _, _) => CgroupVersion::V2,
            (false, false, true) => CgroupVersion::Hybrid,
            (false, false, false) => CgroupVersion::V1,
            (false, true, _) => CgroupVersion::None,
        };
        Cgroups { version, v1: if v2 { Vec::new() } else { v1 } }
    }

    /// The directory of `cgroup` in the hierarchy of `controller`.
    fn dir(&self, cgroup: &str, controller: &str) -> Option<PathBuf> {
        let below = cgroup.trim_start_matches('/');
        match self.version {
            CgroupVersion::None => None,
            CgroupVersion::V2 => Some(Path::new(ROOT).join(below)),
            CgroupVersion::V1 | CgroupVersion::Hybrid => self
                .v1
                .iter()
                .find(|h| h.controllers.iter().any(|c| c == controller))
                .map(|h| h.mount.join(below)),
        }
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.version == CgroupVersion::V2
    }

    /// Where the group's memory is counted.
    pub(crate) fn memory_dir(&self, cgroup: &str) -> Option<PathBuf> {
        self.dir(cgroup, "memory")
    }

    /// Its directory in every hierarchy.
    pub(crate) fn dirs(&self, cgroup: &str) -> Vec<PathBuf> {
        let below = cgroup.trim_start_matches('/');
        match self.version {
            CgroupVersion::None => Vec::new(),
            CgroupVersion::V2 => vec![Path::new(ROOT).join(below)],
            CgroupVersion::V1 | CgroupVersion::Hybrid => {
                self.v1.iter().map(|h| h.mount.join(below)).collect()
            }
        }
    }

    /// Creates the group with its parents.
    pub(crate) fn ensure(&self, cgroup: &str) -> Result<(), Error> {
        match self.version {
            CgroupVersion::None => Ok(()),
            CgroupVersion::V2 => self.ensure_v2(cgroup),
            CgroupVersion::V1 | CgroupVersion::Hybrid => {
                for dir in self.dirs(cgroup) {
                    fs::create_dir_all(&dir).map_err(failed(&dir, "creating it"))?;
                }
                match self.v1.iter().find(|h| h.controllers.iter().any(|c| c == "cpuset")) {
                    Some(hierarchy) => fill_cpuset(&hierarchy.mount, cgroup),
                    None => Ok(()),
                }
            }
        }
    }

    /// On v2 each parent must hand its controllers down.
    fn ensure_v2(&self, cgroup: &str) -> Result<(), Error> {
        let mut dir = PathBuf::from(ROOT);
        for component in cgroup.trim_matches('/').split('/') {
            unified::open(&dir)?;
            dir.push(component);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) if unified::is_forbidden(&source) => {
                    return Err(unified::not_ours(&dir, &source));
                }
                Err(source) => return Err(failed(&dir, "creating it")(source)),
            }
        }
        Ok(())
    }

    /// Moves the calling process into the group where memory is counted. On v1 each
    /// further hierarchy would cost a grace period of the kernel's, and only memory
    /// matters: a pod that runs out of it must not take a shim along.
    pub(crate) fn join_for_memory(&self, cgroup: &str) -> io::Result<()> {
        match self.memory_dir(cgroup) {
            Some(dir) => put(dir.join("cgroup.procs"), "0"),
            None => Ok(()),
        }
    }

    /// Moves the calling process (all its threads) into the group of a container whose
    /// first process is `init`. On v2 a container that divides its group further has moved
    /// its processes down, and the kernel takes no others into the group itself.
    pub(crate) fn join(&self, cgroup: &str, init: i32) -> io::Result<()> {
        for dir in self.dirs(cgroup) {
            match put(dir.join("cgroup.procs"), "0") {
                Err(e) if self.is_v2() && e.kind() == io::ErrorKind::ResourceBusy => {
                    let below = unified::path_of(init)?;
                    let dir = Path::new(ROOT).join(below.trim_start_matches('/'));
                    put(dir.join("cgroup.procs"), "0")?;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Has a container on v2 die as a whole when its memory is not enough, as Kubernetes
    /// wants it, and keeps a limited one out of swap; v1 knows only the second, and
    /// libcontainer does it there.
    pub(crate) fn die_as_one(&self, cgroup: &str, limited: bool) -> Result<(), Error> {
        let Some(dir) = self.memory_dir(cgroup).filter(|_| self.is_v2()) else { return Ok(()) };
        let set = |file: &str, value: &str| {
            let path = dir.join(file);
            match put(&path, value) {
                // Neither memory nor swap need be counted on a machine.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other.map_err(failed(&path, "setting it")),
            }
        };
        set("memory.oom.group", "1")?;
        if limited { set("memory.swap.max", "0") } else { Ok(()) }
    }

    /// Writes limits; what is `None` is left as it is.
    pub(crate) fn set(&self, cgroup: &str, resources: &Resources) -> Result<(), Error> {
        let v2 = self.version == CgroupVersion::V2;
        let write = |controller: &str, file: &str, value: String| -> Result<(), Error> {
            let Some(dir) = self.dir(cgroup, controller) else { return Ok(()) };
            let path = dir.join(file);
            let written = put(&path, value);
            let what = match &written {
                Err(e) if e.kind() == io::ErrorKind::NotFound => "it has no such controller",
                _ => "setting a limit",
            };
            written.map_err(failed(&path, what))
        };
        if let Some(shares) = resources.cpu_shares {
            if v2 {
                write("cpu", "cpu.weight", weight_of_shares(shares).to_string())?;
            } else {
                write("cpu", "cpu.shares", shares.clamp(2, 262_144).to_string())?;
            }
        }
        if let Some(quota) = resources.cpu_quota_us {
            let period = resources.cpu_period_us.unwrap_or(100_000);
            if v2 {
                let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
                write("cpu", "cpu.max", format!("{quota} {period}"))?;
            } else {
                write("cpu", "cpu.cfs_period_us", period.to_string())?;
                write("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        if let Some(limit) = resources.memory_limit_bytes {
            self.set_memory(cgroup, limit)?;
        }
        if let Some(limit) = resources.pids_limit {
            let limit = if limit <= 0 { "max".to_owned() } else { limit.to_string() };
            write("pids", "pids.max", limit)?;
        }
        if let Some(cpus) = &resources.cpuset_cpus {
            write("cpuset", "cpuset.cpus", cpus.clone())?;
        }
        Ok(())
    }

    /// Memory without swap. On v1 the two limits must never cross on the way.
    fn set_memory(&self, cgroup: &str, limit: i64) -> Result<(), Error> {
        let Some(dir) = self.dir(cgroup, "memory") else { return Ok(()) };
        let set = |file: &str, value: &str| -> Result<(), Error> {
            let path = dir.join(file);
            match put(&path, value) {
                Ok(()) => Ok(()),
                // No swap accounting on this kernel.
                Err(e) if e.kind() == io::ErrorKind::NotFound && file.contains("sw") => Ok(()),
                Err(source) => Err(failed(&path, "setting the memory limit")(source)),
            }
        };
        if self.version == CgroupVersion::V2 {
            let value = if limit < 0 { "max".to_owned() } else { limit.to_string() };
            set("memory.max", &value)?;
            return set("memory.swap.max", if limit < 0 { "max" } else { "0" });
        }
        let value = limit.to_string();
        if set("memory.limit_in_bytes", &value).is_err() {
            set("memory.memsw.limit_in_bytes", &value)?;
            return set("memory.limit_in_bytes", &value);
        }
        set("memory.memsw.limit_in_bytes", &value)
    }

    /// Kills every process in the group, so that none can fork away.
    pub(crate) fn kill(&self, cgroup: &str) -> Result<(), Error> {
        let Some(dir) = self.dir(cgroup, "freezer") else { return Ok(()) };
        if !dir.exists() {
            return Ok(());
        }
        if self.version == CgroupVersion::V2 {
            let path = dir.join("cgroup.kill");
            return match put(&path, "1") {
                Ok(()) => Ok(()),
                // Before Linux 5.14.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let freeze = dir.join("cgroup.freeze");
                    kill_frozen(&dir, &freeze, "1", "0")
                }
                Err(source) => Err(failed(&path, "killing its processes")(source)),
            };
        }
        kill_frozen(&dir, &dir.join("freezer.state"), "FROZEN", "THAWED")
    }

    /// Removes the group and those below it. Its processes must be gone.
    pub(crate) fn remove(&self, cgroup: &str) -> Result<(), Error> {
        for dir in self.dirs(cgroup) {
            remove_tree(&dir)?;
        }
        Ok(())
    }

    /// How many processes the kernel has killed in the group for lack of memory.
    pub(crate) fn oom_kills(&self, cgroup: &str) -> u64 {
        let file =
            if self.version == CgroupVersion::V2 { "memory.events" } else { "memory.oom_control" };
        self.dir(cgroup, "memory").map_or(0, |dir| keyed(&dir.join(file), "oom_kill"))
    }

    pub(crate) fn stats(&self, cgroup: &str) -> Stats {
        let read = |controller: &str, file: &str| -> Option<u64> {
            let dir = self.dir(cgroup, controller)?;
            fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
        };
        let stat = |key: &str| -> u64 {
            self.dir(cgroup, "memory").map_or(0, |dir| keyed(&dir.join("memory.stat"), key))
        };
        let v2 = self.version == CgroupVersion::V2;
        let (usage, limit, inactive, rss) = if v2 {
            ("memory.current", "memory.max", "inactive_file", "anon")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss")
        };
        let cpu_usage_ns = if v2 {
            let dir = self.dir(cgroup, "cpu");
            dir.map_or(0, |dir| keyed(&dir.join("cpu.stat"), "usage_usec") * 1000)
        } else {
            read("cpuacct", "cpuacct.usage").unwrap_or(0)
        };
        let memory_usage_bytes = read("memory", usage).unwrap_or(0);
        Stats {
            cpu_usage_ns,
            memory_usage_bytes,
            memory_working_set_bytes: memory_usage_bytes.saturating_sub(stat(inactive)),
            memory_rss_bytes: stat(rss),
            // v1 writes "no limit" as the largest page-aligned number.
            memory_limit_bytes: read("memory", limit).filter(|l| *l < 1 << 62),
            pids: read("pids", "pids.current").unwrap_or(0),
        }
    }
}

/// A v1 cpuset takes no process until it has processors and memory nodes.
fn fill_cpuset(mount: &Path, cgroup: &str) -> Result<(), Error> {
    let mut parent = mount.to_owned();
    for component in cgroup.trim_matches('/').split('/') {
        let child = parent.join(component);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let path = child.join(file);
            let own = fs::read_to_string(&path).map_err(failed(&path, "reading it"))?;
            if own.trim().is_empty() {
                let inherited = parent.join(file);
                let value =
                    fs::read_to_string(&inherited).map_err(failed(&inherited, "reading it"))?;
                put(&path, value.trim()).map_err(failed(&path, "setting it"))?;
            }
        }
        parent = child;
    }
    Ok(())
}

fn kill_frozen(dir: &Path, switch: &Path, freeze: &str, thaw: &str) -> Result<(), Error> {
    if let Err(source) = put(switch, freeze) {
        // Without the freezer a fork can get away; removing the group then says so.
        tracing::debug!(path = %switch.display(), %source, "not frozen");
    }
    for pid in pids_below(dir) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid)
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        {
            tracing::debug!(?pid, %error, "already gone");
        }
    }
    match put(switch, thaw) {
        Ok(()) => Ok(()),
        // With its last process, the group may have been removed by somebody else.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {
            Ok(())
        }
        Err(source) => Err(failed(switch, "thawing it")(source)),
    }
}

fn pids_below(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    for child in child_dirs(dir) {
        pids.extend(pids_below(&child));
    }
    pids
}

fn child_dirs(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    for child in child_dirs(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(failed(dir, "removing it")(source)),
    }
}

/// The number after `key` in a file of `key value` lines; 0 when there is none.
fn keyed(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// The v2 weight of v1 shares: 1024 shares (one processor) become the default weight of
/// 100, along the quadratic curve that the OCI runtimes agreed on.
pub(crate) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[allow(clippy::cast_precision_loss, reason = "at most 262144")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000 by the bounds above"
    )]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_the_kernel_lacks_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let error = put(dir.path().join("memory.swap.max"), "0").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    const HYBRID: &str = "\
31 25 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
32 31 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
34 31 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 31 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn tells_the_three_kinds_of_machine_apart() {
        assert_eq!(Cgroups::from_mountinfo(HYBRID).version, CgroupVersion::Hybrid);
        let v2 = "31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Cgroups::from_mountinfo(v2).version, CgroupVersion::V2);
        assert_eq!(Cgroups::from_mountinfo("").version, CgroupVersion::None);
    }

    #[test]
    fn finds_the_hierarchy_of_a_controller() {
        let cgroups = Cgroups::from_mountinfo(HYBRID);
        assert_eq!(
            cgroups.dir("/atoll/x", "cpuacct"),
            Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/atoll/x"))
        );
        assert_eq!(cgroups.dir("/atoll/x", "pids"), None);
    }

    #[test]
    fn weights_grow_with_shares_and_one_processor_is_the_default() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 100);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert!(weight_of_shares(102) < weight_of_shares(512));
    }
}
