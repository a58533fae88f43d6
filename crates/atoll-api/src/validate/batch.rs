//! Jobs: counts, policies, the selector, and what may change while a Job is suspended.

pub(crate) mod cron;
mod policy;
pub(crate) mod status;
pub(crate) mod warnings;

use serde_json::{Value, json};

use super::{faults, immutable, label_selector, not_negative, pod, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::batch::{CONTROLLER_UID_LABELS, JOB_NAME_LABELS, holds};
use crate::names;
use crate::selector::LabelSelector;

const COMPLETION_MODES: [&str; 2] = ["NonIndexed", "Indexed"];
const REPLACEMENT_POLICIES: [&str; 2] = ["Failed", "TerminatingOrFailed"];
/// Bounds that keep `completedIndexes` and `failedIndexes` writable.
const PARALLELISM_INDEXED_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const PARALLELISM_MANY_MAX: i64 = 10_000;
const FAILED_INDEXES_MANY_MAX: i64 = 10_000;
const MANAGER_LENGTH_MAX: usize = 63;
/// What an HTTP path may hold.
const PATH_PATTERN: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";

pub(crate) fn job(job: &Value) -> Vec<Error> {
    let mut errors = generated_selector(job, true);
    job_rules(job, &mut errors);
    errors
}

pub(crate) fn job_update(new: &Value, old: &Value) -> Vec<Error> {
    // Objects from before the labels with a prefix do without them.
    let before = &old["spec"]["template"]["metadata"]["labels"];
    let prefixed =
        [JOB_NAME_LABELS, CONTROLLER_UID_LABELS].iter().all(|[label, _]| before.has(label));
    let mut errors = generated_selector(new, prefixed);
    job_rules(new, &mut errors);
    spec_update(new, old, &mut errors);
    errors
}

fn job_rules(job: &Value, errors: &mut Vec<Error>) {
    let (at, spec) = (Path::new("spec"), &job["spec"]);
    job_spec(&at, spec, errors);
    let selector_at = at.child("selector");
    if spec["selector"].is_null() {
        errors.push(selector_at.required(""));
    } else {
        label_selector(&selector_at, &spec["selector"], errors);
    }
    if let Ok(selector) = LabelSelector::from_object(&spec["selector"])
        && (spec["selector"].is_null() || !selector.matches_object(&spec["template"]))
    {
        let at = at.child("template").child("metadata").child("labels");
        let labels = spec["template"]["metadata"]["labels"].clone();
        errors.push(at.invalid(labels, "`selector` does not match template `labels`"));
    }
    let completions = spec.int("completions").unwrap_or(0);
    if spec.text("completionMode") == "Indexed" && completions > 0 {
        let name = job["metadata"].text("name");
        let hostname = format!("{name}-{}", completions - 1);
        if !names::dns1123_label(&hostname).is_empty() {
            let text = format!("will not able to create pod with invalid DNS label: {hostname}");
            errors.push(Path::new("metadata").child("name").invalid(name, text));
        }
    }
}

/// A selector that was generated must be the one that follows from the uid.
fn generated_selector(job: &Value, prefixed: bool) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &job["spec"];
    if spec.flag("manualSelector") || spec["selector"].is_null() {
        return errors;
    }
    let (uid, name) = (job["metadata"].text("uid"), job["metadata"].text("name"));
    if uid.is_empty() {
        errors.push(Path::new("metadata").child("uid").required(""));
    }
    let template = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = &spec["template"]["metadata"]["labels"];
    let [(uid_label, old_uid), (name_label, old_name)] =
        [CONTROLLER_UID_LABELS, JOB_NAME_LABELS].map(|[label, old]| (label, old));
    let mut expected = json!({});
    let old = [(old_uid, uid), (old_name, name)];
    let new = [(uid_label, uid), (name_label, name)];
    for (label, wanted) in old.iter().chain(new.iter().filter(|_| prefixed)) {
        expected[*label] = json!(wanted);
        match labels.opt_text(label) {
            None => errors.push(template.key(label).required(format!("must be '{wanted}'"))),
            Some(stated) if stated != *wanted => {
                let text = format!("must be '{wanted}'");
                errors.push(template.key(label).invalid(labels.clone(), text));
            }
            Some(_) => {}
        }
    }
    if let Ok(selector) = LabelSelector::from_object(&spec["selector"])
        && !selector.matches(|key| expected.opt_text(key))
    {
        let at = Path::new("spec").child("selector");
        errors.push(at.invalid(spec["selector"].clone(), "`selector` not auto-generated"));
    }
    errors
}

