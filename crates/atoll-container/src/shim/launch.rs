//! Makes the container, up to where only its command has yet to start.
//!
//! A forked child calls libcontainer and ends; the container's first process becomes the
//! shim's own child (libcontainer's `as_sibling`), and the library's memory, OOM score
//! and dumpable flag end with the helper.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::notify_socket::NotifySocket;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::net::SocketFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::enclosure::{self, Owner};
use super::rights::Rights;
use super::{Kind, SHIM_LOG_FILE, ShimConfig, command, exec, words};
use crate::seqpacket;

/// libcontainer's own records, below the attempt's directory.
pub(crate) const OCI_STATE_DIR: &str = "oci";

/// A container that waits for its start.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
    gate: Gate,
    /// Ends without a word when the command runs, else says why it does not.
    verdict: fs::File,
}

#[derive(Debug)]
enum Gate {
    Notify(PathBuf),
    Pipe(fs::File),
    Open,
}

impl Launched {
    /// Lets the command run, and says whether it does.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        match std::mem::replace(&mut self.gate, Gate::Open) {
            Gate::Notify(path) => NotifySocket::new(path)
                .notify_container_start()
                .map_err(|e| format!("waking the container: {e}"))?,
            Gate::Pipe(mut pipe) => {
                pipe.write_all(b"s").map_err(|e| format!("waking the command: {e}"))?;
            }
            Gate::Open => return Err("it was started before".to_owned()),
        }
        let mut reason = String::new();
        self.verdict
            .read_to_string(&mut reason)
            .map_err(|e| format!("waiting for the command: {e}"))?;
        if reason.is_empty() { Ok(()) } else { Err(reason) }
    }
}

/// What the helper tells the shim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Ready { pid: i32 },
    Failed { reason: String },
}

/// The command's ends of its streams, and ours.
struct Plumbing {
    theirs: Theirs,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
}

struct Theirs {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

fn null() -> io::Result<OwnedFd> {
    Ok(fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

fn plumb(config: &ShimConfig) -> io::Result<Plumbing> {
    if config.tty {
        let theirs = Theirs { stdin: null()?, stdout: null()?, stderr: null()? };
        return Ok(Plumbing { theirs, stdout: None, stderr: None, stdin: None });
    }
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (stdout, their_stdout) = pipe()?;
    let (stderr, their_stderr) = pipe()?;
    let (their_stdin, stdin) = if config.stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let theirs = Theirs { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
    Ok(Plumbing { theirs, stdout: Some(stdout), stderr: Some(stderr), stdin })
}

pub(crate) fn launch(config: &ShimConfig, dir: &Path) -> Result<Launched, String> {
    let io_error = |e: io::Error| format!("preparing its streams: {e}");
    let plumbing = plumb(config).map_err(io_error)?;
    let (verdict, their_verdict) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| io_error(e.into()))?;
    match config.kind {
        Kind::Oci => launch_oci(config, dir, plumbing, verdict, their_verdict),
        Kind::Process => launch_process(config, plumbing, verdict, their_verdict),
    }
}

/// `fork`, with the child's part as a function that never returns.
#[allow(unsafe_code, reason = "fork is unsafe in programs with threads; the shim has none")]
pub(crate) fn fork(child: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: the shim is single-threaded, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            child();
            exit_now(0)
        }
        nix::unistd::ForkResult::Parent { child } => {
            Pid::from_raw(child.as_raw()).ok_or_else(|| io::Error::other("fork gave no pid"))
        }
    }
}

/// Ends a forked child without running the parent's exit handlers.
#[allow(unsafe_code, reason = "_exit has no safe wrapper")]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit ends the process and touches none of its memory.
    unsafe { libc::_exit(code) }
}

/// Closes all else that a forked child has inherited: a copy of the shim's connections or
/// of its ends of the pipes would hide from others that the shim is gone.
#[allow(unsafe_code, reason = "close_range has no safe wrapper")]
pub(crate) fn keep_only(fds: &[RawFd]) {
    let mut keep: Vec<u32> = fds.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut from = 3u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if from < fd {
            // SAFETY: the child owns none of these by any value that it will drop: it
            // ends with `_exit` or `execve`.
            let result = unsafe { libc::syscall(libc::SYS_close_range, from, fd - 1, 0) };
            if result != 0 {
                super::complain("atoll shim: close_range failed");
            }
        }
        from = from.max(fd.saturating_add(1));
    }
}

