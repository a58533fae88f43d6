//! Connects the sandboxes of one node with each other, with those of other nodes,
//! with service addresses and with the world; and makes many nodes on one machine.
//!
//! Everything is done by netlink: links, addresses and routes by rtnetlink, service
//! addresses by nf_tables, stale flows by ctnetlink. No program is run.
//! It knows sandboxes, leases, peers and service ports; it has never heard of a pod.
//!
//! - [`NodeNetwork`] is the network of one node. It acts on the network namespace of
//!   the calling process: [`NodeNetwork::setup`], [`NodeNetwork::attach`],
//!   [`NodeNetwork::detach`], [`NodeNetwork::sweep`], [`NodeNetwork::sync_peers`],
//!   [`NodeNetwork::sync_services`], [`NodeNetwork::apply`],
//!   [`NodeNetwork::forget_flows`], [`NodeNetwork::repair`], [`NodeNetwork::teardown`].
//! - [`netns`] makes, enters and removes namespaces, and opens sockets inside them.
//! - [`underlay`] gives every node of a development cluster a namespace of its own.

mod conntrack;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod ipam;
mod netlink;
pub mod netns;
mod nft;
mod node;
mod rules;
mod sandbox;
mod service;
mod settings;
mod sysctl;
pub mod underlay;

pub use error::Error;
pub use ipam::{HostPort, Lease};
pub use node::NodeNetwork;
pub use service::{Endpoint, Protocol, ServiceChange, ServicePort, TrafficPolicy};
pub use settings::{Config, Ipv4Net, NodeId, ParseNetError, Peer};
