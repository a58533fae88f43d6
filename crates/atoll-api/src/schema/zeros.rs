//! Zero values that Go's types do not tell from absent ones.
//!
//! Upstream decodes into structs: a field without a pointer that is left out when it is empty
//! (`omitempty`) is the same whether a manifest says `false`, `0`, `""`, `{}` or nothing. Objects
//! that differ in nothing else are equal, so these go when an object comes in.

use serde_json::{Map, Value};

use super::{Definition, Field, ListKind, Type};

/// Drops from an object of this type what Go would not write.
pub fn drop_zeros(definition: &Definition, object: &mut Value) {
    if definition.special.is_some() || definition.preserve_unknown {
        return;
    }
    if let Value::Object(map) = object {
        of_fields(definition, map);
    }
}

fn of_fields(definition: &Definition, map: &mut Map<String, Value>) {
    map.retain(|name, value| {
        let Some(field) = definition.field(name) else { return true };
        match &field.list {
            // What an item is known by stays with it, or server-side apply would take it for another.
            ListKind::Map(keys) if keys.len() == 1 => items(&field.ty, value, &keys[0]),
            _ => within(&field.ty, value),
        }
        !(field.omit_empty && !field.pointer && is_zero(field, value))
    });
}

fn items(ty: &Type, value: &mut Value, key: &str) {
    let Value::Array(list) = value else { return within(ty, value) };
    let Type::List(item) = ty else { return };
    for value in list {
        let known = value.get(key).cloned();
        within(item, value);
        if let (Some(known), Value::Object(map)) = (known, value) {
            map.entry(key).or_insert(known);
        }
    }
}

fn within(ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Object(_) | Type::Inline(_), value) => {
            if let Some(definition) = ty.definition() {
                drop_zeros(definition, value);
            }
        }
        (Type::List(item), Value::Array(list)) => {
            for value in list {
                within(item, value);
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for value in map.values_mut() {
                within(item, value);
            }
        }
        _ => {}
    }
}

/// Structs are written whatever is in them, and so are other people's objects.
fn is_zero(field: &Field, value: &Value) -> bool {
    match (&field.ty, value) {
        (Type::Bool, Value::Bool(value)) => !value,
        (Type::String | Type::Bytes, Value::String(text)) => text.is_empty(),
        (Type::Int32 | Type::Int64 | Type::Double, Value::Number(number)) => {
            number.as_f64() == Some(0.0)
        }
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        _ => false,
    }
}
