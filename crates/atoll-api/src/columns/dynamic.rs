//! Dynamic resource allocation: devices and claims to them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const NAME_AND_AGE: &[Column] = &[NAME, AGE];

pub(crate) const RESOURCE_CLAIM: &[Column] = &[
    NAME,
    text("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
    AGE,
];

pub(crate) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    text("Node", "NodeName identifies the node which provides the resources in this pool."),
    text("Driver", "Driver identifies the DRA driver providing the capacity information."),
    text("Pool", "Pool describes the pool that this ResourceSlice belongs to."),
    AGE,
];

pub(crate) fn name_and_age(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(crate) fn resource_claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(claim), json!(state(claim)), age(claim, now)]
}

fn state(claim: &Value) -> String {
    let mut states = Vec::new();
    if claim["metadata"].has("deletionTimestamp") {
        states.push("deleted");
    }
    let status = &claim["status"];
    if !status.has("allocation") {
        if claim["metadata"].has("deletionTimestamp") {
            return "deleted,pending".to_owned();
        }
        return "pending".to_owned();
    }
    states.push("allocated");
    // Upstream says so only when somebody may not use it any more.
    states.push(if status.items("reservedFor").is_empty() { "" } else { "reserved" });
    states.retain(|state| !state.is_empty());
    states.join(",")
}

pub(crate) fn resource_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &slice["spec"];
    let node = match spec.text("nodeName") {
        "" => "<unset>",
        node => node,
    };
    vec![
        name(slice),
        json!(node),
        json!(spec.text("driver")),
        json!(spec["pool"].text("name")),
        age(slice, now),
    ]
}
