//! The way from `kubectl apply` to `kubectl apply --server-side` and back.
//!
//! Client-side apply keeps its last configuration in an annotation. The first server-side
//! apply by kubectl may take over what that annotation states, and keeps it current.

use serde_json::Value;

use super::compare::compare;
use super::{Conflicts, Run, extract, without_managed};
use crate::tree;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Larger annotations than this are refused by validation, so none is written.
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;

/// Whether all conflicts are with what client-side apply stated and the object still has.
pub(super) fn takes_over(run: &Run<'_>, conflicts: &Conflicts) -> bool {
    if run.manager.name != "kubectl" {
        return false;
    }
    let Some(last) = last_applied(run.live).and_then(|text| tree::from_json(text.as_bytes()).ok())
    else {
        return false;
    };
    let last = without_managed(&last.object);
    let stated = extract::field_set(run.definition, &last);
    let comparison = compare(run.definition, run.live, &last);
    let differs = comparison.modified.union(&comparison.added);
    let allowed = stated.difference(&differs);
    conflicts.fields().difference(&allowed).is_empty()
}

/// Keeps the annotation of an object that has one in step with kubectl's server-side apply.
pub(super) fn sync_last_applied(run: &Run<'_>, object: &mut Value) {
    if run.manager.name != "kubectl" || last_applied(run.live).is_none() {
        return;
    }
    let mut config = run.config.clone();
    if let Some(annotations) = annotations_mut(&mut config) {
        annotations.remove(LAST_APPLIED);
    }
    let text = format!("{config}\n");
    if text.len() > ANNOTATION_BYTES_MAX {
        return;
    }
    if let Some(annotations) = annotations_mut(object) {
        annotations.insert(LAST_APPLIED.to_owned(), Value::from(text));
    }
}

fn last_applied(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()
}

fn annotations_mut(object: &mut Value) -> Option<&mut serde_json::Map<String, Value>> {
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}
