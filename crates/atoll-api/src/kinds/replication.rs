//! ReplicationController and PodTemplate.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const REPLICATION_CONTROLLER_HOOKS: Hooks = Hooks {
    default: Some(defaults::replication::controller),
    orphans_dependents: true,
    prepare_create: Some(create),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::replication::controller),
    validate_update: Some(validate::replication::controller_update),
    validate_status_update: Some(validate::replication::controller_status_update),
    warnings: Some(validate::replication::controller_warnings),
    selectable_fields: fields,
    selectable_names: &["status.replicas"],
    columns: columns::replication::CONTROLLER,
    row: columns::replication::controller,
    ..Hooks::NONE
};

pub(super) const POD_TEMPLATE_HOOKS: Hooks = Hooks {
    default: Some(defaults::replication::pod_template),
    prepare_create: Some(metadata::start_generation),
    prepare_update: Some(update_template),
    validate_create: Some(validate::replication::pod_template),
    validate_update: Some(validate::replication::pod_template_update),
    warnings: Some(validate::replication::pod_template_warnings),
    columns: columns::replication::POD_TEMPLATE,
    row: columns::replication::pod_template,
    ..Hooks::NONE
};

fn create(controller: &mut Value) {
    prepare::create_with_generation(controller);
    prepare::put(controller, "status", Some(json!({"replicas": 0})));
}

fn fields(controller: &Value) -> Vec<(&'static str, String)> {
    let replicas = controller["status"].int("replicas").unwrap_or(0);
    vec![("status.replicas", replicas.to_string())]
}

fn update_template(new: &mut Value, old: &Value) {
    if new.get("template") != old.get("template") {
        metadata::raise_generation(new, old);
    }
}
