//! What one pass over a Job does: pods to create, delete and release, and the new status.
//!
//! It decides only. Everything follows from the Job, its pods and the time, so that a
//! controller that starts anew decides the same.

use super::{
    backoff,
    count::Count,
    facts::{self, condition, has_succeeded, is_indexed, is_suspended, is_tracked, spec},
    finish::{self, Outcome},
    indexed::{self, Failures},
};
use crate::pods;
use atoll_api::kinds::batch::indexes::Indexes;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Pods created or deleted by one pass; a larger difference takes several.
const BURST_MAX: usize = 500;

/// A pod to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Create {
    pub(super) index: Option<i32>,
    /// Of a Job that counts failures by index: those that count, and others.
    pub(super) failures: Option<(i32, i32)>,
}

/// An event about the Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) is_warning: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) creates: Vec<Create>,
    pub(super) deletes: Vec<Arc<Pod>>,
    pub(super) status: JobStatus,
    /// Pods whose finalizer goes once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) remarks: Vec<Remark>,
    /// Something happens by itself after this time.
    pub(super) look_again: Option<Duration>,
}

/// What is known of the pods when the pass decides.
pub(super) struct Scene<'a> {
    pub(super) job: &'a Job,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) count: Count,
    pub(super) completed: Indexes,
    pub(super) failures: Option<Failures>,
    pub(super) now: Timestamp,
}

/// `may_act` says that the cache shows everything that earlier passes did.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], may_act: bool, now: Timestamp) -> Plan {
    let (scene, outcome) = survey(job, pods, now);
    let mut plan = Plan { status: scene.status(may_act), ..Plan::default() };
    let deleted = job.metadata.deletion_timestamp.is_some();
    match &outcome {
        Some(_) if may_act => plan.deletes.clone_from(&scene.active),
        None if may_act && !deleted => manage(&scene, &mut plan),
        _ => {}
    }
    if outcome.is_none() {
        suspend_or_resume(&scene, &mut plan);
        plan.wait(finish::until_deadline(job, now));
    }
    finish::conclude(&scene, outcome, may_act, &mut plan);
    plan.release.clone_from(&scene.count.release);
    plan
}

fn survey<'a>(job: &'a Job, pods: &'a [Arc<Pod>], now: Timestamp) -> (Scene<'a>, Option<Outcome>) {
    let failing = condition(job, "FailureTarget").is_some();
    let mut completed = facts::completed_indexes(job);
    for pod in pods.iter().filter(|pod| has_succeeded(pod) && is_tracked(pod)) {
        if let Some(index) = facts::index(job, pod).filter(|_| is_indexed(job)) {
            completed.insert(index);
        }
    }
    let failures = Failures::of(job, pods, &completed);
    let held = failures.as_ref().map(Failures::held).unwrap_or_default();
    let count = Count::new(job, pods, failing, &held);
    let active = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let mut scene = Scene { job, pods, active, count, completed, failures, now };
    let outcome = finish::outcome(&scene);
    if let Some(outcome) = &outcome {
        // Nobody follows any more, so that nothing is kept for a successor.
        scene.count = Count::new(job, pods, outcome.is_failure, &HashSet::new());
    }
    (scene, outcome)
}

impl Plan {
    pub(super) fn wait(&mut self, wait: Option<Duration>) {
        if let Some(wait) = wait {
            self.look_again = Some(self.look_again.map_or(wait, |known| known.min(wait)));
        }
    }

    pub(super) fn remark(&mut self, is_warning: bool, reason: &str, message: &str) {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.remarks.push(Remark { is_warning, reason, message });
    }
}

