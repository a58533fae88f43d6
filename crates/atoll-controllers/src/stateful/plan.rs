//! Which pods and claims a StatefulSet creates, deletes and changes; decides only.
//!
//! In order, nothing is done to a replica before all below it are available, nothing is scaled
//! away before that, and nothing is updated before that (OrderedReady). Otherwise (Parallel)
//! only updates keep an order.

use super::{
    claims,
    identity::{first_ordinal, is_in_range, labels, pod_name, replicas, revision_of},
};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Pods created by one pass. A larger difference takes several passes, so that one bad
/// manifest cannot flood the API server.
const BURST_MAX: usize = 500;

/// Everything that decisions are made from.
pub(super) struct Scene<'a> {
    pub(super) set: &'a StatefulSet,
    /// The set's own, by ordinal.
    pub(super) pods: BTreeMap<i32, Arc<Pod>>,
    /// Names of the revision before an update and of the one that it leads to.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    /// How much longer a pod that has ended is left alone, by its name.
    pub(super) held: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: Timestamp,
}

/// The revision that a new pod is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Current,
    Update,
}

#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Claim {
        claim: Box<PersistentVolumeClaim>,
        pod: String,
    },
    /// Sets the owners of a claim.
    Own {
        claim: String,
        patch: Value,
    },
    Create {
        ordinal: i32,
        at: At,
    },
    Delete {
        pod: String,
        uid: String,
    },
    /// Makes room for another pod where one has ended.
    Clear {
        pod: String,
        uid: String,
    },
    /// Puts back the labels by which a pod is known.
    Label {
        pod: String,
        patch: Value,
    },
    /// The pod cannot be created now.
    Refuse {
        pod: String,
        why: String,
    },
}

/// The steps for one replica, each after the one before.
pub(super) type Task = Vec<Step>;

#[derive(Default)]
pub(super) struct Plan {
    /// Each begins when the one before has succeeded.
    pub(super) phases: Vec<Vec<Task>>,
    /// How many pods of the current revision are deleted for an update.
    pub(super) retired: i32,
    /// When a pod that has ended is to be looked at again.
    pub(super) retry: Option<Duration>,
}

/// What is decided for one replica, and whether nothing else may be done before it is well.
struct Verdict {
    task: Task,
    halts: bool,
}

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let Some(spec) = scene.set.spec.as_ref() else { return Plan::default() };
    let ordered = is_ordered(spec);
    let mut plan = Plan::default();
    let (tasks, halted) = keep_replicas(scene, spec, ordered);
    plan.phases.push(tasks);
    let ended = scene.pods.values().filter(|pod| pods::is_finished(pod) && !is_terminating(pod));
    plan.retry = ended.filter_map(|pod| (scene.held)(&pod.name_any())).min();
    if halted {
        return plan;
    }
    let condemned: Vec<(i32, &Arc<Pod>)> = scene
        .pods
        .iter()
        .rev()
        .filter(|(ordinal, _)| !is_in_range(spec, **ordinal))
        .map(|(ordinal, pod)| (*ordinal, pod))
        .collect();
    let owners = condemned.iter().map(|(ordinal, pod)| own(scene, spec, pod, *ordinal));
    plan.phases.push(owners.filter(|task| !task.is_empty()).collect());
    let (tasks, halted) = scale_down(scene, &condemned, ordered);
    plan.phases.push(tasks);
    if halted || !is_rolling(spec) {
        return plan;
    }
    let going: BTreeSet<String> = deleted(&plan.phases).map(str::to_owned).collect();
    let victims = outdated(scene, spec, &going);
    let of_current = victims.iter().filter(|pod| revision_of(pod) == Some(scene.current));
    plan.retired = i32::try_from(of_current.count()).unwrap_or(i32::MAX);
    plan.phases.push(victims.into_iter().map(|pod| vec![delete(pod)]).collect());
    plan
}

pub(super) fn is_ordered(spec: &StatefulSetSpec) -> bool {
    spec.pod_management_policy.as_deref() != Some("Parallel")
}

/// Whether pods are replaced when the template changes, not only when somebody deletes them.
pub(super) fn is_rolling(spec: &StatefulSetSpec) -> bool {
    let kind = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    kind != Some("OnDelete")
}

pub(super) fn is_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

