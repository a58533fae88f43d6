//! StatefulSets and DaemonSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workload::containers;
use super::{AGE, Column, NAME, age, integer, label_text, name, text};
use crate::access::Access as _;
use crate::kinds::scale::selector_text;

const CONTAINERS: Column = text("Containers", "Names of each container in the template.").wide();
const IMAGES: Column =
    text("Images", "Images referenced by each container in the template.").wide();

pub(crate) const STATEFUL_SET: &[Column] =
    &[NAME, text("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES];

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", "The number of nodes that should be running the daemon pod."),
    integer("Current", "The number of nodes that run a daemon pod and are supposed to."),
    integer("Ready", "The number of nodes that should be running a daemon pod and have one ready."),
    integer("Up-to-date", "The number of nodes that run the updated daemon pod."),
    integer("Available", "The number of nodes that have a daemon pod running and available."),
    text("Node Selector", "Which labels a node must have for the pod to fit on it."),
    AGE,
    CONTAINERS,
    IMAGES,
    text("Selector", "A label query over pods that are managed by the daemon set.").wide(),
];

pub(crate) fn stateful_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let ready = status.int("readyReplicas").unwrap_or(0);
    let (containers, images) = containers(spec);
    vec![
        name(set),
        json!(format!("{ready}/{}", spec.int("replicas").unwrap_or(0))),
        age(set, now),
        json!(containers),
        json!(images),
    ]
}

pub(crate) fn daemon_set(set: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let count = |field: &str| json!(status.int(field).unwrap_or(0));
    let (containers, images) = containers(spec);
    let selector = selector_text(&spec["selector"]);
    vec![
        name(set),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        json!(label_text(&spec["template"]["spec"]["nodeSelector"])),
        age(set, now),
        json!(containers),
        json!(images),
        json!(if selector.is_empty() { "<none>" } else { selector.as_str() }),
    ]
}
