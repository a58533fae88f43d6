//! Jobs and CronJobs.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, normalise_metadata, pod, within, zero};
use crate::access::Access as _;

/// Failures of a Job that says nothing of them.
const BACKOFF_LIMIT: i64 = 6;

pub(crate) fn job(job: &mut Value) {
    normalise(job);
    empty(job, "spec");
    empty(job, "status");
    within(job, "spec", |spec| {
        job_counts(spec);
        absent(spec, "completionMode", "NonIndexed");
        absent(spec, "suspend", false);
        absent(spec, "manualSelector", false);
        let policy = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        absent(spec, "podReplacementPolicy", policy);
        job_spec(spec);
    });
    labels_of_template(job);
}

pub(crate) fn cron_job(cron_job: &mut Value) {
    normalise(cron_job);
    empty(cron_job, "spec");
    empty(cron_job, "status");
    within(cron_job, "spec", |spec| {
        zero(spec, "concurrencyPolicy", "Allow");
        absent(spec, "suspend", false);
        absent(spec, "successfulJobsHistoryLimit", 3);
        absent(spec, "failedJobsHistoryLimit", 1);
        empty(spec, "jobTemplate");
        within(spec, "jobTemplate", |template| {
            empty(template, "metadata");
            within(template, "metadata", normalise_metadata);
            empty(template, "spec");
            within(template, "spec", job_spec);
        });
    });
}

fn job_counts(spec: &mut Value) {
    // A Job without both runs one pod; one with parallelism alone is a work queue.
    if !spec.has("completions") && !spec.has("parallelism") {
        absent(spec, "completions", 1);
    }
    absent(spec, "parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { BACKOFF_LIMIT };
    absent(spec, "backoffLimit", limit);
}

/// What the spec of a Job and that in a CronJob's template have in common.
fn job_spec(spec: &mut Value) {
    within(spec, "podFailurePolicy", |policy| {
        for rule in each(policy, "rules") {
            each(rule, "onPodConditions").for_each(|pattern| zero(pattern, "status", "True"));
        }
    });
    empty(spec, "template");
    within(spec, "template", |template| {
        empty(template, "metadata");
        within(template, "metadata", normalise_metadata);
        empty(template, "spec");
        within(template, "spec", pod::spec);
    });
}

/// A Job without labels has those of its pods.
fn labels_of_template(job: &mut Value) {
    let own = job["metadata"].fields("labels").is_some_and(|labels| !labels.is_empty());
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    let any = labels.as_object().is_some_and(|labels| !labels.is_empty());
    if !own && any && job["metadata"].is_object() {
        job["metadata"]["labels"] = json!(labels);
    }
}
