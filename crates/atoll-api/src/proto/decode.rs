//! From protobuf to object trees.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{Timestamp, tz::Offset};
use serde_json::{Map, Number, Value};

use super::plan::{self, Level, Step};
use super::wire::{Reader, Wire};
use super::{ApiVersionKind, DEPTH_MAX, ProtoError, ZERO_TIME_SECONDS, in_protobuf, open};
use crate::quantity::Quantity;
use crate::schema::{self, Definition, Field, SchemaId, Special, Type};

/// Decodes an envelope and the object in it.
///
/// # Errors
///
/// When the bytes are malformed or of a kind that is not built in.
pub fn decode(bytes: &[u8]) -> Result<(ApiVersionKind, Value), ProtoError> {
    decode_at(bytes, 0)
}

fn decode_at(bytes: &[u8], depth: usize) -> Result<(ApiVersionKind, Value), ProtoError> {
    let (named, message) = open(bytes)?;
    let mut object = message_value(in_protobuf(&named)?, message, depth)?;
    if let Value::Object(map) = &mut object {
        if !named.kind.is_empty() {
            map.insert("kind".to_owned(), Value::from(named.kind.as_str()));
        }
        if !named.api_version.is_empty() {
            map.insert("apiVersion".to_owned(), Value::from(named.api_version.as_str()));
        }
    }
    Ok((named, object))
}

/// Decodes a message without envelope.
///
/// # Errors
///
/// When the bytes are malformed.
pub fn decode_message(schema: SchemaId, message: &[u8]) -> Result<Value, ProtoError> {
    message_value(schema, message, 0)
}

fn message_value(id: SchemaId, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if depth > DEPTH_MAX {
        return Err(ProtoError::TooDeep);
    }
    let definition = id.definition();
    if let Some(special) = definition.special {
        return special_value(definition, special, bytes, depth);
    }
    let mut map = Map::new();
    fill(definition, plan::of(id), bytes, &mut map, depth)?;
    Ok(Value::Object(map))
}

/// Reads the fields of a message, or of one that Go embeds.
fn fill(
    definition: &Definition,
    level: &Level,
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match level.step(number) {
            Some(Step::Field(field)) => put(definition, field, wire, &reader, map, depth)?,
            Some(Step::Embedded(inner)) => {
                fill(definition, inner, wire.bytes(&reader)?, map, depth)?;
            }
            // A field that nobody knows is one of another version; it is left out as Go does.
            None => {}
        }
    }
    Ok(())
}

fn put(
    definition: &Definition,
    field: &Field,
    wire: Wire<'_>,
    reader: &Reader<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let name = field.name.as_ref();
    match &field.ty {
        Type::List(item) if field.wrapped => {
            let items = wrapped(item, wire.bytes(reader)?, depth)?;
            map.insert(name.to_owned(), items);
        }
        Type::List(item) => {
            let list = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            let packed = matches!(**item, Type::Int32 | Type::Int64 | Type::Bool | Type::Double);
            match wire {
                Wire::Bytes(bytes) if packed => unpack(item, bytes, list)?,
                _ => list.push(scalar(item, wire, reader, depth)?),
            }
        }
        Type::Map(item) => {
            let entries = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entry(field, item, wire.bytes(reader)?, entries, depth)?;
            }
        }
        ty => {
            let value = scalar(ty, wire, reader, depth)
                .map_err(|error| in_field(error, definition, name))?;
            if is_stated(field, &value) {
                map.insert(name.to_owned(), value);
            } else {
                map.remove(name);
            }
        }
    }
    Ok(())
}

fn in_field(error: ProtoError, definition: &Definition, name: &str) -> ProtoError {
    match error {
        ProtoError::Malformed { what, .. } => ProtoError::Field {
            what: what.to_owned(),
            path: format!("{}.{name}", definition.short_name()),
        },
        other => other,
    }
}

/// Whether Go's JSON would have the value: zero values of fields that are no pointers and
/// have `omitempty` are left out, and so is a zero time.
fn is_stated(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => false,
        _ if field.pointer || !field.omit_empty => true,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

fn unpack(item: &Type, bytes: &[u8], list: &mut Vec<Value>) -> Result<(), ProtoError> {
    let mut reader = Reader::new(bytes);
    while !reader.is_empty() {
        if matches!(item, Type::Double) {
            return Err(reader.error("packed doubles are not used"));
        }
        let wire = Wire::Varint(reader.varint()?);
        list.push(scalar(item, wire, &reader, 0)?);
    }
    Ok(())
}

/// A message whose field 1 repeats, where JSON has a list.
fn wrapped(item: &Type, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let mut reader = Reader::new(bytes);
    let mut items = Vec::new();
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            items.push(scalar(item, wire, &reader, depth)?);
        }
    }
    Ok(Value::Array(items))
}

fn entry(
    field: &Field,
    item: &Type,
    bytes: &[u8],
    entries: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut value) = (String::new(), None);
    while let Some((number, wire)) = reader.next()? {
        match (number, item) {
            (1, _) => key = wire.text(&reader)?.to_owned(),
            (2, Type::List(inner)) if field.wrapped => {
                value = Some(wrapped(inner, wire.bytes(&reader)?, depth)?);
            }
            (2, _) => value = Some(scalar(item, wire, &reader, depth)?),
            _ => {}
        }
    }
    let value = match (value, item) {
        (Some(value), _) => value,
        (None, Type::String | Type::Bytes) => Value::from(""),
        (None, Type::Bool) => Value::from(false),
        (None, Type::Int32 | Type::Int64 | Type::Double) => Value::from(0),
        (None, Type::List(_)) => Value::Array(Vec::new()),
        (None, Type::Object(id)) => message_value(*id, &[], depth + 1)?,
        (None, _) => Value::Null,
    };
    entries.insert(key, value);
    Ok(())
}

