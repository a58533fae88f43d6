//! How far a rollout has come: counts and the conditions Available and Progressing.

use super::{
    plan::Rollout,
    rolling::{Bounds, available, replicas, wanted},
};
use crate::error::{Error, failed};
use atoll_informer::Outcome;
use jiff::Timestamp;
use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use std::time::Duration;

const PROGRESSING: &str = "Progressing";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
pub(super) const SET_CREATE_ERROR: &str = "ReplicaSetCreateError";

pub(super) async fn write(
    client: &Client,
    rollout: &Rollout<'_>,
    now: Timestamp,
) -> Result<(), Error> {
    let status = derive(rollout, now);
    let deployment = rollout.deployment;
    if deployment.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let namespace = deployment.namespace().unwrap_or_default();
    let api: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let mut value = serde_json::to_value(&status).unwrap_or_default();
    for name in [
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
    ] {
        // A merge patch removes only what it names.
        if value.get(name).is_none() {
            value[name] = serde_json::Value::Null;
        }
    }
    let patch = serde_json::json!({ "status": value });
    api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("writing the status of", "deployment", deployment.name_any()))?;
    Ok(())
}

/// Says in the condition Progressing that the API refused the new ReplicaSet.
pub(super) async fn refused(
    client: &Client,
    deployment: &Deployment,
    message: String,
) -> Result<(), Error> {
    if deadline(deployment).is_none() {
        return Ok(());
    }
    let known = deployment.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = known.unwrap_or_default();
    let said = |one: &DeploymentCondition| {
        one.reason.as_deref() == Some(SET_CREATE_ERROR) && one.message.as_ref() == Some(&message)
    };
    if conditions.iter().any(said) {
        return Ok(());
    }
    let verdict = Verdict { kind: PROGRESSING, status: "False", reason: SET_CREATE_ERROR, message };
    set(&mut conditions, verdict, Timestamp::now());
    let api: Api<Deployment> =
        Api::namespaced(client.clone(), &deployment.namespace().unwrap_or_default());
    let patch = serde_json::json!({ "status": { "conditions": conditions } });
    let name = deployment.name_any();
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("writing the status of", "deployment", name))?;
    Ok(())
}

/// All pods are of the present template and available, and none is left of another.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    is_done(rollout, &counts(rollout))
}

fn is_done(rollout: &Rollout<'_>, counts: &DeploymentStatus) -> bool {
    let wanted = Some(replicas(rollout.deployment)).filter(|replicas| *replicas > 0);
    rollout.new.is_some()
        && counts.updated_replicas == wanted
        && counts.replicas == wanted
        && counts.available_replicas == wanted
}

/// Looks again when the progress deadline of an unfinished rollout has passed.
pub(super) fn next_look(rollout: &Rollout<'_>, now: Timestamp) -> Outcome {
    let Some(deadline) = deadline(rollout.deployment) else { return Outcome::Done };
    let progressing = condition(rollout.deployment, PROGRESSING);
    let pending = progressing.filter(|one| {
        !matches!(one.reason.as_deref(), Some(NEW_SET_AVAILABLE | DEADLINE_EXCEEDED))
    });
    let Some(since) = pending.and_then(|one| one.last_update_time.as_ref()) else {
        return Outcome::Done;
    };
    let left = since.0.as_second() + deadline - now.as_second() + 1;
    Outcome::After(Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)))
}

fn counts(rollout: &Rollout<'_>) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| -> Option<i32> {
        let sum: i32 = rollout.all().map(|set| of(set)).sum();
        (sum > 0).then_some(sum)
    };
    let status =
        |set: &ReplicaSet, of: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>| {
            set.status.as_ref().and_then(of).unwrap_or(0)
        };
    let missing = rollout.all().map(|set| wanted(set)).sum::<i32>()
        - rollout.all().map(|set| available(set)).sum::<i32>();
    let updated = rollout.new.as_deref().map_or(0, |set| status(set, |one| Some(one.replicas)));
    DeploymentStatus {
        replicas: sum(&|set| status(set, |one| Some(one.replicas))),
        updated_replicas: (updated > 0).then_some(updated),
        ready_replicas: sum(&|set| status(set, |one| one.ready_replicas)),
        available_replicas: sum(&|set| available(set)),
        unavailable_replicas: (missing > 0).then_some(missing),
        terminating_replicas: Some(
            rollout.all().map(|set| status(set, |one| one.terminating_replicas)).sum(),
        ),
        ..DeploymentStatus::default()
    }
}

fn derive(rollout: &Rollout<'_>, now: Timestamp) -> DeploymentStatus {
    let deployment = rollout.deployment;
    let known = deployment.status.clone().unwrap_or_default();
    let mut status = counts(rollout);
    status.observed_generation = deployment.metadata.generation;
    status.collision_count = known.collision_count;
    let mut conditions = known.conditions.clone().unwrap_or_default();
    set(&mut conditions, available_condition(rollout, &status), now);
    if deadline(deployment).is_none() {
        conditions.retain(|one| one.type_ != PROGRESSING);
    }
    if let Some(progressing) = progressing_condition(rollout, &known, &status, now) {
        set(&mut conditions, progressing, now);
    }
    copy_failure(rollout, &mut conditions);
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}

struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn available_condition(rollout: &Rollout<'_>, status: &DeploymentStatus) -> Verdict {
    let must = replicas(rollout.deployment) - Bounds::of(rollout.deployment).unavailable;
    if status.available_replicas.unwrap_or(0) >= must {
        Verdict {
            kind: "Available",
            status: "True",
            reason: "MinimumReplicasAvailable",
            message: "Deployment has minimum availability.".into(),
        }
    } else {
        Verdict {
            kind: "Available",
            status: "False",
            reason: "MinimumReplicasUnavailable",
            message: "Deployment does not have minimum availability.".into(),
        }
    }
}

fn progressing_condition(
    rollout: &Rollout<'_>,
    known: &DeploymentStatus,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<Verdict> {
    let deployment = rollout.deployment;
    let deadline = deadline(deployment)?;
    let verdict =
        |status, reason, message| Some(Verdict { kind: PROGRESSING, status, reason, message });
    let before = condition(deployment, PROGRESSING);
    let reason = before.and_then(|one| one.reason.as_deref());
    let spec = deployment.spec.as_ref();
    if spec.and_then(|spec| spec.paused) == Some(true) {
        let message = "Deployment is paused".into();
        // A lack of progress that was reported is not hidden by a pause.
        return (!matches!(reason, Some("DeploymentPaused" | DEADLINE_EXCEEDED)))
            .then(|| verdict("Unknown", "DeploymentPaused", message))
            .flatten();
    }
    if reason == Some("DeploymentPaused") {
        return verdict("Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
    if let Some(set) = rollout.new.as_ref().filter(|_| rollout.is_begun) {
        let message = format!("Created new replica set \"{}\"", set.name_any());
        return verdict("True", "NewReplicaSetCreated", message);
    }
    let name = rollout.new.as_ref().map(|set| format!("ReplicaSet \"{}\"", set.name_any()));
    let subject = name.unwrap_or_else(|| format!("Deployment \"{}\"", deployment.name_any()));
    let finished = reason == Some(NEW_SET_AVAILABLE) && status.replicas == status.updated_replicas;
    if finished {
        return None;
    }
    if is_done(rollout, status) {
        return verdict(
            "True",
            NEW_SET_AVAILABLE,
            format!("{subject} has successfully progressed."),
        );
    }
    if before.is_none() {
        let set = rollout.new.as_ref()?;
        let message = format!("Found new replica set \"{}\"", set.name_any());
        return verdict("True", "FoundNewReplicaSet", message);
    }
    if has_progressed(known, status) {
        return verdict("True", "ReplicaSetUpdated", format!("{subject} is progressing."));
    }
    let since = before?.last_update_time.as_ref()?.0.as_second();
    let late = reason != Some(NEW_SET_AVAILABLE) && since + deadline < now.as_second();
    if late && reason != Some(DEADLINE_EXCEEDED) {
        return verdict(
            "False",
            DEADLINE_EXCEEDED,
            format!("{subject} has timed out progressing."),
        );
    }
    // A finished rollout that has begun anew counts its deadline from now.
    if reason == Some(NEW_SET_AVAILABLE) {
        return verdict("True", "ReplicaSetUpdated", format!("{subject} is progressing."));
    }
    None
}

fn has_progressed(known: &DeploymentStatus, status: &DeploymentStatus) -> bool {
    let old =
        |one: &DeploymentStatus| one.replicas.unwrap_or(0) - one.updated_replicas.unwrap_or(0);
    status.updated_replicas > known.updated_replicas
        || old(status) < old(known)
        || status.ready_replicas > known.ready_replicas
        || status.available_replicas > known.available_replicas
}

/// Seconds; `None` when the Deployment sets no deadline.
fn deadline(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != i32::MAX).then_some(i64::from(seconds))
}

fn condition<'a>(deployment: &'a Deployment, kind: &str) -> Option<&'a DeploymentCondition> {
    deployment.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == kind)
}

/// The transition time moves only with the status, the update time with every progress.
fn set(conditions: &mut Vec<DeploymentCondition>, verdict: Verdict, now: Timestamp) {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let position = conditions.iter().position(|one| one.type_ == verdict.kind);
    let before = position.map(|position| &conditions[position]);
    let same = before.is_some_and(|one| {
        one.status == verdict.status && one.reason.as_deref() == Some(verdict.reason)
    });
    if same && verdict.kind != PROGRESSING {
        return;
    }
    let transition = before
        .filter(|one| one.status == verdict.status)
        .and_then(|one| one.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: verdict.kind.into(),
        status: verdict.status.into(),
        reason: Some(verdict.reason.into()),
        message: Some(verdict.message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(transition.unwrap_or(now)),
    };
    match position {
        Some(position) => conditions[position] = condition,
        None => conditions.push(condition),
    }
}

/// A ReplicaSet's failure to write pods is the Deployment's, the new one's before others'.
fn copy_failure(rollout: &Rollout<'_>, conditions: &mut Vec<DeploymentCondition>) {
    let failure = rollout
        .new
        .iter()
        .chain(&rollout.old)
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|one| one.type_ == "ReplicaFailure");
    conditions.retain(|one| one.type_ != "ReplicaFailure");
    if let Some(failure) = failure {
        conditions.push(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_update_time: failure.last_transition_time.clone(),
            last_transition_time: failure.last_transition_time.clone(),
        });
    }
}
