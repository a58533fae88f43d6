//! Walks an object along its type: drops unknown fields and nulls, checks types, and brings
//! quantities and times into the form in which they are stored.
//!
//! The texts are those of Go's decoder, because clients and people know them.

use base64::Engine as _;
use jiff::{Timestamp, tz::Offset};
use serde_json::{Map, Number, Value};

use super::{Definition, Special, Type};
use crate::quantity::Quantity;

/// A value does not fit its field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    #[error("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")]
    Field { found: String, owner: String, path: String, wanted: String },
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    Root { found: String, wanted: String },
    /// The text of a special value cannot be parsed.
    #[error("{0}")]
    Value(String),
}

impl TypeError {
    /// What Go's converter says that goes from a tree to the type without JSON, as strategic
    /// merge patches do (apimachinery's `DefaultUnstructuredConverter`).
    #[must_use]
    pub fn of_converter(&self) -> String {
        let (found, wanted) = match self {
            Self::Field { found, wanted, .. } | Self::Root { found, wanted } => (found, wanted),
            Self::Value(text) => return text.clone(),
        };
        let found = match found.as_str() {
            "number" => "int64",
            "array" => "slice",
            "object" => "map",
            other => other,
        };
        match wanted.as_str() {
            "string" if found == "int64" => "cannot convert int64 to string".to_owned(),
            "string" | "bool" | "int32" | "int64" | "float64" => {
                format!("unrecognized type: {wanted}")
            }
            map if map.starts_with("map[") => format!("cannot restore map from {found}"),
            list if list.starts_with("[]") => format!("cannot restore slice from {found}"),
            _ => format!("cannot restore struct from: {found}"),
        }
    }
}

/// Brings an object into the form of its type.
///
/// Unknown fields are dropped and answered as paths (`spec.containers[0].foo`); null fields
/// are dropped silently, as Go's decoder takes them for absent.
///
/// # Errors
///
/// When a value has another type than its field.
pub fn prune_and_check<'a>(
    schema: impl Into<&'a Definition>,
    object: &mut Value,
) -> Result<Vec<String>, TypeError> {
    let definition = schema.into();
    let mut walk = Walk { unknown: Vec::new(), path: String::new(), keys: Vec::new(), owner: "" };
    match object {
        Value::Object(map) => walk.object(definition, map)?,
        other => {
            return Err(TypeError::Root {
                found: describe(other),
                wanted: definition.go_name().to_owned(),
            });
        }
    }
    Ok(walk.unknown)
}

/// As [`prune_and_check`] for a value of any type, such as a field of a custom resource.
///
/// # Errors
///
/// When the value has another type.
pub fn check_type(ty: &Type, value: &mut Value) -> Result<Vec<String>, TypeError> {
    let mut walk = Walk { unknown: Vec::new(), path: String::new(), keys: Vec::new(), owner: "" };
    walk.value(ty, None, value)?;
    Ok(walk.unknown)
}

struct Walk<'s> {
    unknown: Vec<String>,
    /// Where we are, with indices: `spec.containers[0].image`.
    path: String,
    /// Where we are as Go's decoder counts: field names only.
    keys: Vec<String>,
    /// Short name of the innermost type with fields.
    owner: &'s str,
}

impl<'s> Walk<'s> {
    fn object(
        &mut self,
        definition: &'s Definition,
        map: &mut Map<String, Value>,
    ) -> Result<(), TypeError> {
        let outer = std::mem::replace(&mut self.owner, definition.short_name());
        let mut dropped = Vec::new();
        for (name, value) in map.iter_mut() {
            let Some(field) = definition.field(name) else {
                if !definition.preserve_unknown {
                    self.unknown.push(self.child(name));
                    dropped.push(name.clone());
                }
                continue;
            };
            if value.is_null() {
                dropped.push(name.clone());
                continue;
            }
            let length = self.enter(name);
            self.keys.push(name.clone());
            self.value(&field.ty, field.go_type.as_deref(), value)?;
            self.keys.pop();
            self.path.truncate(length);
        }
        for name in dropped {
            map.remove(&name);
        }
        self.owner = outer;
        Ok(())
    }

    fn value(
        &mut self,
        ty: &'s Type,
        named: Option<&str>,
        value: &mut Value,
    ) -> Result<(), TypeError> {
        if value.is_null() {
            *value = zero(ty);
            return Ok(());
        }
        match (ty, &mut *value) {
            (Type::Any, _) | (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => {
                Ok(())
            }
            (Type::Int32, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|one| i32::try_from(one).is_ok());
                if fits { Ok(()) } else { Err(self.bad_number(number, ty, named)) }
            }
            (Type::Int64, Value::Number(number)) => {
                if number.is_i64() {
                    Ok(())
                } else {
                    Err(self.bad_number(number, ty, named))
                }
            }
            (Type::Double, Value::Number(_)) => Ok(()),
            (Type::Bytes, Value::String(text)) => check_base64(text),
            (Type::List(item), Value::Array(items)) => self.list(item, items_named(named), items),
            (Type::Map(item), Value::Object(map)) => self.map(item, map),
            (Type::Object(_) | Type::Inline(_), _) => match ty.definition() {
                Some(definition) => self.typed(definition, ty, named, value),
                None => Ok(()),
            },
            (_, found) => Err(self.mismatch(&describe(found), ty, named)),
        }
    }

