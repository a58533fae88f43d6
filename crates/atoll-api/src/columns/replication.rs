//! ReplicationControllers and PodTemplates.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workload::containers;
use super::{AGE, Column, NAME, age, integer, label_text, name, text};
use crate::access::Access as _;

const CONTAINERS: Column = text("Containers", "Names of each container in the template.");
const IMAGES: Column = text("Images", "Images referenced by each container in the template.");

pub(crate) const CONTROLLER: &[Column] = &[
    NAME,
    integer("Desired", "Replicas is the number of desired replicas."),
    integer("Current", "Replicas is the most recently observed number of replicas."),
    integer("Ready", "The number of ready replicas for this replication controller."),
    AGE,
    CONTAINERS.wide(),
    IMAGES.wide(),
    text("Selector", "Selector is a label query over pods that should match the replica count.")
        .wide(),
];

pub(crate) const POD_TEMPLATE: &[Column] =
    &[NAME, CONTAINERS, IMAGES, text("Pod Labels", "The labels for the pod template.")];

pub(crate) fn controller(controller: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&controller["spec"], &controller["status"]);
    let (containers, images) = containers(spec);
    vec![
        name(controller),
        json!(spec.int("replicas").unwrap_or(0)),
        json!(status.int("replicas").unwrap_or(0)),
        json!(status.int("readyReplicas").unwrap_or(0)),
        age(controller, now),
        json!(containers),
        json!(images),
        json!(label_text(&spec["selector"])),
    ]
}

pub(crate) fn pod_template(template: &Value, _: Timestamp) -> Vec<Value> {
    let (containers, images) = containers(template);
    vec![
        name(template),
        json!(containers),
        json!(images),
        json!(label_text(&template["template"]["metadata"]["labels"])),
    ]
}
