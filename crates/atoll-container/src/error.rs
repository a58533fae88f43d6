//! Everything that can go wrong, by what failed to happen.

use std::io;
use std::path::PathBuf;

/// An error names the container or file, keeps its cause, and says what to do where known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("{path} holds no valid {what}")]
    Corrupt { what: &'static str, path: PathBuf, source: serde_json::Error },

    #[error("{field} {value:?} is not valid: {reason}")]
    InvalidSpec { field: &'static str, value: String, reason: String },

    #[error("creating the namespaces of sandbox {sandbox}: {what}")]
    Sandbox { sandbox: String, what: &'static str, source: io::Error },

    #[error("starting the shim {shim} of {container}")]
    SpawnShim { container: String, shim: PathBuf, source: io::Error },

    /// The container could not be made; the text is what the runtime said.
    #[error("creating container {container}: {reason}")]
    Create { container: String, reason: String },

    /// The command could not be run (does not exist, is not executable).
    #[error("starting container {container}: {reason}")]
    Start { container: String, reason: String },

    #[error("running a command in container {container}: {reason}")]
    Exec { container: String, reason: String },

    #[error("the shim of {container} is gone; its container cannot be reached any more")]
    ShimGone { container: String },

    #[error("asking the shim of {container}")]
    ShimIo { container: String, source: io::Error },

    #[error("the shim of {container} speaks protocol version {theirs}, this agent speaks {ours}")]
    ProtocolVersion { container: String, theirs: u32, ours: u32 },

    #[error("the shim of {container} refused {request}: {reason}")]
    Refused { container: String, request: &'static str, reason: String },

    #[error("container {container} is not running")]
    NotRunning { container: String },

    #[error("container {container} still runs; kill it before it is removed")]
    StillRunning { container: String },

    #[error("container {container} does not exist")]
    NotFound { container: String },

    #[error("cgroup {path}: {what}")]
    Cgroup { path: PathBuf, what: &'static str, source: io::Error },

    #[error("the {runtime} runtime cannot honour {field}: {reason}")]
    Unsupported { runtime: &'static str, field: &'static str, reason: String },
}

impl Error {
    /// The container's own definition is at fault: the same try fails the same way.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        matches!(self, Error::InvalidSpec { .. } | Error::Unsupported { .. })
    }
}
