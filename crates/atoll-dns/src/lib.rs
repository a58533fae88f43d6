//! Cluster DNS: a process of its own on each node, serving the last snapshot it has.
//!
//! Names below the cluster's domain are answered from a [`Snapshot`] that the agent
//! writes; all others go to the upstream resolvers. It knows services and endpoints,
//! and nothing of where they come from.
//!
//! [`serve`] runs until its token is cancelled.

mod answer;
mod cache;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod listen;
mod resolv;
mod server;
mod snapshot;
mod watch;
mod zone;

pub use resolv::Upstreams;
pub use server::{Config, ServeError, serve};
pub use snapshot::{Endpoint, Port, Protocol, SNAPSHOT_VERSION, Service, Snapshot, SnapshotError};
