//! Runs a further command inside the container.
//!
//! A helper enters the container's cgroup and namespaces and clones the command as the
//! shim's own child. The command gets the container's capabilities and seccomp filter,
//! and the user and environment it was asked for: none of these is inherited by itself.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use rustix::net::SocketFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use super::launch::{exit_now, fork, keep_only, read_filter};
use super::rights::{Rights, drop_bounding, own_capabilities, set_capabilities};
use super::{Kind, ShimConfig, command};
use crate::seqpacket;
use crate::spec::Process;

/// What is to be run, with the caller's ends of its streams.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) process: Process,
    pub(crate) privileged: bool,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// What the helper and the command report, until the command runs and the socket ends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Pid {
        pid: i32,
    },
    /// With the terminal's descriptor.
    Terminal,
    Failed {
        reason: String,
    },
}

/// Forks the helper; the reports come over the socket that is returned.
pub(crate) fn spawn(
    config: &ShimConfig,
    dir: &Path,
    init: Pid,
    wish: &Wish,
) -> io::Result<OwnedFd> {
    let (ours, theirs) = seqpacket::pair(SocketFlags::empty())?;
    fork(|| {
        let given = [&wish.stdin, &wish.stdout, &wish.stderr];
        let mut keep: Vec<_> = given.into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
        keep.push(theirs.as_raw_fd());
        keep_only(&keep);
        if let Err(reason) = help(config, dir, init, wish, &theirs) {
            tell(&theirs, &Report::Failed { reason }, &[]);
        }
    })?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok(ours)
}

fn tell(socket: &OwnedFd, report: &Report, fds: &[BorrowedFd<'_>]) {
    if let Err(error) = seqpacket::send(socket, report, fds) {
        super::complain(&format!("atoll shim: reporting on exec: {error}"));
    }
}

fn help(
    config: &ShimConfig,
    dir: &Path,
    init: Pid,
    wish: &Wish,
    report: &OwnedFd,
) -> Result<(), String> {
    let rules = match config.kind {
        Kind::Oci => Bounds::Rules(Box::new(Rules::load(config, dir)?)),
        Kind::Process => Bounds::Rights(Rights::of(config)?),
    };
    if config.kind == Kind::Oci || config.enclosure().is_some() {
        // Inside, nobody may reach this program or its descriptors through `/proc` before
        // the command takes its place.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| format!("closing the helper to others: {e}"))?;
        enter(config, init)?;
    }
    match clone_sibling()? {
        Some(pid) => {
            tell(report, &Report::Pid { pid }, &[]);
            exit_now(0);
        }
        None => {
            let reason = become_command(config, wish, &rules, report);
            tell(report, &Report::Failed { reason }, &[]);
            exit_now(super::CODE_NOT_STARTED);
        }
    }
}

/// Joins the cgroup first: it is found by paths of the node.
fn enter(config: &ShimConfig, init: Pid) -> Result<(), String> {
    let mut kinds = ThreadNameSpaceType::empty();
    if config.kind == Kind::Oci {
        config
            .cgroups
            .join(&config.cgroup, init.as_raw_nonzero().get())
            .map_err(|e| format!("joining the container's cgroup: {e}"))?;
        kinds |= ThreadNameSpaceType::CONTROL_GROUP | ThreadNameSpaceType::NETWORK;
    } else {
        kinds |= ThreadNameSpaceType::USER;
    }
    let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty())
        .map_err(|e| format!("the container is gone: {e}"))?;
    // Those that the container shares with the node are entered to no effect.
    kinds |= ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::PROCESS_ID;
    rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), kinds)
        .map_err(|e| format!("entering the container's namespaces: {e}"))
}

/// The child becomes a child of the shim, in the process namespace that was entered.
/// `None` in the child.
#[allow(unsafe_code, reason = "clone with CLONE_PARENT has no safe wrapper")]
fn clone_sibling() -> Result<Option<i32>, String> {
    let flags = libc::CLONE_PARENT;
    // SAFETY: as fork: no new stack, no shared memory, and this process has one thread.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(result) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(format!("clone: {}", io::Error::last_os_error())),
    }
}

/// What the command is bound by.
enum Bounds {
    Rules(Box<Rules>),
    Rights(Rights),
}

/// What the container's own command is bound by, from `config.json`.
struct Rules {
    spec: Spec,
    filter: Option<Vec<u8>>,
}

impl Rules {
    fn load(config: &ShimConfig, dir: &Path) -> Result<Rules, String> {
        let path = dir.join("config.json");
        let spec = Spec::load(&path).map_err(|e| format!("reading {}: {e}", path.display()))?;
        Ok(Rules { spec, filter: read_filter(config)? })
    }

