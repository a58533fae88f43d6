//! The Kubernetes HTTP API over the store: one generic path for every kind.
//!
//! A request becomes a [`request::RequestInfo`], its sender a [`user::UserInfo`]; authorization
//! and admission come next, then the verb, which works on object trees by the row of the kind
//! in `atoll_api::kinds`. No code here is particular to one kind but for the hooks that need
//! the store (allocations, bindings, evictions, streams to nodes).

pub mod admission;
mod aggregate;
mod allocate;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod backup;
pub mod body;
mod bootstrap;
pub mod cache;
mod call;
mod compress;
mod computed;
pub mod config;
pub mod core;
mod course;
mod crd;
mod create;
mod decode;
mod delete;
mod discovery;
pub mod encryption;
pub mod etcd_import;
mod expiry;
pub mod extension;
mod fairness;
#[doc(hidden)]
pub mod fuzz;
mod health;
pub mod heartbeat;
pub mod hook;
mod hop_by_hop;
mod initial;
pub mod join;
mod limits;
mod list;
mod maintenance;
mod managed;
mod metrics;
mod metrics_api;
mod namespace;
mod negotiate;
mod openapi;
mod part;
mod patch;
mod pipeline;
mod plain;
mod proxy;
mod query;
pub mod registry;
mod render;
mod request;
mod selection;
pub mod server;
pub mod servers;
mod sockets;
pub mod status;
pub mod storage;
mod stream;
mod table;
pub mod tls;
pub mod tokens;
pub mod trust;
mod turns;
mod update;
mod upgraded;
pub mod user;
mod verbs;
mod version;
mod watch;

pub use audit::AuditConfig;
pub use config::Config;
pub use server::{Access, ApiServer, LocalService, StartError};
pub use servers::ServersConfig;
pub use trust::{Trust, TrustConfig};
pub use user::UserInfo;
