//! ConfigMap and Secret: data, which may be made immutable.

use serde_json::Value;

use super::{Hooks, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const CONFIG_MAP_HOOKS: Hooks = Hooks {
    default: Some(defaults::config::config_map),
    validate_create: Some(validate::config::config_map),
    validate_update: Some(validate::config::config_map_update),
    columns: columns::config::CONFIG_MAP,
    row: columns::config::config_map,
    ..Hooks::NONE
};

pub(super) const SECRET_HOOKS: Hooks = Hooks {
    default: Some(defaults::config::secret),
    prepare_update: Some(secret_update),
    validate_create: Some(validate::config::secret),
    validate_update: Some(validate::config::secret_update),
    selectable_fields: secret_fields,
    selectable_names: &["type"],
    columns: columns::config::SECRET,
    row: columns::config::secret,
    ..Hooks::NONE
};

/// A client that does not say the type means the type that is there.
fn secret_update(new: &mut Value, old: &Value) {
    if new.text("type").is_empty() {
        prepare::keep(new, old, "type");
    }
}

fn secret_fields(secret: &Value) -> Vec<(&'static str, String)> {
    vec![("type", secret.text("type").to_owned())]
}
