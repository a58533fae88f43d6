//! Deployments and ReplicaSets: selector, template, strategy.

use serde_json::{Map, Value};

use super::{immutable, label_selector, not_negative, pod};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;
use crate::selector::LabelSelector;

pub(super) const MISMATCH: &str = "`selector` does not match template `labels`";

pub(crate) fn deployment(deployment: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &deployment["spec"];
    let at = Path::new("spec");
    replicated(&at, spec, &mut errors);
    strategy(&at.child("strategy"), &spec["strategy"], &mut errors);
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        not_negative(&at.child(field), spec.int(field).unwrap_or(0), &mut errors);
    }
    if let Some(seconds) = spec.int("progressDeadlineSeconds") {
        let at = at.child("progressDeadlineSeconds");
        not_negative(&at, seconds, &mut errors);
        if seconds <= spec.int("minReadySeconds").unwrap_or(0) {
            errors.push(at.invalid(seconds, "must be greater than minReadySeconds"));
        }
    }
    errors
}

pub(crate) fn deployment_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = deployment(new);
    selector_kept(new, old, &mut errors);
    errors
}

pub(crate) fn deployment_status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ];
    let bounded = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    status(&new["status"], &counts, &bounded, &mut errors);
    collisions(new, old, &mut errors);
    errors
}

pub(crate) fn replica_set(set: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &set["spec"];
    let at = Path::new("spec");
    replicated(&at, spec, &mut errors);
    let seconds = spec.int("minReadySeconds").unwrap_or(0);
    not_negative(&at.child("minReadySeconds"), seconds, &mut errors);
    errors
}

pub(crate) fn replica_set_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = replica_set(new);
    selector_kept(new, old, &mut errors);
    errors
}

pub(crate) fn replica_set_status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ];
    let bounded = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    status(&new["status"], &counts, &bounded, &mut errors);
    errors
}

fn replicated(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    not_negative(&at.child("replicas"), spec.int("replicas").unwrap_or(0), errors);
    let selector = &spec["selector"];
    let selector_at = at.child("selector");
    if selector.is_null() {
        errors.push(selector_at.required(""));
    } else {
        label_selector(&selector_at, selector, errors);
        if is_empty(selector) {
            let text = "empty selector is invalid for deployment";
            errors.push(selector_at.invalid(selector.clone(), text));
        }
    }
    match LabelSelector::from_object(selector) {
        Ok(parsed) => template(&at.child("template"), spec, &parsed, errors),
        Err(_) => errors.push(selector_at.invalid(selector.clone(), "invalid label selector")),
    }
}

fn template(at: &Path, spec: &Value, selector: &LabelSelector, errors: &mut Vec<Error>) {
    let template = &spec["template"];
    if template.is_null() {
        errors.push(at.required(""));
        return;
    }
    if !selector.matches_object(template) {
        let value = template["metadata"]["labels"].clone();
        let at = at.child("metadata").child("labels");
        errors.push(at.invalid(value, MISMATCH));
    }
    pod::template(at, template, errors);
    runs_on(at, template, "ReplicaSet", errors);
}

/// Only pods that always run are kept running.
pub(super) fn runs_on(at: &Path, template: &Value, kind: &str, errors: &mut Vec<Error>) {
    let policy = template["spec"].text("restartPolicy");
    if policy != "Always" {
        let at = at.child("spec").child("restartPolicy");
        errors.push(at.not_supported(policy, &["Always"]));
    }
    if template["spec"].has("activeDeadlineSeconds") {
        let at = at.child("spec").child("activeDeadlineSeconds");
        errors.push(at.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

pub(super) fn selector_kept(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("spec").child("selector");
    immutable(&at, &new["spec"]["selector"], &old["spec"]["selector"], errors);
}

fn strategy(at: &Path, strategy: &Value, errors: &mut Vec<Error>) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_at = at.child("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                let text = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(rolling_at.forbidden(text));
            }
        }
        "RollingUpdate" if rolling.is_null() => {
            errors.push(rolling_at.required("this should be defaulted and never be nil"));
        }
        "RollingUpdate" => rolling_update(&rolling_at, rolling, errors),
        _ => {
            errors.push(at.not_supported(strategy.clone(), &["Recreate", "RollingUpdate"]));
        }
    }
}

fn rolling_update(at: &Path, rolling: &Value, errors: &mut Vec<Error>) {
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    let unavailable_at = at.child("maxUnavailable");
    share(&unavailable_at, unavailable, errors);
    share(&at.child("maxSurge"), surge, errors);
    if amount(unavailable) == 0 && amount(surge) == 0 {
        let text = "may not be 0 when `maxSurge` is 0";
        errors.push(unavailable_at.invalid(unavailable.clone(), text));
    }
    if unavailable.is_string() && amount(unavailable) > 100 {
        errors.push(unavailable_at.invalid(unavailable.clone(), "must not be greater than 100%"));
    }
}

pub(super) fn collisions(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let count = |set: &Value| set["status"].int("collisionCount").unwrap_or(0);
    if count(new) < count(old) {
        let at = Path::new("status").child("collisionCount");
        errors.push(at.invalid(count(new), "cannot be decremented"));
    }
}

pub(super) fn is_empty(selector: &Value) -> bool {
    selector.fields("matchLabels").is_none_or(Map::is_empty)
        && selector.items("matchExpressions").is_empty()
}

/// A number or a percentage.
pub(super) fn share(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    match value.as_str() {
        Some(text) => super::faults(at, text, names::percent(text), errors),
        None => not_negative(at, value.as_i64().unwrap_or(0), errors),
    }
}

pub(super) fn amount(value: &Value) -> i64 {
    match value.as_str() {
        Some(text) => text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0),
        None => value.as_i64().unwrap_or(0),
    }
}

pub(super) fn status(status: &Value, counts: &[&str], bounded: &[&str], errors: &mut Vec<Error>) {
    let at = Path::new("status");
    let count = |field: &str| status.int(field).unwrap_or(0);
    for field in counts {
        not_negative(&at.child(field), count(field), errors);
    }
    for field in bounded {
        if count(field) > count("replicas") {
            let text = "cannot be greater than status.replicas";
            errors.push(at.child(field).invalid(count(field), text));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let text = "cannot be greater than readyReplicas";
        errors.push(at.child("availableReplicas").invalid(count("availableReplicas"), text));
    }
}
