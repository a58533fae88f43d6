//! Probes: asks a container whether it has started, lives, and is ready.
//!
//! A [`Worker`] runs one probe of one run of a container and reports changes of its
//! verdict; the pod's task decides what they mean. Startup comes first: the task starts
//! the other workers when it has succeeded.

pub mod counts;
pub mod exec;
pub mod grpc;
pub mod http;
pub mod streak;
pub mod tcp;
pub mod worker;

pub use counts::Counts;
pub use streak::Streak;
pub use worker::{Kind, Report, Worker};

/// What one probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// It counts as a success, but a person should know.
    Warning(String),
    Failure(String),
    /// The probe itself could not be made; says nothing about the container.
    Broken(String),
}