/// What holds for the spec of a Job and for that in a CronJob's template.
pub(super) fn job_spec(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in counts {
        not_negative(&at.child(field), spec.int(field).unwrap_or(0), errors);
    }
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let text = "when maxFailedIndexes is specified";
        errors.push(at.child("backoffLimitPerIndex").required(text));
    }
    if let Some(manager) = spec.opt_text("managedBy") {
        managed_by(&at.child("managedBy"), manager, errors);
    }
    completion_mode(at, spec, errors);
    if spec.has("podFailurePolicy") {
        policy::pod_failure(&at.child("podFailurePolicy"), spec, errors);
    }
    if spec.has("successPolicy") {
        let at = at.child("successPolicy");
        if spec.text("completionMode") == "Indexed" {
            policy::success(&at, spec, errors);
        } else {
            let policy = spec["successPolicy"].clone();
            errors.push(at.invalid(policy, "requires indexed completion mode"));
        }
    }
    if let Some(policy) = spec.opt_text("podReplacementPolicy") {
        let all = &REPLACEMENT_POLICIES;
        let allowed = if spec.has("podFailurePolicy") { &all[..1] } else { &all[..] };
        if !allowed.contains(&policy) {
            errors.push(at.child("podReplacementPolicy").not_supported(policy, allowed));
        }
    }
    pod::template(&at.child("template"), &spec["template"], errors);
    restart_policy(&at.child("template").child("spec").child("restartPolicy"), spec, errors);
}

fn restart_policy(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    match spec["template"]["spec"].text("restartPolicy") {
        "" | "Always" => errors.push(at.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.has("podFailurePolicy") => {
            let text = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(at.invalid("OnFailure", text));
        }
        "OnFailure" | "Never" => {}
        other => errors.push(at.not_supported(other, &["OnFailure", "Never"])),
    }
}

fn completion_mode(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let mode = spec.text("completionMode");
    if spec.has("completionMode") && !COMPLETION_MODES.contains(&mode) {
        errors.push(at.child("completionMode").not_supported(mode, &COMPLETION_MODES));
    }
    if mode == "Indexed" {
        indexed(at, spec, errors);
    }
    if !spec.has("completionMode") || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.has(field) {
                let value = spec[field].clone();
                errors.push(at.child(field).invalid(value, "requires indexed completion mode"));
            }
        }
    }
}

fn indexed(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let (completions, failed) = (spec.int("completions"), spec.int("maxFailedIndexes"));
    if completions.is_none() {
        errors.push(at.child("completions").required("when completion mode is Indexed"));
    }
    let tail = " when completion mode is Indexed";
    at_most(at, spec, ("parallelism", PARALLELISM_INDEXED_MAX), tail, errors);
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        let text = "must be less than or equal to completions";
        errors.push(at.child("maxFailedIndexes").invalid(failed, text));
    }
    at_most(at, spec, ("maxFailedIndexes", FAILED_INDEXES_MAX), "", errors);
    let many = completions.is_some_and(|completions| completions > COMPLETIONS_SOFT_MAX);
    if many && spec.has("backoffLimitPerIndex") {
        if failed.is_none() {
            let text =
                format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
            errors.push(at.child("maxFailedIndexes").required(text));
        }
        let tail = format!(
            " when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index"
        );
        at_most(at, spec, ("parallelism", PARALLELISM_MANY_MAX), &tail, errors);
        at_most(at, spec, ("maxFailedIndexes", FAILED_INDEXES_MANY_MAX), &tail, errors);
    }
}

