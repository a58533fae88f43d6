//! Dynamic resource allocation: devices and claims to them.
//!
//! Expressions are checked for their length only: nothing here evaluates them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{faults, immutable};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const REQUESTS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIGS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const RESERVED_FOR_MAX: usize = 256;
const DEVICES_MAX: usize = 128;
const EXPRESSION_LENGTH_MAX: usize = 10 * 1024;
const DRIVER_LENGTH_MAX: usize = 63;
const POOL_LENGTH_MAX: usize = 253;

pub(crate) fn device_class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (spec, at) = (&class["spec"], Path::new("spec"));
    selectors(&at.child("selectors"), spec.items("selectors"), &mut errors);
    bounded(&at.child("config"), spec.items("config"), CONFIGS_MAX, &mut errors, opaque);
    errors
}

pub(crate) fn device_class_update(new: &Value, _: &Value) -> Vec<Error> {
    device_class(new)
}

pub(crate) fn resource_claim(claim: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    claim_spec(&Path::new("spec"), &claim["spec"], &mut errors);
    errors
}

pub(crate) fn resource_claim_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    immutable(&Path::new("spec"), &new["spec"], &old["spec"], &mut errors);
    errors
}

pub(crate) fn resource_claim_status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (status, was, at) = (&new["status"], &old["status"], Path::new("status"));
    let reserved_at = at.child("reservedFor");
    let reserved = status.items("reservedFor");
    bounded(&reserved_at, reserved, RESERVED_FOR_MAX, &mut errors, |at, user, errors| {
        for field in ["resource", "name", "uid"] {
            if user.text(field).is_empty() {
                errors.push(at.child(field).required(""));
            }
        }
    });
    unique(&reserved_at, reserved, "uid", &mut errors);
    let allocated = status.has("allocation");
    if !reserved.is_empty() && !allocated {
        let text = "may not be specified when `allocated` is not set";
        errors.push(reserved_at.forbidden(text));
    }
    let added = reserved.iter().any(|user| !was.items("reservedFor").contains(user));
    if allocated && added && new["metadata"].has("deletionTimestamp") {
        let text = "new entries may not be added while `deallocationRequested` or \
                    `deletionTimestamp` are set";
        errors.push(reserved_at.forbidden(text));
    }
    if allocated && was.has("allocation") {
        immutable(&at.child("allocation"), &status["allocation"], &was["allocation"], &mut errors);
    }
    errors
}

pub(crate) fn claim_template(template: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("spec");
    claim_spec(&at, &template["spec"]["spec"], &mut errors);
    errors
}

pub(crate) fn claim_template_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    immutable(&Path::new("spec"), &new["spec"], &old["spec"], &mut errors);
    errors
}

pub(crate) fn resource_slice(slice: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (spec, at) = (&slice["spec"], Path::new("spec"));
    driver(&at.child("driver"), spec.text("driver"), &mut errors);
    pool(&at.child("pool"), &spec["pool"], &mut errors);
    let given = [
        spec.has("nodeName"),
        spec.has("nodeSelector"),
        spec.flag("allNodes"),
        spec.flag("perDeviceNodeSelection"),
    ];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => errors.push(at.required(
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        )),
        _ => errors.push(at.invalid(
            Value::Null,
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is \
             required, but multiple fields are set",
        )),
    }
    let devices = spec.items("devices");
    bounded(&at.child("devices"), devices, DEVICES_MAX, &mut errors, |at, device, errors| {
        let name = device.text("name");
        faults(&at.child("name"), name, names::dns1123_label(name), errors);
    });
    unique(&at.child("devices"), devices, "name", &mut errors);
    errors
}

pub(crate) fn resource_slice_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = resource_slice(new);
    let at = Path::new("spec");
    let of = |slice: &Value, field: &str| slice["spec"].get(field).cloned().unwrap_or_default();
    for field in ["driver", "nodeName"] {
        immutable(&at.child(field), &of(new, field), &of(old, field), &mut errors);
    }
    let pool = |slice: &Value| json!(slice["spec"]["pool"].text("name"));
    immutable(&at.child("pool").child("name"), &pool(new), &pool(old), &mut errors);
    errors
}

fn claim_spec(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let (devices, at) = (&spec["devices"], at.child("devices"));
    let requests = devices.items("requests");
    bounded(&at.child("requests"), requests, REQUESTS_MAX, errors, request);
    unique(&at.child("requests"), requests, "name", errors);
    let known = request_names(requests);
    let constraints = devices.items("constraints");
    bounded(&at.child("constraints"), constraints, CONSTRAINTS_MAX, errors, |at, one, errors| {
        references(&at.child("requests"), one.items("requests"), &known, errors);
        if !one.has("matchAttribute") && !one.has("distinctAttribute") {
            errors.push(at.child("matchAttribute").required(""));
        }
    });
    bounded(
        &at.child("config"),
        devices.items("config"),
        CONFIGS_MAX,
        errors,
        |at, one, errors| {
            references(&at.child("requests"), one.items("requests"), &known, errors);
            opaque(at, one, errors);
        },
    );
}

/// `gpu`, and `gpu/large` for its alternatives.
fn request_names(requests: &[Value]) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for request in requests {
        let name = request.text("name");
        known.insert(name.to_owned());
        for one in request.items("firstAvailable") {
            known.insert(format!("{name}/{}", one.text("name")));
        }
    }
    known
}

