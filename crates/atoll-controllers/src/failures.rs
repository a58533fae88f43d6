//! How long pods that failed are left alone before others take their place.
//!
//! A node that refuses pods would otherwise get one after the other as fast as it refuses.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The wait after the first failure; each further one twice as long.
const FIRST: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(15 * 60);

struct Entry {
    generation: Option<i64>,
    wait: Duration,
    at: Instant,
}

/// By the uid of the owner and a place: the node of a DaemonSet's pod, the name of a
/// StatefulSet's. Bounded by the places where pods have failed.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<String, HashMap<String, Entry>>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much longer a failed pod stays. A changed owner is tried at once.
    pub(crate) fn left(
        &self,
        owner: &str,
        generation: Option<i64>,
        place: &str,
    ) -> Option<Duration> {
        let all = self.lock();
        let entry = all.get(owner)?.get(place).filter(|entry| entry.generation == generation)?;
        entry.wait.checked_sub(entry.at.elapsed()).filter(|left| !left.is_zero())
    }

    pub(crate) fn count(&self, owner: &str, generation: Option<i64>, place: &str) {
        let mut all = self.lock();
        let places = all.entry(owner.to_owned()).or_default();
        // One that has been well for long begins anew.
        places.retain(|_, entry| {
            entry.generation == generation && entry.at.elapsed() < entry.wait.saturating_add(MAX)
        });
        let wait = places.get(place).map_or(FIRST, |entry| entry.wait.saturating_mul(2).min(MAX));
        places.insert(place.to_owned(), Entry { generation, wait, at: Instant::now() });
    }

    pub(crate) fn forget(&self, owner: &str) {
        self.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_failure_waits_longer_and_a_change_not_at_all() {
        let failures = Failures::default();
        assert_eq!(failures.left("set", Some(1), "a"), None);
        failures.count("set", Some(1), "a");
        assert_eq!(failures.left("set", Some(1), "a"), Some(FIRST));
        assert_eq!(failures.left("set", Some(1), "b"), None);
        assert_eq!(failures.left("set", Some(2), "a"), None);
        tokio::time::advance(FIRST).await;
        assert_eq!(failures.left("set", Some(1), "a"), None);
        failures.count("set", Some(1), "a");
        assert_eq!(failures.left("set", Some(1), "a"), Some(FIRST * 2));
        failures.forget("set");
        assert_eq!(failures.left("set", Some(1), "a"), None);
    }
}
