//! What a cluster leaves in the system: processes, mounts, cgroups, links, namespaces.
//!
//! Nodes undo what they made when they are told to. This is for everything else: nodes
//! that chaos killed, and clusters whose supervisor was killed and whose folder is gone.
//! All of it is found by the cluster's id and by its folder, never by asking the cluster.

use super::folder;
use anyhow::{Context as _, Result, bail};
use atoll_network::underlay::{self, Recorded};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// Killed processes are gone sooner, unless they hang in the kernel.
const KILL_MAX: Duration = Duration::from_secs(10);
/// The kernel frees a cgroup a moment after its last process.
const FREE_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Below this folder of each hierarchy stand the cgroups of all clusters.
const CGROUPS: &str = "atoll";
const LOCK: &str = "lock";

/// The run folder of a cluster, held as long as its supervisor lives.
///
/// It is another lock than that of the data folder, which may be deleted under a running
/// cluster, or copied.
pub struct RunLock(File);

impl RunLock {
    /// `None` when another process has it.
    pub fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        loop {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("making the folder {}", folder.display()))?;
            let file = match File::create(&path) {
                Ok(file) => file,
                // Whoever had it has just removed the folder.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("opening {}", path.display()));
                }
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
            let held = file.metadata().with_context(|| format!("reading {}", path.display()))?;
            // A lock on a file that its last holder removed is a lock on nothing.
            if std::fs::metadata(&path).is_ok_and(|there| there.ino() == held.ino()) {
                return Ok(Some(Self(file)));
            }
        }
    }

    /// Removes the folder, while nobody else can take it.
    pub fn remove(self, folder: &Path) -> Result<()> {
        let removed = match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", folder.display()))
            }
            _ => Ok(()),
        };
        drop(self.0);
        removed
    }
}

/// Clears up after clusters that do not run and whose folder is gone. `own` is the folder
/// of the caller, who has it and has started nothing yet.
pub async fn sweep(run_dir: &Path, own: &Path) -> Result<()> {
    for Recorded { cluster_id, data_dir } in
        underlay::recorded(run_dir).context("looking for former clusters")?
    {
        let held = folder::cluster_in(&data_dir);
        let unreadable = held.is_none() && data_dir.join("cluster.json").exists();
        if held.as_ref() == Some(&cluster_id) || unreadable {
            continue;
        }
        let run = run_dir.join(&cluster_id);
        let Some(lock) = RunLock::take(&run)? else { continue };
        info!(cluster = %cluster_id, folder = %data_dir.display(),
            "clearing up after a cluster whose folder is gone");
        // What another cluster has there now is not ours to touch.
        let is_free = held.is_none() || data_dir == own;
        let folders = if is_free { vec![data_dir.as_path()] } else { Vec::new() };
        clear(&cluster_id, &folders, run_dir, lock).await?;
        if held.is_none() {
            remove_mount_points(&data_dir);
        }
    }
    sweep_unrecorded(run_dir)
}

/// Run folders that lost their record: whoever removed them was killed over it.
fn sweep_unrecorded(run_dir: &Path) -> Result<()> {
    let is_id = |name: &str| {
        name.len() == folder::ID_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    for run in folders_in(run_dir) {
        if !run.file_name().and_then(|name| name.to_str()).is_some_and(is_id)
            || run.join(underlay::RECORD).exists()
        {
            continue;
        }
        let Some(lock) = RunLock::take(&run)? else { continue };
        // Its holder may have been about to write the record.
        if !run.join(underlay::RECORD).exists() {
            info!(folder = %run.display(), "removing what is left of a former cluster");
            unmount_below(&run);
            lock.remove(&run)?;
        }
    }
    Ok(())
}

/// Removes everything that the cluster `id` made in the system, whose folder is or was one
/// of `folders`. Objects, images and logs in them stay.
pub async fn clear(id: &str, folders: &[&Path], run_dir: &Path, lock: RunLock) -> Result<()> {
    let run = run_dir.join(id);
    let cgroups = Cgroups::of_cluster(id);
    let programs: Vec<PathBuf> = folders.iter().map(|folder| folder.join("program")).collect();
    let killed = kill(&cgroups, &programs).await?;
    for node in folders.iter().flat_map(|folder| node_folders(folder)) {
        unmount_below(&node);
    }
    unmount_below(&run);
    cgroups.remove().await;
    // The record goes with the underlay, so the rest is done when that is done.
    underlay::remove(run_dir, id).context("removing the network")?;
    lock.remove(&run)?;
    if killed > 0 {
        info!(cluster = id, processes = killed, "killed what was left of it");
    }
    Ok(())
}

/// Kills the containers and shims of one node, as a power cut would; returns how many.
pub async fn kill_node(id: &str, node: &str) -> Result<usize> {
    kill(&Cgroups::of_node(id, node), &[]).await
}

/// Kills what is in the cgroups or runs one of the programs, until nothing is left.
async fn kill(cgroups: &Cgroups, programs: &[PathBuf]) -> Result<usize> {
    let deadline = Instant::now() + KILL_MAX;
    let mut killed = BTreeSet::new();
    loop {
        let mut left = cgroups.processes();
        left.extend(running(programs));
        if left.is_empty() {
            return Ok(killed.len());
        }
        if Instant::now() > deadline {
            bail!("the processes {left:?} do not end although they were killed");
        }
        for pid in &left {
            // One that has just ended is as dead as it was to be.
            if let Some(pid) = Pid::from_raw(*pid) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        killed.extend(left);
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Processes, this one excepted, whose program stands below one of the folders.
fn running(folders: &[PathBuf]) -> BTreeSet<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_ours = |pid: &i32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| folders.iter().any(|folder| program.starts_with(folder)))
    };
    pids.filter(|pid| *pid != own).filter(is_ours).collect()
}

/// The cgroups of a cluster or a node, in every hierarchy.
struct Cgroups {
    hierarchies: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

impl Cgroups {
    fn of_cluster(id: &str) -> Self {
        let prefix = format!("{id}-");
        Self::named(|name| name.starts_with(&prefix))
    }

    fn of_node(id: &str, node: &str) -> Self {
        let (containers, shims) = (format!("{id}-{node}"), format!("{id}-{node}.shims"));
        Self::named(|name| name == containers || name == shims)
    }

    fn named(is_wanted: impl Fn(&str) -> bool) -> Self {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let hierarchies: Vec<PathBuf> = mounts(&table)
            .filter(|mount| matches!(mount.kind, "cgroup" | "cgroup2"))
            .map(|mount| mount.point.join(CGROUPS))
            .collect();
        let all = hierarchies.iter().flat_map(|hierarchy| folders_in(hierarchy));
        let folders = all.filter(|folder| {
            folder.file_name().and_then(|name| name.to_str()).is_some_and(&is_wanted)
        });
        let folders = folders.collect();
        Self { hierarchies, folders }
    }

    fn processes(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        let mut pending = self.folders.clone();
        while let Some(folder) = pending.pop() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            pending.extend(folders_in(&folder));
        }
        found
    }

    /// Those that are empty; the others are named in the log.
    async fn remove(&self) {
        let deadline = Instant::now() + FREE_MAX;
        let mut left = self.folders.clone();
        loop {
            left.retain(|folder| remove_tree(folder).is_err());
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        for folder in left {
            warn!(cgroup = %folder.display(), "not removed: it still has processes");
        }
        // Shared by all clusters of the machine: the last one to go takes it along.
        for shared in &self.hierarchies {
            std::fs::remove_dir(shared).ok();
        }
        let given = tokio::task::spawn_blocking(|| atoll_container::give_back_cgroup(CGROUPS));
        match given.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                warn!("the cgroup of this container is not as it was: {error:#}");
            }
            Err(error) => warn!(%error, "giving a cgroup back"),
        }
    }
}

