//! Job and CronJob: work that ends.

pub mod indexes;

use serde_json::{Map, Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

/// The labels by which a Job finds its pods; those without a prefix are what they were once.
pub const CONTROLLER_UID_LABELS: [&str; 2] =
    ["batch.kubernetes.io/controller-uid", "controller-uid"];
pub const JOB_NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

pub(super) const JOB_HOOKS: Hooks = Hooks {
    default: Some(defaults::batch::job),
    orphans_dependents: true,
    prepare_create: Some(create),
    identified: Some(select_own_pods),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::batch::job),
    validate_update: Some(validate::batch::job_update),
    validate_status_update: Some(validate::batch::status::update),
    warnings: Some(validate::batch::warnings::job),
    selectable_fields: job_fields,
    selectable_names: &["status.successful"],
    columns: columns::batch::JOB,
    row: columns::batch::job,
    ..Hooks::NONE
};

pub(super) const CRON_JOB_HOOKS: Hooks = Hooks {
    default: Some(defaults::batch::cron_job),
    prepare_create: Some(create),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::batch::cron::create),
    validate_update: Some(validate::batch::cron::update),
    warnings: Some(validate::batch::warnings::cron_job),
    columns: columns::batch::CRON_JOB,
    row: columns::batch::cron_job,
    ..Hooks::NONE
};

/// Whether a condition of a Job's status is `True`.
#[must_use]
pub fn holds(job: &Value, condition: &str) -> bool {
    let all = job["status"].items("conditions");
    all.iter().any(|one| one.text("type") == condition && one.text("status") == "True")
}

fn create(object: &mut Value) {
    prepare::create_with_generation(object);
    prepare::put(object, "status", Some(json!({})));
}

fn job_fields(job: &Value) -> Vec<(&'static str, String)> {
    vec![("status.successful", job["status"].int("succeeded").unwrap_or(0).to_string())]
}

/// Selector and labels follow from the uid, unless the client answers for them itself. What
/// it set otherwise stays, and is refused by validation.
fn select_own_pods(job: &mut Value) {
    if job["spec"].flag("manualSelector") {
        return;
    }
    let uid = job["metadata"].text("uid").to_owned();
    let name = job["metadata"].text("name").to_owned();
    let template = map_at(metadata::child(job, "spec"), "template");
    let labels = map_at(map_at(template, "metadata"), "labels");
    for label in JOB_NAME_LABELS {
        labels.entry(label).or_insert_with(|| json!(name));
    }
    for label in CONTROLLER_UID_LABELS {
        labels.entry(label).or_insert_with(|| json!(uid));
    }
    let selector = map_at(metadata::child(job, "spec"), "selector");
    let [label, _] = CONTROLLER_UID_LABELS;
    map_at(selector, "matchLabels").entry(label).or_insert_with(|| json!(uid));
}

fn map_at<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = parent.entry(key).or_insert(Value::Null);
    metadata::object_at(slot)
}
