//! Cluster DNS: a process of its own on each node, serving the last snapshot it has.
//!
//! `serve(Config{ listen: Vec<SocketAddr>, snapshot: PathBuf, cluster_domain: String,
//! upstreams: Upstreams }, CancellationToken) -> Result<(), ServeError>`

mod snapshot;

pub use snapshot::{
    Endpoint, Port, Protocol, SNAPSHOT_VERSION, Service, Snapshot, SnapshotError,
};
