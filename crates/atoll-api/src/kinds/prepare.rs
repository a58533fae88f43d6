//! Steps that the prepare hooks of many kinds share.

use serde_json::Value;

use super::metadata;

/// A client cannot create an object with a status.
pub(crate) fn drop_status(object: &mut Value) {
    remove(object, "status");
}

/// An update of the object leaves the status as it is.
pub(crate) fn keep_status(new: &mut Value, old: &Value) {
    keep(new, old, "status");
}

/// An update of the status leaves the spec as it is; metadata may change.
pub(super) fn keep_spec(new: &mut Value, old: &Value) {
    keep(new, old, "spec");
}

/// The same for kinds whose status says nothing of their metadata: what clients write there
/// stays as it is, too.
pub(super) fn keep_spec_and_metadata(new: &mut Value, old: &Value) {
    keep_spec(new, old);
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        keep_metadata(new, old, field);
    }
}

/// An update of the status leaves everything else as it is, but for the bookkeeping that
/// every write changes.
pub(super) fn keep_all_but_status(new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let version = new["metadata"].get("resourceVersion").cloned();
    let managed = new["metadata"].get("managedFields").cloned();
    new.clone_from(old);
    put(new, "status", status);
    let kept = metadata::of(new);
    for (field, value) in [("resourceVersion", version), ("managedFields", managed)] {
        match value {
            Some(value) => kept.insert(field.to_owned(), value),
            None => kept.remove(field),
        };
    }
}

/// Takes a field from the old object, absent if it was absent.
pub(super) fn keep(new: &mut Value, old: &Value, field: &str) {
    put(new, field, old.get(field).cloned());
}

/// Takes a field of the metadata from the old object.
pub(super) fn keep_metadata(new: &mut Value, old: &Value, field: &str) {
    let was = old["metadata"].get(field).cloned();
    let metadata = metadata::of(new);
    match was {
        Some(value) => metadata.insert(field.to_owned(), value),
        None => metadata.remove(field),
    };
}

pub(super) fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Value::Object(map) = object {
        match value {
            Some(value) => map.insert(field.to_owned(), value),
            None => map.remove(field),
        };
    }
}

pub(crate) fn remove(object: &mut Value, field: &str) {
    if let Value::Object(map) = object {
        map.remove(field);
    }
}

/// Generation moves with the spec only.
pub(super) fn raise_if_spec_changed(new: &mut Value, old: &Value) {
    if new.get("spec") != old.get("spec") {
        metadata::raise_generation(new, old);
    }
}

/// The create hook of kinds with a spec, a status and a generation.
pub(super) fn create_with_generation(object: &mut Value) {
    drop_status(object);
    metadata::start_generation(object);
}

/// The update hook of kinds with a spec, a status and a generation.
pub(super) fn update_with_generation(new: &mut Value, old: &Value) {
    keep_status(new, old);
    raise_if_spec_changed(new, old);
}
