//! Service ports as the node must serve them: plain state, no API object.

mod diff;
mod plan;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

pub(crate) use diff::{Difference, Ledger, StaleFlows};
pub(crate) use plan::{Affinity, Chain, ElementKey, Front, ListId, Set, Side, Value, port_part};

/// One port of one service: all addresses it answers on, and who answers.
///
/// A headless service has no addresses; passing it is allowed and does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Unique and stable, for instance `namespace/name:port-name`. Session affinity
    /// is kept under it across a restart of the agent.
    pub key: String,
    pub protocol: Protocol,
    pub port: u16,
    /// Addresses inside the cluster.
    pub cluster_addresses: Vec<Ipv4Addr>,
    /// External addresses and those of a load balancer.
    pub external_addresses: Vec<Ipv4Addr>,
    /// Served on every local address but loopback.
    pub node_port: Option<u16>,
    /// Those that may get new connections now. None at all: connections are refused.
    pub endpoints: Vec<Endpoint>,
    /// Connections of one client go to one endpoint for as long as this.
    pub affinity: Option<Duration>,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
}

/// One that answers for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: SocketAddrV4,
    /// Whether it runs on this node.
    pub local: bool,
}

/// Which endpoints traffic may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    /// Those of this node only; external traffic then keeps its source address, and
    /// is dropped where there is none.
    Local,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// A difference from the state that was last synchronised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceChange {
    /// Adds the port, or replaces the one with the same key.
    Set(ServicePort),
    /// By its key; one that is not there is no error.
    Remove(String),
}

#[cfg(test)]
mod tests;
