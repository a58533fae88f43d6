//! Whether a Job has come to its end, and the conditions that say so.
//!
//! The verdict is written first (SuccessCriteriaMet, FailureTarget), then pods go, and when
//! the last is gone and counted the end itself (Complete, Failed).

use super::{
    facts::{self, condition, has_failed, is_suspended, is_tracked, spec},
    plan::{Plan, Scene},
    policy::{self, Verdict},
};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::time::Duration;

/// How a Job ends, whether or not it is there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) is_failure: bool,
    reason: String,
    message: String,
}

impl Outcome {
    fn new(is_failure: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { is_failure, reason: reason.to_owned(), message: message.into() }
    }

    fn of(condition: &JobCondition, is_failure: bool) -> Self {
        let reason = condition.reason.clone().unwrap_or_default();
        Self { is_failure, reason, message: condition.message.clone().unwrap_or_default() }
    }
}

pub(super) fn outcome(scene: &Scene<'_>) -> Option<Outcome> {
    let job = scene.job;
    if let Some(target) = condition(job, "FailureTarget") {
        return Some(Outcome::of(target, true));
    }
    if let Some(met) = condition(job, "SuccessCriteriaMet") {
        return Some(Outcome::of(met, false));
    }
    failure(scene)
        .or_else(|| {
            policy::success(job, &scene.completed)
                .map(|message| Outcome::new(false, "SuccessPolicy", message))
        })
        .or_else(|| completion(scene))
}

fn failure(scene: &Scene<'_>) -> Option<Outcome> {
    let job = scene.job;
    let failed = scene.pods.iter().filter(|pod| has_failed(job, pod));
    for pod in failed {
        if let Verdict::FailJob(message) = policy::verdict(job, pod) {
            return Some(Outcome::new(true, "PodFailurePolicy", message));
        }
    }
    let limit = spec(job).backoff_limit.unwrap_or(i32::MAX);
    if scene.count.all_failed() > limit || restarts_too_often(scene, limit) {
        let message = "Job has reached the specified backoff limit";
        return Some(Outcome::new(true, "BackoffLimitExceeded", message));
    }
    if until_deadline(job, scene.now).is_some_and(|left| left.is_zero()) {
        let message = "Job was active longer than specified deadline";
        return Some(Outcome::new(true, "DeadlineExceeded", message));
    }
    let failed = scene.failures.as_ref()?.failed.len();
    let number = |count: Option<i32>| count.and_then(|count| usize::try_from(count).ok());
    if number(spec(job).max_failed_indexes).is_some_and(|max| failed > max) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Outcome::new(true, "MaxFailedIndexesExceeded", message));
    }
    let over = number(spec(job).completions)
        .is_some_and(|completions| failed + scene.completed.len() >= completions);
    (failed > 0 && over).then(|| Outcome::new(true, "FailedIndexes", "Job has failed indexes"))
}

/// Containers that are started again in their pod count as failures too.
fn restarts_too_often(scene: &Scene<'_>, limit: i32) -> bool {
    let template = spec(scene.job).template.spec.as_ref();
    if template.and_then(|pod| pod.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let live = |pod: &&std::sync::Arc<Pod>| matches!(pods::phase(pod), "Running" | "Pending");
    let restarts: i32 = scene
        .pods
        .iter()
        .filter(live)
        .flat_map(|pod| facts::container_statuses(pod))
        .map(|status| status.restart_count)
        .fold(0, i32::saturating_add);
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn completion(scene: &Scene<'_>) -> Option<Outcome> {
    let succeeded = scene.succeeded();
    let enough = match spec(scene.job).completions {
        Some(completions) => succeeded >= completions,
        None => succeeded > 0,
    };
    // A suspended work queue has no active pods either, but more to do.
    let waits = spec(scene.job).completions.is_none() && is_suspended(scene.job);
    let message = "Reached expected number of succeeded pods";
    (enough && scene.active.is_empty() && !waits)
        .then(|| Outcome::new(false, "CompletionsReached", message))
}

/// What is left of `activeDeadlineSeconds`, while it runs.
pub(super) fn until_deadline(job: &Job, now: Timestamp) -> Option<Duration> {
    let deadline = spec(job).active_deadline_seconds.filter(|_| !is_suspended(job))?;
    let deadline = Duration::from_secs(u64::try_from(deadline).unwrap_or(0));
    let start = job.status.as_ref().and_then(|status| status.start_time.as_ref());
    let since = start.map_or(Duration::ZERO, |start| {
        Duration::try_from(now.duration_since(start.0)).unwrap_or(Duration::ZERO)
    });
    Some(deadline.saturating_sub(since))
}

/// Writes the verdict, and the end once nothing is left to do.
pub(super) fn conclude(
    scene: &Scene<'_>,
    outcome: Option<Outcome>,
    may_act: bool,
    plan: &mut Plan,
) {
    let Some(outcome) = outcome else { return };
    let (reason, message) = (outcome.reason.as_str(), outcome.message.as_str());
    let (verdict, end) = if outcome.is_failure {
        ("FailureTarget", "Failed")
    } else {
        ("SuccessCriteriaMet", "Complete")
    };
    let condition = |kind| new_condition(kind, "True", reason, message, scene.now);
    if condition_of(&plan.status, verdict).is_none() {
        set_condition(&mut plan.status, condition(verdict));
    }
    let gone = scene.active.is_empty() && !scene.pods.iter().any(|pod| facts::is_terminating(pod));
    let counted = scene.count.is_complete() && !scene.pods.iter().any(|pod| is_tracked(pod));
    if !(may_act && gone && counted) {
        return;
    }
    set_condition(&mut plan.status, condition(end));
    if outcome.is_failure {
        plan.remark(true, reason, message);
        return;
    }
    plan.status.completion_time = Some(Time(scene.now));
    if spec(scene.job).completions.is_some_and(|wanted| scene.succeeded() > wanted) {
        plan.remark(true, "TooManySucceededPods", "Too many succeeded pods recorded");
    }
    plan.remark(false, "Completed", "Job completed");
}

fn condition_of<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    let all = status.conditions.as_ref()?;
    all.iter().find(|one| one.type_ == kind && one.status == "True")
}

pub(super) fn new_condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> JobCondition {
    JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// Replaces the condition of the same type.
pub(super) fn set_condition(status: &mut JobStatus, condition: JobCondition) {
    let all = status.conditions.get_or_insert_default();
    match all.iter_mut().find(|one| one.type_ == condition.type_) {
        Some(known) => *known = condition,
        None => all.push(condition),
    }
}
