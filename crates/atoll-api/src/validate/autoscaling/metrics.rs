//! What an autoscaler goes by.

use serde_json::Value;

use super::reference;
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount;
use crate::names;
use crate::validate::faults;

/// Types of metrics and the field that each is described in, by type.
const TYPES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
/// The order in which a metric that has several sources is looked at.
const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];
const TARGET_TYPES: [&str; 3] = ["Utilization", "Value", "AverageValue"];

pub(super) fn metrics(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let list = spec.items("metrics");
    for (index, one) in list.iter().enumerate() {
        metric(&at.index(index), one, errors);
    }
    let from_elsewhere = |one: &Value| matches!(one.text("type"), "Object" | "External");
    if spec.int("minReplicas") == Some(0) && !list.iter().any(from_elsewhere) {
        let text = "must specify at least one Object or External metric to support scaling to zero \
                    replicas";
        errors.push(at.forbidden(text));
    }
}

fn metric(at: &Path, metric: &Value, errors: &mut Vec<Error>) {
    let kind = metric.text("type");
    let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    if kind.is_empty() {
        errors.push(at.child("type").required("must specify a metric source type"));
    }
    let expected = TYPES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if expected.is_none() {
        errors.push(at.child("type").not_supported(kind, &names));
    }
    let present: Vec<&str> = SOURCES.into_iter().filter(|source| metric.has(source)).collect();
    if let Some(first) = present.first() {
        source(&at.child(first), first, &metric[*first], errors);
    }
    if let Some(expected) = expected.filter(|expected| !metric.has(expected)) {
        let text = "must populate information for the given metric source";
        errors.push(at.child(expected).required(text));
    }
    if present.len() != 1 {
        for other in present.iter().filter(|source| Some(**source) != expected) {
            let text = "must populate the given metric source only";
            errors.push(at.child(other).forbidden(text));
        }
    }
}

fn source(at: &Path, kind: &str, source: &Value, errors: &mut Vec<Error>) {
    let aim = &source["target"];
    let target_at = at.child("target");
    match kind {
        "object" => reference(&at.child("describedObject"), &source["describedObject"], errors),
        "resource" | "containerResource" => {
            if source.text("name").is_empty() {
                errors.push(at.child("name").required("must specify a resource name"));
            }
            if kind == "containerResource" {
                container(&at.child("container"), source.text("container"), errors);
            }
        }
        _ => {}
    }
    if matches!(kind, "object" | "external" | "pods") {
        identifier(&at.child("metric").child("name"), source["metric"].text("name"), errors);
    }
    target(&target_at, aim, errors);
    let average = target_at.child("averageValue");
    match kind {
        "object" if !aim.has("value") && !aim.has("averageValue") => {
            errors.push(average.required("must set either a target value or averageValue"));
        }
        "external" if !aim.has("value") && !aim.has("averageValue") => {
            let text = "must set either a target value for metric or a per-pod target";
            errors.push(average.required(text));
        }
        "external" if aim.has("value") && aim.has("averageValue") => {
            let text = "may not set both a target value for metric and a per-pod target";
            errors.push(target_at.child("value").forbidden(text));
        }
        "pods" if !aim.has("averageValue") => {
            errors.push(average.required("must specify a positive target averageValue"));
        }
        "resource" | "containerResource" => usage(&target_at, aim, errors),
        _ => {}
    }
}

fn usage(at: &Path, target: &Value, errors: &mut Vec<Error>) {
    match (target.has("averageUtilization"), target.has("averageValue")) {
        (false, false) => {
            let text = "must set either a target raw value or a target utilization";
            errors.push(at.child("averageUtilization").required(text));
        }
        (true, true) => {
            let text = "may not set both a target raw value and a target utilization";
            errors.push(at.child("averageValue").forbidden(text));
        }
        _ => {}
    }
}

fn container(at: &Path, name: &str, errors: &mut Vec<Error>) {
    if name.is_empty() {
        errors.push(at.required("must specify a container"));
    } else {
        faults(at, name, names::dns1123_label(name), errors);
    }
}

fn identifier(at: &Path, name: &str, errors: &mut Vec<Error>) {
    if name.is_empty() {
        errors.push(at.required("must specify a metric name"));
    } else {
        faults(at, name, names::path_segment(name), errors);
    }
}

fn target(at: &Path, target: &Value, errors: &mut Vec<Error>) {
    let kind = target.text("type");
    if kind.is_empty() {
        errors.push(at.child("type").required("must specify a metric target type"));
    }
    if !TARGET_TYPES.contains(&kind) {
        let text = "must be either Utilization, Value, or AverageValue";
        errors.push(at.child("type").invalid(kind, text));
    }
    for field in ["value", "averageValue"] {
        if let Some(value) = target.opt_text(field)
            && amount::parse(value).is_some_and(|amount| amount <= 0)
        {
            errors.push(at.child(field).invalid(value, "must be positive"));
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        errors.push(at.child("averageUtilization").invalid(percent, "must be greater than 0"));
    }
}
