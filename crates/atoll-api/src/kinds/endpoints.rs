//! Endpoints and EndpointSlice: who answers for a Service.

use serde_json::Value;

use super::{Hooks, metadata};
use crate::{columns, defaults, validate};

pub(super) const DEPRECATED: &str =
    "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::endpoints::endpoints),
    validate_create: Some(validate::endpoints::endpoints),
    validate_update: Some(validate::endpoints::endpoints_update),
    warnings: Some(warnings),
    columns: columns::endpoints::COLUMNS,
    row: columns::endpoints::row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const SLICE_HOOKS: Hooks = Hooks {
    default: Some(defaults::endpoints::slice),
    prepare_create: Some(metadata::start_generation),
    prepare_update: Some(slice_update),
    validate_create: Some(validate::endpoints::slice),
    validate_update: Some(validate::endpoints::slice_update),
    columns: columns::endpoints::SLICE_COLUMNS,
    row: columns::endpoints::slice_row,
    ..Hooks::NONE
};

fn warnings(_: &Value, _: Option<&Value>) -> Vec<String> {
    vec![DEPRECATED.to_owned()]
}

/// Labels count here: they say whose slice it is and who manages it.
fn slice_update(new: &mut Value, old: &Value) {
    let changed =
        ["addressType", "endpoints", "ports"].iter().any(|field| new.get(field) != old.get(field))
            || new["metadata"].get("labels") != old["metadata"].get("labels");
    if changed {
        metadata::raise_generation(new, old);
    }
}
