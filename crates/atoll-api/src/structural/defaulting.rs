//! Fills in the defaults of a schema, and drops nulls where none may stand.

use serde_json::Value;

use super::{Additional, Node};

/// Sets what is absent, and what is null without being allowed to, to its default.
pub fn default(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, field) in &node.properties {
                let Some(given) = &field.default else { continue };
                if map.get(name).is_none_or(|now| now.is_null() && !field.nullable) {
                    map.insert(name.clone(), given.clone());
                }
            }
            for (name, inner) in map.iter_mut() {
                match (node.properties.get(name), &node.additional) {
                    (Some(field), _) => default(field, inner),
                    (None, Additional::Node(field)) => absent(field, inner),
                    (None, _) => {}
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(node) = &node.items {
                    absent(node, item);
                }
            }
        }
        _ => {}
    }
}

fn absent(node: &Node, value: &mut Value) {
    if let Some(given) = node.default.as_ref().filter(|_| value.is_null() && !node.nullable) {
        value.clone_from(given);
    }
    default(node, value);
}

/// Drops nulls of fields that are not nullable.
pub fn drop_nulls(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, inner| {
                !inner.is_null() || node.field(name).is_none_or(|field| field.nullable)
            });
            for (name, inner) in map.iter_mut() {
                if let Some(field) = node.field(name) {
                    drop_nulls(field, inner);
                }
            }
        }
        Value::Array(items) => {
            if let Some(node) = &node.items {
                items.iter_mut().for_each(|item| drop_nulls(node, item));
            }
        }
        _ => {}
    }
}
