//! Namespaces: finalizers, and a phase that agrees with the deletion.

use serde_json::Value;

use super::faults;
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

pub(crate) fn create(namespace: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("finalizers");
    for finalizer in namespace["spec"].items("finalizers") {
        self::finalizer(&at, finalizer.as_str().unwrap_or(""), &mut errors);
    }
    errors
}

pub(crate) fn update(_: &Value, _: &Value) -> Vec<Error> {
    Vec::new()
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let deleted = new["metadata"].has("deletionTimestamp");
    let phase = new["status"].text("phase");
    let (wanted, when) = if deleted { ("Terminating", "not empty") } else { ("Active", "empty") };
    if phase == wanted {
        return Vec::new();
    }
    let text = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
    vec![Path::new("status").child("Phase").invalid(phase, text)]
}

pub(crate) fn finalize(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("finalizers");
    for (index, finalizer) in new["spec"].items("finalizers").iter().enumerate() {
        self::finalizer(&at.index(index), finalizer.as_str().unwrap_or(""), &mut errors);
    }
    errors
}

fn finalizer(at: &Path, name: &str, errors: &mut Vec<Error>) {
    faults(at, name, names::qualified_name(name), errors);
    if !name.contains('/') && !STANDARD.contains(&name) {
        let text = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(at.invalid(name, text));
    }
}
