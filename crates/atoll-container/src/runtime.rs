//! The runtime trait: the boundary between the node agent and what runs containers.
//!
//! Every call is idempotent by its key. The directory and the shims are the only truth:
//! an agent that restarts calls `list` and goes on from there.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::error::Error;
use crate::exit::Exit;
use crate::signal::Signal;
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec, Scope};

/// Events kept for a slow subscriber; when it falls further behind, its receiver says
/// `Lagged` and it must call `list`.
pub const EVENTS_MAX: usize = 1024;

/// One way to run containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// The name under which the node announces this runtime: `oci`, `process`.
    fn name(&self) -> &'static str;

    /// What this runtime can honour on this machine.
    fn capabilities(&self) -> &Capabilities;

    /// Makes the sandbox's namespaces, or finds them.
    async fn ensure_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error>;

    /// Changes limits of a sandbox as a whole; what is `None` stays.
    async fn update_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error>;

    /// Kills what is left in it, removes its containers' records, its namespaces and its
    /// cgroup. Does nothing when it is gone.
    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error>;

    /// Kills what is left in it and takes down its namespaces and its cgroup, as a reboot does:
    /// records of its containers stay.
    async fn halt_sandbox(&self, uid: &str) -> Result<(), Error>;

    /// Said before the node itself ends these containers: how they would have ended is not
    /// known, with whatever code they do.
    async fn cut_off(&self, containers: &[ContainerKey]) -> Result<(), Error>;

    /// Makes the container up to the point where only its command has yet to start.
    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerRef, Error>;

    /// Runs the command. A command that does not exist is an error here or in `create`.
    async fn start(&self, container: &ContainerRef) -> Result<(), Error>;

    /// Sends a signal. A container that has ended already is no error.
    async fn signal(
        &self,
        container: &ContainerRef,
        signal: Signal,
        scope: Scope,
    ) -> Result<(), Error>;

    /// Runs a command inside a running container.
    async fn exec(&self, container: &ContainerRef, spec: ExecSpec) -> Result<ExecHandle, Error>;

    /// Connects to the input and output of the container's own command. Output from
    /// before the call is not repeated.
    async fn attach(&self, container: &ContainerRef, stdin: bool) -> Result<Streams, Error>;

    /// Changes limits of a running container.
    async fn update(&self, container: &ContainerRef, resources: &Resources) -> Result<(), Error>;

    /// Current use, from the cgroup.
    async fn stats(&self, container: &ContainerRef) -> Result<Stats, Error>;

    /// Removes an ended container's record (not its log) and what is left of it in the
    /// system. A running one is an error: kill it first. A missing one is not.
    async fn remove(&self, container: &ContainerRef) -> Result<(), Error>;

    /// Every container known from the directory, in no order; also adopts shims that run
    /// and notices those that died.
    async fn list(&self) -> Result<Vec<Observed>, Error>;

    /// One container's state.
    async fn inspect(&self, key: &ContainerKey) -> Result<Option<Observed>, Error>;

    /// Changes from now on. Bounded by [`EVENTS_MAX`].
    fn events(&self) -> broadcast::Receiver<Event>;
}

/// How a runtime is set up. All paths belong to this node alone.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The program to run as `<shim> shim --dir …`: a read-only, root-owned copy.
    pub shim: PathBuf,
    /// Holds `<sandbox>/containers/<name>/<attempt>/`. Must survive a reboot.
    pub pods: PathBuf,
    /// Holds `ns/` and `shim/`; vanishes at reboot. Keep it short: unix socket paths
    /// below it end at 108 bytes.
    pub run: PathBuf,
    /// Cgroup path below each hierarchy's root, for example `/atoll/<cluster>-<node>`.
    pub cgroup_root: String,
    /// Cgroup of the shims, outside `cgroup_root`'s pods: their memory is not a pod's,
    /// and a pod out of memory does not kill its shim.
    pub shim_cgroup: String,
}

/// Names one run of one container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerKey {
    pub sandbox: String,
    pub name: String,
    pub attempt: u32,
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.sandbox, self.name, self.attempt)
    }
}

/// A container that was created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerRef {
    pub key: ContainerKey,
    /// The id of its spec.
    pub id: String,
    /// The attempt's directory.
    pub dir: PathBuf,
}

/// What a runtime can do on this machine; what it cannot is refused, never ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    pub network_namespaces: bool,
    pub cgroup: CgroupVersion,
    pub overlay: bool,
    pub seccomp: bool,
    /// Images as root file system, mounts, users, capabilities.
    pub isolation: bool,
    /// What is missing and why, for people.
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    None,
    V1,
    /// v1 controllers, with a v2 tree beside them.
    Hybrid,
    V2,
}

