//! The first process of a namespace of processes that a sandbox's containers share.
//!
//! `atoll shim --pause DIRECTORY CGROUP…` makes the namespace and the process, binds the
//! namespace to `DIRECTORY/pid`, writes who holds it to `DIRECTORY/pause.json`, and ends. The
//! process is in the sandbox's other namespaces, sees an empty file system with nothing but itself in it (read-only, so that who
//! reaches `/proc/1` finds no way to the node or to this program's file), has no capability
//! and nobody's user, ignores what is sent to it from inside, and reaps orphans.

use std::ffi::{CStr, OsString};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::pipe::PipeFlags;
use rustix::thread::{CapabilitySets, Gid, LinkNameSpaceType, Uid, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::launch::{self, exit_now};
use crate::sandbox::unshare;

/// `/proc/1/cmdline` in the namespace, and by which `main` branches off.
pub const PAUSE_PROGRAM: &str = "/pause";
const PAUSE: &CStr = c"/pause";

/// User and group of Kubernetes' own pause image.
const NOBODY: u32 = 65_535;

/// Names below the sandbox's directory.
pub(crate) const NAMESPACE: &str = "pid";
pub(crate) const RECORD: &str = "pause.json";

/// Who holds the namespace.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: i32,
    pub(crate) start_ticks: u64,
}

/// Makes it. Whatever goes wrong is said on standard error.
pub(crate) fn run(dir: &Path, cgroups: impl Iterator<Item = OsString>) -> i32 {
    match make(dir, cgroups) {
        Ok(()) => 0,
        Err(reason) => {
            super::complain(&reason);
            1
        }
    }
}

fn told<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {}", error.into())
}

fn make(dir: &Path, cgroups: impl Iterator<Item = OsString>) -> Result<(), String> {
    launch::keep_only(&[]);
    if let Err(error) = rustix::process::setsid() {
        super::complain(&format!("setsid: {error}"));
    }
    super::settle();
    // By itself: the namespace is of the pod, and so is what its first process takes.
    for group in cgroups {
        let path = PathBuf::from(group).join("cgroup.procs");
        fs::write(&path, "0").map_err(|e| format!("joining {}: {e}", path.display()))?;
    }
    join(dir)?;
    unshare(UnshareFlags::NEWPID).map_err(told("a new namespace of processes"))?;
    let (answer, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(told("pipe"))?;
    let child = launch::fork(|| {
        let reason = become_pause(dir);
        if let Err(error) = rustix::io::write(&theirs, reason.as_bytes()) {
            super::complain(&format!("{reason} ({error})"));
        }
        exit_now(1);
    });
    let pid = child.map_err(told("fork"))?.as_raw_nonzero().get();
    drop(theirs);
    let mut reason = String::new();
    fs::File::from(answer).read_to_string(&mut reason).map_err(told("waiting for it"))?;
    if !reason.is_empty() {
        return Err(reason);
    }
    let start_ticks = crate::file::start_ticks(pid).ok_or("it has ended at once")?;
    let text = serde_json::to_vec(&Holder { pid, start_ticks }).map_err(|e| e.to_string())?;
    crate::file::write_atomic(&dir.join(RECORD), &text).map_err(|e| e.to_string())?;
    let path = dir.join(NAMESPACE);
    fs::File::create(&path).map_err(told("making the place of the namespace"))?;
    rustix::mount::mount_bind(format!("/proc/{pid}/ns/pid"), &path)
        .and_then(|()| rustix::mount::mount_change(&path, MountPropagationFlags::PRIVATE))
        .map_err(told("keeping the namespace"))
}

/// Enters what else the sandbox has of its own: nothing of the node may be seen through the
/// process (`/proc/1/net` needs no right to be read).
fn join(dir: &Path) -> Result<(), String> {
    for (name, kind) in [
        ("net", LinkNameSpaceType::Network),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let namespace = fs::File::open(&path).map_err(told("opening a namespace"))?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
            .map_err(|error| format!("entering {}: {}", path.display(), io::Error::from(error)))?;
    }
    Ok(())
}

/// Returns only to say why it could not.
fn become_pause(dir: &Path) -> String {
    if let Err(reason) = empty_root(dir) {
        return reason;
    }
    // Whoever reads the words of the one that ends must see their end.
    if let Err(error) = rustix::stdio::dup2_stderr(io::stdin()) {
        return format!("its standard error: {error}");
    }
    let nothing: [&CStr; 0] = [];
    match nix::unistd::execve(PAUSE, &[PAUSE], &nothing) {
        Err(errno) => format!("exec {PAUSE_PROGRAM}: {errno}"),
    }
}

/// A root with this program in it and nothing else, in a mount namespace of its own, where
/// `dir` is only the place to build it at.
fn empty_root(dir: &Path) -> Result<(), String> {
    unshare(UnshareFlags::NEWNS).map_err(told("a new mount namespace"))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(told("making mounts private"))?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("pause", dir, "tmpfs", quiet, c"mode=555,size=4k")
        .map_err(told("mounting its root"))?;
    let program = dir.join(PAUSE_PROGRAM.trim_start_matches('/'));
    fs::File::create(&program).map_err(told("making the place of the program"))?;
    // By its name: the magic link leads to the mount in the namespace that was left.
    let own = std::env::current_exe().map_err(told("finding the program"))?;
    rustix::mount::mount_bind(&own, &program).map_err(told("showing the program"))?;
    let read_only = MountFlags::RDONLY | quiet;
    let locked = rustix::mount::mount_remount(&program, MountFlags::BIND | read_only, c"");
    locked.map_err(told("locking the program"))?;
    rustix::process::chdir(dir).map_err(told("entering its root"))?;
    rustix::process::pivot_root(".", ".").map_err(told("pivot_root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(told("leaving the node's root"))?;
    rustix::process::chdir("/").map_err(told("chdir"))?;
    rustix::mount::mount_remount("/", read_only | MountFlags::NOEXEC, c"")
        .map_err(told("locking its root"))
}

/// The whole life of the process. Call it from `main` before any thread exists, when the
/// program is run as [`PAUSE_PROGRAM`].
pub fn pause_main() -> i32 {
    if rustix::process::getpid() != rustix::process::Pid::INIT {
        super::complain("atoll: /pause is started by the shim, not by hand");
        return 2;
    }
    if let Err(error) = give_up_rights() {
        super::complain(&format!("atoll: /pause: {error}"));
        return 1;
    }
    loop {
        nix::unistd::pause();
    }
}

#[allow(unsafe_code, reason = "signal is unsafe for handlers that are functions")]
fn give_up_rights() -> io::Result<()> {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: no handler is installed; with this one the kernel reaps what ends.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
    rustix::thread::set_thread_groups(&[])?;
    // Of the process: it has one thread.
    rustix::thread::set_thread_gid(Gid::from_raw(NOBODY))?;
    rustix::thread::set_thread_uid(Uid::from_raw(NOBODY))?;
    let none = rustix::thread::CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
