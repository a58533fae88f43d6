//! A sandbox's own namespace of processes, with the process that keeps it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::unmount;
use crate::error::Error;
use crate::shim::PAUSE_FLAG;
use crate::shim::pause::{Holder, NAMESPACE, RECORD};
use crate::signal::Signal;

/// What the namespace's first process needs besides the sandbox.
#[derive(Debug)]
pub(crate) struct Around<'a> {
    /// The program that becomes it.
    pub(crate) shim: &'a Path,
    /// Where it is counted: a group for itself, in each hierarchy.
    pub(crate) cgroups: Vec<PathBuf>,
}

/// Makes it when it is missing, or when its process has ended and all others with it.
pub(super) fn ensure(uid: &str, dir: &Path, around: &Around<'_>) -> Result<(), Error> {
    if is_kept(dir) {
        return Ok(());
    }
    end(dir)?;
    unmount(&dir.join(NAMESPACE))?;
    let failed = |source| Error::Sandbox {
        sandbox: uid.to_owned(),
        what: "starting the first process of its containers",
        source,
    };
    let mut command = Command::new(around.shim);
    command.arg("shim").arg(PAUSE_FLAG).arg(dir).args(&around.cgroups).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    end(dir)?;
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(io::Error::other(words.trim().to_owned())))
}

fn holder(dir: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()
}

/// Whether the process that keeps the namespace lives, and it is this namespace.
fn is_kept(dir: &Path) -> bool {
    let Some(holder) = holder(dir) else { return false };
    let inode = |path: &Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let kept = inode(&dir.join(NAMESPACE));
    let its = inode(Path::new(&format!("/proc/{}/ns/pid", holder.pid)));
    kept.is_some() && kept == its && crate::file::is_alive(holder.pid, holder.start_ticks)
}

/// Ends the process, and with it whatever is left in the namespace.
pub(super) fn end(dir: &Path) -> Result<(), Error> {
    match holder(dir) {
        Some(holder) => crate::kill::process(holder.pid, holder.start_ticks, Signal::KILL),
        None => Ok(()),
    }
}