    fn typed(
        &mut self,
        definition: &'s Definition,
        ty: &Type,
        named: Option<&str>,
        value: &mut Value,
    ) -> Result<(), TypeError> {
        match (definition.special, &mut *value) {
            (None, Value::Object(map)) => self.object(definition, map),
            (None, _) if definition.preserve_unknown && definition.fields.is_empty() => Ok(()),
            (None, found) => Err(self.mismatch(&describe(found), ty, named)),
            (Some(Special::Quantity), _) => quantity(value),
            (Some(Special::IntOrString), Value::String(_)) => Ok(()),
            (Some(Special::IntOrString), Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|one| i32::try_from(one).is_ok());
                if fits { Ok(()) } else { Err(self.bad_number(number, &Type::Int32, None)) }
            }
            (Some(Special::IntOrString), found) => {
                Err(self.mismatch(&describe(found), &Type::Int32, None))
            }
            (Some(Special::Time), Value::String(text)) => time(text, false),
            (Some(Special::MicroTime), Value::String(text)) => time(text, true),
            (Some(Special::Time | Special::MicroTime), found) => {
                Err(self.mismatch(&describe(found), &Type::String, None))
            }
            (Some(_), _) => Ok(()),
        }
    }

    fn list(
        &mut self,
        item: &'s Type,
        named: Option<&str>,
        items: &mut [Value],
    ) -> Result<(), TypeError> {
        let length = self.path.len();
        for (index, value) in items.iter_mut().enumerate() {
            self.path.push_str(&format!("[{index}]"));
            self.value(item, named, value)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn map(&mut self, item: &'s Type, map: &mut Map<String, Value>) -> Result<(), TypeError> {
        for (key, value) in map.iter_mut() {
            let length = self.enter(key);
            self.value(item, None, value)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Go names the literal when it is a number that does not fit.
    fn bad_number(&self, number: &Number, ty: &Type, named: Option<&str>) -> TypeError {
        self.mismatch(&format!("number {number}"), ty, named)
    }

    fn mismatch(&self, found: &str, ty: &Type, named: Option<&str>) -> TypeError {
        let wanted = named.map_or_else(|| go_type(ty), str::to_owned);
        if self.keys.is_empty() {
            return TypeError::Root { found: found.to_owned(), wanted };
        }
        TypeError::Field {
            found: found.to_owned(),
            owner: self.owner.to_owned(),
            path: self.keys.join("."),
            wanted,
        }
    }
}

/// What items of a list are called: those of `[]v1.OperationType` are `v1.OperationType`.
fn items_named(named: Option<&str>) -> Option<&str> {
    named.and_then(|name| name.strip_prefix("[]"))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
    .to_owned()
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::Any => "interface {}".into(),
        Type::String => "string".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(item) => format!("map[string]{}", go_type(item)),
        Type::Object(_) | Type::Inline(_) => {
            ty.definition().map_or_else(String::new, |one| one.go_name().to_owned())
        }
    }
}

/// What Go's decoder leaves where JSON has null inside a list or map.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => Value::from(""),
        Type::Bool => Value::from(false),
        Type::Int32 | Type::Int64 | Type::Double => Value::from(0),
        Type::Object(_) | Type::Inline(_) => match ty.special() {
            None => Value::Object(Map::new()),
            Some(Special::Quantity) => Value::from("0"),
            Some(Special::IntOrString) => Value::from(0),
            Some(_) => Value::Null,
        },
        _ => Value::Null,
    }
}

fn check_base64(text: &str) -> Result<(), TypeError> {
    let stripped;
    let text = if text.contains(['\n', '\r']) {
        stripped = text.replace(['\n', '\r'], "");
        &stripped
    } else {
        text
    };
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _),
        ) => Err(TypeError::Value(format!("illegal base64 data at input byte {at}"))),
        Err(_) => {
            let at = text.len() / 4 * 4;
            Err(TypeError::Value(format!("illegal base64 data at input byte {at}")))
        }
    }
}

fn quantity(value: &mut Value) -> Result<(), TypeError> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        other => other.to_string(),
    };
    let parsed: Quantity = text.parse().map_err(|error| TypeError::Value(format!("{error}")))?;
    let canonical = parsed.to_string();
    if value.as_str() != Some(&canonical) {
        *value = Value::from(canonical);
    }
    Ok(())
}

/// Times are stored in UTC, in whole seconds or with six digits.
fn time(text: &mut String, micro: bool) -> Result<(), TypeError> {
    let layout =
        if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let well_formed = text.as_bytes().get(10) == Some(&b'T');
    let parsed = if well_formed { text.parse::<Timestamp>().ok() } else { None };
    let Some(parsed) = parsed else {
        let rest = if text.get(..4).is_some_and(|year| year.bytes().all(|b| b.is_ascii_digit())) {
            (&text[4..], "-")
        } else {
            (text.as_str(), "2006")
        };
        return Err(TypeError::Value(format!(
            "parsing time {text:?} as {layout:?}: cannot parse {:?} as {:?}",
            rest.0, rest.1
        )));
    };
    let civil = Offset::UTC.to_datetime(parsed);
    let formatted = if micro {
        civil.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
    } else {
        civil.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    };
    if *text != formatted {
        *text = formatted;
    }
    Ok(())
}
