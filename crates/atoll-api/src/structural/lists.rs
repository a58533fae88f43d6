//! What OpenAPI cannot say: items that must be known apart, and objects within objects.

use serde_json::{Map, Value};

use super::{List, Node};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

/// Items of sets and maps that are there twice.
#[must_use]
pub fn list_items(node: &Node, object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    walk(node, object, &Path::root(), &mut errors);
    errors
}

fn walk(node: &Node, value: &Value, at: &Path, errors: &mut Vec<Error>) {
    match value {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(field) = node.properties.get(name) {
                    walk(field, inner, &at.child(name), errors);
                } else if let Some(field) = node.field(name) {
                    walk(field, inner, &at.key(name), errors);
                }
            }
        }
        Value::Array(items) => {
            unique(&node.list, items, at, errors);
            for (index, item) in items.iter().enumerate() {
                if let Some(node) = &node.items {
                    walk(node, item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn unique(list: &List, items: &[Value], at: &Path, errors: &mut Vec<Error>) {
    if *list == List::Atomic {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    let mut told = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let known = match list {
            List::Map(keys) => known_by(keys, item),
            _ => item.clone(),
        };
        let text = canonical(&known);
        if !seen.insert(text.clone()) && told.insert(text) {
            errors.push(at.index(index).duplicate(known));
        }
    }
}

fn known_by(keys: &[String], item: &Value) -> Value {
    let pairs = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
    Value::Object(pairs.collect::<Map<_, _>>())
}

/// The same text for values that are equal, whatever the order of their fields.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<String> =
                map.iter().map(|(key, one)| format!("{key:?}:{}", canonical(one))).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// Objects embedded in an object have a type and sound metadata of their own.
#[must_use]
pub fn embedded(node: &Node, object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    objects(node, object, &Path::root(), &mut errors);
    errors
}

fn objects(node: &Node, value: &Value, at: &Path, errors: &mut Vec<Error>) {
    match value {
        Value::Object(map) => {
            if node.embedded {
                typed(value, at, errors);
            }
            for (name, inner) in map {
                if let Some(field) = node.field(name) {
                    objects(field, inner, &at.child(name), errors);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(node) = &node.items {
                    objects(node, item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn typed(object: &Value, at: &Path, errors: &mut Vec<Error>) {
    for field in ["apiVersion", "kind"] {
        if object.text(field).is_empty() {
            errors.push(at.child(field).required("must not be empty"));
        }
    }
    let kind = object.text("kind");
    if !kind.is_empty() {
        let faults = names::dns1035_label(&kind.to_lowercase());
        errors.extend(faults.into_iter().map(|fault| at.child("kind").invalid(kind, fault)));
    }
    let metadata = at.child("metadata");
    let own = &object["metadata"];
    let name = own.text("name");
    if !name.is_empty() {
        let faults = names::path_segment(name);
        errors.extend(faults.into_iter().map(|fault| metadata.child("name").invalid(name, fault)));
    }
    crate::validate::metadata::labels(&metadata.child("labels"), &own["labels"], errors);
    let annotations = metadata.child("annotations");
    crate::validate::metadata::annotations(&annotations, &own["annotations"], errors);
}
