//! Binds each pod to the node that suits it best.
//!
//! [`filter`] says which nodes can run a pod and why others cannot, [`score`] which of
//! them is best; both are pure. The scheduler works from watches, one decision at a time,
//! and counts what it has decided before the API shows it. Rules and texts are
//! kube-scheduler's; there is no preemption.

mod affinity;
mod amounts;
mod cluster;
mod explain;
mod filter;
mod queue;
mod run;
mod score;
mod selector;
mod spread;

pub use run::{Config, start};

/// The scheduler that serves pods which do not name one.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
