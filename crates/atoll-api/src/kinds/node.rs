//! Node: a machine; the spec is the scheduler's, the status the agent's.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

/// The taint that every new node carries until it is ready.
pub const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::node::node),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::node::create),
    validate_update: Some(validate::node::update),
    validate_status_update: Some(validate::node::status_update),
    warnings: Some(validate::warnings::storage::node),
    selectable_fields,
    selectable_names: &["spec.unschedulable"],
    columns: columns::node::COLUMNS,
    row: columns::node::row,
    ..Hooks::NONE
};

/// Admission's part: a new node takes no pods before its agent says that it is ready.
pub fn taint_not_ready(node: &mut Value) {
    let spec = metadata::child(node, "spec");
    let taints = spec.entry("taints").or_insert_with(|| json!([]));
    if let Value::Array(list) = taints {
        let there = list.iter().any(|taint| {
            taint.text("key") == NOT_READY_TAINT && taint.text("effect") == "NoSchedule"
        });
        if !there {
            list.push(json!({"key": NOT_READY_TAINT, "effect": "NoSchedule"}));
        }
    }
}

fn selectable_fields(node: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.unschedulable", node["spec"].flag("unschedulable").to_string())]
}
