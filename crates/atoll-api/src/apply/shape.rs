//! How server-side apply sees a value: as one, as fields, or as items known by key or value.

use std::borrow::Cow;

use serde_json::Value;

use super::fields;
use crate::schema::{Definition, Field, ListKind, Name, Type};

/// The view of one value.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Owned and replaced as a whole.
    Leaf,
    Struct(&'a Definition),
    /// Any keys, each with a value of the type (`None`: its own JSON says).
    Map(Option<&'a Type>),
    /// Items that are known by their value.
    Set,
    /// Items that are known by fields.
    Keyed(&'a [Name], Option<&'a Type>),
}

/// What is known of a value's type: that of the field and of the field around it.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    pub ty: Option<&'a Type>,
    pub field: Option<&'a Field>,
}

impl<'a> Typed<'a> {
    pub(super) fn item(ty: Option<&'a Type>) -> Self {
        Self { ty, field: None }
    }

    /// The shape; `value` decides only where no type is known.
    pub(super) fn shape(self, value: &Value) -> Shape<'a> {
        let Some(ty) = self.ty else {
            return if value.is_object() { Shape::Map(None) } else { Shape::Leaf };
        };
        if self.field.is_some_and(|field| field.atomic) {
            return Shape::Leaf;
        }
        match ty {
            Type::Object(_) | Type::Inline(_) => match ty.definition() {
                Some(one) if one.preserve_unknown && !value.is_object() => Shape::Leaf,
                Some(one) if one.special.is_none() && !one.atomic => Shape::Struct(one),
                _ => Shape::Leaf,
            },
            Type::Map(item) => Shape::Map(Some(item)),
            Type::List(item) => match self.field.map(|field| &field.list) {
                Some(ListKind::Set) => Shape::Set,
                Some(ListKind::Map(keys)) => Shape::Keyed(keys, Some(item)),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }
}

/// The type of a key of a struct or map.
pub(super) fn child<'a>(shape: Shape<'a>, key: &str) -> Typed<'a> {
    match shape {
        Shape::Struct(definition) => match definition.field(key) {
            Some(field) => Typed { ty: Some(&field.ty), field: Some(field) },
            None => Typed::item(None),
        },
        Shape::Map(item) => Typed::item(item),
        _ => Typed::item(None),
    }
}

/// The path element of a list's item; `Err` names the key that it lacks.
pub(super) fn element(shape: Shape<'_>, item: &Value) -> Result<String, String> {
    let Shape::Keyed(keys, ty) = shape else { return Ok(fields::value(item)) };
    let definition = ty.and_then(Type::definition);
    let mut pairs: Vec<(&str, Cow<'_, Value>)> = Vec::new();
    for key in keys {
        let given = item.get(key.as_ref()).filter(|value| !value.is_null());
        let default = || definition?.field(key)?.default.clone();
        match given {
            Some(value) => pairs.push((key, Cow::Borrowed(value))),
            None => match default() {
                Some(value) => pairs.push((key, Cow::Owned(value))),
                // Upstream leaves a missing key out while another one is there.
                None if keys.len() > 1 => {}
                None => return Err(key.to_string()),
            },
        }
    }
    if pairs.is_empty() {
        return Err(keys.first().map(ToString::to_string).unwrap_or_default());
    }
    let pairs: Vec<(&str, &Value)> = pairs.iter().map(|(name, value)| (*name, &**value)).collect();
    Ok(fields::key(&pairs))
}

/// Items with their elements; an item without key counts by its position.
pub(super) fn elements<'v>(shape: Shape<'_>, items: &'v [Value]) -> Vec<(String, &'v Value)> {
    let named = items.iter().enumerate().map(|(index, item)| {
        let element = element(shape, item).unwrap_or_else(|_| format!("i:{index}"));
        (element, item)
    });
    named.collect()
}