/// Folders only: a cgroup has files that go with it. Deepest first.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for inner in folders_in(path) {
        remove_tree(&inner)?;
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn folders_in(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Detaches everything that is mounted below `root`, the innermost first.
fn unmount_below(root: &Path) {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<PathBuf> = mounts(&table)
        .map(|mount| mount.point)
        .filter(|point| point.starts_with(root) && point != root)
        .collect();
    for point in points.into_iter().rev() {
        if let Err(error) = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            warn!(path = %point.display(), %error, "not unmounted");
        }
    }
}

fn node_folders(root: &Path) -> Vec<PathBuf> {
    let is_node = |folder: &PathBuf| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("node-"))
    };
    folders_in(root).into_iter().filter(is_node).collect()
}

/// `rm -r` stops at mount points; what it left of a folder goes once they are unmounted.
fn remove_mount_points(root: &Path) {
    let removed = node_folders(root).iter().try_for_each(|node| remove_tree(node));
    if let Err(error) = removed.and_then(|()| remove_tree(root)) {
        debug!(folder = %root.display(), %error, "it stays, with the files that are in it");
    }
}

struct Mount<'a> {
    point: PathBuf,
    kind: &'a str,
}

/// What `/proc/self/mountinfo` lists.
fn mounts(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        Some(Mount { point: unescape(point), kind: right.split(' ').next()? })
    })
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| first == b'\\') {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_folder_is_held_by_one() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let lock = RunLock::take(&folder).unwrap().unwrap();
        assert!(RunLock::take(&folder).unwrap().is_none());
        lock.remove(&folder).unwrap();
        assert!(!folder.exists());
        assert!(RunLock::take(&folder).unwrap().is_some());
    }

    #[test]
    fn mounts_are_read_with_their_blanks() {
        let table = "24 1 0:2 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                     25 24 0:3 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                     26 24 0:4 / /a\\040b\\134c rw - overlay none rw\n";
        let found: Vec<(PathBuf, &str)> =
            mounts(table).map(|mount| (mount.point, mount.kind)).collect();
        assert_eq!(found[1], (PathBuf::from("/sys/fs/cgroup/memory"), "cgroup"));
        assert_eq!(found[2], (PathBuf::from("/a b\\c"), "overlay"));
    }

    #[test]
    fn only_folders_are_removed_with_their_tree() {
        let parent = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(parent.path().join("a/b/c")).unwrap();
        std::fs::create_dir_all(parent.path().join("d")).unwrap();
        std::fs::write(parent.path().join("d/file"), "").unwrap();
        assert!(remove_tree(&parent.path().join("a")).is_ok());
        assert!(remove_tree(&parent.path().join("d")).is_err());
        assert!(parent.path().join("d/file").exists());
        assert!(remove_tree(&parent.path().join("never")).is_ok());
    }

    #[tokio::test]
    async fn processes_are_found_by_their_program() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let program = root.join("sleep");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("100").spawn().unwrap();
        let nobody = Cgroups { hierarchies: Vec::new(), folders: Vec::new() };
        let waited = tokio::task::spawn_blocking(move || child.wait().unwrap());
        assert_eq!(kill(&nobody, &[root]).await.unwrap(), 1);
        assert!(!waited.await.unwrap().success());
    }
}
