//! Configurations of admission webhooks.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, integer, name};
use crate::access::Access as _;

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    integer(
        "Webhooks",
        "Webhooks indicates the number of webhooks registered in this configuration.",
    ),
    AGE,
];

pub(crate) fn row(configuration: &Value, now: Timestamp) -> Vec<Value> {
    let webhooks = configuration.items("webhooks").len();
    vec![name(configuration), json!(webhooks), age(configuration, now)]
}
