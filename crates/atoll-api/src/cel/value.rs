//! Values of expressions: those of objects are read where they lie, nothing is copied.

mod compare;
mod convert;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::{Map as JsonMap, Value as Json};

use super::decl::{Decl, ListKind, ObjectDecl, Shape};
use super::error::{EvalError, fail};
use super::library::Opaque;

pub(super) use compare::{compare, equal};

/// A value. `'a` is that of the objects and of the program.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Rc<[u8]>),
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    List(List<'a>),
    Map(Map<'a>),
    /// An object of a declared type.
    Object(&'a JsonMap<String, Json>, &'a ObjectDecl),
    /// An object that the expression made.
    Struct(Rc<Struct<'a>>),
    Optional(Option<Rc<Value<'a>>>),
    /// A type, by its name.
    Type(Rc<str>),
    Opaque(Opaque<'a>),
}

/// A string, borrowed where it can be.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    Borrowed(&'a str),
    Owned(Rc<str>),
}

#[derive(Debug, Clone)]
pub enum List<'a> {
    Json(&'a [Json], Option<(&'a Decl, &'a ListKind)>),
    Own(Rc<Vec<Value<'a>>>),
}

#[derive(Debug, Clone)]
pub enum Map<'a> {
    Json(&'a JsonMap<String, Json>, Option<&'a Decl>),
    Own(Rc<OwnMap<'a>>),
    Lazy(Rc<dyn Lazy<'a> + 'a>),
}

/// Fields that are computed when they are first asked for.
pub trait Lazy<'a> {
    /// `None` when there is no such field.
    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;
    fn names(&self) -> Vec<String>;
}

impl fmt::Debug for dyn Lazy<'_> + '_ {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.names()).finish()
    }
}

/// A map that an expression made, in the order in which it was made.
#[derive(Debug, Clone, Default)]
pub struct OwnMap<'a> {
    pub(super) entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key, usize>,
}

/// `Object{spec: Object.spec{…}}`.
#[derive(Debug, Clone)]
pub struct Struct<'a> {
    pub name: Rc<str>,
    pub fields: Vec<(Rc<str>, Value<'a>)>,
}

/// A key by its meaning: `1`, `1u` and `1.0` are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Bool(bool),
    Number(i128),
    Text(Rc<str>),
}

// === impl Text ===

impl Text<'_> {
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }

    /// In characters.
    pub(super) fn size(&self) -> usize {
        self.as_str().chars().count()
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    /// Any JSON as it is: numbers without a fraction are integers.
    #[must_use]
    pub fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => number
                .as_i64()
                .map(Self::Int)
                .or_else(|| number.as_u64().map(Self::Uint))
                .unwrap_or_else(|| Self::Double(number.as_f64().unwrap_or(0.0))),
            Json::String(text) => Self::String(Text::Borrowed(text)),
            Json::Array(items) => Self::List(List::Json(items, None)),
            Json::Object(map) => Self::Map(Map::Json(map, None)),
        }
    }

    /// JSON of a declared type.
    ///
    /// # Errors
    ///
    /// When it is not of that type, which validation by the schema finds before.
    pub fn of_declared(json: &'a Json, decl: &'a Decl) -> Result<Self, EvalError> {
        if json.is_null() {
            if decl.nullable || matches!(decl.shape, Shape::Dyn) {
                return Ok(Self::Null);
            }
            return fail("invalid data, got null for schema with nullable=false");
        }
        Ok(match (&decl.shape, json) {
            (Shape::Dyn, _) | (Shape::Bool, Json::Bool(_)) | (Shape::String, Json::String(_)) => {
                Self::of_json(json)
            }
            (Shape::Int, Json::Number(number)) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => match number.as_f64().and_then(convert::whole) {
                    Some(value) => Self::Int(value),
                    None => return fail("invalid data, expected an integer"),
                },
            },
            (Shape::Double, Json::Number(number)) => Self::Double(number.as_f64().unwrap_or(0.0)),
            (Shape::Bytes, Json::String(text)) => convert::base64(text)?,
            (Shape::Timestamp, Json::String(text)) => convert::declared_timestamp(text)?,
            (Shape::Duration, Json::String(text)) => Self::Duration(convert::duration(text)?),
            (Shape::List(item, kind), Json::Array(items)) => {
                Self::List(List::Json(items, Some((item.as_ref(), kind))))
            }
            (Shape::Map(value), Json::Object(map)) => {
                Self::Map(Map::Json(map, Some(value.as_ref())))
            }
            (Shape::Object(object), Json::Object(map)) => Self::Object(map, object.as_ref()),
            _ => return fail("invalid data, the value is not of the type in its schema"),
        })
    }

    /// A string that is made.
    pub fn text(text: impl Into<Rc<str>>) -> Self {
        Self::String(Text::Owned(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(List::Own(Rc::new(items)))
    }

    pub(super) fn some(value: Self) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// As JSON: times and durations as text, bytes in base64, whole doubles as integers when
    /// they are.
    ///
    /// # Errors
    ///
    /// When there is no JSON for it: types, values of libraries, infinite numbers.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        convert::to_json(self)
    }

    /// What a call that takes the value costs by: characters, bytes, items, or one.
    pub(super) fn size(&self) -> u64 {
        let size = match self {
            Self::String(text) => text.size(),
            Self::Bytes(bytes) => bytes.len(),
            Self::List(list) => list.len(),
            Self::Map(map) => map.len(),
            Self::Optional(Some(value)) => return value.size(),
            Self::Opaque(opaque) => return opaque.size(),
            _ => 1,
        };
        u64::try_from(size).unwrap_or(u64::MAX)
    }

    /// The name of the value's type.
    pub(super) fn type_name(&self) -> Rc<str> {
        match self {
            Self::Null => "null_type".into(),
            Self::Bool(_) => "bool".into(),
            Self::Int(_) => "int".into(),
            Self::Uint(_) => "uint".into(),
            Self::Double(_) => "double".into(),
            Self::String(_) => "string".into(),
            Self::Bytes(_) => "bytes".into(),
            Self::Timestamp(_) => "google.protobuf.Timestamp".into(),
            Self::Duration(_) => "google.protobuf.Duration".into(),
            Self::List(_) => "list".into(),
            Self::Map(_) => "map".into(),
            Self::Object(_, decl) => decl.name.as_str().into(),
            Self::Struct(made) => made.name.clone(),
            Self::Optional(_) => "optional_type".into(),
            Self::Type(_) => "type".into(),
            Self::Opaque(opaque) => opaque.type_name().into(),
        }
    }

    /// A field or the value of a key; `None` when it is not there.
    pub(super) fn find(&self, key: &Value<'_>) -> Option<Result<Self, EvalError>> {
        match self {
            Self::Map(map) => map.get(key),
            Self::Object(json, decl) => {
                let (name, field) = decl.field(key.as_text()?)?;
                json.get(name).map(|value| Self::of_declared(value, field))
            }
            Self::Struct(made) => made
                .fields
                .iter()
                .find(|(name, _)| Some(name.as_ref()) == key.as_text())
                .map(|(_, value)| Ok(value.clone())),
            Self::List(list) => {
                let index = usize::try_from(index(key)?).ok()?;
                list.get(index)
            }
            _ => None,
        }
    }
}

