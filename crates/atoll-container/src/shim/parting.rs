//! What each mount of a container shares with the node's.
//!
//! libcontainer gives all mounts of a container one propagation, the widest that one of them asks
//! for. Here each gets its own, before the command may run: a mount has that of the volume it
//! lies in, the innermost one.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use crate::spec::Propagation;

/// Where a volume is, and what it asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) path: PathBuf,
    pub(crate) propagation: Propagation,
}

/// Enters the container's mounts for good; the caller has nothing left to do outside of them.
pub(crate) fn part(init: i32, volumes: &[Spread]) -> Result<(), String> {
    if volumes.is_empty() {
        return Ok(());
    }
    // Read out here: in there `/proc` knows nothing of this process.
    let table = format!("/proc/{init}/mountinfo");
    let table = fs::read_to_string(&table).map_err(|error| format!("reading {table}: {error}"))?;
    let init = Pid::from_raw(init).ok_or("the container has no pid")?;
    let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty())
        .map_err(|error| format!("the container is gone: {error}"))?;
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|error| format!("entering the container's mounts: {error}"))?;
    // Links of the image lead elsewhere.
    let real = |volume: &Spread| Spread {
        path: fs::canonicalize(&volume.path).unwrap_or_else(|_gone| volume.path.clone()),
        ..volume.clone()
    };
    let volumes: Vec<Spread> = volumes.iter().map(real).collect();
    for point in points(&table) {
        let Some(flags) = wanted(&volumes, &point) else { continue };
        match rustix::mount::mount_change(&point, flags) {
            // Another lies over it, and nobody gets there.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(format!("parting {}: {error}", point.display())),
        }
    }
    Ok(())
}

fn wanted(volumes: &[Spread], point: &Path) -> Option<MountPropagationFlags> {
    let inside = volumes.iter().filter(|volume| point.starts_with(&volume.path));
    match inside.max_by_key(|volume| volume.path.components().count())?.propagation {
        Propagation::None => Some(MountPropagationFlags::PRIVATE),
        Propagation::HostToContainer => Some(MountPropagationFlags::DOWNSTREAM),
        Propagation::Bidirectional => None,
    }
}

/// The mount points of a table (proc(5)): the fifth field, with blanks written in octal.
fn points(table: &str) -> Vec<PathBuf> {
    let fields = table.lines().filter_map(|line| line.split(' ').nth(4));
    fields.map(|field| PathBuf::from(unescaped(field))).collect()
}

fn unescaped(field: &str) -> String {
    let mut text = field.to_owned();
    // The backslash last: what it makes is no escape any more.
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, plain);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_what_the_innermost_volume_asks_for() {
        let volume = |path: &str, propagation| Spread { path: PathBuf::from(path), propagation };
        let volumes = [
            volume("/host", Propagation::None),
            volume("/host/var/lib", Propagation::Bidirectional),
            volume("/host/var/lib/heard", Propagation::HostToContainer),
        ];
        let table = "1 0 8:1 / /host rw - ext4 a rw\n\
                     2 1 8:1 / /host/a\\040b rw shared:1 - ext4 a rw\n\
                     3 1 8:1 / /host/var/lib/kubelet rw shared:1 - ext4 a rw\n\
                     4 1 8:1 / /host/var/lib/heard/x rw shared:1 - ext4 a rw\n\
                     5 1 8:1 / /hosts rw - ext4 a rw\n";
        let found = points(table);
        assert_eq!(found[1], Path::new("/host/a b"));
        let flags: Vec<_> = found.iter().map(|point| wanted(&volumes, point)).collect();
        let private = Some(MountPropagationFlags::PRIVATE);
        let slave = Some(MountPropagationFlags::DOWNSTREAM);
        assert_eq!(flags, [private, private, None, slave, None]);
    }
}
