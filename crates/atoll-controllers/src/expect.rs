//! What a controller's own writes of pods will make the cache show, until it does.
//!
//! The cache lags behind our writes; a pass that counted before it has caught up would
//! create the same pods again (client-go calls these expectations).

use crate::shared::controller_of;
use atoll_informer::{Change, Key, WorkQueue};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// After this time the cache is believed whatever was expected of it: a pod that came and
/// went while no watch was open is never seen (kube-controller-manager's timeout).
const PATIENCE: Duration = Duration::from_secs(5 * 60);

struct Pending {
    since: Instant,
    /// Creations whose answer is still to come.
    unanswered: usize,
    /// Created, not yet seen by the cache.
    created: HashSet<String>,
    /// Seen by the cache before the answer of their creation.
    seen_early: HashSet<String>,
    /// Deleted, not yet seen as such by the cache.
    deleted: HashSet<String>,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            unanswered: 0,
            created: HashSet::new(),
            seen_early: HashSet::new(),
            deleted: HashSet::new(),
        }
    }
}

impl Pending {
    fn is_met(&self) -> bool {
        self.unanswered == 0 && self.created.is_empty() && self.deleted.is_empty()
    }
}

/// By the uid of the owner; an entry lives only while something is pending.
#[derive(Default, Clone)]
pub(crate) struct Expectations(Arc<Mutex<HashMap<String, Pending>>>);

/// One creation under way; if it fails, dropping this forgets it.
pub(crate) struct Creating {
    expectations: Expectations,
    owner: String,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much longer to wait for the cache at most, if something is still expected.
    pub(crate) fn unmet(&self, owner: &str) -> Option<Duration> {
        let mut all = self.lock();
        let pending = all.get(owner).filter(|pending| !pending.is_met())?;
        let left = PATIENCE.checked_sub(pending.since.elapsed()).filter(|left| !left.is_zero());
        if left.is_none() && pending.unanswered == 0 {
            all.remove(owner);
        }
        left
    }

    /// The owner is gone, and nobody will ask again.
    pub(crate) fn forget(&self, owner: &str) {
        self.lock().remove(owner);
    }

    pub(crate) fn creating(&self, owner: &str) -> Creating {
        self.lock().entry(owner.to_owned()).or_default().unanswered += 1;
        Creating { expectations: self.clone(), owner: owner.to_owned() }
    }

    pub(crate) fn deleting(&self, owner: &str, pod: &str) {
        self.lock().entry(owner.to_owned()).or_default().deleted.insert(pod.to_owned());
    }

    pub(crate) fn not_deleted(&self, owner: &str, pod: &str) {
        self.update(owner, |pending| {
            pending.deleted.remove(pod);
        });
    }

    pub(crate) fn observe(&self, owner: &str, change: &Change<'_, Pod>) {
        let Some(uid) = change.object().and_then(|pod| pod.uid()) else { return };
        let leaving = change.new.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        self.update(owner, |pending| {
            if !pending.created.remove(&uid) && pending.unanswered > 0 {
                pending.seen_early.insert(uid.clone());
            }
            if leaving {
                pending.deleted.remove(&uid);
            }
        });
    }

    /// A change of a pod, for its controllers of one kind, before and after: what they expected
    /// may have come, and they take another look.
    pub(crate) fn tell_owners(&self, kind: &str, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        for pod in [change.old, change.new].into_iter().flatten() {
            let owner = controller_of(pod.as_ref()).filter(|owner| owner.kind == kind);
            if let Some(owner) = owner {
                self.observe(&owner.uid, change);
                queue.add(Key::new(pod.namespace().unwrap_or_default(), &owner.name));
            }
        }
    }

    fn update(&self, owner: &str, change: impl FnOnce(&mut Pending)) {
        let mut all = self.lock();
        if let Some(pending) = all.get_mut(owner) {
            change(pending);
            if pending.is_met() {
                all.remove(owner);
            }
        }
    }
}

impl Creating {
    pub(crate) fn created(self, pod: &str) {
        self.expectations.update(&self.owner, |pending| {
            if !pending.seen_early.remove(pod) {
                pending.created.insert(pod.to_owned());
            }
        });
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        self.expectations.update(&self.owner, |pending| {
            pending.unanswered = pending.unanswered.saturating_sub(1)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, deleted: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(uid.into());
        if deleted {
            pod.metadata.deletion_timestamp = Some(
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH),
            );
        }
        Arc::new(pod)
    }

    #[test]
    fn a_created_pod_is_awaited_until_the_cache_shows_it() {
        let expectations = Expectations::default();
        let creating = expectations.creating("set");
        assert!(expectations.unmet("set").is_some());
        creating.created("a");
        assert!(expectations.unmet("set").is_some());
        expectations.observe("set", &Change { old: None, new: Some(&pod("a", false)) });
        assert!(expectations.unmet("set").is_none());
    }

    #[test]
    fn the_cache_may_be_faster_than_the_answer() {
        let expectations = Expectations::default();
        let creating = expectations.creating("set");
        expectations.observe("set", &Change { old: None, new: Some(&pod("a", false)) });
        creating.created("a");
        assert!(expectations.unmet("set").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_never_seen_is_not_awaited_for_ever() {
        let expectations = Expectations::default();
        expectations.creating("set").created("a");
        assert!(expectations.unmet("set").is_some());
        tokio::time::advance(PATIENCE).await;
        assert!(expectations.unmet("set").is_none());
    }

    #[test]
    fn a_failed_creation_is_not_awaited() {
        let expectations = Expectations::default();
        drop(expectations.creating("set"));
        assert!(expectations.unmet("set").is_none());
    }

    #[test]
    fn a_deletion_is_seen_when_the_pod_begins_to_terminate() {
        let expectations = Expectations::default();
        expectations.deleting("set", "a");
        assert!(expectations.unmet("set").is_some());
        let (before, after) = (pod("a", false), pod("a", true));
        expectations.observe("set", &Change { old: Some(&before), new: Some(&after) });
        assert!(expectations.unmet("set").is_none());
    }
}
