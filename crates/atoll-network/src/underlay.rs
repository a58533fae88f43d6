//! Many nodes on one machine: a namespace per node, a switch between them, and a link
//! of the host into it, so that the host reaches sandboxes and services.
//!
//! ```text
//! host ── 10.41.0.254 ══ switch (bridge, a namespace of its own) ══ node-k: 10.41.0.k
//! ```
//!
//! All calls are repeatable: what exists is kept. Everything is named by the cluster's
//! id and recorded in `<run>/<cluster>/underlay.json`, from which [`remove`] undoes it even
//! when whoever made it is gone.

mod host;
mod ranges;
mod record;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::settings::Ipv4Net;

pub use host::{create, cut, heal, recorded, remove};
pub use record::FILE as RECORD;

/// A cluster whose nodes share this machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Short and unique on the machine; letters and digits.
    pub cluster_id: String,
    /// The cluster's own folder, for [`recorded`].
    pub data_dir: PathBuf,
    /// Where namespaces and records of all clusters stand, for instance `/run/atoll`.
    pub run_dir: PathBuf,
    /// Node names; the k-th gets address k. At most [`NODES_MAX`].
    pub nodes: Vec<String>,
    /// The ranges the cluster has used before. `None` takes the first free ones.
    /// Ranges that another cluster holds are an error.
    pub ranges: Option<Ranges>,
}

/// Addresses `.1` to `.253` of the underlay; `.254` is the host.
pub const NODES_MAX: usize = 253;

/// The address ranges of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    /// A /24.
    pub underlay: Ipv4Net,
    /// A /16; node k has the k-th /24.
    pub pods: Ipv4Net,
    /// A /16.
    pub services: Ipv4Net,
}

/// A cluster that has an underlay on this machine, whether or not it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    pub cluster_id: String,
    pub data_dir: PathBuf,
}

/// The made underlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    pub cluster_id: String,
    pub run_dir: PathBuf,
    pub ranges: Ranges,
    pub nodes: Vec<UnderlayNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayNode {
    pub name: String,
    pub address: Ipv4Addr,
    pub pod_cidr: Ipv4Net,
    /// `<run>/<cluster>/netns/<node>`: for [`crate::netns::enter`] and `nsenter --net=`.
    pub netns: PathBuf,
}

impl Underlay {
    /// The host's address on the underlay, and the nodes' default gateway.
    pub fn host_address(&self) -> Ipv4Addr {
        self.ranges.host_address()
    }

    pub fn node(&self, name: &str) -> Result<&UnderlayNode, Error> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| Error::UnknownNode {
            node: name.to_owned(),
            known: self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}
