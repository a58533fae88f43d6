//! What differs between two objects, as sets of fields.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::extract::item_shape;
use super::fields::{self, FieldSet};
use super::shape::{self, Shape, elements};
use crate::schema::{Definition, Field, Type};

#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    /// Without fields that this write cannot change anyway.
    pub(super) fn without(self, fields: &FieldSet) -> Self {
        Self {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }

    pub(super) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

pub(super) fn compare(definition: &Definition, old: &Value, new: &Value) -> Comparison {
    let mut walk = Walk { comparison: Comparison::default(), path: Vec::new() };
    walk.value(Shape::Struct(definition), Some(old), Some(new));
    walk.comparison
}

struct Walk {
    comparison: Comparison,
    path: Vec<String>,
}

impl Walk {
    fn value(&mut self, shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) {
        if old == new && old.is_some() {
            return;
        }
        if is_blank(old) && is_blank(new) {
            return self.leaf(old, new);
        }
        match shape {
            Shape::Struct(_) | Shape::Map(_) if is_object(old) && is_object(new) => {
                self.fields(shape, old, new);
            }
            Shape::Set | Shape::Keyed(..) if is_list(old) && is_list(new) => {
                self.items(shape, old, new);
            }
            _ => return self.leaf(old, new),
        }
        // A container that appears or goes is a member beside its content.
        match (old, new) {
            (None, Some(_)) => self.comparison.added.insert(&self.path),
            (Some(_), None) => self.comparison.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.comparison.added.insert(&self.path),
            (Some(_), None) => self.comparison.removed.insert(&self.path),
            (Some(old), Some(new)) if old != new => self.comparison.modified.insert(&self.path),
            _ => {}
        }
    }

    fn fields(&mut self, shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) {
        let nothing = Map::new();
        let old_map = old.and_then(Value::as_object).unwrap_or(&nothing);
        let new_map = new.and_then(Value::as_object).unwrap_or(&nothing);
        let more = new_map.keys().filter(|key| !old_map.contains_key(*key));
        for key in old_map.keys().chain(more) {
            let (mut before, mut after) = (old_map.get(key), new_map.get(key));
            let typed = shape::child(shape, key);
            let blank = blank_of(typed.field);
            // Go's structs have these fields always, so they neither come nor go.
            before = before.or(if old.is_some() { blank } else { None });
            after = after.or(if new.is_some() { blank } else { None });
            let Some(sample) = after.or(before) else { continue };
            self.path.push(fields::field(key));
            self.value(typed.shape(sample), before, after);
            self.path.pop();
        }
    }

    fn items(&mut self, shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) {
        let list = |value: Option<&Value>| -> BTreeMap<String, Value> {
            let items = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            elements(shape, items).into_iter().map(|(one, item)| (one, item.clone())).collect()
        };
        let (old, new) = (list(old), list(new));
        let more = new.keys().filter(|element| !old.contains_key(*element));
        for element in old.keys().chain(more) {
            let (before, after) = (old.get(element), new.get(element));
            let Some(sample) = after.or(before) else { continue };
            self.path.push(element.clone());
            self.value(item_shape(shape, sample), before, after);
            self.path.pop();
        }
    }
}

fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

fn is_object(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_object() || value.is_null())
}

fn is_list(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_array() || value.is_null())
}

/// What Go's struct holds where the object has no such field.
fn blank_of(field: Option<&Field>) -> Option<&'static Value> {
    static EMPTY: LazyLock<[Value; 4]> =
        LazyLock::new(|| [Value::Object(Map::new()), "".into(), false.into(), 0.into()]);
    static NULL: Value = Value::Null;
    let field = field.filter(|field| !field.pointer)?;
    match &field.ty {
        ty if ty.special().is_some() => None,
        // Go leaves no struct out, whatever its tag says.
        Type::Object(_) | Type::Inline(_) => Some(&EMPTY[0]),
        _ if field.omit_empty => None,
        Type::String => Some(&EMPTY[1]),
        Type::Bool => Some(&EMPTY[2]),
        Type::Int32 | Type::Int64 => Some(&EMPTY[3]),
        _ => Some(&NULL),
    }
}
