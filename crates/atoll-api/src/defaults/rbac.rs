//! Roles and bindings: the API group of what they refer to.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, within, zero};
use crate::access::Access as _;

const GROUP: &str = "rbac.authorization.k8s.io";

/// `rules` is always written, null when there are none.
pub(crate) fn role(role: &mut Value) {
    normalise(role);
    absent(role, "rules", json!(null));
}

pub(crate) fn role_binding(binding: &mut Value) {
    normalise(binding);
    empty(binding, "roleRef");
    within(binding, "roleRef", |role| zero(role, "apiGroup", GROUP));
    for subject in each(binding, "subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            zero(subject, "apiGroup", GROUP);
        }
    }
}

pub(crate) fn cluster_role_binding(binding: &mut Value) {
    role_binding(binding);
}
