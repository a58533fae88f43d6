//! What a configuration would replace as a whole.

use serde_json::Value;

use super::shape::{self, Shape, Typed, element};
use crate::schema::{Definition, Type};

/// The places in a configuration of lists, maps and objects that are taken as one: `.spec.args`.
pub(super) fn find(definition: &Definition, config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk_fields(Shape::Struct(definition), config, "", &mut found);
    found
}

fn walk_fields(shape: Shape<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        // Keys that are no fields are of maps, whose values are merged one by one.
        let typed = shape::child(shape, key);
        if typed.field.is_some() {
            walk(typed, value, &format!("{path}.{key}"), found);
        }
    }
}

fn walk(typed: Typed<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    let shape = typed.shape(value);
    match (shape, value) {
        (Shape::Leaf, Value::Object(_) | Value::Array(_)) if is_plain(typed.ty) => {
            found.push(path.to_owned());
        }
        (Shape::Struct(_), Value::Object(_)) => walk_fields(shape, value, path, found),
        (Shape::Keyed(_, item), Value::Array(items)) => {
            for (index, one) in items.iter().enumerate() {
                let place = match element(shape, one) {
                    Ok(_) => format!("{path}[{index}]"),
                    Err(_) => continue,
                };
                walk(Typed::item(item), one, &place, found);
            }
        }
        _ => {}
    }
}

/// Whether a type is one of parts; those with a JSON of their own are single values.
fn is_plain(ty: Option<&Type>) -> bool {
    match ty {
        Some(Type::List(_) | Type::Map(_)) => true,
        Some(ty) => ty.definition().is_some_and(|definition| definition.special.is_none()),
        None => false,
    }
}
