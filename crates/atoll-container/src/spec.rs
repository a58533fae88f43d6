//! What a caller asks for: sandboxes, containers, commands to run inside them.
//!
//! Everything here is plain data and is written as JSON into the attempt's directory
//! (`container.json`), from where it is read back after a restart of the agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::signal::Signal;

/// Namespaces that several containers share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Unique name; a single path component of letters, digits, `-`, `_` and `.`.
    pub uid: String,
    /// Set in the sandbox's own UTS namespace; at most 64 bytes.
    pub hostname: String,
    /// `New`: a network namespace is made and bind-mounted (with `lo` up, else empty),
    /// for a network driver to fill. `Path`: somebody else made it. `Host`: none.
    pub net: NamespaceMode,
    /// `New` or `Host`.
    pub ipc: NamespaceMode,
    /// `New` or `Host`. With a host network callers usually still want `New`.
    pub uts: NamespaceMode,
    /// Its containers may see each other's processes: a namespace with a first process of
    /// its own is there for those that name it.
    #[serde(default)]
    pub shared_processes: bool,
    /// Written below `/proc/sys` inside the sandbox's namespaces: `net.*` and the IPC keys
    /// of `kernel.*` and `fs.mqueue.*` only.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup of the whole sandbox below the cgroup root (`burstable/pod<uid>`), with its
    /// own limits; removed with the sandbox. Empty means none.
    pub cgroup: String,
    pub resources: Resources,
    /// Size of the `/dev/shm` that its containers share; 0 means 64 MiB.
    pub shm_bytes: u64,
}

/// Where a namespace comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceMode {
    /// A new one.
    #[default]
    New,
    /// The one the agent runs in.
    Host,
    /// The one at this path (`/proc/<pid>/ns/…` or a bind mount).
    Path(PathBuf),
}

/// The namespaces of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub net: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    /// `New`: the command is pid 1. `Path`: a shared process namespace.
    pub pid: NamespaceMode,
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
}

impl User {
    /// All supplementary groups. The primary one belongs to them, so that a setgid program
    /// cannot take it away and pass by an access list that denies it.
    pub(crate) fn groups(&self) -> Vec<u32> {
        let mut groups = vec![self.gid];
        groups.extend(self.additional_gids.iter().copied().filter(|gid| *gid != self.gid));
        groups
    }
}

/// A command with its surroundings; used for a container's own command and for exec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The program and its arguments; the program is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// In order; a later entry of the same name wins. `PATH` is added when missing.
    pub env: Vec<(String, String)>,
    /// Absolute; empty means `/`. Created in the container when missing.
    pub cwd: String,
    pub user: User,
    /// Gives the command a terminal: stderr merges into stdout.
    pub tty: bool,
}

/// What a container's input is connected to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdio {
    /// Keeps a pipe open for attach; otherwise stdin is `/dev/null`.
    pub stdin: bool,
    /// Closes stdin after the first attached client is gone.
    pub stdin_once: bool,
}

/// One file system made visible inside a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute path inside the container; created when missing.
    pub destination: PathBuf,
    pub read_only: bool,
    /// No file in it can be run as a program.
    #[serde(default)]
    pub no_exec: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountSource {
    /// A file or directory of the node, with everything mounted below it.
    Bind { path: PathBuf, propagation: Propagation },
    /// Memory; `size_bytes` 0 means the kernel's default (half of memory).
    Tmpfs { size_bytes: u64, mode: u32 },
}

/// Kubernetes' three words for mount propagation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Private: no mount made later crosses.
    #[default]
    None,
    /// Slave: mounts made on the node appear in the container.
    HostToContainer,
    /// Shared: and the other way round. Only for privileged containers.
    Bidirectional,
}

/// A device node of the host given to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    /// Some of `r`, `w`, `m`.
    pub permissions: String,
}

/// System call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile in the OCI runtime specification's JSON (`linux.seccomp`).
    Profile(serde_json::Value),
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, no seccomp, no masked paths, writable sysfs.
    pub privileged: bool,
    /// Added to the default set; with or without `CAP_`; `ALL` is understood.
    pub capabilities_add: Vec<String>,
    /// Dropped from it; drops apply before adds, as upstream does.
    pub capabilities_drop: Vec<String>,
    pub seccomp: Seccomp,
    pub no_new_privileges: bool,
    pub read_only_rootfs: bool,
    /// `procMount: Unmasked`: no masked or read-only paths under `/proc`.
    pub unmasked_proc: bool,
}

/// Limits; `None` means unlimited (or the kernel's default weight).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// cgroup v1 scale, 2 to 262144; converted for v2.
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_limit_bytes: Option<i64>,
    pub pids_limit: Option<i64>,
    pub cpuset_cpus: Option<String>,
}

/// Where output goes and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The file in CRI format; its directory is created.
    pub path: PathBuf,
    pub max_bytes: u64,
    /// The newest file included.
    pub max_files: u32,
}

impl LogSpec {
    /// 10 MiB × 5 files, as the kubelet keeps them.
    #[must_use]
    pub fn new(path: PathBuf) -> LogSpec {
        LogSpec { path, max_bytes: 10 << 20, max_files: 5 }
    }
}

/// What a container sees as `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// What is mounted at `rootfs`. For the OCI runtime.
    #[default]
    Mounted,
    /// An image's layers, lowest first, which the container mounts at `rootfs` in its own
    /// namespace. For the process runtime.
    Layers { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
    /// The node's own root, without what is `hidden`; a program named by an absolute path
    /// is looked for below `programs` first. For the process runtime.
    Node { hidden: Vec<PathBuf>, programs: Option<PathBuf> },
}

/// One container of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The sandbox it belongs to.
    pub sandbox: String,
    /// Unique within the sandbox.
    pub name: String,
    /// Counts the runs of this name from 0. (sandbox, name, attempt) is the key.
    pub attempt: u32,
    /// Kept with the container and given back by `list`: 64 hex digits usually.
    pub id: String,
    /// The caller's own notes, given back by `list`.
    pub labels: BTreeMap<String, String>,
    /// Where the root file system is, or is to be.
    pub rootfs: PathBuf,
    #[serde(default)]
    pub root: Root,
    pub process: Process,
    pub stdio: Stdio,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub namespaces: Namespaces,
    /// Set only when `namespaces.uts` is `New`; otherwise the sandbox's counts.
    pub hostname: Option<String>,
    pub sysctls: BTreeMap<String, String>,
    pub security: Security,
    /// Below the cgroup root of [`crate::RuntimeConfig`], for example
    /// `burstable/pod<uid>/<name>`. Created and removed by the runtime.
    pub cgroup: String,
    pub resources: Resources,
    /// -1000 to 1000; clamped, with one warning, where the host forbids a low value.
    pub oom_score_adj: Option<i32>,
    pub log: LogSpec,
}

/// A command to run in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    pub process: Process,
    pub stdin: bool,
    /// Without stdout (or stderr) that output is discarded.
    pub stdout: bool,
    /// Ignored with a terminal.
    pub stderr: bool,
    /// All capabilities and no seccomp instead of the container's own.
    pub privileged: bool,
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The container's first process.
    Init,
    /// Every process of the container's cgroup; only with SIGKILL.
    All,
}

/// A signal and whom it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    pub signal: Signal,
    pub scope: Scope,
}
