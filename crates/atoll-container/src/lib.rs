//! Runs containers and host processes, each under a small shim that outlives the agent.
//!
//! [`Runtime`] is the whole interface. [`OciRuntime`] runs OCI containers (root only),
//! [`ProcessRuntime`] runs commands of the host without root. Both start one
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

pub mod error;
pub mod exit;
pub mod runtime;
pub mod signal;
pub mod spec;

pub use error::Error;
pub use exit::Exit;
pub use runtime::{
    Capabilities, CgroupVersion, ContainerKey, ContainerRef, Event, ExecHandle, Observed, Runtime,
    RuntimeConfig, Sandbox, State, Stats, Streams,
};
pub use signal::Signal;
pub use spec::{
    ContainerSpec, Device, ExecSpec, LogSpec, Mount, MountSource, NamespaceMode, Namespaces,
    Process, Propagation, Resources, SandboxSpec, Scope, Seccomp, Security, Stdio, User,
};