fn launch_oci(
    config: &ShimConfig,
    dir: &Path,
    plumbing: Plumbing,
    verdict: OwnedFd,
    their_verdict: OwnedFd,
) -> Result<Launched, String> {
    let Plumbing { theirs, stdout, stderr, stdin } = plumbing;
    let (ours, helper_end) =
        seqpacket::pair(SocketFlags::empty()).map_err(|e| format!("socketpair: {e}"))?;
    let verdict_fd = their_verdict.as_raw_fd();
    let helper = fork(|| {
        keep_only(&[
            theirs.stdin.as_raw_fd(),
            theirs.stdout.as_raw_fd(),
            theirs.stderr.as_raw_fd(),
            verdict_fd,
            helper_end.as_raw_fd(),
        ]);
        help(config, dir, theirs, verdict_fd, &helper_end);
    })
    .map_err(|e| format!("fork: {e}"))?;
    drop(helper_end);
    drop(their_verdict);
    let report = seqpacket::recv::<Report>(&ours).map_err(|e| format!("reading the report: {e}"));
    reap(helper);
    let (pid, mut fds) = match report? {
        Some((Report::Ready { pid }, fds)) => (pid, fds),
        Some((Report::Failed { reason }, _)) => {
            let reason = plain(reason);
            return Err(match words::cause(&dir.join(SHIM_LOG_FILE)) {
                Some(cause) if !reason.contains(bare(&cause)) => format!("{reason}: {cause}"),
                _ => reason,
            });
        }
        None => return Err("the helper that makes the container died".to_owned()),
    };
    let pid = Pid::from_raw(pid).ok_or("the container has no pid")?;
    Ok(Launched {
        pid,
        stdout,
        stderr,
        stdin,
        terminal: fds.pop(),
        gate: Gate::Notify(dir.join(OCI_STATE_DIR).join(&config.id).join("notify.sock")),
        verdict: verdict.into(),
    })
}

