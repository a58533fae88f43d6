//! The StatefulSet's status from its pods, written only when it differs.

use super::{
    identity::{replicas, revision_of},
    plan::{Scene, is_available, is_ready, is_rolling},
};
use crate::{
    error::{Error, failed},
    pods,
};
use atoll_informer::Outcome;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetStatus},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::time::Duration;

/// `retired` pods are deleted for an update in this very pass.
pub(super) async fn write(
    client: &Client,
    scene: &Scene<'_>,
    collisions: i32,
    retired: i32,
) -> Result<(), Error> {
    let set = scene.set;
    let status = derive(scene, collisions, retired);
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    for name in ["readyReplicas", "currentReplicas", "updatedReplicas"] {
        // A merge patch removes only what it names.
        if value.get(name).is_none() {
            value[name] = serde_json::Value::Null;
        }
    }
    let api: Api<StatefulSet> =
        Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let patch = serde_json::json!({ "status": value });
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("writing the status of", "statefulset", set.name_any()))?;
    Ok(())
}

pub(super) fn derive(scene: &Scene<'_>, collisions: i32, retired: i32) -> StatefulSetStatus {
    let count = |of: &dyn Fn(&Pod) -> bool| -> i32 {
        let count = scene.pods.values().filter(|pod| of(pod)).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let made_from = |revision: &str| {
        count(&|pod| {
            pod.metadata.deletion_timestamp.is_none() && revision_of(pod) == Some(revision)
        })
    };
    let (all, ready) = (count(&|_| true), count(&is_ready));
    let updated = made_from(scene.update);
    let mut current = (made_from(scene.current) - retired).max(0);
    let mut current_revision = scene.current;
    let wanted = scene.set.spec.as_ref().map_or(0, replicas);
    let done = [updated, ready, all].iter().all(|count| *count == wanted);
    if done && scene.set.spec.as_ref().is_some_and(is_rolling) {
        (current, current_revision) = (updated, scene.update);
    }
    let some = |count: i32| (count > 0).then_some(count);
    let known = scene.set.status.as_ref();
    StatefulSetStatus {
        replicas: all,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|pod| is_available(scene, pod))),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(current_revision.to_owned()),
        update_revision: Some(scene.update.to_owned()),
        collision_count: Some(collisions),
        observed_generation: scene.set.metadata.generation,
        conditions: known.and_then(|status| status.conditions.clone()),
    }
}

/// When the earliest pod that is ready but not yet available becomes available.
pub(super) fn next_look(scene: &Scene<'_>) -> Outcome {
    let spec = scene.set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let waits = scene.pods.values().filter_map(|pod| pods::available_in(pod, min_ready, scene.now));
    match waits.filter(|wait| *wait > 0).min() {
        Some(wait) => Outcome::After(Duration::from_secs(u64::try_from(wait).unwrap_or(1))),
        None => Outcome::Done,
    }
}
