//! Removes what the node as a whole made in the system, after its last pod has ended.

use std::path::{Path, PathBuf};

use crate::config::Config;

/// What the runtime keeps in the node's run folder.
const RUN_FOLDERS: &[&str] = &["ns", "shim", "seccomp"];

/// Empty cgroups and run folders; one that is not empty stays, and is named in the log.
pub fn remove_node(config: &Config) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for hierarchy in hierarchies(&table) {
        for cgroup in [config.cgroup_root(), config.shim_cgroup()] {
            remove_cgroups(&hierarchy.join(cgroup.trim_start_matches('/')));
        }
        // Shared by all clusters of the machine: the last one to go takes it along.
        remove_dir(&hierarchy.join("atoll"));
    }
    if let Err(error) = atoll_container::give_back_cgroup("atoll") {
        tracing::warn!(%error, "this cgroup is not as it was");
    }
    for folder in RUN_FOLDERS {
        let path = config.run.join(folder);
        if let Err(error) = std::fs::remove_dir_all(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }
    remove_dir(&config.run);
}

/// Where cgroup hierarchies are mounted.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mounted = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        matches!(kind, "cgroup" | "cgroup2").then(|| left.split(' ').nth(4)).flatten()
    });
    mounted.map(PathBuf::from).collect()
}

/// Deepest first; the kernel refuses those with processes.
fn remove_cgroups(path: &Path) {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path());
    }
    remove_dir(path);
}

fn remove_dir(path: &Path) {
    if let Err(error) = std::fs::remove_dir(path)
        && !matches!(
            error.kind(),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
        )
    {
        tracing::debug!(path = %path.display(), %error, "still in use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_mounts_are_found() {
        let table = "24 1 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     25 24 0:3 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                     26 24 0:4 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(table);
        assert_eq!(
            found,
            [Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/unified")]
        );
    }

    #[test]
    fn only_empty_folders_go() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), "").unwrap();
        remove_cgroups(&dir.path().join("a"));
        remove_cgroups(&dir.path().join("d"));
        assert!(!dir.path().join("a").exists());
        assert!(dir.path().join("d/file").exists());
    }
}
