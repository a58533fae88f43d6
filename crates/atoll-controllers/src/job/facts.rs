//! What a Job's spec, status and pods say, in the words that the decisions use.

use crate::pods;
use atoll_api::kinds::batch::indexes::Indexes;
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition, JobSpec},
    core::v1::{ContainerStatus, Pod},
};
use kube::ResourceExt;

/// Keeps a pod until it is counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
pub(super) const COMPLETION_INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many pods of the index have failed before this one, and how many did not count.
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// What `managedBy` says of Jobs that are ours.
const MANAGER: &str = "kubernetes.io/job-controller";

pub(super) fn spec(job: &Job) -> &JobSpec {
    static EMPTY: std::sync::LazyLock<JobSpec> = std::sync::LazyLock::new(JobSpec::default);
    job.spec.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn is_ours(job: &Job) -> bool {
    spec(job).managed_by.as_deref().is_none_or(|manager| manager == MANAGER)
}

pub(super) fn is_suspended(job: &Job) -> bool {
    spec(job).suspend == Some(true)
}

pub(super) fn is_indexed(job: &Job) -> bool {
    spec(job).completion_mode.as_deref() == Some("Indexed")
}

/// The limit of failures of each index, of Jobs that count them so.
pub(super) fn index_limit(job: &Job) -> Option<i32> {
    spec(job).backoff_limit_per_index.filter(|_| is_indexed(job))
}

/// Whether a pod that is terminating is not replaced until it has ended.
pub(super) fn replaces_failed_only(job: &Job) -> bool {
    spec(job).pod_failure_policy.is_some()
        || spec(job).pod_replacement_policy.as_deref() == Some("Failed")
}

pub(super) fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let all = job.status.as_ref()?.conditions.as_ref()?;
    all.iter().find(|one| one.type_ == kind && one.status == "True")
}

pub(super) fn is_finished(job: &Job) -> bool {
    condition(job, "Complete").is_some() || condition(job, "Failed").is_some()
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|one| one == TRACKING)
}

pub(super) fn has_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

/// A pod that was told to go counts as failed at once, unless it is replaced only after.
pub(super) fn has_failed(job: &Job, pod: &Pod) -> bool {
    let leaving = pod.metadata.deletion_timestamp.is_some() && !has_succeeded(pod);
    // Nobody will write the end of a pod that has no node.
    let waits = replaces_failed_only(job) && pods::node_name(pod).is_some();
    pods::phase(pod) == "Failed" || (leaving && !waits)
}

pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_finished(pod)
}

/// The pod's index, when it is one that the Job has.
pub(super) fn index(job: &Job, pod: &Pod) -> Option<i32> {
    let index: i32 = pod.annotations().get(COMPLETION_INDEX)?.parse().ok()?;
    let completions = spec(job).completions.unwrap_or(0);
    (0..completions).contains(&index).then_some(index)
}

pub(super) fn count_annotation(pod: &Pod, name: &str) -> i32 {
    pod.annotations().get(name).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The indexes that the status knows as done.
pub(super) fn completed_indexes(job: &Job) -> Indexes {
    let text = job.status.as_ref().and_then(|status| status.completed_indexes.as_deref());
    Indexes::read(text.unwrap_or_default(), spec(job).completions.unwrap_or(0))
}

pub(super) fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let regular = status.container_statuses.iter().flatten();
        regular.chain(status.init_container_statuses.iter().flatten())
    })
}

/// When a pod ended: by its last container, or the best that is known.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let last = container_statuses(pod)
        .filter_map(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref())
        .map(|time| time.0)
        .max();
    let leaving = || pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let changed =
        || pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0);
    last.or_else(leaving).or_else(changed).or_else(|| Some(pods::created_at(pod)))
}
