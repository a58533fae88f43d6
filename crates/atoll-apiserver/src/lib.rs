//! The Kubernetes HTTP API over the store: one generic path for every kind.
//!
//! A request becomes a [`request::RequestInfo`], its sender a [`user::UserInfo`]; authorization
//! and admission come next, then the verb, which works on object trees by the row of the kind
//! in `atoll_api::kinds`. No code here is particular to one kind but for the hooks that need
//! the store (allocations, bindings, evictions, streams to nodes).

pub mod admission;
pub mod authn;
pub mod authz;
pub mod body;
pub mod config;
pub mod core;
pub mod extension;
pub mod status;
pub mod user;
