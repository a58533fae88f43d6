//! The ReplicaSet's status from its pods, written only when it differs.

use super::{Replicated, seconds};
use crate::{
    error::{Error, failed},
    pods, selector,
};
use atoll_informer::Outcome;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::sync::Arc;

pub(super) async fn write<K: Replicated>(
    client: &Client,
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> Result<(), Error> {
    let mut status = derive(set, owned, failure, now);
    if !K::COUNTS_TERMINATING {
        status.terminating_replicas = None;
    }
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let namespace = set.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut value = complete(&status);
    if let Some(fields) = value.as_object_mut().filter(|_| !K::COUNTS_TERMINATING) {
        fields.remove("terminatingReplicas");
    }
    let patch = serde_json::json!({ "status": value });
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("writing the status of", K::WORD, set.name_any()))?;
    Ok(())
}

/// A merge patch removes only what it names, so absent fields are named with null.
fn complete(status: &ReplicaSetStatus) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for name in [
            "availableReplicas",
            "readyReplicas",
            "fullyLabeledReplicas",
            "terminatingReplicas",
            "conditions",
        ] {
            fields.entry(name).or_insert(serde_json::Value::Null);
        }
    }
    value
}

fn derive(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template_labels =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.as_ref());
    let live: Vec<&Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    let count = |wanted: &dyn Fn(&Pod) -> bool| {
        let count = live.iter().filter(|pod| wanted(pod)).count();
        i32::try_from(count).ok().filter(|count| *count > 0)
    };
    let terminating = owned
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod))
        .count();
    ReplicaSetStatus {
        replicas: i32::try_from(live.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: count(&|pod| selector::contains_all(template_labels, pod.labels())),
        ready_replicas: count(&pods::is_ready),
        available_replicas: count(&|pod| pods::available_in(pod, min_ready, now) == Some(0)),
        terminating_replicas: i32::try_from(terminating).ok(),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
    }
}

/// ReplicaFailure is present exactly while the last pass could not write a pod.
fn conditions(
    set: &ReplicaSet,
    failure: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = set.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = known.unwrap_or_default();
    let message = failure.map(|error| error.cause().unwrap_or_else(|| error.to_string()));
    // The first failure stands until a pass succeeds: a refusal names the pod, and each
    // attempt has another name.
    let known = conditions.iter().any(|one| one.type_ == "ReplicaFailure");
    if !(known && message.is_some()) {
        conditions.retain(|one| one.type_ != "ReplicaFailure");
        if let Some(message) = message {
            let deleting = matches!(failure, Some(Error::Write { verb: "deleting", .. }));
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(if deleting { "FailedDelete" } else { "FailedCreate" }.into()),
                message: Some(message),
                last_transition_time: Some(Time(whole_seconds(now))),
            });
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// When the earliest pod that is ready but not yet available becomes available.
pub(super) fn next_look(set: &ReplicaSet, owned: &[Arc<Pod>], now: Timestamp) -> Outcome {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let waits = owned.iter().filter_map(|pod| pods::available_in(pod, min_ready, now));
    match waits.filter(|wait| *wait > 0).min() {
        Some(wait) => Outcome::After(seconds(wait)),
        None => Outcome::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ready_pod(since: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": "p", "labels": { "app": "web" } },
                "status": { "phase": "Running", "conditions": [
                    { "type": "Ready", "status": "True", "lastTransitionTime": since },
                ] },
            }))
            .unwrap(),
        )
    }

    fn set(min_ready: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "generation": 3 },
            "spec": { "minReadySeconds": min_ready, "selector": {},
                      "template": { "metadata": { "labels": { "app": "web" } } } },
        }))
        .unwrap()
    }

    #[test]
    fn a_ready_pod_is_available_only_after_min_ready_seconds() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let owned = [ready_pod("2026-01-01T00:00:05Z")];
        let status = derive(&set(30), &owned, None, now);
        assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), None));
        assert_eq!(next_look(&set(30), &owned, now), Outcome::After(seconds(25)));
        assert_eq!(derive(&set(5), &owned, None, now).available_replicas, Some(1));
    }
}
