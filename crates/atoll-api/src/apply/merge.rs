//! Lays a configuration over an object, and takes away what is stated no longer.

use serde_json::{Map, Value};

use super::extract::item_shape;
use super::fields::{self, FieldSet};
use super::shape::{self, Shape, element, elements};
use crate::schema::Definition;

pub(super) fn merge(definition: &Definition, object: &mut Value, config: &Value) {
    merge_value(Shape::Struct(definition), object, config);
}

fn merge_value(shape: Shape<'_>, object: &mut Value, config: &Value) {
    match (shape, &mut *object, config) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map), Value::Object(wanted)) => {
            for (key, one) in wanted {
                let shape = shape::child(shape, key).shape(one);
                match map.get_mut(key) {
                    Some(current) => merge_value(shape, current, one),
                    None => {
                        map.insert(key.clone(), one.clone());
                    }
                }
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items), Value::Array(wanted)) => {
            merge_items(shape, items, wanted);
        }
        _ => *object = config.clone(),
    }
}

/// Items of both; those of the configuration in its order, the others where they were.
fn merge_items(shape: Shape<'_>, items: &mut Vec<Value>, wanted: &[Value]) {
    let wanted = elements(shape, wanted);
    let mut current: Vec<(String, Option<Value>)> = Vec::new();
    for (index, item) in std::mem::take(items).into_iter().enumerate() {
        let element = element(shape, &item).unwrap_or_else(|_| format!("i:{index}"));
        current.push((element, Some(item)));
    }
    let mut next = 0;
    for index in 0..current.len() {
        let place = wanted.iter().position(|(element, _)| *element == current[index].0);
        match place {
            None => items.extend(current[index].1.take()),
            Some(place) => {
                while next <= place {
                    items.push(merged_item(shape, &mut current, &wanted[next]));
                    next += 1;
                }
            }
        }
    }
    for one in wanted.iter().skip(next) {
        items.push(merged_item(shape, &mut current, one));
    }
}

fn merged_item(
    shape: Shape<'_>,
    current: &mut [(String, Option<Value>)],
    (element, wanted): &(String, &Value),
) -> Value {
    let old = current.iter_mut().find(|(one, item)| one == element && item.is_some());
    match old.and_then(|(_, item)| item.take()) {
        Some(mut item) => {
            merge_value(item_shape(shape, wanted), &mut item, wanted);
            item
        }
        None => (*wanted).clone(),
    }
}

/// Removes what `last` has and nobody owns any more.
pub(super) fn prune(
    definition: &Definition,
    object: &mut Value,
    last: &FieldSet,
    owned: &FieldSet,
) {
    prune_value(Shape::Struct(definition), object, last, owned);
}

/// Whether something was removed below.
fn prune_value(shape: Shape<'_>, object: &mut Value, last: &FieldSet, owned: &FieldSet) -> bool {
    match (shape, object) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            prune_fields(shape, map, last, owned)
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(items)) => {
            let before = items.len();
            let mut removed = false;
            items.retain_mut(|item| {
                let Ok(element) = element(shape, item) else { return true };
                let Some(last) = last.children.get(&element) else { return true };
                let inner = item_shape(shape, item);
                match prune_child(inner, item, last, owned.children.get(&element)) {
                    Fate::Gone => false,
                    Fate::Changed => {
                        removed = true;
                        true
                    }
                    Fate::Same => true,
                }
            });
            removed || items.len() != before
        }
        _ => false,
    }
}

enum Fate {
    Same,
    Changed,
    Gone,
}

fn prune_fields(
    shape: Shape<'_>,
    map: &mut Map<String, Value>,
    last: &FieldSet,
    owned: &FieldSet,
) -> bool {
    let mut changed = false;
    let mut gone = Vec::new();
    for (key, value) in map.iter_mut() {
        let element = fields::field(key);
        let Some(last) = last.children.get(&element) else { continue };
        let inner = shape::child(shape, key).shape(value);
        match prune_child(inner, value, last, owned.children.get(&element)) {
            Fate::Gone => gone.push(key.clone()),
            Fate::Changed => changed = true,
            Fate::Same => {}
        }
    }
    for key in &gone {
        map.remove(key);
    }
    changed || !gone.is_empty()
}

fn prune_child(
    shape: Shape<'_>,
    value: &mut Value,
    last: &FieldSet,
    owned: Option<&FieldSet>,
) -> Fate {
    let nobody = FieldSet::default();
    let owned = owned.unwrap_or(&nobody);
    if last.member && owned.is_empty() {
        return Fate::Gone;
    }
    if !prune_value(shape, value, last, owned) {
        return Fate::Same;
    }
    let emptied = match &*value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    if emptied && !owned.member { Fate::Gone } else { Fate::Changed }
}