impl Scene<'_> {
    /// The counts; while the cache is behind, those of pods that come and go stay.
    fn status(&self, may_act: bool) -> JobStatus {
        let mut status = self.job.status.clone().unwrap_or_default();
        if may_act {
            let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
            let ready = self.active.iter().filter(|pod| pods::is_ready(pod)).count();
            let terminating = self.pods.iter().filter(|pod| facts::is_terminating(pod)).count();
            status.active = Some(number(self.active.len())).filter(|count| *count > 0);
            status.ready = Some(number(ready));
            status.terminating = Some(number(terminating));
        }
        status.succeeded = Some(self.count.succeeded).filter(|count| *count > 0);
        status.failed = Some(self.count.failed).filter(|count| *count > 0);
        status.uncounted_terminated_pods = Some(self.count.uncounted.clone());
        if is_indexed(self.job) {
            let text = self.count.completed.to_string();
            status.completed_indexes = (!text.is_empty()).then_some(text);
        }
        if let Some(failures) = &self.failures {
            status.failed_indexes = Some(failures.failed.to_string());
        }
        if status.start_time.is_none() && !is_suspended(self.job) {
            status.start_time = Some(Time(self.now));
        }
        status
    }

    /// Pods that have succeeded, in the sense of `completions`.
    pub(super) fn succeeded(&self) -> i32 {
        if is_indexed(self.job) {
            i32::try_from(self.completed.len()).unwrap_or(i32::MAX)
        } else {
            self.count.all_succeeded()
        }
    }

    fn terminating(&self) -> usize {
        self.pods.iter().filter(|pod| facts::is_terminating(pod)).count()
    }

    /// Pods that are to run at once.
    fn wanted(&self) -> usize {
        let parallelism = spec(self.job).parallelism.unwrap_or(1);
        let wanted = match spec(self.job).completions {
            // A work queue: once a pod has succeeded no more are started.
            None if self.succeeded() > 0 => return self.active.len(),
            None => parallelism,
            Some(completions) => parallelism.min(completions.saturating_sub(self.succeeded())),
        };
        let failed = self.failures.as_ref().map_or(0, |failures| failures.failed.len());
        let wanted = usize::try_from(wanted).unwrap_or(0);
        match spec(self.job).completions.and_then(|count| usize::try_from(count).ok()) {
            // Indexes that have failed for good want no pod.
            Some(all) if failed > 0 => {
                wanted.min(all.saturating_sub(self.completed.len()).saturating_sub(failed))
            }
            _ => wanted,
        }
    }
}

/// Makes as many pods run as are wanted.
fn manage(scene: &Scene<'_>, plan: &mut Plan) {
    let job = scene.job;
    if is_suspended(job) {
        plan.deletes.clone_from(&scene.active);
        plan.deletes.truncate(BURST_MAX);
        return;
    }
    let wanted = scene.wanted();
    plan.deletes = surplus(scene, wanted);
    plan.deletes.truncate(BURST_MAX);
    if !plan.deletes.is_empty() {
        return;
    }
    let mut there = scene.active.len();
    if facts::replaces_failed_only(job) {
        there += scene.terminating();
    }
    let missing = wanted.saturating_sub(there).min(BURST_MAX);
    if missing == 0 {
        return;
    }
    if scene.failures.is_none() {
        let left = backoff::left(job, scene.pods, scene.now);
        if !left.is_zero() {
            plan.wait(Some(left));
            return;
        }
    }
    if is_indexed(job) {
        let failures = scene.failures.as_ref();
        let (creates, wait) =
            indexed::missing(job, scene.pods, &scene.completed, failures, missing, scene.now);
        plan.creates = creates;
        plan.wait(wait);
    } else {
        plan.creates = vec![Create { index: None, failures: None }; missing];
    }
}

/// Pods that have not started go first, then the youngest.
fn surplus(scene: &Scene<'_>, wanted: usize) -> Vec<Arc<Pod>> {
    let mut doomed = if is_indexed(scene.job) {
        let failures = scene.failures.as_ref();
        indexed::superfluous(scene.job, &scene.active, &scene.completed, failures)
    } else {
        Vec::new()
    };
    let is_doomed = |pod: &Arc<Pod>| doomed.iter().any(|one| Arc::ptr_eq(one, pod));
    let mut others: Vec<Arc<Pod>> =
        scene.active.iter().filter(|pod| !is_doomed(pod)).cloned().collect();
    let more = others.len().saturating_sub(wanted);
    others.sort_by_key(|pod| {
        let running = pods::phase(pod) == "Running";
        let placed = pods::node_name(pod).is_some();
        (placed, running, pods::is_ready(pod), std::cmp::Reverse(pods::created_at(pod)))
    });
    doomed.extend(others.into_iter().take(more));
    doomed
}

fn suspend_or_resume(scene: &Scene<'_>, plan: &mut Plan) {
    let known = scene.job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let before = known.into_iter().flatten().find(|one| one.type_ == "Suspended");
    let was = before.is_some_and(|one| one.status == "True");
    let is = is_suspended(scene.job);
    if was == is {
        return;
    }
    let (status, reason, message, event) = if is {
        ("True", "JobSuspended", "Job suspended", "Suspended")
    } else {
        ("False", "JobResumed", "Job resumed", "Resumed")
    };
    finish::set_condition(
        &mut plan.status,
        finish::new_condition("Suspended", status, reason, message, scene.now),
    );
    // The deadline does not run while the Job is suspended.
    plan.status.start_time = (!is).then_some(Time(scene.now));
    plan.remark(false, event, message);
}

#[cfg(test)]
mod tests;