/// A sandbox's namespaces; `None` where it uses the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub uid: String,
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    /// The namespace of processes that containers share, where the specification asks for one.
    pub pid: Option<PathBuf>,
    /// True when this call made it: whatever ran in an earlier one is lost.
    pub created: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its shim has not said yet; it is being created.
    Creating,
    Created,
    Running {
        pid: i32,
        started_at: Timestamp,
    },
    Exited(Exit),
}

/// One container as found on disk and by asking its shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub container: ContainerRef,
    pub labels: BTreeMap<String, String>,
    pub log: PathBuf,
    pub created_at: Timestamp,
    pub state: State,
    /// The shim answers. A running container without one is adopted by its pid: its exit
    /// code will be unknown, exec and attach are refused.
    pub shim_alive: bool,
}

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Started {
        key: ContainerKey,
    },
    Exited {
        key: ContainerKey,
        exit: Exit,
    },
    /// The kernel killed some process in the container for lack of memory.
    Oom {
        key: ContainerKey,
    },
    /// The container runs on without its shim: its output is lost, and it cannot be entered.
    ShimGone {
        key: ContainerKey,
    },
}

/// Resource use of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_usage_ns: u64,
    pub memory_usage_bytes: u64,
    /// Usage without inactive file cache, as the kubelet computes it.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub pids: u64,
}

/// Terminal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    pub columns: u16,
    pub rows: u16,
}

/// Requests that a handle's owner has not had carried out yet; a caller that sends more
/// waits.
pub(crate) const CONTROL_MAX: usize = 16;

/// What the owner of a stream may ask for.
#[derive(Debug)]
pub(crate) enum Control {
    Resize(TermSize),
    Signal(Signal),
}

/// The ends of a container's input and output. With a terminal, `stdin` and `stdout` are
/// duplicates of one descriptor for exec and pipes for attach, and there is no `stderr`.
/// All descriptors are non-blocking; dropping them detaches.
#[derive(Debug)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub tty: bool,
    pub(crate) control: mpsc::Sender<Control>,
}

impl Streams {
    /// Tells the command its terminal's new size; nothing happens without a terminal or
    /// when the command has ended.
    pub async fn resize(&self, columns: u16, rows: u16) {
        let size = TermSize { columns, rows };
        if self.control.send(Control::Resize(size)).await.is_err() {
            tracing::trace!("resize after the end");
        }
    }

    /// A handle for resizing apart from the descriptors.
    #[must_use]
    pub fn resizer(&self) -> Resizer {
        Resizer { control: self.control.clone() }
    }
}

/// Changes a terminal's size.
#[derive(Debug, Clone)]
pub struct Resizer {
    control: mpsc::Sender<Control>,
}

impl Resizer {
    pub async fn resize(&self, columns: u16, rows: u16) {
        let size = TermSize { columns, rows };
        if self.control.send(Control::Resize(size)).await.is_err() {
            tracing::trace!("resize after the end");
        }
    }
}

/// A command that runs inside a container.
#[derive(Debug)]
pub struct ExecHandle {
    pub streams: Streams,
    pub(crate) exit: oneshot::Receiver<Result<i32, Error>>,
}

impl ExecHandle {
    /// The exit code (128 + signal when a signal ended it). Dropping the handle instead
    /// kills the command.
    pub async fn wait(self) -> Result<i32, Error> {
        wait_exit(self.exit).await
    }

    /// Takes the streams apart from the exit code.
    #[must_use]
    pub fn into_parts(self) -> (Streams, ExecExit) {
        (self.streams, ExecExit { exit: self.exit })
    }

    /// Sends a signal to the command.
    pub async fn signal(&self, signal: Signal) {
        if self.streams.control.send(Control::Signal(signal)).await.is_err() {
            tracing::trace!("signal after the end");
        }
    }
}

/// The end of a command; dropping it kills the command.
#[derive(Debug)]
pub struct ExecExit {
    exit: oneshot::Receiver<Result<i32, Error>>,
}

impl ExecExit {
    pub async fn wait(self) -> Result<i32, Error> {
        wait_exit(self.exit).await
    }
}

async fn wait_exit(exit: oneshot::Receiver<Result<i32, Error>>) -> Result<i32, Error> {
    match exit.await {
        Ok(result) => result,
        Err(_closed) => Err(Error::ShimGone { container: "exec".to_owned() }),
    }
}
