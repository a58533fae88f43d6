//! CustomResourceDefinition.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{defaults, validate};

/// Holds a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

pub(super) const DEFINITION_HOOKS: Hooks = Hooks {
    default: Some(defaults::extensions::definition),
    prepare_create: Some(create),
    prepare_update: Some(update),
    prepare_status_update: Some(update_status),
    prepare_delete: Some(delete),
    validate_create: Some(validate::extensions::new_definition),
    validate_update: Some(validate::extensions::definition_update),
    validate_status_update: Some(validate::extensions::status_update),
    unconditional_update: false,
    ..Hooks::NONE
};

/// Whether a condition of a definition is true: `Established`, `NamesAccepted`, `Terminating`.
#[must_use]
pub fn is(crd: &Value, condition: &str) -> bool {
    validate::extensions::condition(crd, condition)
}

fn create(crd: &mut Value) {
    crd["status"] = json!({
        "conditions": null,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": [],
    });
    stored(crd);
    metadata::start_generation(crd);
}

fn update(new: &mut Value, old: &Value) {
    prepare::update_with_generation(new, old);
    stored(new);
}

/// An update of the status changes the metadata as little as it does upstream: the finalizers.
fn update_status(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    for field in ["labels", "annotations", "ownerReferences"] {
        prepare::keep_metadata(new, old, field);
    }
}

/// The version that is written from now on is among those that may be in the store.
fn stored(crd: &mut Value) {
    let current = crd["spec"].items("versions").iter().find(|version| version.flag("storage"));
    let Some(name) = current.map(|version| version["name"].clone()) else { return };
    if !crd["status"]["storedVersions"].is_array() {
        crd["status"]["storedVersions"] = json!([]);
    }
    if let Some(all) = crd["status"]["storedVersions"].as_array_mut()
        && !all.contains(&name)
    {
        all.push(name);
    }
}

/// The first delete waits for the objects of the definition.
fn delete(crd: &mut Value) {
    let own = metadata::of(crd);
    let finalizers = own.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(all) = finalizers.as_array_mut()
        && !all.iter().any(|one| one == CLEANUP_FINALIZER)
    {
        all.push(json!(CLEANUP_FINALIZER));
    }
}