fn at_most(at: &Path, spec: &Value, bound: (&str, i64), tail: &str, errors: &mut Vec<Error>) {
    let (field, max) = bound;
    if let Some(value) = spec.int(field).filter(|value| *value > max) {
        let text = format!("must be less than or equal to {max}{tail}");
        errors.push(at.child(field).invalid(value, text));
    }
}

fn managed_by(at: &Path, manager: &str, errors: &mut Vec<Error>) {
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(at.required("")),
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            faults(at, host, names::dns1123_subdomain(host), errors);
            let fits =
                |one: u8| one.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&one);
            if !path.bytes().all(fits) {
                errors
                    .push(at.invalid(path, names::regex_error("Invalid path", PATH_PATTERN, &[])));
            }
        }
        _ => {
            let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(at.invalid(manager, text));
        }
    }
    if manager.len() > MANAGER_LENGTH_MAX {
        errors.push(at.too_long(MANAGER_LENGTH_MAX));
    }
}

fn spec_update(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("spec");
    let (is, was) = (&new["spec"], &old["spec"]);
    completions_update(&at.child("completions"), is, was, errors);
    immutable(&at.child("selector"), &is["selector"], &was["selector"], errors);
    template_update(&at.child("template"), is, old, errors);
    let kept = [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    for field in kept {
        immutable(&at.child(field), &is[field], &was[field], errors);
    }
}

/// An Indexed Job may be stretched together with its parallelism.
fn completions_update(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    if is.text("completionMode") != "Indexed" {
        immutable(at, &is["completions"], &was["completions"], errors);
        return;
    }
    if is["completions"] == was["completions"] || !is.has("completions") {
        return;
    }
    if is["completions"] != is["parallelism"] {
        let text = "can only be modified in tandem with spec.parallelism";
        errors.push(at.invalid(is["completions"].clone(), text));
    }
}

/// Where pods go and what they ask for may change while nothing of a suspended Job runs.
fn template_update(at: &Path, is: &Value, old: &Value, errors: &mut Vec<Error>) {
    let template = &is["template"];
    let mut before = old["spec"]["template"].clone();
    let idle = !old["status"].has("startTime")
        || (holds(old, "Suspended") && old["status"].int("active").unwrap_or(0) == 0);
    if old["spec"].flag("suspend") && idle {
        take_scheduling(&mut before, template);
        take_resources(&mut before["spec"], &template["spec"]);
    }
    if !same(template, &before) {
        errors.push(at.invalid(template.clone(), super::IMMUTABLE));
    }
}

fn take_scheduling(before: &mut Value, template: &Value) {
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        take(&mut before["spec"], &template["spec"], field);
    }
    for field in ["annotations", "labels"] {
        take(&mut before["metadata"], &template["metadata"], field);
    }
    let wanted = &template["spec"]["affinity"];
    if wanted.is_null() {
        // It may go when it was of nodes alone.
        let of_others = before["spec"]
            .fields("affinity")
            .is_some_and(|all| all.keys().any(|key| key != "nodeAffinity"));
        if !of_others {
            take(&mut before["spec"], &template["spec"], "affinity");
        }
        return;
    }
    if before["spec"]["affinity"].is_null() {
        before["spec"]["affinity"] = json!({});
    }
    take(&mut before["spec"]["affinity"], wanted, "nodeAffinity");
}

fn take_resources(before: &mut Value, wanted: &Value) {
    for list in ["containers", "initContainers"] {
        let Some(containers) = before.get_mut(list).and_then(Value::as_array_mut) else { continue };
        for (container, new) in containers.iter_mut().zip(wanted.items(list)) {
            take(container, new, "resources");
        }
    }
}

fn take(into: &mut Value, from: &Value, field: &str) {
    let Value::Object(map) = into else { return };
    match from.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

#[cfg(test)]
mod tests;
