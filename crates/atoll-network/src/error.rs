//! What can go wrong with a node's network, with the object, the cause and the remedy.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::netlink::NetlinkError;
use crate::netns::NetnsError;
use crate::settings::Ipv4Net;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}")]
    Netlink { what: String, source: NetlinkError },
    #[error("{what}")]
    Namespace { what: String, source: NetnsError },
    #[error("{action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the lease {path} cannot be read; delete it once its sandbox is gone")]
    BadLease { path: PathBuf, source: serde_json::Error },
    #[error("all addresses of {cidr} are leased; delete sandboxes or give the node a larger range")]
    NoAddress { cidr: Ipv4Net },
    #[error("{cidr} is too small for sandboxes; give the node at least a /30")]
    TooSmall { cidr: Ipv4Net },
    #[error("host port {port} is taken by {holder}")]
    HostPortTaken { port: u16, holder: String },
    #[error(
        "the sandbox {uid} would have the link {link}, which is that of {holder}; \
         delete one of the two and let it be made anew"
    )]
    LinkTaken { link: String, uid: String, holder: String },
    #[error("the node's address {address} is on none of its links")]
    NoUplink { address: Ipv4Addr },
    #[error("the link {link} is not there although it was just made")]
    LinkVanished { link: String },
    #[error("services must be synchronised once before changes to them are applied")]
    NotSynchronised,
    #[error("the cluster id {id:?} is unusable; take 1 to 10 lower-case letters and digits")]
    BadClusterId { id: String },
    #[error("{count} nodes do not fit on one machine, {max} do", max = crate::underlay::NODES_MAX)]
    TooManyNodes { count: usize },
    #[error("there is no node {node}; there are {known}")]
    UnknownNode { node: String, known: String },
    #[error(
        "the addresses {range} of this cluster are in use on this machine by {holder}; \
         stop that, or start this cluster on another machine"
    )]
    RangeTaken { range: Ipv4Net, holder: String },
    #[error("no free address ranges are left on this machine; stop another cluster")]
    NoFreeRange,
    #[error("the record {path} cannot be read; delete it if its cluster is gone")]
    BadRecord { path: PathBuf, source: serde_json::Error },
    #[error("the background work was cancelled")]
    Cancelled,
}

impl Error {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Netlink { .. }
                | Self::Namespace { .. }
                | Self::File { .. }
                | Self::NoAddress { .. }
        )
    }
}

/// Says what was being done when netlink failed.
pub(crate) trait NetlinkContext<T> {
    fn when(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> NetlinkContext<T> for Result<T, NetlinkError> {
    fn when(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Netlink { what: what(), source })
    }
}

/// Says what was being done when a namespace failed.
pub(crate) trait NetnsContext<T> {
    fn when(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> NetnsContext<T> for Result<T, NetnsError> {
    fn when(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Namespace { what: what(), source })
    }
}
