//! Volumes, claims, classes and CSI objects.

use serde_json::{Value, json};

use super::{absent, amounts, empty, normalise, quantity, within, zero};
use crate::access::Access as _;

pub(crate) fn volume(volume: &mut Value) {
    normalise(volume);
    empty(volume, "spec");
    within(volume, "spec", |spec| {
        amounts(spec, "capacity");
        zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        absent(spec, "volumeMode", "Filesystem");
        volume_source(spec);
    });
    empty(volume, "status");
    within(volume, "status", |status| zero(status, "phase", "Pending"));
}

/// Defaults of the sources that only volumes have.
fn volume_source(spec: &mut Value) {
    within(spec, "hostPath", |source| absent(source, "type", ""));
    within(spec, "iscsi", |source| zero(source, "iscsiInterface", "default"));
    within(spec, "rbd", |source| {
        zero(source, "pool", "rbd");
        zero(source, "user", "admin");
        zero(source, "keyring", "/etc/ceph/keyring");
    });
    within(spec, "azureDisk", |source| {
        absent(source, "cachingMode", "ReadWrite");
        absent(source, "kind", "Shared");
        absent(source, "fsType", "ext4");
        absent(source, "readOnly", false);
    });
    within(spec, "scaleIO", |source| {
        zero(source, "storageMode", "ThinProvisioned");
        zero(source, "fsType", "xfs");
    });
}

pub(crate) fn claim(claim: &mut Value) {
    normalise(claim);
    empty(claim, "spec");
    within(claim, "spec", claim_spec);
    empty(claim, "status");
    within(claim, "status", |status| {
        zero(status, "phase", "Pending");
        amounts(status, "capacity");
        amounts(status, "allocatedResources");
    });
}

/// The spec of a claim or of a template for one.
pub(crate) fn claim_spec(spec: &mut Value) {
    empty(spec, "resources");
    within(spec, "resources", |resources| {
        amounts(resources, "requests");
        amounts(resources, "limits");
    });
    absent(spec, "volumeMode", "Filesystem");
}

pub(crate) fn class(class: &mut Value) {
    normalise(class);
    absent(class, "reclaimPolicy", "Delete");
    absent(class, "volumeBindingMode", "Immediate");
}

pub(crate) fn csi_driver(driver: &mut Value) {
    normalise(driver);
    empty(driver, "spec");
    within(driver, "spec", |spec| {
        absent(spec, "attachRequired", true);
        absent(spec, "podInfoOnMount", false);
        absent(spec, "storageCapacity", false);
        absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        absent(spec, "requiresRepublish", false);
        absent(spec, "seLinuxMount", false);
        if spec.items("volumeLifecycleModes").is_empty()
            && let Value::Object(fields) = spec
        {
            fields.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    });
}

/// Go writes these lists even when they are empty.
pub(crate) fn csi_node(node: &mut Value) {
    normalise(node);
    empty(node, "spec");
    within(node, "spec", |spec| {
        let drivers = spec.items("drivers").to_vec();
        if let Value::Object(fields) = spec {
            fields.insert("drivers".to_owned(), Value::Array(drivers));
        }
        for driver in super::each(spec, "drivers") {
            let keys = driver.items("topologyKeys").to_vec();
            if let Value::Object(fields) = driver {
                fields.insert("topologyKeys".to_owned(), Value::Array(keys));
            }
        }
    });
}

pub(crate) fn csi_capacity(capacity: &mut Value) {
    normalise(capacity);
    quantity(capacity, "capacity");
    quantity(capacity, "maximumVolumeSize");
}

pub(crate) fn attachment(attachment: &mut Value) {
    normalise(attachment);
    empty(attachment, "spec");
    within(attachment, "spec", |spec| {
        within(spec, "source", |source| {
            within(source, "inlineVolumeSpec", |inline| {
                amounts(inline, "capacity");
                volume_source(inline);
            })
        });
    });
    empty(attachment, "status");
    within(attachment, "status", |status| absent(status, "attached", false));
}
