//! The shim: one small single-threaded process per container.
//!
//! It is the parent of the container's first process, so it alone learns how that ended;
//! it writes the log, carries terminals and commands, and outlives the agent. What needs
//! libcontainer happens in forked children: the library changes its caller (OOM score,
//! dumpable flag, working directory) and its memory would stay in every shim.

mod command;
mod compress;
mod descendants;
mod enclosure;
mod exec;
mod launch;
mod log;
mod oom;
mod parting;
pub(crate) mod pause;
mod probe;
mod rights;
mod serve;
mod streams;
mod unified;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::exit::{EXIT_VERSION, Exit};
use crate::frame::{Body, ErrorCode, Reply, ShimState};
use crate::seqpacket;
use crate::spec::{LogSpec, Process};
pub(crate) use enclosure::Enclosure;
pub(crate) use parting::Spread;

/// Version of `shim.json`.
pub(crate) const SHIM_VERSION: u32 = 1;

/// Exit code of a container whose command could not be run, as containerd reports it.
const CODE_NOT_STARTED: i32 = 128;

/// The shim is killed for lack of memory only after nearly everything else.
const SHIM_OOM_SCORE: &str = "-998";

/// Asks this program whether a command can be shut in here: `--probe DIRECTORY`.
pub(crate) const PROBE_FLAG: &str = "--probe";

/// Makes a sandbox's namespace of processes: `--pause DIRECTORY CGROUP…`.
pub(crate) const PAUSE_FLAG: &str = "--pause";

/// What an attempt's directory holds besides the specification.
pub(crate) const SHIM_FILE: &str = "shim.json";
pub(crate) const STATE_FILE: &str = "state.json";
pub(crate) const EXIT_FILE: &str = "exit.json";
/// The shim's standard error.
pub(crate) const SHIM_LOG_FILE: &str = "shim.log";
/// Room for the exit record, taken while the disk still has some.
const EXIT_RESERVE_FILE: &str = "exit.json.tmp";
const EXIT_RESERVE_BYTES: usize = 1024;

/// How a command is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Oci,
    Process,
}

/// What the agent tells the shim, in `shim.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    pub(crate) version: u32,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) socket: PathBuf,
    pub(crate) log: LogSpec,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) cgroups: Cgroups,
    pub(crate) cgroup: String,
    pub(crate) shim_cgroup: String,
    pub(crate) no_new_privileges: bool,
    /// A compiled system call filter to load.
    #[serde(default)]
    pub(crate) filter: Option<PathBuf>,
    /// The container's own command holds `CAP_SYS_ADMIN` until the filter is loaded.
    #[serde(default)]
    pub(crate) lent_admin: bool,
    /// Mounts of the container that neither hear of the node's nor tell of their own.
    #[serde(default)]
    pub(crate) parted: Vec<Spread>,
    /// The command, for the process runtime alone; otherwise it is in `config.json`.
    #[serde(default)]
    pub(crate) process: Option<Process>,
    #[serde(default)]
    pub(crate) confinement: Option<Confinement>,
}

/// What confines a command of the process runtime.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Confinement {
    /// Without one it shares all of the node's namespaces.
    pub(crate) enclosure: Option<Enclosure>,
    /// A bit for each capability number; `None` leaves what the user has.
    pub(crate) capabilities: Option<u64>,
    /// Where programs named by an absolute path are looked for first.
    pub(crate) programs: Option<PathBuf>,
    pub(crate) oom_score_adj: Option<i32>,
}

impl ShimConfig {
    fn enclosure(&self) -> Option<&Enclosure> {
        self.confinement.as_ref().and_then(|own| own.enclosure.as_ref())
    }

    /// The command line with its program where it really is.
    fn located(&self, args: &[String]) -> Vec<String> {
        let programs = self.confinement.as_ref().and_then(|own| own.programs.as_ref());
        let mut args = args.to_vec();
        if let (Some(programs), Some(program)) = (programs, args.first_mut())
            && let Some(inner) = program.strip_prefix('/')
        {
            let real = programs.join(inner);
            if real.is_file() {
                *program = real.to_string_lossy().into_owned();
            }
        }
        args
    }
}

