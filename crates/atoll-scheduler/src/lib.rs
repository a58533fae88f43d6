//! Binds each pod to the node that suits it best.
//!
//! [`filter`] says which nodes can run a pod and why others cannot, [`score`] which of
//! them is best, [`preempt`] which pods may be pushed off one; all are pure. The scheduler
//! works from watches, one decision at a time, and counts what it has decided before the API
//! shows it; for pods that ask for the same a [`ranking`] of the nodes is kept. Rules and
//! texts are kube-scheduler's.

mod affinity;
mod amounts;
mod bind;
mod cluster;
mod decide;
mod explain;
mod filter;
mod preempt;
mod queue;
mod ranking;
mod run;
mod score;
mod selector;
mod spread;
mod volumes;

pub use filter::{admits_labels, admits_taints};
pub use run::{Config, start};

/// The scheduler that serves pods which do not name one.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