    /// A bit for each capability number.
    fn capabilities(&self) -> u64 {
        let process = self.spec.process().as_ref();
        let Some(set) =
            process.and_then(|p| p.capabilities().as_ref()).and_then(|c| c.bounding().as_ref())
        else {
            return 0;
        };
        let mut bits = 0u64;
        for (number, name) in crate::bundle::all_capabilities().iter().enumerate() {
            if set.iter().any(|c| format!("CAP_{c}") == *name || c.to_string() == *name) {
                bits |= 1 << number;
            }
        }
        bits
    }

    fn no_new_privileges(&self) -> bool {
        self.spec.process().as_ref().and_then(|p| p.no_new_privileges()).unwrap_or(false)
    }

    /// What a container runs besides its own command goes with it when memory is short.
    fn share_oom_score(&self) {
        const PATH: &str = "/proc/self/oom_score_adj";
        let score = self.spec.process().as_ref().and_then(|process| process.oom_score_adj());
        if let Some(score) = score
            && let Err(error) = fs::write(PATH, score.to_string())
        {
            super::complain(&format!("atoll shim: {PATH}: {error}"));
        }
    }

    fn seccomp(&self) -> io::Result<()> {
        if let Some(filter) = &self.filter {
            return command::load_filter(filter);
        }
        let Some(profile) = self.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
            return Ok(());
        };
        match libcontainer::seccomp::initialize_seccomp(profile) {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Becomes the command; returns only to say why it could not.
fn become_command(config: &ShimConfig, wish: &Wish, bounds: &Bounds, report: &OwnedFd) -> String {
    let process = &wish.process;
    let env = command::with_home(crate::bundle::environment(process), process.user.uid);
    if let Err(error) = streams(wish, report) {
        return format!("connecting its streams: {error}");
    }
    if let Bounds::Rules(rules) = bounds {
        rules.share_oom_score();
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    // Before the user changes, as for the container's own command.
    if let Err(error) = rustix::process::chdir(cwd) {
        return format!("chdir to cwd ({cwd:?}) set in config.json failed: {error}");
    }
    let bound = match bounds {
        Bounds::Rules(rules) => confine(process, wish.privileged, rules),
        Bounds::Rights(rights) => rights.take_on(),
    };
    if let Err(error) = bound {
        return format!("taking on its user and rights: {error}");
    }
    command::reset_state();
    command::execute(&config.located(&process.args), &env)
}

fn streams(wish: &Wish, report: &OwnedFd) -> io::Result<()> {
    rustix::process::setsid()?;
    if wish.process.tty {
        let (master, slave) = open_terminal()?;
        tell(report, &Report::Terminal, &[master.as_fd()]);
        rustix::process::ioctl_tiocsctty(&slave)?;
        return command::stdio([slave.as_fd(), slave.as_fd(), slave.as_fd()]);
    }
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    let or_null = |fd: &Option<OwnedFd>| -> io::Result<OwnedFd> {
        match fd {
            Some(fd) => fd.try_clone(),
            None => Ok(null.try_clone()?.into()),
        }
    };
    let (stdin, stdout, stderr) =
        (or_null(&wish.stdin)?, or_null(&wish.stdout)?, or_null(&wish.stderr)?);
    command::stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
}

/// A new terminal of the devpts in view: (master, slave).
pub(crate) fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

#[allow(unsafe_code, reason = "changing the user is unsafe in programs with threads")]
fn confine(process: &Process, privileged: bool, rules: &Rules) -> io::Result<()> {
    let own = own_capabilities();
    let granted = if privileged { own } else { rules.capabilities() & own };
    let late_filter = rules.no_new_privileges();
    if late_filter {
        rustix::thread::set_no_new_privs(true)?;
    }
    // Without no_new_privs the filter takes a capability, so it comes first.
    if !privileged && !late_filter {
        rules.seccomp()?;
    }
    drop_bounding(granted)?;
    rustix::thread::set_keep_capabilities(true)?;
    let groups: Vec<nix::unistd::Gid> =
        process.user.groups().into_iter().map(nix::unistd::Gid::from_raw).collect();
    nix::unistd::setgroups(&groups)?;
    let (uid, gid) = (
        nix::unistd::Uid::from_raw(process.user.uid),
        nix::unistd::Gid::from_raw(process.user.gid),
    );
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    set_capabilities(granted)?;
    if !privileged && late_filter {
        rules.seccomp()?;
    }
    Ok(())
}
