//! The newest version of each owner that its controller has written itself.
//!
//! The caches of owners and of pods follow the server each by itself: the one of pods may show
//! what came after a status while the one of owners still shows what was before it. A pass
//! over that would count again what the status has counted, and run again what has succeeded
//! (kube-controller-manager's gate `StaleControllerConsistencyJob`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Versions by the uid of the owner.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, u64>>);

impl Written {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the server answered to a write.
    pub(crate) fn note(&self, answer: &ObjectMeta) {
        if let (Some(uid), Some(version)) = (&answer.uid, version(answer)) {
            let mut all = self.lock();
            let known = all.entry(uid.clone()).or_default();
            *known = version.max(*known);
        }
    }

    /// Whether this is from before a write: the change itself is still to come.
    pub(crate) fn is_stale(&self, cached: &ObjectMeta) -> bool {
        let Some(uid) = &cached.uid else { return false };
        let Some(written) = self.lock().get(uid).copied() else { return false };
        version(cached).is_some_and(|version| version < written)
    }

    /// The owner is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

/// Versions count up (KEP-5504: clients may compare them).
fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_is_older_than_the_own_write_is_stale_until_the_owner_is_gone() {
        let written = Written::default();
        assert!(!written.is_stale(&meta("a", "1")));
        written.note(&meta("a", "10"));
        // Answers may overtake each other.
        written.note(&meta("a", "9"));
        assert!(written.is_stale(&meta("a", "9")));
        assert!(!written.is_stale(&meta("a", "10")) && !written.is_stale(&meta("a", "100")));
        assert!(!written.is_stale(&meta("b", "9")));
        written.forget("a");
        assert!(!written.is_stale(&meta("a", "9")));
    }
}
