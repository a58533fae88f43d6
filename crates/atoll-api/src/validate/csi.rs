//! What CSI drivers tell of themselves, in upstream's words.

use serde_json::Value;

use super::{faults, immutable, resources, same, storage};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

/// Longest name of a driver.
const DRIVER_NAME_MAX: usize = 63;
/// Longest identifier of a node.
const NODE_ID_MAX: usize = 192;

fn driver_name(at: &Path, name: &str, errors: &mut Vec<Error>) {
    if name.is_empty() {
        errors.push(at.required(""));
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.push(at.too_long(DRIVER_NAME_MAX));
    }
    if !name.is_empty() {
        faults(at, name, names::dns1123_subdomain(&name.to_lowercase()), errors);
    }
}

pub(crate) fn driver(driver: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let name = driver["metadata"].text("name");
    if name.len() > DRIVER_NAME_MAX {
        driver_name(&Path::new("metadata").child("name"), name, &mut errors);
    }
    let (spec, at) = (&driver["spec"], Path::new("spec"));
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if !spec.has(field) {
            errors.push(at.child(field).required(""));
        }
    }
    let policies = ["ReadWriteOnceWithFSType", "File", "None"];
    let policy = spec.text("fsGroupPolicy");
    if !policies.contains(&policy) {
        errors.push(at.child("fsGroupPolicy").not_supported(policy, &policies));
    }
    let mut audiences = Vec::new();
    for (index, request) in spec.items("tokenRequests").iter().enumerate() {
        let at = at.child("tokenRequests").index(index);
        let audience = request.text("audience");
        if audiences.contains(&audience) {
            errors.push(at.child("audience").duplicate(audience));
        }
        audiences.push(audience);
        if let Some(seconds) = request.int("expirationSeconds") {
            let at = at.child("expirationSeconds");
            if seconds < 600 {
                errors.push(at.invalid(seconds, "may not specify a duration less than 10 minutes"));
            }
            if seconds > 1 << 32 {
                let text = "may not specify a duration larger than 2^32 seconds";
                errors.push(at.invalid(seconds, text));
            }
        }
    }
    for mode in spec.items("volumeLifecycleModes").iter().filter_map(Value::as_str) {
        let modes = ["Persistent", "Ephemeral"];
        if !modes.contains(&mode) {
            errors.push(at.child("volumeLifecycleModes").not_supported(mode, &modes));
        }
    }
    errors
}

pub(crate) fn driver_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = driver(new);
    for field in ["attachRequired", "volumeLifecycleModes"] {
        let at = Path::new("spec").child(field);
        let at = if field == "attachRequired" {
            Path::new("spec").child("attachedRequired")
        } else {
            at
        };
        immutable(&at, &new["spec"][field], &old["spec"][field], &mut errors);
    }
    errors
}

pub(crate) fn node(node: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut seen = Vec::new();
    for (index, driver) in node["spec"].items("drivers").iter().enumerate() {
        let at = Path::new("spec").child("drivers").index(index);
        let name = driver.text("name");
        driver_name(&at.child("name"), name, &mut errors);
        let id = driver.text("nodeID");
        if id.is_empty() {
            errors.push(at.child("nodeID").required(""));
        } else if id.len() > NODE_ID_MAX {
            let text = format!("must be {NODE_ID_MAX} characters or less");
            errors.push(at.child("nodeID").invalid(id, text));
        }
        if let Some(count) = driver["allocatable"].int("count") {
            super::not_negative(&at.child("allocatable").child("count"), count, &mut errors);
        }
        if seen.contains(&name) {
            errors.push(at.child("name").duplicate(name));
        }
        seen.push(name);
        let mut keys = Vec::new();
        for key in driver.items("topologyKeys").iter().filter_map(Value::as_str) {
            if keys.contains(&key) {
                errors.push(at.duplicate(key));
            }
            keys.push(key);
            faults(&at, key, names::qualified_name(key), &mut errors);
        }
    }
    errors
}

pub(crate) fn node_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = node(new);
    let at = Path::new("CSINodeDriver");
    for driver in old["spec"].items("drivers") {
        let name = driver.text("name");
        let is = new["spec"].items("drivers").iter().find(|one| one.text("name") == name);
        let fixed = |one: &Value| (one.text("nodeID").to_owned(), one["topologyKeys"].clone());
        if is.is_some_and(|is| fixed(is) != fixed(driver)) {
            errors.push(at.invalid(is.cloned().unwrap_or_default(), super::IMMUTABLE));
        }
    }
    errors
}

pub(crate) fn capacity(capacity: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let class = capacity.text("storageClassName");
    let at = Path::new("storageClassName");
    if class.is_empty() {
        errors.push(at.required(""));
    } else {
        faults(&at, class, names::dns1123_subdomain(class), &mut errors);
    }
    for field in ["capacity", "maximumVolumeSize"] {
        if capacity.has(field) {
            resources::amount(&Path::new(field), "storage", &capacity[field], &mut errors);
        }
    }
    super::label_selector(&Path::new("nodeTopology"), &capacity["nodeTopology"], &mut errors);
    errors
}

pub(crate) fn capacity_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = capacity(new);
    for field in ["nodeTopology", "storageClassName"] {
        immutable(&Path::new(field), &new[field], &old[field], &mut errors);
    }
    errors
}

pub(crate) fn attachment(attachment: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (spec, at) = (&attachment["spec"], Path::new("spec"));
    driver_name(&at.child("attacher"), spec.text("attacher"), &mut errors);
    if spec.text("nodeName").is_empty() {
        errors.push(at.child("nodeName").required("must be specified and must match a node"));
    }
    let (source, at) = (&spec["source"], at.child("source"));
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (false, false) => {
            let text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(at.required(text));
        }
        (true, true) => {
            let text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errors.push(at.invalid(source.clone(), text));
        }
        _ => {}
    }
    errors
}

pub(crate) fn attachment_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = attachment(new);
    if !same(&new["spec"], &old["spec"]) {
        errors.push(Path::new("spec").invalid(new["spec"].clone(), super::IMMUTABLE));
    }
    errors
}

pub(crate) fn attributes_class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    driver_name(&Path::new("driverName"), class.text("driverName"), &mut errors);
    let at = Path::new("parameters");
    if class.fields("parameters").is_none_or(serde_json::Map::is_empty) {
        let text = "must contain at least one key/value pair";
        errors.push(at.required(text));
    } else {
        storage::parameters(&at, &class["parameters"], &mut errors);
    }
    errors
}

pub(crate) fn attributes_class_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    for field in ["driverName", "parameters"] {
        if !same(&new[field], &old[field]) {
            let text = format!("updates to {field} are forbidden.");
            errors.push(Path::new(field).forbidden(text));
        }
    }
    errors
}
