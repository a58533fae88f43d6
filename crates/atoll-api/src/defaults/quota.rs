//! ResourceQuota and LimitRange.

use serde_json::{Map, Value};

use super::{amounts, each, empty, normalise, within};
use crate::access::Access as _;

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub(crate) fn resource_quota(quota: &mut Value) {
    normalise(quota);
    empty(quota, "spec");
    within(quota, "spec", |spec| amounts(spec, "hard"));
    empty(quota, "status");
    within(quota, "status", |status| {
        amounts(status, "hard");
        amounts(status, "used");
    });
}

pub(crate) fn limit_range(range: &mut Value) {
    normalise(range);
    empty(range, "spec");
    within(range, "spec", |spec| {
        // Go always writes the list.
        let limits = spec.items("limits").to_vec();
        if let Value::Object(fields) = spec {
            fields.insert("limits".to_owned(), Value::Array(limits));
        }
        for item in each(spec, "limits") {
            LISTS.iter().for_each(|list| amounts(item, list));
            if item.text("type") == "Container" {
                fill(item, "default", "max");
                fill(item, "defaultRequest", "default");
                fill(item, "defaultRequest", "min");
            }
        }
    });
}

/// What `list` lacks is as in `from`.
fn fill(item: &mut Value, list: &str, from: &str) {
    let source = item.fields(from).cloned().unwrap_or_default();
    if source.is_empty() {
        return;
    }
    if !item[list].is_object() {
        item[list] = Value::Object(Map::new());
    }
    if let Value::Object(fields) = &mut item[list] {
        for (name, value) in source {
            fields.entry(name).or_insert(value);
        }
    }
}