// === impl List ===

impl<'a> List<'a> {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Own(items) => items.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(items, None) => items.get(index).map(|item| Ok(Value::of_json(item))),
            Self::Json(items, Some((decl, _))) => {
                items.get(index).map(|item| Value::of_declared(item, decl))
            }
            Self::Own(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// # Errors
    ///
    /// When an item is not of the declared type.
    pub fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        (0..self.len()).filter_map(|index| self.get(index)).collect()
    }

    pub(super) fn kind(&self) -> &ListKind {
        match self {
            Self::Json(_, Some((_, kind))) => kind,
            _ => &ListKind::Atomic,
        }
    }
}

// === impl Map ===

impl<'a> Map<'a> {
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Own(map) => map.entries.len(),
            Self::Lazy(lazy) => lazy.names().len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Json(map, decl) => {
                let value = map.get(key.as_text()?)?;
                Some(decl.map_or_else(
                    || Ok(Value::of_json(value)),
                    |decl| Value::of_declared(value, decl),
                ))
            }
            Self::Own(map) => map.get(key).cloned().map(Ok),
            Self::Lazy(lazy) => lazy.get(key.as_text()?),
        }
    }

    pub(super) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map, _) => {
                map.keys().map(|key| Value::String(Text::Borrowed(key))).collect()
            }
            Self::Own(map) => map.entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Lazy(lazy) => lazy.names().into_iter().map(Value::text).collect(),
        }
    }
}

// === impl OwnMap ===

impl<'a> OwnMap<'a> {
    pub(super) fn get(&self, key: &Value<'_>) -> Option<&Value<'a>> {
        let index = *self.index.get(&Key::of(key)?)?;
        self.entries.get(index).map(|(_, value)| value)
    }

    /// # Errors
    ///
    /// When the key is there already, or no key at all.
    pub(super) fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let Some(by) = Key::of(&key) else {
            return fail(format!("unsupported key type: {}", key.type_name()));
        };
        if self.index.contains_key(&by) {
            return fail(format!("insert failed: key {} already exists", shown(&key)));
        }
        self.index.insert(by, self.entries.len());
        self.entries.push((key, value));
        Ok(())
    }
}

impl Key {
    pub(super) fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(*value),
            Value::Int(value) => Self::Number(i128::from(*value)),
            Value::Uint(value) => Self::Number(i128::from(*value)),
            Value::Double(value) => Self::Number(i128::from(convert::whole(*value)?)),
            Value::String(text) => Self::Text(text.as_str().into()),
            _ => return None,
        })
    }
}

pub(super) use convert::{
    INT_END, base64 as decode_base64, double_text, duration as parse_duration, duration_text,
    exponent, in_range, index, shown, timestamp as parse_timestamp, timestamp_text,
};
