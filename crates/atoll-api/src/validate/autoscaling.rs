//! HorizontalPodAutoscalers: bounds, metrics, behavior.

mod metrics;

use serde_json::Value;

use super::{faults, not_negative};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount;
use crate::kinds::autoscaling::to_v2;
use crate::names;

const SELECT_POLICIES: [&str; 3] = ["Disabled", "Max", "Min"];
const POLICY_TYPES: [&str; 2] = ["Percent", "Pods"];
const PERIOD_SECONDS_MAX: i64 = 1800;
const WINDOW_SECONDS_MAX: i64 = 3600;

pub(crate) fn autoscaler(scaler: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    spec(&scaler["spec"], 1, &mut errors);
    errors
}

pub(crate) fn autoscaler_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let least = i64::from(old["spec"].int("minReplicas") != Some(0));
    spec(&new["spec"], least, &mut errors);
    errors
}

/// The rules are those of what the old version stands for.
pub(crate) fn autoscaler_v1(scaler: &Value) -> Vec<Error> {
    let mut new = scaler.clone();
    to_v2(&mut new);
    autoscaler(&new)
}

pub(crate) fn autoscaler_v1_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut converted = new.clone();
    to_v2(&mut converted);
    autoscaler_update(&converted, old)
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        let count = new["status"].int(field).unwrap_or(0);
        not_negative(&Path::new("status").child(field), count, &mut errors);
    }
    errors
}

fn spec(spec: &Value, least: i64, errors: &mut Vec<Error>) {
    let at = Path::new("spec");
    let minimum = spec.int("minReplicas");
    if let Some(minimum) = minimum.filter(|minimum| *minimum < least) {
        let text = format!("must be greater than or equal to {least}");
        errors.push(at.child("minReplicas").invalid(minimum, text));
    }
    let maximum = spec.int("maxReplicas").unwrap_or(0);
    if maximum < 1 {
        errors.push(at.child("maxReplicas").invalid(maximum, "must be greater than 0"));
    }
    if minimum.is_some_and(|minimum| maximum < minimum) {
        let text = "must be greater than or equal to `minReplicas`";
        errors.push(at.child("maxReplicas").invalid(maximum, text));
    }
    reference(&at.child("scaleTargetRef"), &spec["scaleTargetRef"], errors);
    metrics::metrics(&at.child("metrics"), spec, errors);
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            scaling(&at.child("behavior").child(direction), rules, errors);
        }
    }
}

/// An object of any kind.
fn reference(at: &Path, reference: &Value, errors: &mut Vec<Error>) {
    for field in ["kind", "name"] {
        let (at, value) = (at.child(field), reference.text(field));
        if value.is_empty() {
            errors.push(at.required(""));
        } else {
            faults(&at, value, names::path_segment(value), errors);
        }
    }
}

fn scaling(at: &Path, rules: &Value, errors: &mut Vec<Error>) {
    if let Some(seconds) = rules.int("stabilizationWindowSeconds") {
        let at = at.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.push(at.invalid(seconds, "must be greater than or equal to zero"));
        }
        if seconds > WINDOW_SECONDS_MAX {
            let text = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.push(at.invalid(seconds, text));
        }
    }
    if let Some(policy) = rules.opt_text("selectPolicy")
        && !SELECT_POLICIES.contains(&policy)
    {
        errors.push(at.child("selectPolicy").not_supported(policy, &SELECT_POLICIES));
    }
    let policies_at = at.child("policies");
    let policies = rules.items("policies");
    if policies.is_empty() {
        errors.push(policies_at.required("must specify at least one Policy"));
    }
    for (index, policy) in policies.iter().enumerate() {
        scaling_policy(&policies_at.index(index), policy, errors);
    }
    if let Some(tolerance) = rules.opt_text("tolerance")
        && amount::parse(tolerance).is_some_and(|amount| amount < 0)
    {
        let text = "must be greater than or equal to 0";
        errors.push(at.child("tolerance").invalid(tolerance, text));
    }
}

fn scaling_policy(at: &Path, policy: &Value, errors: &mut Vec<Error>) {
    let kind = policy.text("type");
    if !POLICY_TYPES.contains(&kind) {
        errors.push(at.child("type").not_supported(kind, &POLICY_TYPES));
    }
    for field in ["value", "periodSeconds"] {
        let value = policy.int(field).unwrap_or(0);
        if value <= 0 {
            errors.push(at.child(field).invalid(value, "must be greater than zero"));
        }
    }
    let period = policy.int("periodSeconds").unwrap_or(0);
    if period > PERIOD_SECONDS_MAX {
        let text = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
        errors.push(at.child("periodSeconds").invalid(period, text));
    }
}

#[cfg(test)]
mod tests;