fn reap(pid: Pid) {
    loop {
        match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

/// The helper's whole life.
fn help(config: &ShimConfig, dir: &Path, theirs: Theirs, verdict: RawFd, report: &OwnedFd) {
    words::listen();
    let (message, terminal) = match create(config, dir, theirs, verdict) {
        Ok((pid, terminal)) => (Report::Ready { pid }, terminal),
        Err(reason) => (Report::Failed { reason }, None),
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    if let Err(error) = seqpacket::send(report, &message, &fds) {
        super::complain(&format!("atoll shim: reporting to the shim: {error}"));
    }
}

fn create(
    config: &ShimConfig,
    dir: &Path,
    theirs: Theirs,
    verdict: RawFd,
) -> Result<(i32, Option<OwnedFd>), String> {
    let state_dir = dir.join(OCI_STATE_DIR);
    fs::create_dir_all(&state_dir).map_err(|e| format!("creating {}: {e}", state_dir.display()))?;
    let console = if config.tty { Some(Console::listen(&config.socket)?) } else { None };
    let environment = Rc::new(RefCell::new(Vec::new()));
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::default())
        .with_executor(Payload {
            verdict,
            environment,
            filter: Rc::new(read_filter(config)?),
            lent_admin: config.lent_admin,
        })
        .with_root_path(&state_dir)
        .map_err(chain)?
        .with_console_socket(console.as_ref().map(|c| c.path.clone()));
    if !config.tty {
        builder =
            builder.with_stdin(theirs.stdin).with_stdout(theirs.stdout).with_stderr(theirs.stderr);
    }
    let container = builder
        .validate_id()
        .map_err(chain)?
        .as_init(dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(chain)?;
    super::unified::complete(config, dir)?;
    let pid = container.pid().ok_or("the container has no pid")?.as_raw();
    let terminal = console.map(Console::receive).transpose()?;
    // The last step: this process is inside then.
    super::parting::part(pid, &config.parted)?;
    Ok((pid, terminal))
}

/// libcontainer wraps what a process could not do into three layers that say nothing.
fn plain(reason: String) -> String {
    match reason.split_once("error in executing process : ") {
        Some((_, inner)) => {
            let inner = inner.split(": failed to initialize container process").next();
            format!("unable to start container process: {}", inner.unwrap_or_default())
        }
        None => reason,
    }
}

/// What the log adds, without what every such line begins with.
fn bare(cause: &str) -> &str {
    cause.trim_start_matches("failed to initialize container process: ")
}

/// The compiled filter; it must be there when it is named.
pub(crate) fn read_filter(config: &ShimConfig) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = &config.filter else { return Ok(None) };
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) => Err(format!("reading the system call filter {}: {e}", path.display())),
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The socket over which libcontainer hands out the terminal.
struct Console {
    path: PathBuf,
    listener: OwnedFd,
}

impl Console {
    fn listen(beside: &Path) -> Result<Console, String> {
        let path = beside.with_extension("tty");
        let failed = |e: io::Error| format!("listening on {}: {e}", path.display());
        if let Err(e) = fs::remove_file(&path)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(e));
        }
        let listener = std::os::unix::net::UnixListener::bind(&path).map_err(failed)?;
        Ok(Console { listener: listener.into(), path })
    }

    /// The connection is there already: libcontainer connects while it creates.
    fn receive(self) -> Result<OwnedFd, String> {
        let receive = || -> io::Result<OwnedFd> {
            let connection = rustix::net::accept(&self.listener)?;
            let mut bytes = [0u8; 256];
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
            rustix::net::recvmsg(
                &connection,
                &mut [io::IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                rustix::net::RecvFlags::CMSG_CLOEXEC,
            )?;
            ancillary
                .drain()
                .find_map(|part| match part {
                    rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                    _ => None,
                })
                .ok_or_else(|| io::Error::other("no descriptor came"))
        };
        let terminal = receive().map_err(|e| format!("receiving the terminal: {e}"))?;
        if let Err(error) = fs::remove_file(&self.path) {
            super::complain(&format!("atoll shim: removing {}: {error}", self.path.display()));
        }
        Ok(terminal)
    }
}

/// Runs the command in place of libcontainer's own executor: it tells why an `execve`
/// failed, and gives the command fresh signals.
#[derive(Clone)]
struct Payload {
    verdict: RawFd,
    environment: Rc<RefCell<Vec<String>>>,
    filter: Rc<Option<Vec<u8>>>,
    lent_admin: bool,
}

impl Payload {
    fn args(spec: &Spec) -> Vec<String> {
        spec.process().as_ref().and_then(|p| p.args().clone()).unwrap_or_default()
    }

    /// Confines the process for good, then becomes the command.
    fn become_command(&self, spec: &Spec) -> String {
        command::reset_state();
        if let Some(filter) = self.filter.as_ref()
            && let Err(error) = command::load_filter(filter)
        {
            return format!("loading the system call filter: {error}");
        }
        if self.lent_admin
            && let Err(error) = command::give_back_admin()
        {
            return format!("giving a capability back: {error}");
        }
        command::execute(&Payload::args(spec), &self.environment.borrow())
    }
}

impl Executor for Payload {
    #[allow(unsafe_code, reason = "the descriptor number came across fork")]
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let reason = self.become_command(spec);
        // SAFETY: the descriptor was opened by the shim, is inherited by this process, and
        // nobody else in it owns it.
        let mut verdict = unsafe { fs::File::from_raw_fd(self.verdict) };
        if let Err(error) = verdict.write_all(reason.as_bytes()) {
            return Err(ExecutorError::Other(format!("{reason} ({error})")));
        }
        Err(ExecutorError::Other(reason))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let env = spec.process().as_ref().and_then(|p| p.env().clone()).unwrap_or_default();
        command::check(&Payload::args(spec), &env)
            .map_err(ExecutorValidationError::ArgValidationError)
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        let mut lines: Vec<String> =
            envs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.sort();
        *self.environment.borrow_mut() = lines;
        Ok(())
    }
}

