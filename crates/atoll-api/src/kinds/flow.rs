//! FlowSchema and PriorityLevelConfiguration: who waits for whom at the API server.

mod builtin;

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::{columns, defaults, validate};

pub(crate) use builtin::mandatory_spec;
pub use builtin::{FlowObject, builtin};

/// Objects with this annotation at `true` are the server's own to keep up to date.
pub const AUTO_UPDATE_ANNOTATION: &str = "apf.kubernetes.io/autoupdate-spec";

pub(super) const FLOW_SCHEMA_HOOKS: Hooks = Hooks {
    default: Some(defaults::flow::schema),
    prepare_create: Some(create),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_all_but_status),
    validate_create: Some(validate::flow::schema),
    validate_update: Some(validate::flow::schema_update),
    validate_status_update: Some(validate::flow::status_update),
    columns: columns::flow::SCHEMA,
    row: columns::flow::schema,
    ..Hooks::NONE
};

pub(super) const PRIORITY_LEVEL_HOOKS: Hooks = Hooks {
    default: Some(defaults::flow::level),
    prepare_create: Some(create),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_all_but_status),
    validate_create: Some(validate::flow::level),
    validate_update: Some(validate::flow::level_update),
    validate_status_update: Some(validate::flow::status_update),
    columns: columns::flow::LEVEL,
    row: columns::flow::level,
    ..Hooks::NONE
};

fn create(object: &mut Value) {
    prepare::create_with_generation(object);
    prepare::put(object, "status", Some(json!({})));
}