fn scalar(
    ty: &Type,
    wire: Wire<'_>,
    reader: &Reader<'_>,
    depth: usize,
) -> Result<Value, ProtoError> {
    Ok(match (ty, wire) {
        (Type::String, _) => Value::from(wire.text(reader)?),
        (Type::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes)),
        (Type::Bool, Wire::Varint(number)) => Value::Bool(number != 0),
        // Go keeps the low 32 bits, whatever the sender wrote above them.
        #[allow(clippy::cast_possible_truncation, reason = "protobuf truncates int32 so")]
        (Type::Int32, Wire::Varint(number)) => Value::from((number as u32).cast_signed()),
        (Type::Int64, Wire::Varint(number)) => Value::from(number.cast_signed()),
        (Type::Double, Wire::Fixed64(bits)) => double(f64::from_bits(bits)),
        (Type::Double, Wire::Fixed32(bits)) => double(f64::from(f32::from_bits(bits))),
        (Type::Object(id), Wire::Bytes(bytes)) => message_value(*id, bytes, depth + 1)?,
        _ => return Err(reader.error("wrong wire type")),
    })
}

/// As Go's JSON writes it: without a fraction where there is none.
fn double(number: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "checked to be a small whole number")]
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Value::from(number as i64);
    }
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn special_value(
    definition: &Definition,
    special: Special,
    bytes: &[u8],
    depth: usize,
) -> Result<Value, ProtoError> {
    let parts = Parts::read(bytes)?;
    Ok(match special {
        Special::Quantity => {
            let text = parts.text(1)?;
            let parsed =
                if text.is_empty() { Ok(Quantity::default()) } else { text.parse::<Quantity>() };
            let quantity = parsed.map_err(|error| ProtoError::Field {
                what: error.to_string(),
                path: definition.short_name().to_owned(),
            })?;
            Value::from(quantity.to_string())
        }
        Special::IntOrString if parts.number(1) == 1 => Value::from(parts.text(3)?),
        Special::IntOrString => Value::from(parts.number(2)),
        Special::Time => time(&parts, false),
        Special::MicroTime => time(&parts, true),
        Special::Raw | Special::FieldsV1 | Special::Json => raw(parts.bytes(1), depth)?,
        Special::PropsOrArray => {
            let items = parts.messages(2);
            if items.is_empty() {
                props(parts.bytes(1), depth)?
            } else {
                let items: Result<_, _> = items.iter().map(|one| props(one, depth)).collect();
                Value::Array(items?)
            }
        }
        Special::PropsOrBool => match parts.optional(2) {
            Some(bytes) => props(bytes, depth)?,
            None => Value::Bool(parts.number(1) != 0),
        },
        Special::PropsOrStrings => {
            let strings = parts.messages(2);
            if strings.is_empty() {
                props(parts.bytes(1), depth)?
            } else {
                strings.iter().map(|one| Value::from(String::from_utf8_lossy(one))).collect()
            }
        }
    })
}

fn props(bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    const NAME: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let schema = schema::by_name(NAME).ok_or(ProtoError::TooDeep)?;
    message_value(schema, bytes, depth + 1)
}

/// Raw JSON. Objects that came in protobuf carry an envelope of their own.
fn raw(bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if bytes.starts_with(super::MAGIC) {
        return Ok(decode_at(bytes, depth + 1)?.1);
    }
    match crate::tree::from_json(bytes) {
        Ok(decoded) => Ok(decoded.object),
        Err(error) => Err(ProtoError::Field { what: error.to_string(), path: "raw".to_owned() }),
    }
}

fn time(parts: &Parts<'_>, micro: bool) -> Value {
    let (seconds, nanos) = (parts.number(1), parts.number(2));
    // As in Go, only an empty message is no time: zeros are the year 1970.
    if parts.0.is_empty() || seconds <= ZERO_TIME_SECONDS {
        return Value::Null;
    }
    let nanos = i32::try_from(nanos).unwrap_or(0);
    let Ok(stamp) = Timestamp::new(seconds, nanos) else { return Value::Null };
    let civil = Offset::UTC.to_datetime(stamp);
    let layout = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Value::from(civil.strftime(layout).to_string())
}

/// The few fields of a special message.
struct Parts<'a>(Vec<(u32, Wire<'a>)>);

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtoError> {
        let mut reader = Reader::new(bytes);
        let mut parts = Vec::new();
        while let Some(part) = reader.next()? {
            parts.push(part);
        }
        Ok(Self(parts))
    }

    fn number(&self, number: u32) -> i64 {
        let found = self.0.iter().rev().find(|(one, _)| *one == number);
        match found {
            Some((_, Wire::Varint(value))) => value.cast_signed(),
            _ => 0,
        }
    }

    fn optional(&self, number: u32) -> Option<&'a [u8]> {
        self.messages(number).last().copied()
    }

    fn bytes(&self, number: u32) -> &'a [u8] {
        self.optional(number).unwrap_or(&[])
    }

    fn messages(&self, number: u32) -> Vec<&'a [u8]> {
        let bytes = |(one, wire): &(u32, Wire<'a>)| match wire {
            Wire::Bytes(bytes) if *one == number => Some(*bytes),
            _ => None,
        };
        self.0.iter().filter_map(bytes).collect()
    }

    fn text(&self, number: u32) -> Result<&'a str, ProtoError> {
        let what = "invalid UTF-8";
        std::str::from_utf8(self.bytes(number)).or(Err(ProtoError::Malformed { what, at: 0 }))
    }
}
