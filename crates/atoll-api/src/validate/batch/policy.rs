//! podFailurePolicy and successPolicy.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::batch::indexes::Indexes;
use crate::names;
use crate::validate::{faults, not_negative};

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONDITIONS_MAX: usize = 20;
const INDEXES_LENGTH_MAX: usize = 64 * 1024;

pub(super) fn pod_failure(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let rules_at = at.child("rules");
    let rules = spec["podFailurePolicy"].items("rules");
    if rules.len() > RULES_MAX {
        errors.push(rules_at.too_many(rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(&rules_at.index(index), rule, spec, errors);
    }
}

/// `valid values: ["In" "NotIn"]`, as Go prints a list.
fn valid(values: &[&str]) -> String {
    let quoted: Vec<String> = values.iter().map(|one| crate::field::quote(one)).collect();
    format!("valid values: [{}]", quoted.join(" "))
}

fn failure_rule(at: &Path, rule: &Value, spec: &Value, errors: &mut Vec<Error>) {
    let action_at = at.child("action");
    match rule.text("action") {
        "" => errors.push(action_at.required(valid(&ACTIONS))),
        "FailIndex" if !spec.has("backoffLimitPerIndex") => {
            let text = "requires the backoffLimitPerIndex to be set";
            errors.push(action_at.invalid("FailIndex", text));
        }
        action if !ACTIONS.contains(&action) => {
            errors.push(action_at.not_supported(action, &ACTIONS));
        }
        _ => {}
    }
    let codes = &rule["onExitCodes"];
    let conditions = rule.items("onPodConditions");
    if !codes.is_null() {
        exit_codes(&at.child("onExitCodes"), codes, spec, errors);
    }
    if !conditions.is_empty() {
        pod_conditions(&at.child("onPodConditions"), conditions, errors);
    }
    match (codes.is_null(), conditions.is_empty()) {
        (false, false) => {
            let text = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(at.invalid_whole(text));
        }
        (true, true) => {
            let text = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(at.invalid_whole(text));
        }
        _ => {}
    }
}

fn pod_conditions(at: &Path, conditions: &[Value], errors: &mut Vec<Error>) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(at.too_many(conditions.len(), CONDITIONS_MAX));
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let at = at.index(index);
        let kind = pattern.text("type");
        faults(&at.child("type"), kind, names::qualified_name(kind), errors);
        match pattern.text("status") {
            "" => errors.push(at.child("status").required(valid(&STATUSES))),
            status if !STATUSES.contains(&status) => {
                errors.push(at.child("status").not_supported(status, &STATUSES));
            }
            _ => {}
        }
    }
}

fn exit_codes(at: &Path, codes: &Value, spec: &Value, errors: &mut Vec<Error>) {
    let operator = codes.text("operator");
    match operator {
        "" => errors.push(at.child("operator").required(valid(&OPERATORS))),
        other if !OPERATORS.contains(&other) => {
            errors.push(at.child("operator").not_supported(other, &OPERATORS));
        }
        _ => {}
    }
    if let Some(name) = codes.opt_text("containerName") {
        let pod = &spec["template"]["spec"];
        let mut all = pod.items("containers").iter().chain(pod.items("initContainers"));
        if !all.any(|container| container.text("name") == name) {
            let text = "must be one of the container or initContainer names in the pod template";
            errors.push(at.child("containerName").invalid(name, text));
        }
    }
    let values_at = at.child("values");
    let values: Vec<i64> = codes.items("values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.push(values_at.invalid(codes["values"].clone(), "at least one value is required"));
    } else if values.len() > EXIT_CODES_MAX {
        errors.push(values_at.too_many(values.len(), EXIT_CODES_MAX));
    }
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let at = values_at.index(index);
        if operator == "In" && *value == 0 {
            errors.push(at.invalid(*value, "must not be 0 for the In operator"));
        }
        if !seen.insert(*value) {
            errors.push(at.duplicate(*value));
        }
    }
    if !values.is_sorted() {
        errors.push(values_at.invalid(codes["values"].clone(), "must be ordered"));
    }
}

pub(super) fn success(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let rules_at = at.child("rules");
    let rules = spec["successPolicy"].items("rules");
    if rules.is_empty() {
        let text = "at least one rules must be specified when the successPolicy is specified";
        errors.push(rules_at.required(text));
    }
    if rules.len() > RULES_MAX {
        errors.push(rules_at.too_many(rules.len(), RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        success_rule(&rules_at.index(index), rule, spec, errors);
    }
}

fn success_rule(at: &Path, rule: &Value, spec: &Value, errors: &mut Vec<Error>) {
    if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
        let text = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(at.required(text));
    }
    let completions = spec.int("completions").unwrap_or(0);
    let mut total = 0;
    if let Some(text) = rule.opt_text("succeededIndexes") {
        let at = at.child("succeededIndexes");
        if text.len() > INDEXES_LENGTH_MAX {
            errors.push(at.too_long(INDEXES_LENGTH_MAX));
        }
        match Indexes::parse(text, i32::try_from(completions).unwrap_or(i32::MAX)) {
            Ok(indexes) => total = i64::try_from(indexes.len()).unwrap_or(i64::MAX),
            Err(why) => {
                errors.push(at.invalid(text, format!("error parsing succeededIndexes: {why}")));
            }
        }
    }
    let Some(count) = rule.int("succeededCount") else { return };
    let at = at.child("succeededCount");
    not_negative(&at, count, errors);
    if count > completions {
        let text = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.push(at.invalid(count, text));
    }
    if rule.has("succeededIndexes") && count > total {
        let text = format!(
            "must be less than or equal to {total} (the number of indexes in the specified \
             succeededIndexes field)"
        );
        errors.push(at.invalid(count, text));
    }
}
