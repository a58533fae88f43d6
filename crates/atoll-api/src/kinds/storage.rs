//! Volumes, claims, classes and what CSI drivers tell of themselves.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

/// A claim that a pod uses is not removed before the pod.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// A volume that a claim is bound to is not removed before the claim.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Marks the class of claims that name none.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The class of a claim or volume before there was a field for it.
pub const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) const VOLUME_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::volume),
    prepare_create: Some(start_pending),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::storage::volume),
    validate_update: Some(validate::storage::volume_update),
    warnings: Some(validate::warnings::storage::volume),
    columns: columns::storage::VOLUME,
    row: columns::storage::volume,
    ..Hooks::NONE
};

pub(super) const CLAIM_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::claim),
    prepare_create: Some(start_claim),
    prepare_update: Some(update_claim),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::storage::claim),
    validate_update: Some(validate::storage::claim_update),
    validate_status_update: Some(validate::storage::claim_status_update),
    warnings: Some(validate::warnings::storage::claim),
    columns: columns::storage::CLAIM,
    row: columns::storage::claim,
    ..Hooks::NONE
};

pub(super) const CLASS_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::class),
    validate_create: Some(validate::storage::class),
    validate_update: Some(validate::storage::class_update),
    warnings: Some(validate::warnings::storage::class),
    columns: columns::storage::CLASS,
    row: columns::storage::class,
    ..Hooks::NONE
};

pub(super) const CSI_DRIVER_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::csi_driver),
    validate_create: Some(validate::csi::driver),
    validate_update: Some(validate::csi::driver_update),
    columns: columns::storage::CSI_DRIVER,
    row: columns::storage::csi_driver,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const CSI_NODE_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::csi_node),
    validate_create: Some(validate::csi::node),
    validate_update: Some(validate::csi::node_update),
    columns: columns::storage::CSI_NODE,
    row: columns::storage::csi_node,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const CSI_CAPACITY_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::csi_capacity),
    validate_create: Some(validate::csi::capacity),
    validate_update: Some(validate::csi::capacity_update),
    warnings: Some(validate::warnings::storage::capacity),
    columns: columns::CREATED_AT,
    row: columns::created_at_row,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const ATTACHMENT_HOOKS: Hooks = Hooks {
    default: Some(defaults::storage::attachment),
    prepare_create: Some(start_attachment),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec_and_metadata),
    validate_create: Some(validate::csi::attachment),
    validate_update: Some(validate::csi::attachment_update),
    columns: columns::storage::ATTACHMENT,
    row: columns::storage::attachment,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const ATTRIBUTES_CLASS_HOOKS: Hooks = Hooks {
    validate_create: Some(validate::csi::attributes_class),
    validate_update: Some(validate::csi::attributes_class_update),
    columns: columns::storage::ATTRIBUTES_CLASS,
    row: columns::storage::attributes_class,
    ..Hooks::NONE
};

/// The class that a claim or volume names: the old annotation wins, as upstream; `None` when
/// it names none at all, which is not the same as naming the empty one.
#[must_use]
pub fn class_of(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"]
        .opt_text(CLASS_ANNOTATION)
        .or_else(|| object["spec"].opt_text("storageClassName"))
}

/// Whether a class is the one for claims that name none.
#[must_use]
pub fn is_default_class(class: &Value) -> bool {
    let annotations = &class["metadata"]["annotations"];
    annotations.text(DEFAULT_CLASS) == "true"
        || annotations.text("storageclass.beta.kubernetes.io/is-default-class") == "true"
}

/// Adds a finalizer that is not there yet.
pub fn protect(object: &mut Value, finalizer: &str) {
    let list = metadata::of(object).entry("finalizers").or_insert_with(|| json!([]));
    if let Value::Array(list) = list
        && !list.iter().any(|one| one == finalizer)
    {
        list.push(json!(finalizer));
    }
}

/// The time since which a volume is in its phase, which the server sets.
pub fn stamp_phase(new: &mut Value, old: Option<&Value>, now: &str) {
    let before = old.map(|old| &old["status"]);
    let same = before.is_some_and(|before| before.text("phase") == new["status"].text("phase"));
    let since = before.and_then(|before| before.opt_text("lastPhaseTransitionTime"));
    let stated = new["status"].opt_text("lastPhaseTransitionTime").map(str::to_owned);
    let status = metadata::child(new, "status");
    match (same, since, stated) {
        (true, Some(since), None) => {
            status.insert("lastPhaseTransitionTime".to_owned(), json!(since))
        }
        (false, since, stated) if stated.is_none() || stated.as_deref() == since => {
            status.insert("lastPhaseTransitionTime".to_owned(), json!(now))
        }
        _ => None,
    };
}

fn start_pending(object: &mut Value) {
    prepare::put(object, "status", Some(json!({"phase": "Pending"})));
}

fn start_claim(claim: &mut Value) {
    start_pending(claim);
    sync_sources(claim);
}

fn update_claim(new: &mut Value, old: &Value) {
    prepare::keep_status(new, old);
    sync_sources(new);
}

fn start_attachment(attachment: &mut Value) {
    prepare::put(attachment, "status", Some(json!({"attached": false})));
}

/// `dataSource` and `dataSourceRef` say the same where both can.
fn sync_sources(claim: &mut Value) {
    let spec = &claim["spec"];
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    let spec = metadata::child(claim, "spec");
    if source.is_object() && reference.is_null() {
        spec.insert("dataSourceRef".to_owned(), source);
    } else if reference.is_object() && source.is_null() && !reference.has("namespace") {
        let known = reference.text("kind") == "PersistentVolumeClaim"
            || reference.text("kind") == "VolumeSnapshot";
        if known {
            spec.insert("dataSource".to_owned(), reference);
        }
    }
}
