//! Runs containers and host processes, each under a small shim that outlives the agent.
//!
//! [`Runtime`] is the whole interface. [`OciRuntime`] runs OCI containers (root only),
//! [`ProcessRuntime`] runs commands without root, shut in where the machine allows user
//! namespaces. Both start one
//! `atoll shim` process per container; [`shim_main`] is that process, and the binary's
//! `main` branches to it before it makes any thread.
//!
//! ```text
//! OciRuntime::new(RuntimeConfig) -> Result<OciRuntime>          (async; adopts nothing until `list`)
//! ProcessRuntime::new(RuntimeConfig) -> Result<ProcessRuntime>  (async)
//! shim_main(args) -> i32                                        (exit code for the process)
//! ```
//!
//! This crate does not know images (it takes a root directory), networks (it takes
//! namespace paths) or pods (it takes sandboxes and containers).

mod beneath;
mod bundle;
mod cgroup;
mod connection;
mod device_filter;
pub mod error;
pub mod exit;
mod file;
mod filters;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod kill;
mod oci;
mod process;
pub mod runtime;
mod sandbox;
mod seqpacket;
mod shim;
mod shimmed;
pub mod signal;
pub mod spec;
mod supervisor;
mod usage;

pub use cgroup::give_back as give_back_cgroup;
pub use connection::register as register_stream;
pub use error::Error;
pub use exit::Exit;
pub use oci::OciRuntime;
pub use process::{ProcessRuntime, obstacle};
pub use runtime::{
    Capabilities, CgroupVersion, ContainerKey, ContainerRef, Event, ExecExit, ExecHandle, Observed,
    Resizer, Runtime, RuntimeConfig, Sandbox, State, Stats, Streams, TermSize,
};
pub use shim::pause::{PAUSE_PROGRAM, pause_main};
pub use shim::shim_main;
pub use signal::Signal;
pub use spec::{
    ContainerSpec, Device, ExecSpec, LogSpec, Mount, MountSource, NamespaceMode, Namespaces,
    Process, Propagation, Resources, Root, SandboxSpec, Scope, Seccomp, Security, Stdio, User,
};
