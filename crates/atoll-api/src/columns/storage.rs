//! Volumes, claims, classes and CSI objects.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, boolean, integer, name, text};
use crate::access::Access as _;
use crate::kinds::storage::{class_of, is_default_class};

const MODE_TEXT: &str = "volumeMode defines what kind of volume it is: Filesystem or Block.";
const CLASS_TEXT: &str = "The name of the StorageClass.";
const ATTRIBUTES_TEXT: &str = "The name of the VolumeAttributesClass.";

pub(crate) const VOLUME: &[Column] = &[
    NAME,
    text("Capacity", "The capacity of the volume."),
    text("Access Modes", "All ways in which the volume can be mounted."),
    text("Reclaim Policy", "What happens to the volume when it is released from its claim."),
    text("Status", "Whether the volume is available, bound to a claim, or released by one."),
    text("Claim", "The claim that the volume is bound to."),
    text("StorageClass", CLASS_TEXT),
    text("VolumeAttributesClass", ATTRIBUTES_TEXT),
    text("Reason", "Why the volume is in its phase, in one word."),
    AGE,
    text("VolumeMode", MODE_TEXT).wide(),
];

pub(crate) const CLAIM: &[Column] = &[
    NAME,
    text("Status", "The phase of the claim."),
    text("Volume", "The volume that the claim is bound to."),
    text("Capacity", "The capacity of the volume."),
    text("Access Modes", "All ways in which the volume can be mounted."),
    text("StorageClass", CLASS_TEXT),
    text("VolumeAttributesClass", ATTRIBUTES_TEXT),
    AGE,
    text("VolumeMode", MODE_TEXT).wide(),
];

pub(crate) const CLASS: &[Column] = &[
    NAME,
    text("Provisioner", "Who makes the volumes of this class."),
    text("ReclaimPolicy", "What happens to volumes of this class when their claims are gone."),
    text("VolumeBindingMode", "When claims of this class are bound."),
    text("AllowVolumeExpansion", "Whether claims of this class can grow."),
    AGE,
];

pub(crate) const CSI_DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", "Whether volumes are attached to nodes before they are mounted."),
    boolean("PodInfoOnMount", "Whether the driver is told of the pod when it mounts."),
    boolean("StorageCapacity", "Whether pods wait for capacity that the driver reports."),
    text("TokenRequests", "The audiences of tokens that the driver gets when it mounts."),
    boolean("RequiresRepublish", "Whether mounting is repeated to reflect changes."),
    text("Modes", "The ways in which the driver can be used."),
    AGE,
];

pub(crate) const CSI_NODE: &[Column] =
    &[NAME, integer("Drivers", "How many drivers run on the node."), AGE];

pub(crate) const ATTACHMENT: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher", "The driver that attaches the volume.") },
    text("PV", "The volume that is attached."),
    text("Node", "The node that the volume is attached to."),
    boolean("Attached", "Whether the volume is attached."),
    AGE,
];

pub(crate) const ATTRIBUTES_CLASS: &[Column] =
    &[NAME, text("DriverName", "The driver that the parameters are for."), AGE];

pub(crate) fn volume(volume: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&volume["spec"], &volume["status"]);
    let claim = &spec["claimRef"];
    let claim = if claim.has("name") {
        format!("{}/{}", claim.text("namespace"), claim.text("name"))
    } else {
        String::new()
    };
    vec![
        name(volume),
        json!(spec["capacity"].opt_text("storage").unwrap_or("0")),
        json!(modes(&spec["accessModes"])),
        json!(spec.text("persistentVolumeReclaimPolicy")),
        json!(phase(volume, status)),
        json!(claim),
        json!(class_of(volume).unwrap_or("")),
        json!(spec.opt_text("volumeAttributesClassName").unwrap_or("<unset>")),
        json!(status.text("reason")),
        age(volume, now),
        json!(spec.opt_text("volumeMode").unwrap_or("<unset>")),
    ]
}

pub(crate) fn claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let bound = spec.has("volumeName") && !spec.text("volumeName").is_empty();
    let capacity = if bound { status["capacity"].opt_text("storage").unwrap_or("0") } else { "" };
    let access = if bound { modes(&status["accessModes"]) } else { String::new() };
    vec![
        name(claim),
        json!(phase(claim, status)),
        json!(spec.text("volumeName")),
        json!(capacity),
        json!(access),
        json!(class_of(claim).unwrap_or("")),
        json!(spec.opt_text("volumeAttributesClassName").unwrap_or("<unset>")),
        age(claim, now),
        json!(spec.opt_text("volumeMode").unwrap_or("<unset>")),
    ]
}

pub(crate) fn class(class: &Value, now: Timestamp) -> Vec<Value> {
    let default = if is_default_class(class) { " (default)" } else { "" };
    vec![
        json!(format!("{}{default}", class["metadata"].text("name"))),
        json!(class.text("provisioner")),
        json!(class.opt_text("reclaimPolicy").unwrap_or("Delete")),
        json!(class.opt_text("volumeBindingMode").unwrap_or("<unset>")),
        json!(class.flag("allowVolumeExpansion").to_string()),
        age(class, now),
    ]
}

pub(crate) fn csi_driver(driver: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &driver["spec"];
    let list = |texts: Vec<&str>, none: &str| {
        if texts.is_empty() { none.to_owned() } else { texts.join(",") }
    };
    let audiences = spec.items("tokenRequests").iter().map(|one| one.text("audience")).collect();
    let modes = spec.items("volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
    vec![
        name(driver),
        json!(spec.opt_flag("attachRequired").unwrap_or(true)),
        json!(spec.flag("podInfoOnMount")),
        json!(spec.flag("storageCapacity")),
        json!(list(audiences, "<unset>")),
        json!(spec.flag("requiresRepublish")),
        json!(list(modes, "<none>")),
        age(driver, now),
    ]
}

pub(crate) fn csi_node(node: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(node), json!(node["spec"].items("drivers").len()), age(node, now)]
}

pub(crate) fn attachment(attachment: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &attachment["spec"];
    vec![
        name(attachment),
        json!(spec.text("attacher")),
        json!(spec["source"].text("persistentVolumeName")),
        json!(spec.text("nodeName")),
        json!(attachment["status"].flag("attached")),
        age(attachment, now),
    ]
}

pub(crate) fn attributes_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(class), json!(class.text("driverName")), age(class, now)]
}

fn phase<'a>(object: &Value, status: &'a Value) -> &'a str {
    if object["metadata"].has("deletionTimestamp") { "Terminating" } else { status.text("phase") }
}

/// `RWO,ROX,RWX,RWOP`, each once, in upstream's order.
fn modes(modes: &Value) -> String {
    let listed = |mode: &str| modes.as_array().is_some_and(|all| all.iter().any(|one| one == mode));
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let short: Vec<&str> =
        known.iter().filter(|(mode, _)| listed(mode)).map(|(_, short)| *short).collect();
    short.join(",")
}
