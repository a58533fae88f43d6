//! Shared caches of the API's objects, and the queues that controllers work from.
//!
//! One [`Informer`] a kind is listed and watched once, whoever reads it; a [`WorkQueue`]
//! holds the names of objects to look at, each at most once and with backoff. It is what
//! client-go calls shared informers and rate-limiting work queues.

mod cache;
mod informer;
mod queue;

pub use cache::{Cache, Change, Key};
pub use informer::Informer;
pub use queue::{Outcome, WorkQueue, run_workers};
