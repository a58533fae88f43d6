//! Where pods may go: affinity, tolerations, topology spread.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{faults, label_selector, node};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(crate) fn affinity(at: &Path, affinity: &Value, errors: &mut Vec<Error>) {
    if affinity.has("nodeAffinity") {
        node_affinity(&at.child("nodeAffinity"), &affinity["nodeAffinity"], errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        if affinity.has(field) {
            pod_affinity(&at.child(field), &affinity[field], errors);
        }
    }
}

pub(crate) fn tolerations(at: &Path, tolerations: &[Value], errors: &mut Vec<Error>) {
    for (index, toleration) in tolerations.iter().enumerate() {
        self::toleration(&at.index(index), toleration, errors);
    }
}

pub(crate) fn spread(at: &Path, constraints: &[Value], errors: &mut Vec<Error>) {
    for (index, constraint) in constraints.iter().enumerate() {
        let at = at.index(index);
        spread_constraint(&at, constraint, errors);
        let kind = |one: &Value| {
            (one.text("topologyKey").to_owned(), one.text("whenUnsatisfiable").to_owned())
        };
        let (key, action) = kind(constraint);
        if constraints[index + 1..].iter().any(|other| kind(other) == kind(constraint)) {
            let at = at.child("{topologyKey, whenUnsatisfiable}");
            errors.push(at.duplicate(format!("{{{key}, {action}}}")));
        }
    }
}

fn spread_constraint(at: &Path, constraint: &Value, errors: &mut Vec<Error>) {
    let action = constraint.text("whenUnsatisfiable");
    let skew = constraint.int("maxSkew").unwrap_or(0);
    positive(&at.child("maxSkew"), skew, errors);
    if constraint.text("topologyKey").is_empty() {
        errors.push(at.child("topologyKey").required("can not be empty"));
    }
    if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
        let at = at.child("whenUnsatisfiable");
        errors.push(at.not_supported(action, &["DoNotSchedule", "ScheduleAnyway"]));
    }
    if let Some(domains) = constraint.int("minDomains") {
        let at = at.child("minDomains");
        positive(&at, domains, errors);
        if action != "DoNotSchedule" {
            errors.push(at.invalid(
                domains,
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"),
            ));
        }
    }
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        if let Some(policy) = constraint.opt_text(field)
            && !matches!(policy, "Honor" | "Ignore")
        {
            errors.push(at.child(field).not_supported(policy, &["Honor", "Ignore"]));
        }
    }
    label_keys(at, constraint, errors);
    label_selector(&at.child("labelSelector"), &constraint["labelSelector"], errors);
}

fn positive(at: &Path, value: i64, errors: &mut Vec<Error>) {
    if value <= 0 {
        errors.push(at.invalid(value, "must be greater than zero"));
    }
}

fn node_affinity(at: &Path, affinity: &Value, errors: &mut Vec<Error>) {
    if affinity.has(REQUIRED) {
        let at = at.child(REQUIRED).child("nodeSelectorTerms");
        let terms = affinity[REQUIRED].items("nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(at.required("must have at least one node selector term"));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(&at.index(index), term, true, errors);
        }
    }
    for (index, preference) in affinity.items(PREFERRED).iter().enumerate() {
        let at = at.child(PREFERRED).index(index);
        weight(&at, preference, errors);
        node_term(&at.child("preference"), &preference["preference"], false, errors);
    }
}

fn weight(at: &Path, term: &Value, errors: &mut Vec<Error>) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(at.child("weight").invalid(weight, "must be in the range 1-100"));
    }
}

/// A selector of nodes whose terms all stand for themselves: where a volume can be used.
pub(crate) fn node_selector(at: &Path, selector: &Value, errors: &mut Vec<Error>) {
    let at = at.child("nodeSelectorTerms");
    let terms = selector.items("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(at.required("must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(&at.index(index), term, true, errors);
    }
}

fn node_term(at: &Path, term: &Value, check_values: bool, errors: &mut Vec<Error>) {
    for (index, requirement) in term.items("matchExpressions").iter().enumerate() {
        let at = at.child("matchExpressions").index(index);
        node_requirement(&at, requirement, check_values, errors);
    }
    for (index, requirement) in term.items("matchFields").iter().enumerate() {
        node_field(&at.child("matchFields").index(index), requirement, errors);
    }
}

