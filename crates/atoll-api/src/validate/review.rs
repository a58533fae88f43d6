//! Reviews: the questions that may be asked.

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};

const ONE_OF: &str = "exactly one of nonResourceAttributes or resourceAttributes must be specified";

pub(crate) fn self_subject(_: &Value) -> Vec<Error> {
    Vec::new()
}

pub(crate) fn rules(_: &Value) -> Vec<Error> {
    Vec::new()
}

pub(crate) fn token(review: &Value) -> Vec<Error> {
    if review["spec"].text("token").is_empty() {
        return vec![Path::new("spec").child("token").required("")];
    }
    Vec::new()
}

pub(crate) fn self_access(review: &Value) -> Vec<Error> {
    let mut errors = attributes(&review["spec"]);
    empty_metadata(review, &[], "must be empty", &mut errors);
    errors
}

pub(crate) fn access(review: &Value) -> Vec<Error> {
    let mut errors = subject_and_attributes(&review["spec"]);
    empty_metadata(review, &[], "must be empty", &mut errors);
    errors
}

pub(crate) fn local_access(review: &Value) -> Vec<Error> {
    let spec = &review["spec"];
    let mut errors = subject_and_attributes(spec);
    empty_metadata(review, &["namespace"], "must be empty except for namespace", &mut errors);
    let asked = spec["resourceAttributes"].text("namespace");
    let namespace = review["metadata"].text("namespace");
    if spec.has("resourceAttributes") && asked != namespace {
        let at = Path::new("spec.resourceAttributes.namespace");
        errors.push(at.invalid(asked, "must match metadata.namespace"));
    }
    if spec.has("nonResourceAttributes") {
        let at = Path::new("spec.nonResourceAttributes");
        let text = "disallowed on this kind of request";
        errors.push(at.invalid(spec["nonResourceAttributes"].clone(), text));
    }
    errors
}

fn subject_and_attributes(spec: &Value) -> Vec<Error> {
    let mut errors = attributes(spec);
    if spec.text("user").is_empty() && spec.items("groups").is_empty() {
        let text = "at least one of user or group must be specified";
        errors.push(Path::new("spec").child("user").invalid("", text));
    }
    errors
}

fn attributes(spec: &Value) -> Vec<Error> {
    let at = Path::new("spec");
    match (spec.has("resourceAttributes"), spec.has("nonResourceAttributes")) {
        (true, true) => {
            let text = "cannot be specified in combination with resourceAttributes";
            let value = spec["nonResourceAttributes"].clone();
            vec![at.child("nonResourceAttributes").invalid(value, text)]
        }
        (false, false) => vec![at.child("resourceAttributes").invalid(Value::Null, ONE_OF)],
        _ => Vec::new(),
    }
}

fn empty_metadata(review: &Value, allowed: &[&str], text: &str, errors: &mut Vec<Error>) {
    let bookkeeping = ["managedFields", "creationTimestamp"];
    let set = review.fields("metadata").into_iter().flatten().any(|(field, value)| {
        !value.is_null()
            && value.as_str() != Some("")
            && !allowed.contains(&field.as_str())
            && !bookkeeping.contains(&field.as_str())
    });
    if set {
        errors.push(Path::new("metadata").invalid(review["metadata"].clone(), text));
    }
}
