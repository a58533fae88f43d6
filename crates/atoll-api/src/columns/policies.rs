//! Admission policies in CEL, and their bindings.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, integer, name, text};
use crate::access::Access as _;

const UNSET: &str = "<unset>";

const PARAM_KIND: Column =
    text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy");

pub(crate) const VALIDATING: &[Column] = &[
    NAME,
    integer(
        "Validations",
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];

pub(crate) const MUTATING: &[Column] = &[
    NAME,
    integer(
        "Mutations",
        "Mutation indicates the number of mutations rules defined in this configuration",
    ),
    PARAM_KIND,
    AGE,
];

pub(crate) const BINDING: &[Column] = &[
    NAME,
    text(
        "PolicyName",
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
    AGE,
];

pub(crate) fn validating(policy: &Value, now: Timestamp) -> Vec<Value> {
    policy_row(policy, "validations", now)
}

pub(crate) fn mutating(policy: &Value, now: Timestamp) -> Vec<Value> {
    policy_row(policy, "mutations", now)
}

fn policy_row(policy: &Value, list: &str, now: Timestamp) -> Vec<Value> {
    let spec = &policy["spec"];
    let kind = &spec["paramKind"];
    let kind = if kind.is_object() {
        format!("{}/{}", kind.text("apiVersion"), kind.text("kind"))
    } else {
        UNSET.to_owned()
    };
    vec![name(policy), json!(spec.items(list).len()), json!(kind), age(policy, now)]
}

pub(crate) fn binding(binding: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &binding["spec"];
    let param = &spec["paramRef"];
    let (namespace, own) = (param.text("namespace"), param.text("name"));
    let param = if own.is_empty() && param.has("selector") {
        "*".to_owned()
    } else if own.is_empty() {
        UNSET.to_owned()
    } else if namespace.is_empty() {
        own.to_owned()
    } else {
        format!("{namespace}/{own}")
    };
    vec![name(binding), json!(spec.text("policyName")), json!(param), age(binding, now)]
}
