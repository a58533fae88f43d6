//! Dynamic resource allocation: devices and claims to them.
//!
//! The API is whole; no driver of devices runs on Atoll's nodes, so nothing allocates by
//! itself.

use serde_json::{Value, json};

use super::{Hooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const DEVICE_CLASS_HOOKS: Hooks = Hooks {
    prepare_create: Some(metadata::start_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::dynamic::device_class),
    validate_update: Some(validate::dynamic::device_class_update),
    columns: columns::dynamic::NAME_AND_AGE,
    row: columns::dynamic::name_and_age,
    ..Hooks::NONE
};

pub(super) const RESOURCE_CLAIM_HOOKS: Hooks = Hooks {
    default: Some(defaults::dynamic::resource_claim),
    prepare_create: Some(create_claim),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec_and_metadata),
    validate_create: Some(validate::dynamic::resource_claim),
    validate_update: Some(validate::dynamic::resource_claim_update),
    validate_status_update: Some(validate::dynamic::resource_claim_status_update),
    columns: columns::dynamic::RESOURCE_CLAIM,
    row: columns::dynamic::resource_claim,
    ..Hooks::NONE
};

pub(super) const CLAIM_TEMPLATE_HOOKS: Hooks = Hooks {
    default: Some(defaults::dynamic::claim_template),
    validate_create: Some(validate::dynamic::claim_template),
    validate_update: Some(validate::dynamic::claim_template_update),
    columns: columns::dynamic::NAME_AND_AGE,
    row: columns::dynamic::name_and_age,
    ..Hooks::NONE
};

pub(super) const RESOURCE_SLICE_HOOKS: Hooks = Hooks {
    prepare_create: Some(metadata::start_generation),
    prepare_update: Some(prepare::raise_if_spec_changed),
    validate_create: Some(validate::dynamic::resource_slice),
    validate_update: Some(validate::dynamic::resource_slice_update),
    selectable_fields: slice_fields,
    selectable_names: &["spec.nodeName", "spec.driver"],
    columns: columns::dynamic::RESOURCE_SLICE,
    row: columns::dynamic::resource_slice,
    ..Hooks::NONE
};

fn create_claim(claim: &mut Value) {
    prepare::put(claim, "status", Some(json!({})));
}

fn slice_fields(slice: &Value) -> Vec<(&'static str, String)> {
    let spec = &slice["spec"];
    vec![
        ("spec.nodeName", spec.text("nodeName").to_owned()),
        ("spec.driver", spec.text("driver").to_owned()),
    ]
}
