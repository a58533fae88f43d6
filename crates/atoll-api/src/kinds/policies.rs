//! Admission policies in CEL, and their bindings.

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::{columns, defaults, validate};

pub(super) const VALIDATING_POLICY_HOOKS: Hooks = Hooks {
    default: Some(defaults::policies::validating),
    prepare_create: Some(create_with_status),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec_and_metadata),
    validate_create: Some(validate::policies::validating),
    validate_update: Some(validate::policies::validating_update),
    columns: columns::policies::VALIDATING,
    row: columns::policies::validating,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const VALIDATING_BINDING_HOOKS: Hooks = Hooks {
    default: Some(defaults::policies::binding),
    prepare_create: Some(super::metadata::start_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::policies::validating_binding),
    validate_update: Some(validate::policies::validating_binding_update),
    columns: columns::policies::BINDING,
    row: columns::policies::binding,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const MUTATING_POLICY_HOOKS: Hooks = Hooks {
    default: Some(defaults::policies::mutating),
    prepare_create: Some(super::metadata::start_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::policies::mutating),
    validate_update: Some(validate::policies::mutating_update),
    columns: columns::policies::MUTATING,
    row: columns::policies::mutating,
    unconditional_update: false,
    ..Hooks::NONE
};

pub(super) const MUTATING_BINDING_HOOKS: Hooks = Hooks {
    validate_create: Some(validate::policies::mutating_binding),
    validate_update: Some(validate::policies::mutating_binding_update),
    ..VALIDATING_BINDING_HOOKS
};

fn create_with_status(policy: &mut Value) {
    prepare::create_with_generation(policy);
    prepare::put(policy, "status", Some(json!({})));
}
