//! From object trees to protobuf, byte by byte as Go writes it.
//!
//! Go writes every field that is no pointer, slice or map, also one that is zero or that JSON
//! leaves out; maps are sorted by key.

mod special;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::plan::{self, Level, Step};
use super::wire::{end_message, put_bytes, put_double, put_int, start_message};
use super::{ApiVersionKind, DEPTH_MAX, ProtoError, in_protobuf, seal, text_of};
use crate::schema::{Field, SchemaId, Type};

/// Encodes an object in an envelope, by its `apiVersion` and `kind`.
///
/// # Errors
///
/// When its kind is not built in, or a value does not fit its field.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtoError> {
    let named = ApiVersionKind {
        api_version: text_of(object, "apiVersion"),
        kind: text_of(object, "kind"),
    };
    let schema = in_protobuf(&named)?;
    Ok(seal(&named, &encode_message(schema, object)?))
}

/// Encodes a message without envelope.
///
/// # Errors
///
/// When a value does not fit its field.
pub fn encode_message(schema: SchemaId, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::new();
    message(schema, object, &mut out, 0)?;
    Ok(out)
}

fn message(id: SchemaId, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtoError> {
    if depth > DEPTH_MAX {
        return Err(ProtoError::TooDeep);
    }
    let definition = id.definition();
    if let Some(special) = definition.special {
        return special::message(special, value, out, depth);
    }
    let Value::Object(map) = value else {
        return Err(misfit(definition.short_name(), value));
    };
    level(plan::of(id), map, out, depth).map_err(|error| within(error, definition.short_name()))
}

/// Names the type in whose field a value does not fit.
fn within(error: ProtoError, name: &str) -> ProtoError {
    match error {
        ProtoError::Field { what, path } if !path.contains('.') => {
            ProtoError::Field { what, path: format!("{name}.{path}") }
        }
        other => other,
    }
}

fn level(
    level_of: &Level,
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    for (number, step) in level_of.steps() {
        match step {
            Step::Field(field) => match map.get(field.name.as_ref()) {
                None | Some(Value::Null) => absent(field, *number, out, depth)?,
                Some(value) => write_field(field, *number, value, out, depth)?,
            },
            Step::Embedded(inner) => {
                let start = start_message(out, *number);
                level(inner, map, out, depth)?;
                end_message(out, start);
            }
        }
    }
    Ok(())
}

/// What Go writes for a field that JSON does not have.
fn absent(field: &Field, number: u32, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtoError> {
    if field.pointer {
        return Ok(());
    }
    match &field.ty {
        Type::String => put_bytes(out, number, b""),
        Type::Bool | Type::Int32 | Type::Int64 => put_int(out, number, 0),
        Type::Double => put_double(out, number, 0.0),
        Type::Object(id) => {
            let start = start_message(out, number);
            match id.definition().special {
                Some(special) => special::zero(special, out),
                None if depth < DEPTH_MAX => level(plan::of(*id), &Map::new(), out, depth + 1)?,
                None => return Err(ProtoError::TooDeep),
            }
            end_message(out, start);
        }
        // Slices, maps and bytes that are nil are not written.
        Type::Bytes | Type::List(_) | Type::Map(_) | Type::Any | Type::Inline(_) => {}
    }
    Ok(())
}

fn write_field(
    field: &Field,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    match (&field.ty, value) {
        (Type::List(item), Value::Array(items)) if field.wrapped => {
            wrapped(item, number, items, out, depth)
        }
        (Type::List(item), Value::Array(items)) => {
            items.iter().try_for_each(|one| write_value(item, number, one, out, depth))
        }
        (Type::Map(item), Value::Object(entries)) => write_map(item, number, entries, out, depth),
        (Type::List(_) | Type::Map(_), _) => Err(misfit(&field.name, value)),
        (ty, _) => write_value(ty, number, value, out, depth),
    }
    .map_err(|error| within_field(error, &field.name))
}

fn within_field(error: ProtoError, name: &str) -> ProtoError {
    match error {
        ProtoError::Field { what, path } if path.is_empty() => {
            ProtoError::Field { what, path: name.to_owned() }
        }
        other => other,
    }
}

fn write_map(
    item: &Type,
    number: u32,
    entries: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (key, one) in sorted {
        let start = start_message(out, number);
        put_bytes(out, 1, key.as_bytes());
        match (item, one) {
            (Type::List(inner), Value::Array(items)) => wrapped(inner, 2, items, out, depth)?,
            // A nil slice of bytes.
            (Type::Bytes, Value::Null) => {}
            (ty, one) => write_value(ty, 2, one, out, depth)?,
        }
        end_message(out, start);
    }
    Ok(())
}

/// A message whose field 1 repeats, where JSON has a list.
fn wrapped(
    item: &Type,
    number: u32,
    items: &[Value],
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    let start = start_message(out, number);
    items.iter().try_for_each(|one| write_value(item, 1, one, out, depth))?;
    end_message(out, start);
    Ok(())
}

fn write_value(
    ty: &Type,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    match (ty, value) {
        (Type::String, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            let bytes = STANDARD.decode(text).map_err(|error| ProtoError::Field {
                what: error.to_string(),
                path: String::new(),
            })?;
            put_bytes(out, number, &bytes);
        }
        (Type::Bool, Value::Bool(flag)) => put_int(out, number, i64::from(*flag)),
        (Type::Int32 | Type::Int64, Value::Number(one)) => {
            let one = one.as_i64().ok_or_else(|| misfit("", value))?;
            put_int(out, number, one);
        }
        (Type::Double, Value::Number(one)) => {
            put_double(out, number, one.as_f64().unwrap_or_default());
        }
        // A null among the items of a list is Go's zero value.
        (Type::Object(id), Value::Null) if id.definition().special.is_none() => {
            let start = start_message(out, number);
            message(*id, &Value::Object(Map::new()), out, depth + 1)?;
            end_message(out, start);
        }
        (Type::Object(id), _) => {
            let start = start_message(out, number);
            message(*id, value, out, depth + 1)?;
            end_message(out, start);
        }
        _ => return Err(misfit("", value)),
    }
    Ok(())
}

fn misfit(path: &str, value: &Value) -> ProtoError {
    let mut shown = value.to_string();
    shown.truncate(shown.char_indices().nth(60).map_or(shown.len(), |(at, _)| at));
    ProtoError::Field { what: format!("{shown} does not fit"), path: path.to_owned() }
}
