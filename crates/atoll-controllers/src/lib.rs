//! The controllers: each makes one kind of object true, by the Kubernetes API alone.
//!
//! [`start`] runs them all on shared informers. None polls: each works from what watches
//! report, and would run on any Kubernetes.

mod claim;
mod deployment;
mod error;
mod launch;
mod pods;
mod replicaset;
mod selector;
mod shared;

pub use shared::ClientFor;
