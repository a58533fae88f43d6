//! How a container ended: the content of `exit.json`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of the file's format; a reader refuses a higher one.
pub const EXIT_VERSION: u32 = 1;

/// The exit code that is reported when nobody could know the real one.
pub const CODE_UNKNOWN: i32 = 137;

/// How a container's first process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub version: u32,
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The kernel killed a process of this container for lack of memory, and its first
    /// process died by SIGKILL.
    #[serde(default)]
    pub oom_killed: bool,
    /// The shim was gone, so that code and signal are not known: report
    /// `ContainerStatusUnknown`.
    #[serde(default)]
    pub unknown: bool,
    /// Why the container never ran its command (a missing executable, a refused mount).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<String>,
    /// When the command began; absent when it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

impl Exit {
    /// The record for a container whose shim was killed: its exit code is lost.
    #[must_use]
    pub fn unknown(started_at: Option<Timestamp>, finished_at: Timestamp) -> Exit {
        Exit {
            version: EXIT_VERSION,
            code: CODE_UNKNOWN,
            signal: None,
            oom_killed: false,
            unknown: true,
            start_error: None,
            started_at,
            finished_at,
        }
    }
}
