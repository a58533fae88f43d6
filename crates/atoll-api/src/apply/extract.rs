//! The fields that a configuration states, and what is wrong with it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{self, FieldSet, readable};
use super::shape::{self, Shape, Typed, element, elements};
use crate::schema::Definition;

/// All fields that the configuration states.
pub(super) fn field_set(definition: &Definition, config: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(Shape::Struct(definition), config, &mut Vec::new(), &mut set);
    set
}

fn collect(shape: Shape<'_>, value: &Value, path: &mut Vec<String>, set: &mut FieldSet) {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (key, one) in map {
                let typed = shape::child(shape, key);
                path.push(fields::field(key));
                collect(typed.shape(one), one, path, set);
                let blank = one.as_object().is_some_and(serde_json::Map::is_empty);
                let declared = matches!(shape, Shape::Struct(_)) && typed.field.is_some();
                if blank || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            for (element, item) in elements(shape, items) {
                path.push(element);
                collect(item_shape(shape, item), item, path, set);
                set.insert(path);
                path.pop();
            }
        }
        _ => set.insert(path),
    }
}

pub(super) fn item_shape<'a>(shape: Shape<'a>, item: &Value) -> Shape<'a> {
    match shape {
        Shape::Keyed(_, ty) => Typed::item(ty).shape(item),
        _ => Shape::Leaf,
    }
}

/// What does not fit the type, in upstream's words.
pub(super) fn problems(definition: &Definition, config: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    check(Shape::Struct(definition), config, "", &mut problems);
    problems
}

fn check(shape: Shape<'_>, value: &Value, path: &str, problems: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Struct(definition), Value::Object(map)) => {
            for (key, one) in map {
                let path = format!("{path}.{key}");
                let typed = shape::child(shape, key);
                if typed.field.is_none() && !definition.preserve_unknown {
                    problems.push(format!("{path}: field not declared in schema"));
                    continue;
                }
                check(typed.shape(one), one, &path, problems);
            }
        }
        (Shape::Map(_), Value::Object(map)) => {
            for (key, one) in map {
                check(shape::child(shape, key).shape(one), one, &format!("{path}.{key}"), problems);
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            check_items(shape, items, path, problems);
        }
        (Shape::Struct(_) | Shape::Map(_), other) => {
            problems.push(format!("{path}: expected map, got {other}"));
        }
        (Shape::Set | Shape::Keyed(..), other) => {
            problems.push(format!("{path}: expected list, got {other}"));
        }
        (Shape::Leaf, _) => {}
    }
}

fn check_items(shape: Shape<'_>, items: &[Value], path: &str, problems: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        match element(shape, item) {
            Ok(element) => {
                let here = readable(&element);
                check(item_shape(shape, item), item, &format!("{path}{here}"), problems);
                if !seen.insert(element) {
                    problems.push(format!("{path}: duplicate entries for key {here}"));
                }
            }
            Err(key) => problems.push(format!(
                "{path}: element {index}: associative list with keys has an element that omits \
                 key field {key:?} (and doesn't have default value)"
            )),
        }
    }
}