/// Runs one container until it has ended. The arguments are those after `shim`:
/// `--dir <attempt directory>`. Standard input is the control connection to the agent.
///
/// Call it from `main` before any thread exists. The result is the process's exit code.
#[must_use]
pub fn shim_main<I>(args: I) -> i32
where
    I: IntoIterator<Item = OsString>,
{
    let mut args = args.into_iter();
    let first = args.next();
    if first.as_ref().is_some_and(|flag| flag == PAUSE_FLAG)
        && let Some(dir) = args.next()
    {
        return pause::run(dir.as_ref(), args);
    }
    let dir = match (first, args.next(), args.next()) {
        (Some(flag), Some(dir), None) if flag == "--dir" => PathBuf::from(dir),
        (Some(flag), Some(dir), None) if flag == PROBE_FLAG => return probe::run(dir.as_ref()),
        _ => {
            complain("usage: atoll shim --dir DIRECTORY (started by the agent, not by hand)");
            return 2;
        }
    };
    let control = match detach() {
        Ok(control) => control,
        Err(error) => {
            complain(&format!("atoll shim: standard input is no control connection: {error}"));
            return 2;
        }
    };
    match run(&dir, &control) {
        Ok(()) => 0,
        Err(failure) => {
            complain(&format!("atoll shim: {}: {}", dir.display(), failure.message));
            let body = Body::Error { code: failure.code, message: failure.message };
            if let Err(error) = seqpacket::send(&control, &Reply::new(body), &[]) {
                complain(&format!("atoll shim: the agent is gone: {error}"));
            }
            1
        }
    }
}

#[allow(clippy::print_stderr, reason = "the shim's standard error is its own log file")]
fn complain(message: &str) {
    eprintln!("{message}");
}

/// Why the shim gives up, in the agent's terms.
struct Failure {
    code: ErrorCode,
    message: String,
}

impl Failure {
    fn create(message: impl Into<String>) -> Failure {
        Failure { code: ErrorCode::Create, message: message.into() }
    }
}

/// Takes the control connection from standard input and leaves the agent's session.
fn detach() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(stdin.as_fd())?;
    let control = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?;
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if let Err(error) = rustix::process::setsid() {
        // Only a session leader cannot make a session, and it has one already.
        complain(&format!("atoll shim: setsid: {error}"));
    }
    Ok(control)
}

fn run(dir: &Path, control: &OwnedFd) -> Result<(), Failure> {
    let config = read_config(dir)?;
    settle();
    let listener = listen(&config.socket)?;
    if let Err(failure) = reserve_exit(dir) {
        // A new agent that found nobody here may have taken the folder away: nobody else knows
        // of the socket.
        release(&config, dir);
        return Err(failure);
    }
    let launched = match launch::launch(&config, dir) {
        Ok(launched) => launched,
        Err(message) => {
            record_failure(dir, &message);
            release(&config, dir);
            return Err(Failure::create(message));
        }
    };
    let state = ShimState {
        version: SHIM_VERSION,
        pid: launched.pid.as_raw_nonzero().get(),
        start_ticks: crate::file::start_ticks(launched.pid.as_raw_nonzero().get()).unwrap_or(0),
        shim_pid: rustix::process::getpid().as_raw_nonzero().get(),
        boot_id: crate::file::boot_id(),
        started_at: None,
    };
    write_state(dir, &state);
    let watcher = control.try_clone().map_err(|e| Failure::create(e.to_string()))?;
    let mut server = serve::Server::new(config, dir.to_owned(), listener, launched, state)
        .map_err(|e| Failure::create(e.to_string()))?;
    server.add_watcher(watcher);
    server.run();
    Ok(())
}

fn read_config(dir: &Path) -> Result<ShimConfig, Failure> {
    let path = dir.join(SHIM_FILE);
    let text =
        fs::read(&path).map_err(|e| Failure::create(format!("reading {}: {e}", path.display())))?;
    let config: ShimConfig = serde_json::from_slice(&text)
        .map_err(|e| Failure::create(format!("{} is not valid: {e}", path.display())))?;
    if config.version > SHIM_VERSION {
        return Err(Failure::create(format!(
            "{} has version {}, this program reads up to {SHIM_VERSION}",
            path.display(),
            config.version
        )));
    }
    Ok(config)
}

