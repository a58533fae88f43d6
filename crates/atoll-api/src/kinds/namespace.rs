//! Namespace: it goes away only when its finalizers let it.

use serde_json::{Value, json};

use super::{Hooks, UpdateHooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, validate};

/// The finalizer that stands for the contents of the namespace.
pub const FINALIZER: &str = "kubernetes";
/// Every namespace carries its name as a label, for selectors.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(label),
    prepare_create: Some(create),
    prepare_update: Some(update),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::namespace::create),
    validate_update: Some(validate::namespace::update),
    validate_status_update: Some(validate::namespace::status_update),
    selectable_fields,
    selectable_names: &["status.phase"],
    columns: columns::plain::NAMESPACE,
    row: columns::plain::namespace,
    ..Hooks::NONE
};

/// The `finalize` subresource, the only one that changes `spec.finalizers`.
pub(super) const FINALIZE: UpdateHooks =
    UpdateHooks { prepare: prepare::keep_status, validate: Some(validate::namespace::finalize) };

fn create(namespace: &mut Value) {
    prepare::put(namespace, "status", Some(json!({"phase": "Active"})));
    let spec = metadata::child(namespace, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    match finalizers {
        Value::Array(list) if list.iter().any(|one| one == FINALIZER) => {}
        Value::Array(list) => list.push(json!(FINALIZER)),
        other => *other = json!([FINALIZER]),
    }
    label(namespace);
}

fn update(new: &mut Value, old: &Value) {
    let finalizers = old["spec"].get("finalizers").cloned();
    prepare::keep_status(new, old);
    let spec = metadata::child(new, "spec");
    match finalizers {
        Some(value) => spec.insert("finalizers".to_owned(), value),
        None => spec.remove("finalizers"),
    };
    label(new);
}

fn label(namespace: &mut Value) {
    let name = namespace["metadata"].text("name").to_owned();
    if name.is_empty() {
        // The server makes the name of `generateName` first and comes here again.
        return;
    }
    let labels = metadata::grandchild(namespace, "metadata", "labels");
    labels.insert(NAME_LABEL.to_owned(), json!(name));
}

fn selectable_fields(namespace: &Value) -> Vec<(&'static str, String)> {
    vec![("status.phase", namespace["status"].text("phase").to_owned())]
}
