//! Events, by the loose rules of the core group and the strict ones of `events.k8s.io`.

use serde_json::{Value, json};

use super::{IMMUTABLE, faults, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::event::to_core;
use crate::names;

const TEXT_LENGTH_MAX: usize = 128;
const NOTE_LENGTH_MAX: usize = 1024;

pub(crate) fn core(event: &Value) -> Vec<Error> {
    loose(event, "reportingComponent")
}

pub(crate) fn core_update(new: &Value, _: &Value) -> Vec<Error> {
    core(new)
}

pub(crate) fn new(event: &Value) -> Vec<Error> {
    let mut core = event.clone();
    to_core(&mut core);
    let mut errors = loose(&core, "reportingController");
    series(&core, &mut errors);
    if core.text("eventTime").is_empty() {
        errors.push(Path::new("eventTime").required(""));
    }
    let kind = core.text("type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(Path::new("type").invalid("", format!("has invalid value: {kind}")));
    }
    let source = &core["source"];
    let set = [
        ("firstTimestamp", core.has("firstTimestamp")),
        ("lastTimestamp", core.has("lastTimestamp")),
        ("count", core.int("count").unwrap_or(0) != 0),
        ("source", !source.text("component").is_empty() || !source.text("host").is_empty()),
    ];
    for (field, _) in set.into_iter().filter(|(_, set)| *set) {
        errors.push(Path::new(field).invalid("", "needs to be unset"));
    }
    errors
}

pub(crate) fn new_update(new: &Value, old: &Value) -> Vec<Error> {
    let (mut is, mut was) = (new.clone(), old.clone());
    to_core(&mut is);
    to_core(&mut was);
    let mut errors = loose(&is, "reportingController");
    if is["series"] != was["series"] {
        series(&is, &mut errors);
    }
    let fixed = [
        ("involvedObject", "involvedObject"),
        ("reason", "reason"),
        ("message", "message"),
        ("source", "source"),
        ("firstTimestamp", "firstTimestamp"),
        ("lastTimestamp", "lastTimestamp"),
        ("count", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingComponent", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ];
    for (field, shown) in fixed {
        if !same(&is[field], &was[field]) {
            errors.push(Path::new(shown).invalid(is[field].clone(), IMMUTABLE));
        }
    }
    errors
}

fn series(event: &Value, errors: &mut Vec<Error>) {
    let series = &event["series"];
    if !series.is_object() {
        return;
    }
    if series.int("count").unwrap_or(0) < 2 {
        errors.push(Path::new("series.count").invalid("", "should be at least 2"));
    }
    if series.text("lastObservedTime").is_empty() {
        errors.push(Path::new("series.lastObservedTime").required(""));
    }
}

fn loose(event: &Value, reporter_field: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    let namespace = event["metadata"].text("namespace");
    let about = event["involvedObject"].text("namespace");
    let mismatch = |errors: &mut Vec<Error>| {
        let at = Path::new("involvedObject").child("namespace");
        errors.push(at.invalid(about, "does not match event.namespace"));
    };
    if event.text("eventTime").is_empty() {
        let wrong = match about {
            "" => !matches!(namespace, "" | "default"),
            about => about != namespace,
        };
        if wrong {
            mismatch(&mut errors);
        }
    } else {
        if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch(&mut errors);
        }
        reporter(event, reporter_field, &mut errors);
    }
    let at = Path::new("namespace");
    faults(&at, namespace, names::dns1123_subdomain(namespace), &mut errors);
    errors
}

fn reporter(event: &Value, reporter_field: &str, errors: &mut Vec<Error>) {
    let reporter = event.text("reportingComponent");
    let at = Path::new(reporter_field);
    if reporter.is_empty() {
        errors.push(at.required(""));
    }
    faults(&at, reporter, names::qualified_name(reporter), errors);
    for field in ["reportingInstance", "action", "reason"] {
        let text = event.text(field);
        if text.is_empty() {
            errors.push(Path::new(field).required(""));
        }
        too_long(field, text, TEXT_LENGTH_MAX, errors);
    }
    too_long("message", event.text("message"), NOTE_LENGTH_MAX, errors);
}

fn too_long(field: &str, text: &str, length_max: usize, errors: &mut Vec<Error>) {
    if text.len() > length_max {
        let detail = format!("can have at most {length_max} characters");
        errors.push(Path::new(field).invalid(json!(""), detail));
    }
}
