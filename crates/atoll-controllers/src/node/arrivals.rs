//! How long pods have been on their nodes, by a clock that nobody sets.
//!
//! What a pod tolerates for a time it tolerates from when it and the taint first met: a taint
//! that was there long before takes nothing from a pod that comes. Of pods that were bound
//! before we looked the clock tells.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// By uid of the pod: its age on its node when it was first seen there, and when that was.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<HashMap<String, (Duration, Instant)>>);

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Duration, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod is on its node: just now, or as long as its binding is old by the time of day.
    pub(super) fn note(&self, pod: &Pod, just_now: bool, now: Timestamp) {
        let since = now.duration_since(bound_at(pod));
        let age =
            if just_now || since.is_negative() { Duration::ZERO } else { since.unsigned_abs() };
        self.lock().entry(pod.uid().unwrap_or_default()).or_insert_with(|| (age, Instant::now()));
    }

    pub(super) fn forget(&self, pod: &Pod) {
        self.lock().remove(&pod.uid().unwrap_or_default());
    }

    /// How long the pod has been on its node.
    pub(super) fn of(&self, pod: &Pod) -> Duration {
        let seen = self.lock().get(&pod.uid().unwrap_or_default()).copied();
        seen.map_or(Duration::ZERO, |(age, at)| age + at.elapsed())
    }
}

/// When the pod was bound, by its own word.
pub(super) fn bound_at(pod: &Pod) -> Timestamp {
    pods::condition(pod, "PodScheduled")
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map_or_else(|| pods::created_at(pod), |time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_pod_ages_from_when_it_came() {
        let noon: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "status": {"conditions": [{"type": "PodScheduled", "status": "True",
                "lastTransitionTime": "2026-01-01T11:59:50Z"}]},
        }))
        .unwrap();
        let seen = Arrivals::default();
        assert_eq!(seen.of(&pod), Duration::ZERO);
        seen.note(&pod, true, noon);
        tokio::time::advance(Duration::from_secs(3)).await;
        // Once seen it is as old as we know it to be, whatever the time of day.
        seen.note(&pod, false, noon);
        assert_eq!(seen.of(&pod).as_secs(), 3);
        seen.forget(&pod);
        seen.note(&pod, false, noon);
        assert_eq!(seen.of(&pod).as_secs(), 10, "it was there before we were");
    }
}
