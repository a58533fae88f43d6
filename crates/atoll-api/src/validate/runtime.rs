//! RuntimeClass.

use serde_json::{Value, json};

use super::{affinity, faults, immutable, metadata, resources};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

pub(crate) fn runtime_class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let handler = class.text("handler");
    faults(&Path::new("handler"), handler, names::dns1123_label(handler), &mut errors);
    let overhead = &class["overhead"];
    if !overhead.is_null() {
        // Checked as limits, and named like them, as upstream does.
        let limits = json!({"limits": overhead["podFixed"]});
        resources::requirements(&Path::new("overhead"), &limits, &[], &mut errors);
    }
    let scheduling = &class["scheduling"];
    if !scheduling.is_null() {
        let at = Path::new("scheduling");
        metadata::labels(&at.child("nodeSelector"), &scheduling["nodeSelector"], &mut errors);
        let tolerations = scheduling.items("tolerations");
        affinity::tolerations(&at.child("tolerations"), tolerations, &mut errors);
    }
    errors
}

pub(crate) fn runtime_class_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let handler = |class: &Value| json!(class.text("handler"));
    immutable(&Path::new("handler"), &handler(new), &handler(old), &mut errors);
    errors
}