pub(super) fn is_available(scene: &Scene<'_>, pod: &Pod) -> bool {
    let spec = scene.set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    is_ready(pod) && pods::available_in(pod, min_ready, scene.now) == Some(0)
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether an update has to wait for it.
fn is_unavailable(scene: &Scene<'_>, pod: &Pod) -> bool {
    is_terminating(pod) || !is_available(scene, pod)
}

fn keep_replicas(scene: &Scene<'_>, spec: &StatefulSetSpec, ordered: bool) -> (Vec<Task>, bool) {
    let mut tasks = Vec::new();
    let mut created = 0;
    let first = first_ordinal(spec);
    for ordinal in first..first.saturating_add(replicas(spec)) {
        let verdict = match scene.pods.get(&ordinal) {
            None => missing(scene, spec, ordinal),
            Some(pod) => existing(scene, spec, pod, ordinal, ordered),
        };
        created += verdict.task.iter().filter(|step| matches!(step, Step::Create { .. })).count();
        if !verdict.task.is_empty() {
            tasks.push(verdict.task);
        }
        if verdict.halts && ordered {
            return (tasks, true);
        }
        if created >= BURST_MAX {
            break;
        }
    }
    (tasks, false)
}

fn missing(scene: &Scene<'_>, spec: &StatefulSetSpec, ordinal: i32) -> Verdict {
    let set = scene.set;
    let claims = claims::wanted(set, spec, ordinal);
    let known = claims.iter().filter_map(|claim| (scene.claim)(&claim.name_any()));
    if known.into_iter().any(|claim| claims::is_stale(set, spec, &claim, ordinal)) {
        return Verdict { task: Vec::new(), halts: true };
    }
    let mut task = claim_steps(scene, spec, ordinal);
    if !task.iter().any(|step| matches!(step, Step::Refuse { .. })) {
        task.push(Step::Create { ordinal, at: revision_for(scene, spec, ordinal) });
    }
    Verdict { task, halts: true }
}

fn existing(
    scene: &Scene<'_>,
    spec: &StatefulSetSpec,
    pod: &Arc<Pod>,
    ordinal: i32,
    ordered: bool,
) -> Verdict {
    // One that has ended is replaced whatever its exit code: it was to run for ever.
    if pods::is_finished(pod) {
        let name = pod.name_any();
        let waits = is_terminating(pod) || (scene.held)(&name).is_some();
        let uid = pod.uid().unwrap_or_default();
        let task = if waits { Vec::new() } else { vec![Step::Clear { pod: name, uid }] };
        return Verdict { task, halts: true };
    }
    let mut task = Vec::new();
    if pods::phase(pod) == "Pending" {
        task = claim_steps(scene, spec, ordinal);
    }
    if ordered && is_unavailable(scene, pod) {
        return Verdict { task, halts: true };
    }
    task.extend(label(scene.set, pod, ordinal));
    task.extend(own(scene, spec, pod, ordinal));
    Verdict { task, halts: false }
}

/// Creates the claims that a pod lacks.
fn claim_steps(scene: &Scene<'_>, spec: &StatefulSetSpec, ordinal: i32) -> Task {
    let pod = pod_name(scene.set, ordinal);
    let mut task = Vec::new();
    for claim in claims::wanted(scene.set, spec, ordinal) {
        let name = claim.name_any();
        match (scene.claim)(&name) {
            None => task.push(Step::Claim { claim: Box::new(claim), pod: pod.clone() }),
            Some(known) if known.metadata.deletion_timestamp.is_some() => {
                let why = format!("pvc {name} is being deleted");
                task.push(Step::Refuse { pod: pod.clone(), why });
            }
            Some(_) => {}
        }
    }
    task
}

/// Below the partition pods stay at the current revision. Without a partition those that an
/// update has not come to do.
fn revision_for(scene: &Scene<'_>, spec: &StatefulSetSpec, ordinal: i32) -> At {
    let index = ordinal - first_ordinal(spec);
    let rolling = spec.update_strategy.as_ref().and_then(|one| one.rolling_update.as_ref());
    let below = match rolling {
        Some(rolling) => index < rolling.partition.unwrap_or(0),
        None if is_rolling(spec) => {
            let status = scene.set.status.as_ref();
            index < status.and_then(|status| status.current_replicas).unwrap_or(0)
        }
        None => false,
    };
    if below { At::Current } else { At::Update }
}

fn scale_down(
    scene: &Scene<'_>,
    condemned: &[(i32, &Arc<Pod>)],
    ordered: bool,
) -> (Vec<Task>, bool) {
    // The lowest that is not well may go although those above it have to be well.
    let exempt =
        condemned.iter().rev().find(|(_, pod)| is_unavailable(scene, pod)).map(|(one, _)| *one);
    let mut tasks = Vec::new();
    for (ordinal, pod) in condemned {
        if is_terminating(pod) {
            if ordered {
                return (tasks, true);
            }
            continue;
        }
        if ordered && !is_available(scene, pod) && exempt != Some(*ordinal) {
            return (tasks, true);
        }
        tasks.push(vec![delete(pod)]);
        if ordered {
            return (tasks, true);
        }
    }
    (tasks, false)
}

/// The pods to be replaced now by others of the update's revision, the highest first.
fn outdated<'a>(
    scene: &'a Scene<'_>,
    spec: &StatefulSetSpec,
    going: &BTreeSet<String>,
) -> Vec<&'a Arc<Pod>> {
    let rolling = spec.update_strategy.as_ref().and_then(|one| one.rolling_update.as_ref());
    let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
    let first = first_ordinal(spec);
    let lowest = first.saturating_add(partition);
    let leaves = |pod: &Pod| is_terminating(pod) || going.contains(&pod.uid().unwrap_or_default());
    let is_old = |pod: &Pod| revision_of(pod) != Some(scene.update) && !leaves(pod);
    if let Some(max) = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
        let present: Vec<&Arc<Pod>> = scene
            .pods
            .iter()
            .filter(|(one, _)| is_in_range(spec, **one))
            .map(|one| one.1)
            .collect();
        let well = present.iter().filter(|pod| !leaves(pod) && is_available(scene, pod)).count();
        let well = i32::try_from(well).unwrap_or(i32::MAX);
        let mut left = bound(max, replicas(spec)) - (replicas(spec) - well);
        let above = scene.pods.range(lowest..).rev().filter(|(one, _)| is_in_range(spec, **one));
        let old = above.map(|(_, pod)| pod).filter(|pod| is_old(pod));
        // One that is not available anyway costs nothing.
        return old
            .filter(|pod| {
                left -= i32::from(is_available(scene, pod));
                !is_available(scene, pod) || left >= 0
            })
            .collect();
    }
    for ordinal in (lowest..first.saturating_add(replicas(spec))).rev() {
        match scene.pods.get(&ordinal) {
            Some(pod) if is_old(pod) => return vec![pod],
            Some(pod) if !leaves(pod) && !is_unavailable(scene, pod) => {}
            _ => return Vec::new(),
        }
    }
    Vec::new()
}

