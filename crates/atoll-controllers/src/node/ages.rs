//! How long taints have been on their nodes, by a clock that nobody sets.
//!
//! A taint carries the time of day at which it came. Once it has been seen here it ages by
//! our own monotonic clock: setting the machine's clock neither throws pods out nor keeps
//! them. What came before we started has the age that the clock gives it, or none.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

struct Seen {
    taint: Taint,
    age: Duration,
    at: Instant,
}

/// By name of node: the taints that throw out pods.
#[derive(Default)]
pub(super) struct Ages {
    seen: Mutex<HashMap<String, Vec<Seen>>>,
}

impl Ages {
    /// The node's NoExecute taints with their ages. `now` is the time of day.
    pub(super) fn of(&self, node: &Node, now: Timestamp) -> Vec<(Taint, Duration)> {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.remove(&node.name_any()).unwrap_or_default();
        let current: Vec<Seen> = taints
            .filter(|taint| taint.effect == "NoExecute")
            .map(|taint| {
                let before = known.iter().find(|one| one.taint == *taint);
                let (age, at) = before.map_or_else(
                    || (age(taint, now), Instant::now()),
                    |before| (before.age, before.at),
                );
                Seen { taint: taint.clone(), age, at }
            })
            .collect();
        let ages = current.iter().map(|one| (one.taint.clone(), one.age + one.at.elapsed()));
        let ages = ages.collect();
        if !current.is_empty() {
            seen.insert(node.name_any(), current);
        }
        ages
    }

    pub(super) fn forget(&self, node: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}

fn age(taint: &Taint, now: Timestamp) -> Duration {
    let age = taint.time_added.as_ref().map(|added| now.duration_since(added.0));
    age.filter(|age| !age.is_negative()).map_or(Duration::ZERO, |age| age.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(taints: Value) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": "a" }, "spec": { "taints": taints } }))
            .unwrap()
    }

    fn seconds(ages: &[(Taint, Duration)]) -> Vec<u64> {
        ages.iter().map(|(_, age)| age.as_secs()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_changes_no_age() {
        let added = "2026-01-01T12:00:00Z";
        let lost = node(json!([{ "key": "lost", "effect": "NoExecute", "timeAdded": added }]));
        let noon: Timestamp = added.parse().unwrap();
        let hour = jiff::SignedDuration::from_hours(1);
        let ages = Ages::default();
        let two = jiff::SignedDuration::from_secs(2);
        assert_eq!(seconds(&ages.of(&lost, noon + two)), [2], "it was there before we were");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(seconds(&ages.of(&lost, noon + hour)), [5]);
        assert_eq!(seconds(&ages.of(&lost, noon - hour)), [5]);
        assert_eq!(seconds(&Ages::default().of(&lost, noon - hour)), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_taint_that_came_back_is_young_again() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        // People's own taints have no time.
        let lost = node(json!([{ "key": "mine", "effect": "NoExecute" }]));
        let ages = Ages::default();
        assert_eq!(seconds(&ages.of(&lost, now)), [0]);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(seconds(&ages.of(&lost, now)), [9]);
        assert_eq!(seconds(&ages.of(&node(json!([])), now)), Vec::<u64>::new());
        assert_eq!(seconds(&ages.of(&lost, now)), [0]);
    }
}
