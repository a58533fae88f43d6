//! APIService: another server behind ours.

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::{columns, defaults, validate};

/// Objects with this label are the server's own.
pub const AUTOMANAGED_LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";

pub(super) const API_SERVICE_HOOKS: Hooks = Hooks {
    default: Some(defaults::aggregation::api_service),
    prepare_create: Some(create),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_all_but_status),
    validate_create: Some(validate::aggregation::api_service),
    validate_update: Some(validate::aggregation::update),
    validate_status_update: Some(validate::aggregation::status_update),
    columns: columns::aggregation::COLUMNS,
    row: columns::aggregation::row,
    unconditional_update: false,
    ..Hooks::NONE
};

fn create(service: &mut Value) {
    prepare::put(service, "status", Some(json!({})));
}