/// A number or a share, rounded down, but one at least.
fn bound(max: &IntOrString, of: i32) -> i32 {
    let number = match max {
        IntOrString::Int(number) => *number,
        IntOrString::String(share) => {
            let percent: i64 =
                share.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0);
            i32::try_from(i64::from(of) * percent / 100).unwrap_or(i32::MAX)
        }
    };
    number.max(1)
}

fn delete(pod: &Pod) -> Step {
    Step::Delete { pod: pod.name_any(), uid: pod.uid().unwrap_or_default() }
}

fn deleted(phases: &[Vec<Task>]) -> impl Iterator<Item = &str> {
    phases.iter().flatten().flatten().filter_map(|step| match step {
        Step::Delete { uid, .. } | Step::Clear { uid, .. } => Some(uid.as_str()),
        _ => None,
    })
}

fn label(set: &StatefulSet, pod: &Pod, ordinal: i32) -> Option<Step> {
    let wanted = labels(set, ordinal);
    let has_all = wanted.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let patch = json!({ "metadata": { "uid": pod.uid(), "labels": wanted } });
    (!has_all).then(|| Step::Label { pod: pod.name_any(), patch })
}

fn own(scene: &Scene<'_>, spec: &StatefulSetSpec, pod: &Pod, ordinal: i32) -> Task {
    let claims = claims::wanted(scene.set, spec, ordinal).into_iter();
    let steps = claims.filter_map(|claim| {
        let known = (scene.claim)(&claim.name_any())?;
        let owners = claims::owners(scene.set, spec, &known, pod, ordinal)?;
        let metadata = json!({
            "uid": known.uid(), "resourceVersion": known.resource_version(),
            "ownerReferences": owners,
        });
        Some(Step::Own { claim: known.name_any(), patch: json!({ "metadata": metadata }) })
    });
    steps.collect()
}

#[cfg(test)]
mod tests;