/// Joins the shims' cgroup. Entering a cgroup can wait tens of milliseconds for the
/// kernel, so this comes after the container has started.
fn join_shims(config: &ShimConfig) {
    if let Err(error) = config.cgroups.join_for_memory(&config.shim_cgroup) {
        complain(&format!("atoll shim: joining cgroup {}: {error}", config.shim_cgroup));
    }
}

/// Finds its place: reaper of orphans, late victim.
fn settle() {
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        complain(&format!("atoll shim: becoming the reaper of orphans: {error}"));
    }
    // A huge page for a few kilobytes of heap would be most of a shim's memory.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        complain(&format!("atoll shim: huge pages: {error}"));
    }
    // Forbidden without the capability; then it keeps the agent's score.
    if fs::write("/proc/self/oom_score_adj", SHIM_OOM_SCORE).is_err() {
        complain("atoll shim: the host forbids a lower OOM score");
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Err(error) = rustix::process::chdir("/") {
        complain(&format!("atoll shim: chdir: {error}"));
    }
}

fn listen(path: &Path) -> Result<OwnedFd, Failure> {
    let failed = |e: io::Error| Failure::create(format!("listening on {}: {e}", path.display()));
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    seqpacket::listen(path).map_err(failed)
}

fn reserve_exit(dir: &Path) -> Result<(), Failure> {
    let path = dir.join(EXIT_RESERVE_FILE);
    fs::write(&path, [b' '; EXIT_RESERVE_BYTES])
        .map_err(|e| Failure::create(format!("writing {}: {e}", path.display())))
}

/// Writes `exit.json` into the room that was reserved, so that a full disk cannot lose it.
fn write_exit(dir: &Path, exit: &Exit) -> io::Result<()> {
    let mut text = serde_json::to_vec(exit)?;
    let reserve = dir.join(EXIT_RESERVE_FILE);
    if text.len() < EXIT_RESERVE_BYTES {
        text.resize(EXIT_RESERVE_BYTES, b' ');
    }
    let file = fs::File::options().write(true).create(true).truncate(false).open(&reserve)?;
    rustix::io::pwrite(&file, &text, 0)?;
    fs::rename(&reserve, dir.join(EXIT_FILE))
}

fn record_failure(dir: &Path, message: &str) {
    let exit = Exit {
        version: EXIT_VERSION,
        code: CODE_NOT_STARTED,
        signal: None,
        oom_killed: false,
        unknown: false,
        start_error: Some(message.to_owned()),
        started_at: None,
        finished_at: now(),
    };
    if let Err(error) = write_exit(dir, &exit) {
        complain(&format!("atoll shim: writing the exit record: {error}"));
    }
}

fn write_state(dir: &Path, state: &ShimState) {
    let written = serde_json::to_vec(state).map_err(|e| e.to_string()).and_then(|text| {
        crate::file::write_atomic(&dir.join(STATE_FILE), &text).map_err(|e| e.to_string())
    });
    if let Err(error) = written {
        complain(&format!("atoll shim: writing the state: {error}"));
    }
}

/// Takes down what the container leaves in the system.
fn release(config: &ShimConfig, dir: &Path) {
    if config.kind == Kind::Oci {
        if let Err(error) = config.cgroups.kill(&config.cgroup) {
            complain(&format!("atoll shim: {error}"));
        }
        // The agent removes it again: the last processes may take a moment to go.
        if let Err(error) = config.cgroups.remove(&config.cgroup) {
            complain(&format!("atoll shim: {error}"));
        }
        let state = dir.join(launch::OCI_STATE_DIR);
        if let Err(error) = fs::remove_dir_all(&state)
            && error.kind() != io::ErrorKind::NotFound
        {
            complain(&format!("atoll shim: removing {}: {error}", state.display()));
        }
    }
    if config.kind == Kind::Process {
        descendants::kill();
    }
    if let Err(error) = fs::remove_file(&config.socket) {
        complain(&format!("atoll shim: removing {}: {error}", config.socket.display()));
    }
}

/// The wall clock; the shim reads it, as nobody could give it the time.
fn now() -> jiff::Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanos = i32::try_from(time.tv_nsec).unwrap_or(0);
    jiff::Timestamp::new(time.tv_sec, nanos).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
