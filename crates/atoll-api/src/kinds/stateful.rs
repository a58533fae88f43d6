//! StatefulSet and DaemonSet: pods with an identity, pods of every node.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::{columns, defaults, validate};

/// Counts the templates that a DaemonSet has had; upstream writes it for clients of old.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) const STATEFUL_SET_HOOKS: Hooks = Hooks {
    default: Some(defaults::stateful::stateful_set),
    prepare_create: Some(create_stateful_set),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::stateful::stateful_set),
    validate_update: Some(validate::stateful::stateful_set_update),
    validate_status_update: Some(validate::stateful::stateful_set_status_update),
    warnings: Some(validate::stateful::stateful_set_warnings),
    columns: columns::stateful::STATEFUL_SET,
    row: columns::stateful::stateful_set,
    ..Hooks::NONE
};

pub(super) const DAEMON_SET_HOOKS: Hooks = Hooks {
    default: Some(default_daemon_set),
    prepare_create: Some(create_daemon_set),
    prepare_update: Some(update_daemon_set),
    prepare_status_update: Some(update_daemon_status),
    validate_create: Some(validate::stateful::daemon_set),
    validate_update: Some(validate::stateful::daemon_set_update),
    validate_status_update: Some(validate::stateful::daemon_set_status_update),
    warnings: Some(validate::warnings::workload),
    columns: columns::stateful::DAEMON_SET,
    row: columns::stateful::daemon_set,
    ..Hooks::NONE
};

fn create_stateful_set(set: &mut Value) {
    prepare::create_with_generation(set);
    prepare::put(set, "status", Some(json!({"replicas": 0, "availableReplicas": 0})));
}

/// The count of templates is there from the beginning, so that whoever creates the set owns it:
/// upstream keeps it in a field that its conversion writes as this annotation.
fn default_daemon_set(set: &mut Value) {
    defaults::stateful::daemon_set(set);
    set_template_generation(set, template_generation(set));
}

fn create_daemon_set(set: &mut Value) {
    prepare::create_with_generation(set);
    prepare::put(set, "status", Some(defaults::stateful::daemon_set_status()));
    let given = template_generation(set);
    set_template_generation(set, given.max(1));
}

/// The count of templates is the server's: what a client says of it counts for nothing.
fn update_daemon_set(new: &mut Value, old: &Value) {
    prepare::update_with_generation(new, old);
    let same = new["spec"].get("template") == old["spec"].get("template");
    let count = template_generation(old);
    set_template_generation(new, if same { count } else { count.saturating_add(1) });
}

fn update_daemon_status(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    set_template_generation(new, template_generation(old));
}

fn template_generation(set: &Value) -> i64 {
    let text = set["metadata"]["annotations"][TEMPLATE_GENERATION].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn set_template_generation(set: &mut Value, count: i64) {
    let annotations = metadata::grandchild(set, "metadata", "annotations");
    annotations.insert(TEMPLATE_GENERATION.to_owned(), json!(count.to_string()));
}
