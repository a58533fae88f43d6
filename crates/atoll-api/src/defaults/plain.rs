//! Kinds with one default or two.

use serde_json::Value;

use super::{absent, empty, normalise};

pub(crate) fn lease(lease: &mut Value) {
    normalise(lease);
    empty(lease, "spec");
}

pub(crate) fn priority_class(class: &mut Value) {
    normalise(class);
    absent(class, "value", 0);
    absent(class, "preemptionPolicy", "PreemptLowerPriority");
}