fn launch_process(
    config: &ShimConfig,
    plumbing: Plumbing,
    verdict: OwnedFd,
    their_verdict: OwnedFd,
) -> Result<Launched, String> {
    let process = config.process.as_ref().ok_or("shim.json names no process")?;
    let Plumbing { theirs, stdout, stderr, stdin } = plumbing;
    let terminal =
        if config.tty { Some(exec::open_terminal().map_err(|e| e.to_string())?) } else { None };
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"));
    let ((their_gate, gate), (ready, their_ready)) = (pipe()?, pipe()?);
    let inside = Inside { config, process, owner: Owner::here() };
    let child = || {
        let slave = terminal.as_ref().map_or(-1, |(_, slave)| slave.as_raw_fd());
        keep_only(&[
            theirs.stdin.as_raw_fd(),
            theirs.stdout.as_raw_fd(),
            theirs.stderr.as_raw_fd(),
            their_verdict.as_raw_fd(),
            their_gate.as_raw_fd(),
            their_ready.as_raw_fd(),
            slave,
        ]);
        let (reason, whom) = match inside.prepare() {
            Ok((env, rights)) => {
                drop(their_ready);
                wait_for(their_gate);
                (inside.run(&env, &rights, &theirs, terminal.as_ref()), their_verdict)
            }
            Err(reason) => (reason, their_ready),
        };
        if let Err(error) = fs::File::from(whom).write_all(reason.as_bytes()) {
            super::complain(&format!("atoll shim: {reason} ({error})"));
        }
        exit_now(super::CODE_NOT_STARTED);
    };
    let pid = match config.enclosure() {
        Some(_) => enclosure::fork(child),
        None => fork(child),
    };
    let pid = pid.map_err(|e| format!("fork: {e}"))?;
    let mut reason = String::new();
    fs::File::from(ready)
        .read_to_string(&mut reason)
        .map_err(|e| format!("waiting for the command's preparation: {e}"))?;
    if !reason.is_empty() {
        reap(pid);
        return Err(reason);
    }
    Ok(Launched {
        pid,
        stdout,
        stderr,
        stdin,
        terminal: terminal.map(|(master, _slave)| master),
        gate: Gate::Pipe(gate.into()),
        verdict: verdict.into(),
    })
}

/// Blocks until the command is to start.
fn wait_for(gate: OwnedFd) {
    let mut word = [0u8; 1];
    match fs::File::from(gate).read(&mut word) {
        Ok(1) => {}
        // The shim is gone: nothing was started.
        _ => exit_now(0),
    }
}

/// What a command of the process runtime does until it is itself.
struct Inside<'a> {
    config: &'a ShimConfig,
    process: &'a crate::spec::Process,
    owner: Owner,
}

impl Inside<'_> {
    /// Everything that can be known to go wrong before the start.
    fn prepare(&self) -> Result<(Vec<String>, Rights), String> {
        let rights = Rights::of(self.config)?;
        if let Some(enclosure) = self.config.enclosure() {
            enclosure::enter(enclosure, self.process, self.owner)?;
        }
        let env =
            command::with_home(crate::bundle::environment(self.process), self.process.user.uid);
        // libcontainer's words, by which a command's fault is told from the node's.
        command::check(&self.config.located(&self.process.args), &env)
            .map_err(|reason| format!("unable to start container process: {reason}"))?;
        Ok((env, rights))
    }

    fn run(
        &self,
        env: &[String],
        rights: &Rights,
        theirs: &Theirs,
        terminal: Option<&(OwnedFd, OwnedFd)>,
    ) -> String {
        let prepare = || -> io::Result<()> {
            rustix::process::setsid()?;
            match terminal {
                Some((_, slave)) => {
                    rustix::process::ioctl_tiocsctty(slave)?;
                    command::stdio([slave.as_fd(), slave.as_fd(), slave.as_fd()])?;
                }
                None => command::stdio([
                    theirs.stdin.as_fd(),
                    theirs.stdout.as_fd(),
                    theirs.stderr.as_fd(),
                ])?,
            }
            Ok(())
        };
        if let Err(error) = prepare() {
            return format!("preparing the command: {error}");
        }
        let cwd = if self.process.cwd.is_empty() { "/" } else { &self.process.cwd };
        if let Err(error) = rustix::process::chdir(cwd) {
            return format!("chdir to cwd ({cwd:?}) set in config.json failed: {error}");
        }
        self.adjust_oom_score();
        if let Err(error) = rights.take_on() {
            return format!("taking on its rights: {error}");
        }
        command::reset_state();
        command::execute(&self.config.located(&self.process.args), env)
    }

    /// Anybody may make himself a likelier victim; the other way needs root.
    fn adjust_oom_score(&self) {
        const PATH: &str = "/proc/self/oom_score_adj";
        let wish = self.config.confinement.as_ref().and_then(|own| own.oom_score_adj);
        let now = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if let (Some(wish), Some(now)) = (wish, now)
            && wish > now
            && let Err(error) = fs::write(PATH, wish.to_string())
        {
            super::complain(&format!("atoll shim: {PATH}: {error}"));
        }
    }
}
