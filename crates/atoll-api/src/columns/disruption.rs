//! PodDisruptionBudgets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, integer, name, text};
use crate::access::Access as _;

pub(crate) const BUDGET: &[Column] = &[
    NAME,
    text("Min Available", "The minimum number of pods that must be available."),
    text("Max Unavailable", "The maximum number of pods that may be unavailable."),
    integer("Allowed Disruptions", "How many pods may be evicted now."),
    AGE,
];

pub(crate) fn budget(budget: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &budget["spec"];
    let share = |field: &str| match &spec[field] {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        number => number.to_string(),
    };
    vec![
        name(budget),
        json!(share("minAvailable")),
        json!(share("maxUnavailable")),
        json!(budget["status"].int("disruptionsAllowed").unwrap_or(0)),
        age(budget, now),
    ]
}
