//! Connects the sandboxes of one node with each other, with those of other nodes,
//! with service addresses and with the world; and makes many nodes on one machine.
//!
//! The types are in `settings.rs`, `service.rs`, `ipam.rs`, `underlay.rs`, `netns.rs`
//! (files stand, wired within minutes). The functions, all idempotent:
//!
//! ```text
//! #[derive(Clone)] NodeNetwork                                  // acts on the caller's netns
//! async NodeNetwork::setup(Config) -> Result<NodeNetwork, Error>
//! async attach(&self, uid: &str, netns: &Path, host_ports: &[HostPort]) -> Result<Lease, Error>
//! async detach(&self, uid: &str) -> Result<(), Error>
//! leases(&self) -> Vec<Lease>
//! async sweep(&self, known: &HashSet<String>) -> Result<Vec<String>, Error>   // removed uids
//! async sync_peers(&self, Vec<Peer>) -> Result<(), Error>
//! async sync_services(&self, Vec<ServicePort>) -> Result<(), Error>           // full state
//! async apply(&self, Vec<ServiceChange>) -> Result<(), Error>
//! async forget_flows(&self, Vec<Ipv4Addr>) -> Result<(), Error>  // of endpoints known to be dead
//! async teardown(&self) -> Result<(), Error>
//! NodeId::derive(cluster, node) -> NodeId
//! netns::{make, remove, enter, in_netns, in_netns_async, connect_tcp, listen_tcp, ...}
//! underlay::create(&underlay::Config) -> Result<Underlay, Error>   // blocking, on the host
//! underlay::{cut, heal}(&Underlay, node: &str) -> Result<(), Error>
//! underlay::teardown(run_dir: &Path, cluster_id: &str) -> Result<(), Error>
//! underlay::sweep(run_dir: &Path) -> Result<Vec<String>, Error>    // clusters removed
//! ```
