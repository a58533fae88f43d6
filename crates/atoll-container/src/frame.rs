//! The words that agent and shim exchange: JSON in SOCK_SEQPACKET messages.
//!
//! Every message names its version. Shims outlive upgrades of the agent, so a field is
//! only ever added, with a default; a shim answers what it does not know with an error.

use serde::{Deserialize, Serialize};

use crate::exit::Exit;
use crate::runtime::TermSize;
use crate::spec::Process;

pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// Longest message; a command line that needs more is refused.
pub(crate) const FRAME_BYTES_MAX: usize = 192 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) v: u32,
    #[serde(flatten)]
    pub(crate) op: Op,
}

impl Request {
    pub(crate) fn new(op: Op) -> Request {
        Request { v: PROTOCOL_VERSION, op }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Op {
    /// Answered by `Status`; then `Started`, `Oom` and `Exited` follow as they happen.
    Watch,
    /// Answered by `Done` once the command runs.
    Start,
    /// Descriptors of the given streams follow in the order stdin, stdout, stderr.
    /// Answered by `ExecStarted` (with the terminal, if one was asked for); `ExecExited`
    /// follows. Closing the connection kills the command.
    Exec { process: Process, privileged: bool, stdin: bool, stdout: bool, stderr: bool },
    /// Descriptors as for `Exec`. Answered by `Done`; closing the connection detaches.
    Attach { stdin: bool, stdout: bool, stderr: bool },
    /// For the exec of this connection, else for the container's own terminal.
    Resize(TermSize),
    /// For the exec of this connection, else for the container's first process.
    Signal { signal: i32 },
    /// Opens the log file anew (somebody moved it).
    ReopenLog,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) v: u32,
    #[serde(flatten)]
    pub(crate) body: Body,
}

impl Reply {
    pub(crate) fn new(body: Body) -> Reply {
        Reply { v: PROTOCOL_VERSION, body }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Body {
    Status(ShimState),
    Done,
    Started(ShimState),
    ExecStarted { pid: i32 },
    ExecExited { code: i32 },
    Oom,
    Exited { exit: Exit },
    Error { code: ErrorCode, message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorCode {
    /// The container could not be made.
    Create,
    /// Its command could not be run.
    Start,
    Exec,
    /// Not in this state.
    State,
    /// The request itself is not understood.
    Request,
}

/// Also the content of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimState {
    pub(crate) version: u32,
    pub(crate) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: guards against a reused pid.
    pub(crate) start_ticks: u64,
    pub(crate) shim_pid: i32,
    /// Pids and ticks begin anew with each boot.
    #[serde(default)]
    pub(crate) boot_id: String,
    #[serde(default)]
    pub(crate) started_at: Option<jiff::Timestamp>,
}

impl ShimState {
    /// Whether the container's first process runs still.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot_id == crate::file::boot_id() && crate::file::is_alive(self.pid, self.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_its_version_and_ignores_later_fields() {
        let text = serde_json::to_string(&Request::new(Op::Start)).unwrap();
        assert_eq!(text, r#"{"v":1,"op":"start"}"#);
        let later = r#"{"v":1,"op":"attach","stdin":true,"stdout":true,"stderr":false,"new":1}"#;
        let request: Request = serde_json::from_str(later).unwrap();
        assert!(matches!(request.op, Op::Attach { stdin: true, stdout: true, stderr: false }));
    }
}
