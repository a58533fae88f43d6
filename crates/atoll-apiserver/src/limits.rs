//! How much is open at once beside what fairness decides; what comes on top is told to come
//! again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError};

use crate::status::Status;

/// Watches and streams open at once.
const LONG_MAX: usize = 20_000;
/// Requests of this process's own controllers in flight; they have a share of their own, so
/// that a flood from outside does not stop the cluster from healing.
const LOCAL_MAX: usize = 256;

/// Requests at once whose body is read before their sender has proven anything: joining.
const STRANGERS_MAX: usize = 32;

/// Shares of requests in flight.
#[derive(Debug)]
pub struct Limits {
    local: Arc<Semaphore>,
    long: Arc<Semaphore>,
    strangers: Semaphore,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            local: Arc::new(Semaphore::new(LOCAL_MAX)),
            long: Arc::new(Semaphore::new(LONG_MAX)),
            strangers: Semaphore::new(STRANGERS_MAX),
        }
    }
}

impl Limits {
    /// A place for one request that nobody's rights stand behind.
    pub fn admit_stranger(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.strangers.try_acquire().map_err(full)
    }

    /// A place for one request of this process, kept until it is answered.
    pub fn admit_local(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.local.clone().try_acquire_owned().map_err(full)
    }

    /// A place for one watch or stream, kept until it ends.
    pub fn admit_long(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.long.clone().try_acquire_owned().map_err(full)
    }
}

fn full(_: TryAcquireError) -> Status {
    Status::too_many_requests("Too many requests, please try again later.", 1)
}
