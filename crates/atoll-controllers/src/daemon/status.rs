//! The DaemonSet's status from nodes and pods, written only when it differs.

use super::{fit::Fit, plan::Scene, template::is_updated};
use crate::{
    error::{Error, failed},
    pods,
};
use atoll_informer::Outcome;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::time::Duration;

/// `observed` says that this pass has acted on the present generation.
pub(super) async fn write(
    client: &Client,
    scene: &Scene<'_>,
    collisions: i32,
    observed: bool,
) -> Result<(), Error> {
    let set = scene.set;
    let status = derive(scene, collisions, observed);
    if set.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    for name in ["numberAvailable", "numberUnavailable", "updatedNumberScheduled"] {
        // A merge patch removes only what it names.
        if value.get(name).is_none() {
            value[name] = serde_json::Value::Null;
        }
    }
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let patch = serde_json::json!({ "status": value });
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("writing the status of", "daemonset", set.name_any()))?;
    Ok(())
}

pub(super) fn derive(scene: &Scene<'_>, collisions: i32, observed: bool) -> DaemonSetStatus {
    let known = scene.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        collision_count: Some(collisions).filter(|count| *count > 0).or(known.collision_count),
        conditions: known.conditions,
        observed_generation: known.observed_generation,
        ..DaemonSetStatus::default()
    };
    if observed {
        status.observed_generation = scene.set.metadata.generation;
    }
    let (mut available, mut updated) = (0, 0);
    for node in &scene.nodes {
        let oldest = scene.on(&node.name_any()).next();
        match (scene.fit(node), oldest) {
            (Fit::Runs, None) => status.desired_number_scheduled += 1,
            (Fit::Runs, Some(pod)) => {
                status.desired_number_scheduled += 1;
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(pods::is_ready(pod));
                available += i32::from(scene.is_available(pod));
                updated += i32::from(is_updated(scene.set, pod, scene.hash));
            }
            (_, Some(_)) => status.number_misscheduled += 1,
            (_, None) => {}
        }
    }
    let some = |count: i32| (count > 0).then_some(count);
    status.number_available = some(available);
    status.updated_number_scheduled = some(updated);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status
}

/// When the earliest pod that is ready but not yet available becomes available.
pub(super) fn next_look(scene: &Scene<'_>) -> Outcome {
    let spec = scene.set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let all = scene.pods.values().flatten();
    let waits = all.filter_map(|pod| pods::available_in(pod, min_ready, scene.now));
    match waits.filter(|wait| *wait > 0).min() {
        Some(wait) => Outcome::After(Duration::from_secs(u64::try_from(wait).unwrap_or(1))),
        None => Outcome::Done,
    }
}
