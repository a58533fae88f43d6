//! Shared caches of the API's objects, and the queues that controllers work from.
//!
//! One [`Informer`] a kind is listed and watched once, whoever reads it; a [`WorkQueue`]
//! holds the names of objects to look at, each at most once and with backoff; a
//! [`Recorder`] writes Events. It is what client-go calls shared informers, rate-limiting
//! work queues and event recorders.

mod cache;
mod informer;
mod queue;
mod recorder;

pub use cache::{Cache, Change, Key};
pub use informer::Informer;
pub use queue::{Outcome, WorkQueue, run_workers};
pub use recorder::{EventType, Recorder};
