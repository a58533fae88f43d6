//! The node agent: makes this machine match the pods that are assigned to it.
//!
//! ```text
//! Agent::run(Config, Shutdown) -> Result<(), Error>     (async; until shutdown)
//! ```
//!
//! It reaches the cluster only through the Kubernetes API, and the machine only through
//! the engines (`atoll-container`, `atoll-image`, `atoll-network`), which know no pods.
//! Everything that decides is pure and stands apart from what acts; the state of the
//! containers is what the runtime shows, so an agent that restarts goes on where the last
//! one stopped.

pub mod agent;
pub mod amount;
pub mod checkpoint;
pub mod config;
pub mod context;
pub mod error;
pub mod eviction;
pub mod fd_stream;
pub mod garbage;
pub mod kubelet;
pub mod machine;
pub mod network;
pub mod node;
pub mod objects;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod rootless;
pub mod teardown;
pub mod tls;
pub mod volume;

pub use agent::{Agent, Shutdown};
pub use config::Config;
pub use error::Error;
pub use node::heartbeat::{ServerClient, Servers};
pub use tls::KubeletTls;
