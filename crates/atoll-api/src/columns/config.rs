//! ConfigMaps and Secrets.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const CONFIG_MAP: &[Column] =
    &[NAME, text("Data", "Data contains the configuration data."), AGE];

pub(crate) const SECRET: &[Column] = &[
    NAME,
    text("Type", "Used to facilitate programmatic handling of secret data."),
    text("Data", "Data contains the secret data."),
    AGE,
];

/// The column is a string, its cell a number: that is how upstream answers.
pub(crate) fn config_map(config_map: &Value, now: Timestamp) -> Vec<Value> {
    let entries = count(config_map, "data") + count(config_map, "binaryData");
    vec![name(config_map), json!(entries), age(config_map, now)]
}

pub(crate) fn secret(secret: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(secret), json!(secret.text("type")), json!(count(secret, "data")), age(secret, now)]
}

fn count(object: &Value, field: &str) -> usize {
    object.fields(field).map_or(0, Map::len)
}
