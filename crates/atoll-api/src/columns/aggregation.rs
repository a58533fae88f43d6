//! APIService.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    text("Service", "The reference to the service that hosts this API endpoint."),
    text("Available", "Whether this service is available."),
    AGE,
];

pub(crate) fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let service = if service.is_null() {
        "Local".to_owned()
    } else {
        format!("{}/{}", service.text("namespace"), service.text("name"))
    };
    vec![name(object), json!(service), json!(available(object)), age(object, now)]
}

fn available(object: &Value) -> String {
    let conditions = object["status"].items("conditions");
    let found = conditions.iter().find(|condition| condition.text("type") == "Available");
    let Some(condition) = found else { return "Unknown".to_owned() };
    let (status, reason) = (condition.text("status"), condition.text("reason"));
    if status == "True" || reason.is_empty() {
        return status.to_owned();
    }
    format!("{status} ({reason})")
}
