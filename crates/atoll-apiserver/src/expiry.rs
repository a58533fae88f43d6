//! Objects that go away by themselves: Events, after an hour, as upstream's do.
//!
//! They are bound to leases of the store. One lease serves all that are written within a
//! minute, so that there are not as many leases as Events.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use atoll_api::kinds::ResourceInfo;
use atoll_store::kv::LeaseId;
use tokio::time::Instant;

use crate::core::Core;
use crate::status::Status;

/// Stored resources whose objects expire, and after how many seconds.
const EXPIRING: [(&str, &str, i64); 1] = [("", "events", 3600)];
/// How long one lease is given to new objects.
const SHARED_FOR: Duration = Duration::from_secs(60);

/// The lease that is being given out.
#[derive(Debug, Default)]
pub struct Leases {
    current: Mutex<Option<(LeaseId, Instant)>>,
}

impl Leases {
    /// The lease for an object of this row; 0 for one that stays.
    pub(crate) async fn of(&self, core: &Core, row: &ResourceInfo) -> Result<LeaseId, Status> {
        let stored = (&*row.storage.group, &*row.storage.resource);
        let ttl = EXPIRING.iter().find(|(group, resource, _)| (*group, *resource) == stored);
        let Some((_, _, ttl)) = ttl else { return Ok(0) };
        if let Some(lease) = self.shared() {
            return Ok(lease);
        }
        let seconds = ttl + i64::try_from(SHARED_FOR.as_secs()).unwrap_or(0);
        let granted = core.storage.kv().lease_grant(0, seconds).await;
        let (lease, _) = granted.map_err(|error| Status::store(&error))?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((lease, Instant::now() + SHARED_FOR));
        Ok(lease)
    }

    fn shared(&self) -> Option<LeaseId> {
        let current = *self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.filter(|(_, until)| Instant::now() < *until).map(|(lease, _)| lease)
    }
}