fn node_requirement(at: &Path, requirement: &Value, check_values: bool, errors: &mut Vec<Error>) {
    let values = requirement.items("values");
    let values_at = at.child("values");
    match requirement.text("operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                let text = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(values_at.required(text));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(values_at.forbidden(text));
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                let text = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.push(values_at.required(text));
            }
        }
        other => {
            errors.push(at.child("operator").invalid(other, "not a valid selector operator"));
        }
    }
    let key = requirement.text("key");
    faults(&at.child("key"), key, names::qualified_name(key), errors);
    for (index, value) in values.iter().enumerate().filter(|_| check_values) {
        let value = value.as_str().unwrap_or("");
        faults(&values_at.index(index), value, names::label_value(value), errors);
    }
}

fn node_field(at: &Path, requirement: &Value, errors: &mut Vec<Error>) {
    let values = requirement.items("values");
    match requirement.text("operator") {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let text = "must be only one value when `operator` is 'In' or 'NotIn' for node \
                            field selector";
                errors.push(at.child("values").required(text));
            }
        }
        other => {
            errors.push(at.child("operator").invalid(other, "not a valid selector operator"));
        }
    }
    let key = requirement.text("key");
    if key != "metadata.name" {
        errors.push(at.child("key").invalid(key, "not a valid field selector key"));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        let at = at.child("values").index(index);
        faults(&at, value, names::dns1123_subdomain(value), errors);
    }
}

fn pod_affinity(at: &Path, affinity: &Value, errors: &mut Vec<Error>) {
    for (index, term) in affinity.items(REQUIRED).iter().enumerate() {
        pod_term(&at.child(REQUIRED).index(index), term, errors);
    }
    for (index, weighted) in affinity.items(PREFERRED).iter().enumerate() {
        let at = at.child(PREFERRED).index(index);
        weight(&at, weighted, errors);
        pod_term(&at.child("podAffinityTerm"), &weighted["podAffinityTerm"], errors);
    }
}

fn pod_term(at: &Path, term: &Value, errors: &mut Vec<Error>) {
    for selector in ["labelSelector", "namespaceSelector"] {
        label_selector(&at.child(selector), &term[selector], errors);
    }
    for namespace in term.items("namespaces") {
        let namespace = namespace.as_str().unwrap_or("");
        faults(&at.child("namespace"), namespace, names::dns1123_label(namespace), errors);
    }
    label_keys(at, term, errors);
    let key = term.text("topologyKey");
    if key.is_empty() {
        errors.push(at.child("topologyKey").required("can not be empty"));
    }
    faults(&at.child("topologyKey"), key, names::qualified_name(key), errors);
}

/// Keys whose values are taken from the pod itself.
fn label_keys(at: &Path, term: &Value, errors: &mut Vec<Error>) {
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = term.items(field);
        let at = at.child(field);
        if !keys.is_empty() && !term.has("labelSelector") {
            errors.push(at.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            let key = key.as_str().unwrap_or("");
            faults(&at.index(index), key, names::qualified_name(key), errors);
        }
    }
    let selected: BTreeSet<&str> = term["labelSelector"]
        .fields("matchLabels")
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let mismatched = term.items("mismatchLabelKeys");
    for (index, key) in term.items("matchLabelKeys").iter().enumerate() {
        let text = key.as_str().unwrap_or("");
        if selected.contains(text) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(at.index(index).invalid(text, detail));
        }
        if mismatched.contains(key) {
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(at.child("matchLabelKeys").index(index).invalid(text, detail));
        }
    }
}

fn toleration(at: &Path, toleration: &Value, errors: &mut Vec<Error>) {
    let (key, operator) = (toleration.text("key"), toleration.text("operator"));
    let (value, effect) = (toleration.text("value"), toleration.text("effect"));
    let operator_at = at.child("operator");
    if key.is_empty() {
        if operator != "Exists" {
            let text = "operator must be Exists when `key` is empty, which means \"match all \
                        values and all keys\"";
            errors.push(operator_at.invalid(operator, text));
        }
    } else {
        faults(&at.child("key"), key, names::qualified_name(key), errors);
    }
    if toleration.has("tolerationSeconds") && effect != "NoExecute" {
        let text = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(at.child("effect").invalid(effect, text));
    }
    match operator {
        "" | "Equal" => {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(operator_at.invalid(value, wrong.join(";")));
            }
        }
        "Exists" => {
            if !value.is_empty() {
                let text = "value must be empty when `operator` is 'Exists'";
                errors.push(operator_at.invalid(value, text));
            }
        }
        other => errors.push(operator_at.not_supported(other, &["Equal", "Exists"])),
    }
    if !effect.is_empty() {
        node::taint_effect(&at.child("effect"), effect, errors);
    }
}
