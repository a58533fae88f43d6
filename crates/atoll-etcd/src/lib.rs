//! The etcd v3 gRPC API: [`server`] gives it over any [`atoll_store::kv::KvStore`], [`external`]
//! is a `KvStore` over an etcd that somebody else runs, [`import`] reads an etcd's snapshots.

mod bolt;
pub mod external;
pub mod import;
pub mod proto;
pub mod server;