fn references(at: &Path, list: &[Value], known: &BTreeSet<String>, errors: &mut Vec<Error>) {
    for (index, name) in list.iter().enumerate() {
        let name = name.as_str().unwrap_or("");
        if !known.contains(name) {
            let text = "must be the name of a request in the claim or the name of a request and a \
                        subrequest separated by '/'";
            errors.push(at.index(index).invalid(name, text));
        }
    }
}

fn request(at: &Path, request: &Value, errors: &mut Vec<Error>) {
    let name = request.text("name");
    faults(&at.child("name"), name, names::dns1123_label(name), errors);
    let alternatives = request.items("firstAvailable");
    match (request.has("exactly"), !alternatives.is_empty()) {
        (false, false) => {
            errors.push(at.required("exactly one of `exactly` or `firstAvailable` is required"));
        }
        (true, true) => errors.push(at.invalid(
            Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (true, false) => device_request(&at.child("exactly"), &request["exactly"], errors),
        (false, true) => {
            let at = at.child("firstAvailable");
            bounded(&at, alternatives, ALTERNATIVES_MAX, errors, |at, one, errors| {
                let name = one.text("name");
                faults(&at.child("name"), name, names::dns1123_label(name), errors);
                device_request(at, one, errors);
            });
            unique(&at, alternatives, "name", errors);
        }
    }
}

fn device_request(at: &Path, request: &Value, errors: &mut Vec<Error>) {
    let (class, class_at) = (request.text("deviceClassName"), at.child("deviceClassName"));
    if class.is_empty() {
        errors.push(class_at.required(""));
    } else {
        faults(&class_at, class, names::dns1123_subdomain(class), errors);
    }
    selectors(&at.child("selectors"), request.items("selectors"), errors);
    let (count, count_at) = (request.int("count").unwrap_or(0), at.child("count"));
    match request.text("allocationMode") {
        "All" if count != 0 => {
            let text = "must not be specified when allocationMode is 'All'";
            errors.push(count_at.invalid(count, text));
        }
        "ExactCount" if count <= 0 => {
            errors.push(count_at.invalid(count, "must be greater than zero"));
        }
        "All" | "ExactCount" => {}
        other => {
            errors.push(at.child("allocationMode").not_supported(other, &["All", "ExactCount"]));
        }
    }
}

fn selectors(at: &Path, selectors: &[Value], errors: &mut Vec<Error>) {
    bounded(at, selectors, SELECTORS_MAX, errors, |at, selector, errors| {
        let at = at.child("cel");
        if !selector.has("cel") {
            errors.push(at.required(""));
            return;
        }
        let (expression, at) = (selector["cel"].text("expression"), at.child("expression"));
        if expression.is_empty() {
            errors.push(at.required(""));
        } else if expression.len() > EXPRESSION_LENGTH_MAX {
            errors.push(at.too_long(EXPRESSION_LENGTH_MAX));
        }
    });
}

fn opaque(at: &Path, config: &Value, errors: &mut Vec<Error>) {
    let at = at.child("opaque");
    if !config.has("opaque") {
        errors.push(at.required(""));
        return;
    }
    let opaque = &config["opaque"];
    driver(&at.child("driver"), opaque.text("driver"), errors);
    match &opaque["parameters"] {
        Value::Null => errors.push(at.child("parameters").required("")),
        Value::Object(_) => {}
        _ => errors.push(
            at.child("parameters")
                .invalid("<value omitted>", "parameters must be a valid JSON object"),
        ),
    }
}

fn driver(at: &Path, name: &str, errors: &mut Vec<Error>) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if name.len() > DRIVER_LENGTH_MAX {
        errors.push(at.too_long(DRIVER_LENGTH_MAX));
    }
    faults(at, name, names::dns1123_subdomain(&name.to_lowercase()), errors);
}

fn pool(at: &Path, pool: &Value, errors: &mut Vec<Error>) {
    let (name, name_at) = (pool.text("name"), at.child("name"));
    if name.is_empty() {
        errors.push(name_at.required(""));
    } else if name.len() > POOL_LENGTH_MAX {
        errors.push(name_at.too_long(POOL_LENGTH_MAX));
    }
    for part in name.split('/').filter(|_| !name.is_empty()) {
        faults(&name_at, part, names::dns1123_subdomain(part), errors);
    }
    let count = pool.int("resourceSliceCount").unwrap_or(0);
    if count <= 0 {
        errors.push(at.child("resourceSliceCount").invalid(count, "must be greater than zero"));
    }
    let generation = pool.int("generation").unwrap_or(0);
    if generation < 0 {
        let text = "must be greater than or equal to zero";
        errors.push(at.child("generation").invalid(generation, text));
    }
}

/// Checks each item, unless there are too many.
fn bounded(
    at: &Path,
    items: &[Value],
    items_max: usize,
    errors: &mut Vec<Error>,
    check: impl Fn(&Path, &Value, &mut Vec<Error>),
) {
    if items.len() > items_max {
        errors.push(at.too_many(items.len(), items_max));
        return;
    }
    for (index, item) in items.iter().enumerate() {
        check(&at.index(index), item, errors);
    }
}

fn unique(at: &Path, items: &[Value], key: &str, errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let value = item.text(key);
        if !value.is_empty() && !seen.insert(value) {
            errors.push(at.index(index).child(key).duplicate(value));
        }
    }
}
