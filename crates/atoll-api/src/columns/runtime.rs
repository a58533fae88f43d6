//! RuntimeClass.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const RUNTIME_CLASS: &[Column] = &[
    NAME,
    text("Handler", "handler specifies the underlying runtime and configuration that is used."),
    AGE,
];

pub(crate) fn runtime_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(class), json!(class.text("handler")), age(class, now)]
}
