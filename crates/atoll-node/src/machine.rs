//! What this machine is and has, read once: processors, memory, disk, names.

use std::io;
use std::path::Path;

use crate::error::Error;
use crate::pod::admit::Room;

/// Kept free of pods' requests before pods are evicted.
const EVICTION_MEMORY_BYTES: i64 = 100 << 20;

/// Facts about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub max_pods: i64,
    pub machine_id: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    pub architecture: String,
}

impl Machine {
    pub fn read(root: &Path, max_pods: i64) -> Result<Machine, Error> {
        let fail = |what| move |source| Error::Machine { what, source };
        let meminfo = read("/proc/meminfo").map_err(fail("/proc/meminfo"))?;
        let memory = meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0);
        let disk =
            rustix::fs::statvfs(root).map_err(|e| fail("the data folder's disk")(e.into()))?;
        let disk_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
        let uname = rustix::system::uname();
        let cpus = std::thread::available_parallelism().map_err(fail("processors"))?;
        Ok(Machine {
            cpus: i64::try_from(cpus.get()).unwrap_or(1),
            memory_bytes: memory,
            disk_bytes: i64::try_from(disk_bytes).unwrap_or(i64::MAX),
            max_pods,
            machine_id: read("/etc/machine-id").unwrap_or_default().trim().to_owned(),
            boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: os_image(&read("/etc/os-release").unwrap_or_default()),
            architecture: architecture(&uname.machine().to_string_lossy()).to_owned(),
        })
    }

    #[must_use]
    pub fn allocatable_memory(&self) -> i64 {
        (self.memory_bytes - EVICTION_MEMORY_BYTES).max(0)
    }

    /// Nine tenths of the disk: below that pods would be evicted.
    #[must_use]
    pub fn allocatable_disk(&self) -> i64 {
        self.disk_bytes / 10 * 9
    }

    #[must_use]
    pub fn room(&self) -> Room {
        Room {
            cpu_milli: self.cpus * 1000,
            memory_bytes: self.allocatable_memory(),
            pods: self.max_pods,
            ..Room::default()
        }
    }
}

fn read(path: &str) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// A line of `/proc/meminfo` in bytes.
#[must_use]
pub fn meminfo_bytes(meminfo: &str, name: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

fn os_image(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |name| name.trim_matches('"')).to_owned()
}

/// Go's words for architectures, which labels use.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_tables() {
        assert_eq!(
            meminfo_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n", "MemTotal"),
            Some(2 << 20)
        );
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        let machine = Machine::read(Path::new("/"), 110).unwrap();
        assert!(machine.cpus > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
    }
}
