//! From object trees to protobuf.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::wire::{put_bytes, put_double, put_int};
use super::{ApiVersionKind, DEPTH_MAX, ProtoError, in_protobuf, seal, text_of};
use crate::schema::{self, Definition, Field, Special, Type};

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
pub fn encode_message<'a>(
    schema: impl Into<&'a Definition>,
    object: &Value,
) -> Result<Vec<u8>, ProtoError> {
    message(schema.into(), object, 0)
}

fn message(definition: &Definition, value: &Value, depth: usize) -> Result<Vec<u8>, ProtoError> {
    if depth > DEPTH_MAX {
        return Err(ProtoError::TooDeep);
    }
    if let Some(special) = definition.special {
        return special_message(special, value, depth);
    }
    let Value::Object(map) = value else {
        return Err(misfit(definition.short_name(), value));
    };
    let mut out = Vec::new();
    level(definition, &[], map, &mut out, depth)?;
    Ok(out)
}

/// Writes the fields whose numbers begin with `outer`, in the order of their numbers.
fn level(
    definition: &Definition,
    outer: &[u32],
    map: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    let here = |field: &&Field| field.tags.len() > outer.len() && field.tags.starts_with(outer);
    let mut fields: Vec<&Field> = definition.fields.iter().filter(here).collect();
    fields.sort_by_key(|field| field.tags[outer.len()]);
    let mut index = 0;
    while let Some(field) = fields.get(index) {
        let number = field.tags[outer.len()];
        if field.tags.len() == outer.len() + 1 {
            if let Some(value) = map.get(field.name.as_ref()).filter(|value| !value.is_null()) {
                write_field(definition, field, number, value, out, depth)?;
            }
            index += 1;
            continue;
        }
        let mut path = outer.to_vec();
        path.push(number);
        let mut inner = Vec::new();
        level(definition, &path, map, &mut inner, depth)?;
        put_bytes(out, number, &inner);
        while fields.get(index).is_some_and(|field| field.tags[outer.len()] == number) {
            index += 1;
        }
    }
    Ok(())
}

fn write_field(
    definition: &Definition,
    field: &Field,
    number: u32,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    let misfit = || misfit(&format!("{}.{}", definition.short_name(), field.name), value);
    match (&field.ty, value) {
        (Type::List(item), Value::Array(items)) if field.wrapped => {
            put_bytes(out, number, &wrapped(item, items, depth)?);
        }
        (Type::List(item), Value::Array(items)) => {
            for one in items {
                write_value(item, number, one, out, depth)?;
            }
        }
        (Type::Map(item), Value::Object(entries)) => {
            let mut keys: Vec<&String> = entries.keys().collect();
            keys.sort();
            for key in keys {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                match (&**item, &entries[key]) {
                    (Type::List(inner), Value::Array(items)) => {
                        put_bytes(&mut entry, 2, &wrapped(inner, items, depth)?);
                    }
                    (ty, one) => write_value(ty, 2, one, &mut entry, depth)?,
                }
                put_bytes(out, number, &entry);
            }
        }
        (Type::List(_) | Type::Map(_), _) => return Err(misfit()),
        (ty, _) => write_value(ty, number, value, out, depth)?,
    }
    Ok(())
}

fn wrapped(item: &Type, items: &[Value], depth: usize) -> Result<Vec<u8>, ProtoError> {
    let mut inner = Vec::new();
    for one in items {
        write_value(item, 1, one, &mut inner, depth)?;
    }
    Ok(inner)
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
                path: number.to_string(),
            })?;
            put_bytes(out, number, &bytes);
        }
        (Type::Bool, Value::Bool(flag)) => put_int(out, number, i64::from(*flag)),
        (Type::Int32 | Type::Int64, Value::Number(one)) => {
            let one = one.as_i64().ok_or_else(|| misfit("integer", value))?;
            put_int(out, number, one);
        }
        (Type::Double, Value::Number(one)) => {
            put_double(out, number, one.as_f64().unwrap_or_default());
        }
        (Type::Object(_) | Type::Inline(_), _) => {
            if let Some(definition) = ty.definition() {
                put_bytes(out, number, &message(definition, value, depth + 1)?);
            }
        }
        _ => return Err(misfit("value", value)),
    }
    Ok(())
}

fn special_message(special: Special, value: &Value, depth: usize) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::new();
    match (special, value) {
        (Special::Quantity, Value::String(text)) => put_bytes(&mut out, 1, text.as_bytes()),
        (Special::Quantity, Value::Number(number)) => {
            put_bytes(&mut out, 1, number.to_string().as_bytes());
        }
        (Special::IntOrString, Value::String(text)) => {
            put_int(&mut out, 1, 1);
            put_int(&mut out, 2, 0);
            put_bytes(&mut out, 3, text.as_bytes());
        }
        (Special::IntOrString, Value::Number(number)) => {
            put_int(&mut out, 1, 0);
            put_int(&mut out, 2, number.as_i64().unwrap_or_default());
            put_bytes(&mut out, 3, b"");
        }
        (Special::Time | Special::MicroTime, Value::Null) => {}
        (Special::Time | Special::MicroTime, Value::String(text)) => {
            let stamp: Timestamp = text.parse().map_err(|error: jiff::Error| {
                ProtoError::Field { what: error.to_string(), path: "time".to_owned() }
            })?;
            put_int(&mut out, 1, stamp.as_second());
            put_int(&mut out, 2, i64::from(stamp.subsec_nanosecond()));
        }
        (Special::Raw | Special::FieldsV1 | Special::Json, _) => {
            put_bytes(&mut out, 1, value.to_string().as_bytes());
        }
        (Special::PropsOrBool, Value::Bool(flag)) => put_int(&mut out, 1, i64::from(*flag)),
        (Special::PropsOrBool, _) => {
            put_int(&mut out, 1, 1);
            put_bytes(&mut out, 2, &props(value, depth)?);
        }
        (Special::PropsOrStrings, Value::Array(items)) => {
            for text in items.iter().filter_map(Value::as_str) {
                put_bytes(&mut out, 2, text.as_bytes());
            }
        }
        (Special::PropsOrArray, Value::Array(items)) => {
            for item in items {
                put_bytes(&mut out, 2, &props(item, depth)?);
            }
        }
        (Special::PropsOrArray | Special::PropsOrStrings, _) => {
            put_bytes(&mut out, 1, &props(value, depth)?);
        }
        _ => return Err(misfit("special", value)),
    }
    Ok(out)
}

fn props(value: &Value, depth: usize) -> Result<Vec<u8>, ProtoError> {
    const NAME: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let schema = schema::by_name(NAME).ok_or(ProtoError::TooDeep)?;
    message(schema.definition(), value, depth + 1)
}

fn misfit(path: &str, value: &Value) -> ProtoError {
    let mut shown = value.to_string();
    shown.truncate(shown.char_indices().nth(60).map_or(shown.len(), |(at, _)| at));
    ProtoError::Field { what: format!("{shown} does not fit"), path: path.to_owned() }
}
