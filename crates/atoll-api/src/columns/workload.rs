//! Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, integer, name, text};
use crate::access::Access as _;
use crate::kinds::scale::selector_text;

const CONTAINERS: Column = text("Containers", "Names of each container in the template.").wide();
const IMAGES: Column =
    text("Images", "Images referenced by each container in the template.").wide();

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready", "Number of the pod with ready state"),
    text(
        "Up-to-date",
        "Total number of non-terminated pods targeted by this deployment that have the desired \
         template spec.",
    ),
    text(
        "Available",
        "Total number of available pods (ready for at least minReadySeconds) targeted by this \
         deployment.",
    ),
    AGE,
    CONTAINERS,
    IMAGES,
    text("Selector", "Label selector for pods.").wide(),
];

pub(crate) const REPLICA_SET: &[Column] = &[
    NAME,
    integer("Desired", "Replicas is the number of desired replicas."),
    integer("Current", "Replicas is the most recently observed number of replicas."),
    integer("Ready", "The number of ready replicas for this replica set."),
    AGE,
    CONTAINERS,
    IMAGES,
    text("Selector", "Selector is a label query over pods that should match the replica count.")
        .wide(),
];

pub(crate) fn deployment(deployment: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let count = |field: &str| status.int(field).unwrap_or(0);
    let (containers, images) = containers(spec);
    vec![
        name(deployment),
        json!(format!("{}/{}", count("readyReplicas"), spec.int("replicas").unwrap_or(0))),
        json!(count("updatedReplicas")),
        json!(count("availableReplicas")),
        age(deployment, now),
        json!(containers),
        json!(images),
        json!(selector_text(&spec["selector"])),
    ]
}

pub(crate) fn replica_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let (containers, images) = containers(spec);
    let selector = selector_text(&spec["selector"]);
    vec![
        name(set),
        json!(spec.int("replicas").unwrap_or(0)),
        json!(status.int("replicas").unwrap_or(0)),
        json!(status.int("readyReplicas").unwrap_or(0)),
        age(set, now),
        json!(containers),
        json!(images),
        json!(if selector.is_empty() { "<none>" } else { selector.as_str() }),
    ]
}

pub(super) fn containers(spec: &Value) -> (String, String) {
    let all = spec["template"]["spec"].items("containers");
    let joined = |field: &str| {
        all.iter().map(|container| container.text(field)).collect::<Vec<_>>().join(",")
    };
    (joined("name"), joined("image"))
}
