//! Mounts of a container that share nothing with the node's, beside others that do.
//!
//! libcontainer gives all mounts of a container one propagation. Those that are to have none are
//! made private here, before the command may run.

use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::mount::MountPropagationFlags;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

/// Enters the container's mounts for good; the caller has nothing left to do outside of them.
pub(crate) fn part(init: i32, mounts: &[PathBuf]) -> Result<(), String> {
    if mounts.is_empty() {
        return Ok(());
    }
    let init = Pid::from_raw(init).ok_or("the container has no pid")?;
    let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty())
        .map_err(|error| format!("the container is gone: {error}"))?;
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT)
        .map_err(|error| format!("entering the container's mounts: {error}"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    for path in mounts {
        rustix::mount::mount_change(path, private)
            .map_err(|error| format!("making {} private: {error}", path.display()))?;
    }
    Ok(())
}
