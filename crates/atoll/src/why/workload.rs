//! Why a Deployment or ReplicaSet does not have the pods it wants.

use super::{Cause, Seen, pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt as _;

pub fn replica_set(set: &ReplicaSet, pods: &[Seen]) -> Option<Cause> {
    let name = set.name_any();
    let conditions = set.status.as_ref().and_then(|status| status.conditions.as_ref());
    let failure = conditions.into_iter().flatten().find(|one| one.type_ == "ReplicaFailure");
    if let Some(failure) = failure.filter(|one| one.status == "True") {
        let message = failure.message.clone().unwrap_or_default();
        return Some(Cause::new(
            "failing",
            format!("replicaset {name} cannot make its pods: {message}"),
        ));
    }
    let troubled = pods.iter().find_map(|(pod, events)| pod::cause(pod, events));
    if troubled.is_some() {
        return troubled;
    }
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    (ready < wanted).then(|| {
        Cause::new(
            "progressing",
            format!("{ready} of {wanted} pods of replicaset {name} are ready."),
        )
    })
}

/// The newest ReplicaSet is the one that matters: older ones are on their way out.
pub fn deployment(deployment: &Deployment, sets: &[(ReplicaSet, Vec<Seen>)]) -> Option<Cause> {
    let name = deployment.name_any();
    let spec = deployment.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let available =
        deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let newest = sets.iter().max_by_key(|(set, _)| revision(set));
    let cause = newest.and_then(|(set, pods)| replica_set(set, pods));
    if let Some(cause) = cause {
        return Some(cause);
    }
    if spec.and_then(|spec| spec.paused) == Some(true) {
        let sentence = format!("the rollout of deployment {name} is paused.");
        return Some(
            Cause::new("paused", sentence)
                .remedy(format!("`atoll rollout resume deployment/{name}` lets it go on.")),
        );
    }
    (available < wanted).then(|| {
        Cause::new(
            "progressing",
            format!("{available} of {wanted} pods of deployment {name} are available."),
        )
    })
}

fn revision(set: &ReplicaSet) -> i64 {
    let text = set.annotations().get("deployment.kubernetes.io/revision");
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}
