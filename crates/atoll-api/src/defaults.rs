//! Defaulting: what upstream fills in for the fields that a client left out.
//!
//! Also made explicit here are the zero values that Go types always write (`resources: {}`),
//! so that objects look the same whichever client wrote them.

pub(crate) mod aggregation;
pub(crate) mod autoscaling;
pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod disruption;
pub(crate) mod dynamic;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod flow;
pub(crate) mod networking;
pub(crate) mod node;
pub(crate) mod plain;
pub mod pod;
pub(crate) mod policies;
pub(crate) mod quota;
pub(crate) mod rbac;
pub(crate) mod replication;
pub(crate) mod service;
pub(crate) mod stateful;
pub(crate) mod storage;
pub(crate) mod webhooks;
pub(crate) mod workload;

use serde_json::{Map, Value};

use crate::kinds::amount;

/// Drops what Go's types leave out when they write an object: nulls and empty lists. Every
/// default hook starts here.
pub fn normalise(object: &mut Value) {
    let Value::Object(fields) = object else { return };
    fields.retain(|key, value| match value {
        Value::Null => false,
        // Whatever a controller keeps here is its own.
        _ if key == "data" => true,
        _ if key == "metadata" => {
            normalise_metadata(value);
            true
        }
        other => keeps(other),
    });
}

pub(crate) fn normalise_metadata(metadata: &mut Value) {
    let Value::Object(fields) = metadata else { return };
    fields.retain(|key, value| match value {
        Value::Null => false,
        Value::Object(map) if map.is_empty() => false,
        _ if key == "managedFields" => true,
        other => keeps(other),
    });
}

/// Normalises a value, and says whether it is written at all.
fn keeps(value: &mut Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => {
            for item in list.iter_mut() {
                keeps(item);
            }
            !list.is_empty()
        }
        Value::Object(fields) => {
            fields.retain(|_, value| keeps(value));
            true
        }
        _ => true,
    }
}

/// Sets a field that is absent or null.
pub(crate) fn absent(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets a field that is absent, null, or the zero of its type: for fields where the Go type
/// cannot tell these apart.
pub(crate) fn zero(object: &mut Value, key: &str, value: impl Into<Value>) {
    let is_zero = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        _ => false,
    };
    if let Value::Object(map) = object
        && map.get(key).is_none_or(is_zero)
    {
        map.insert(key.to_owned(), value.into());
    }
}

/// Sets an absent object to `{}`.
pub(crate) fn empty(object: &mut Value, key: &str) {
    absent(object, key, Value::Object(Map::new()));
}

/// Changes a child that is there; whatever is not an object has none.
pub(crate) fn within(object: &mut Value, key: &str, change: impl FnOnce(&mut Value)) {
    if let Some(child) = object.get_mut(key)
        && !child.is_null()
    {
        change(child);
    }
}

/// Spells the amounts of a resource list in the one way.
pub(crate) fn amounts(object: &mut Value, list: &str) {
    let Some(Value::Object(resources)) = object.get_mut(list) else { return };
    for value in resources.values_mut() {
        if let Some(text) = amount::resource(value) {
            *value = Value::from(text);
        }
    }
}

/// Spells a single quantity in the one way.
pub(crate) fn quantity(object: &mut Value, key: &str) {
    if let Some(value) = object.get_mut(key)
        && let Some(text) = amount::canonical(value)
    {
        *value = Value::from(text);
    }
}

/// The items of a list to change.
pub(crate) fn each<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}
