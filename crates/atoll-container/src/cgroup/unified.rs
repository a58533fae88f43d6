//! The root of cgroup v2 as this process sees it.
//!
//! In a cgroup namespace, as containers have it, the root is somebody's group with
//! processes in it, ours among them; the kernel divides no resources of such a group ("no
//! internal processes"). So they go into a leaf, and come back when the last cluster ends.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::{ROOT, failed, put};
use crate::error::Error;

/// What groups hand down: containers' limits are theirs.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "pids"];

/// Where the processes go that were in the root.
const LEAF: &str = "atoll.init";

/// Rounds of moving processes: each may have forked since the list was read.
const MOVE_ROUNDS_MAX: usize = 10;

/// A second in all, then the group stays as it is and the agent does not start.
const CLEAR_ROUNDS_MAX: usize = 100;
const CLEAR_PAUSE: Duration = Duration::from_millis(10);

/// What became of handing controllers down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handed {
    Done,
    /// The group has processes of its own.
    Busy,
}

/// Lets the children of a group have its controllers.
pub(super) fn open(dir: &Path) -> Result<(), Error> {
    if hand_down(dir) == Handed::Busy && dir == Path::new(ROOT) {
        // Some controllers may be handed down past a group's own processes; then the
        // kernel takes it for a group of threads, below which are no places for processes.
        withdraw(dir);
        let leaf = dir.join(LEAF);
        match fs::create_dir(&leaf) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(&leaf, "creating it")(e));
            }
            _ => {}
        }
        clear(dir, &leaf)?;
        tracing::info!(leaf = %leaf.display(), "the processes of this cgroup went into a leaf");
    }
    Ok(())
}

fn hand_down(dir: &Path) -> Handed {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let control = dir.join("cgroup.subtree_control");
    let names = missing(&read("cgroup.controllers"), &read("cgroup.subtree_control"));
    if names.is_empty() {
        return Handed::Done;
    }
    // All at once, so that a group with processes takes none of them.
    let all: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
    match put(&control, all.join(" ")) {
        Ok(()) => return Handed::Done,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::EOPNOTSUPP)) => {
            return Handed::Busy;
        }
        Err(_) => {}
    }
    for one in all {
        if let Err(source) = put(&control, &one) {
            tracing::debug!(path = %control.display(), %source, one, "not handed down");
        }
    }
    Handed::Done
}

/// Takes back what a group hands down, where no group below needs it: more than we handed
/// down ourselves, since libcontainer hands down whatever a group has.
fn withdraw(dir: &Path) {
    let control = dir.join("cgroup.subtree_control");
    let handed_down = fs::read_to_string(&control).unwrap_or_default();
    for name in handed_down.split_whitespace() {
        if let Err(source) = put(&control, format!("-{name}")) {
            tracing::debug!(path = %control.display(), %source, name, "still handed down");
        }
    }
}

/// Controllers that a group has, and does not hand down yet.
fn missing(has: &str, gives: &str) -> Vec<&'static str> {
    let listed = |list: &str, name: &str| list.split_whitespace().any(|one| one == name);
    let wanted = CONTROLLERS.iter().copied();
    wanted.filter(|name| listed(has, name) && !listed(gives, name)).collect()
}

/// Moves processes until the group can hand down. What forks or ends at that moment still
/// counts as a process of the group, and is in no list.
#[allow(clippy::disallowed_methods, reason = "called on threads that may block")]
fn clear(dir: &Path, leaf: &Path) -> Result<(), Error> {
    for _ in 0..CLEAR_ROUNDS_MAX {
        move_processes(dir, leaf)?;
        if hand_down(dir) == Handed::Done {
            return Ok(());
        }
        std::thread::sleep(CLEAR_PAUSE);
    }
    let busy = io::Error::from(io::ErrorKind::ResourceBusy);
    Err(failed(dir, "it cannot be divided while it has processes of its own")(busy))
}

fn move_processes(from: &Path, to: &Path) -> Result<(), Error> {
    let (from, to) = (from.join("cgroup.procs"), to.join("cgroup.procs"));
    for _ in 0..MOVE_ROUNDS_MAX {
        let pids = fs::read_to_string(&from).map_err(failed(&from, "reading it"))?;
        if pids.trim().is_empty() {
            break;
        }
        for pid in pids.lines() {
            match put(&to, pid) {
                // It has ended meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                other => other.map_err(failed(&to, "moving a process into it"))?,
            }
        }
    }
    Ok(())
}

/// Undoes what made room for groups in the root, once no cluster has any: `atoll` is the
/// folder of all of them. May block for a moment.
#[allow(clippy::disallowed_methods, reason = "called on threads that may block")]
pub fn give_back(atoll: &str) -> Result<(), Error> {
    let root = Path::new(ROOT);
    let leaf = root.join(LEAF);
    if !leaf.exists() || root.join(atoll).exists() {
        return Ok(());
    }
    let mut last = Ok(());
    for _ in 0..CLEAR_ROUNDS_MAX {
        withdraw(root);
        // Refused as long as something is handed down still.
        last = move_processes(&leaf, root)
            .and_then(|()| fs::remove_dir(&leaf).map_err(failed(&leaf, "removing it")));
        if last.is_ok() || root.join(atoll).exists() {
            return last;
        }
        std::thread::sleep(CLEAR_PAUSE);
    }
    last
}

pub(super) fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

pub(super) fn not_ours(dir: &Path, error: &io::Error) -> Error {
    Error::Unsupported {
        runtime: "oci",
        field: "this cgroup",
        reason: format!(
            "{} cannot be made ({error}); in a container, start that one privileged and with \
             a cgroup namespace of its own (docker run --privileged --cgroupns=private)",
            dir.display()
        ),
    }
}

/// Where a process is in the hierarchy.
pub(super) fn path_of(pid: i32) -> io::Result<String> {
    let file = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).ok_or_else(|| io::Error::other(format!("{file} names no v2 cgroup")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_and_not_given_yet_is_handed_down() {
        assert_eq!(
            missing("cpuset cpu io memory hugetlb pids\n", "memory\n"),
            ["cpu", "cpuset", "io", "pids"]
        );
        assert!(missing("memory\n", "cpu memory\n").is_empty());
    }

    #[test]
    fn a_cgroup_that_is_not_ours_is_named_with_what_to_do() {
        let error = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        assert!(is_forbidden(&error));
        let text = not_ours(Path::new("/sys/fs/cgroup/atoll"), &error).to_string();
        assert!(text.contains("/sys/fs/cgroup/atoll") && text.contains("--cgroupns=private"));
    }
}
