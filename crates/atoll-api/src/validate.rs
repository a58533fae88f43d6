//! Validation: what is wrong with an object, in upstream's words.
//!
//! Every check takes object trees whose types have been checked against the schema already and
//! gives errors by field; none changes anything.

pub(crate) mod addresses;
pub(crate) mod affinity;
pub(crate) mod aggregation;
pub(crate) mod autoscaling;
pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod container;
pub(crate) mod csi;
pub(crate) mod csr;
pub(crate) mod disruption;
pub(crate) mod dynamic;
pub(crate) mod endpoints;
pub(crate) mod env;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod flow;
pub(crate) mod lease;
pub mod metadata;
pub(crate) mod namespace;
pub(crate) mod network_policy;
pub(crate) mod networking;
pub(crate) mod node;
pub(crate) mod plain;
pub(crate) mod pod;
pub(crate) mod pod_resize;
pub(crate) mod pod_update;
pub(crate) mod policies;
pub(crate) mod probe;
pub(crate) mod quota;
pub(crate) mod rbac;
pub(crate) mod replication;
pub(crate) mod resources;
pub(crate) mod review;
pub(crate) mod runtime;
pub(crate) mod security;
pub(crate) mod service;
pub(crate) mod stateful;
pub(crate) mod storage;
pub(crate) mod volume;
pub(crate) mod warnings;
pub(crate) mod webhooks;
pub(crate) mod workload;

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

pub(crate) const IMMUTABLE: &str = "field is immutable";
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Two fields that must be the same.
pub(crate) fn immutable(at: &Path, new: &Value, old: &Value, errors: &mut Vec<Error>) {
    if !same(new, old) {
        errors.push(at.invalid(new.clone(), IMMUTABLE));
    }
}

/// Equal, where absent, null and empty count as the same.
pub(crate) fn same(one: &Value, other: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    one == other || (empty(one) && empty(other))
}

pub(crate) fn not_negative(at: &Path, value: i64, errors: &mut Vec<Error>) {
    if value < 0 {
        errors.push(at.invalid(value, NOT_NEGATIVE));
    }
}

/// Every fault of a value becomes an error that shows it.
pub(crate) fn faults(at: &Path, value: &str, faults: Vec<String>, errors: &mut Vec<Error>) {
    errors.extend(faults.into_iter().map(|fault| at.invalid(value, fault)));
}

/// A value out of a list; an empty one is missing.
pub(crate) fn one_of(
    at: &Path,
    value: &str,
    allowed: &[&str],
    missing: &str,
    errors: &mut Vec<Error>,
) {
    if value.is_empty() {
        errors.push(at.required(missing));
    } else if !allowed.contains(&value) {
        errors.push(at.not_supported(value, allowed));
    }
}

/// Checks a metav1.LabelSelector.
pub(crate) fn label_selector(at: &Path, selector: &Value, errors: &mut Vec<Error>) {
    if selector.is_null() {
        return;
    }
    metadata::labels(&at.child("matchLabels"), &selector["matchLabels"], errors);
    for (index, term) in selector.items("matchExpressions").iter().enumerate() {
        selector_term(&at.child("matchExpressions").index(index), term, errors);
    }
}

fn selector_term(at: &Path, term: &Value, errors: &mut Vec<Error>) {
    let values = term.items("values");
    match term.text("operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(
            at.child("values").required("must be specified when `operator` is 'In' or 'NotIn'"),
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(
                at.child("values").forbidden(
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(at.child("operator").invalid(other, "not a valid selector operator"));
        }
    }
    let key = term.text("key");
    faults(&at.child("key"), key, names::qualified_name(key), errors);
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        faults(&at.child("values").index(index), value, names::label_value(value), errors);
    }
}
