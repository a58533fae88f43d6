//! Netlink as bytes: a message writer, an attribute reader and a blocking socket.
//!
//! One encoder serves rtnetlink, nf_tables and ctnetlink. Calls take microseconds, so
//! the socket blocks; callers run it off the async threads.

pub(crate) mod route;
mod socket;
mod wire;

pub(crate) use socket::{Family, Socket};
pub(crate) use wire::{Attributes, Message, messages, ne_u32};

use std::io;

/// The kernel refused a request, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("opening a netlink socket")]
    Open { source: io::Error },
    #[error("sending {bytes} bytes by netlink")]
    Send { bytes: usize, source: io::Error },
    #[error("waiting for the kernel's answer by netlink")]
    Receive { source: io::Error },
    #[error("the kernel refused message {index} of the request")]
    Refused { index: u32, source: io::Error },
    #[error("what the kernel lists changes too fast to be listed")]
    Unsteady,
    #[error("the kernel's answer is cut short")]
    Truncated,
    #[error("a name or list is too long for a netlink attribute: {bytes} bytes")]
    TooLong { bytes: usize },
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    pub(crate) fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}

/// For get-or-create and delete: the state that was wanted is there.
pub(crate) fn unless(
    result: Result<(), NetlinkError>,
    tolerated: &[i32],
) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| tolerated.contains(&errno)) => Ok(()),
        other => other,
    }
}
