//! Types of CEL, as the checker sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::decl::{Decl, ObjectDecl};
use crate::schema::{self, SchemaId, Special};

/// The type of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Known only when it runs.
    Dyn,
    /// Of an expression that has been found wrong already.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    Object(Arc<ObjectType>),
    /// A type of a library: `net.IP`, `kubernetes.Quantity`.
    Opaque(&'static str),
    /// `T` in a signature.
    Param(char),
    /// Free in the expression that is being checked.
    Var(u32),
}

/// A type with fields.
#[derive(Debug, Clone)]
pub struct ObjectType {
    pub name: String,
    pub fields: Fields,
}

/// Where an object type has its fields from.
#[derive(Debug, Clone)]
pub enum Fields {
    Own(BTreeMap<String, Type>),
    /// Of a custom resource's schema.
    Declared(Arc<ObjectDecl>),
    /// Of the table of built-in kinds.
    Builtin(SchemaId),
    /// Every field is there and takes anything: what a mutating policy builds.
    Open,
}

impl PartialEq for ObjectType {
    /// Types are the same by name, as in an environment of CEL.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl ObjectType {
    /// The type of a field; `None` when there is no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Type> {
        match &self.fields {
            Fields::Own(fields) => fields.get(name).cloned(),
            Fields::Declared(decl) => decl.field(name).map(|(_, field)| field.ty()),
            Fields::Builtin(id) => {
                let definition = id.definition();
                let plain = super::escape::unescape(name)?;
                let field = definition.field(&plain)?;
                // An escaped name is the only one.
                (super::escape::escape(&plain).as_deref() == Some(name)).then(|| builtin(&field.ty))
            }
            // `Object.spec.template`: the type of a field is named by the way to it.
            Fields::Open => Some(Type::Dyn),
        }
    }
}

impl Type {
    #[must_use]
    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    #[must_use]
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    #[must_use]
    pub fn optional(of: Self) -> Self {
        Self::Optional(Arc::new(of))
    }

    /// An object type with these fields.
    #[must_use]
    pub fn object<'a>(name: &str, fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), ty)).collect();
        Self::Object(Arc::new(ObjectType { name: name.to_owned(), fields: Fields::Own(fields) }))
    }

    /// The type of a built-in kind's objects: `io.k8s.api.apps.v1.Deployment`.
    #[must_use]
    pub fn builtin(definition: &str) -> Option<Self> {
        schema::by_name(definition).map(of_definition)
    }

    /// The type of what a schema describes.
    #[must_use]
    pub fn of_decl(decl: &Decl) -> Self {
        decl.ty()
    }

    /// `dyn`, or wrong already.
    pub(super) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Whether null may stand for a value of this type.
    pub(super) fn takes_null(&self) -> bool {
        matches!(
            self,
            Self::Object(_)
                | Self::Opaque(_)
                | Self::Timestamp
                | Self::Duration
                | Self::Optional(_)
        )
    }
}

fn of_definition(id: SchemaId) -> Type {
    let name = id.definition().name.to_string();
    Type::Object(Arc::new(ObjectType { name, fields: Fields::Builtin(id) }))
}

/// A field's type of the schema table, with formats: times are timestamps, quantities text.
fn builtin(ty: &schema::Type) -> Type {
    match ty {
        schema::Type::Any | schema::Type::Inline(_) => Type::Dyn,
        schema::Type::String => Type::String,
        schema::Type::Bool => Type::Bool,
        schema::Type::Int32 | schema::Type::Int64 => Type::Int,
        schema::Type::Double => Type::Double,
        schema::Type::Bytes => Type::Bytes,
        schema::Type::List(item) => Type::list(builtin(item)),
        schema::Type::Map(item) => Type::map(Type::String, builtin(item)),
        schema::Type::Object(id) => match id.definition().special {
            None => of_definition(*id),
            Some(Special::Time | Special::MicroTime) => Type::Timestamp,
            Some(_) => Type::Dyn,
        },
    }
}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => out.write_str("dyn"),
            Self::Error => out.write_str("!error!"),
            Self::Null => out.write_str("null"),
            Self::Bool => out.write_str("bool"),
            Self::Int => out.write_str("int"),
            Self::Uint => out.write_str("uint"),
            Self::Double => out.write_str("double"),
            Self::String => out.write_str("string"),
            Self::Bytes => out.write_str("bytes"),
            Self::Timestamp => out.write_str("timestamp"),
            Self::Duration => out.write_str("duration"),
            Self::List(item) => write!(out, "list({item})"),
            Self::Map(key, value) => write!(out, "map({key}, {value})"),
            Self::Optional(of) => write!(out, "optional_type({of})"),
            Self::Type(of) => write!(out, "type({of})"),
            Self::Object(object) => out.write_str(&object.name),
            Self::Opaque(name) => out.write_str(name),
            Self::Param(name) => write!(out, "{name}"),
            Self::Var(number) => write!(out, "_var{number}"),
        }
    }
}

// === signatures ===

/// One way to call a function.
#[derive(Debug, Clone)]
pub(super) struct Overload {
    pub member: bool,
    /// The receiver of a member first.
    pub params: Vec<Type>,
    pub result: Type,
}

/// Reads `string.(int) string`, `(list<T>) T`. The table of functions is written in this form;
/// what it does not understand is `dyn`, and a test reads the whole table.
pub(super) fn overload(text: &str) -> Overload {
    let open = text.find('(').unwrap_or(0);
    let receiver = text.get(..open).unwrap_or("").trim_end_matches('.');
    let close = text.rfind(')').unwrap_or(text.len());
    let inner = text.get(open + 1..close).unwrap_or("");
    let mut params = Vec::new();
    if !receiver.is_empty() {
        params.push(parse(receiver));
    }
    params.extend(split(inner).into_iter().map(parse));
    let result = parse(text.get(close + 1..).unwrap_or("").trim());
    Overload { member: !receiver.is_empty(), params, result }
}

/// At commas outside of angle brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, one) in text.char_indices() {
        match one {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

fn parse(text: &str) -> Type {
    if let Some((name, inner)) = text.strip_suffix('>').and_then(|text| text.split_once('<')) {
        let mut args = split(inner).into_iter().map(parse);
        let first = args.next().unwrap_or(Type::Dyn);
        return match name {
            "list" => Type::list(first),
            "optional" => Type::optional(first),
            "type" => Type::Type(Arc::new(first)),
            _ => Type::map(first, args.next().unwrap_or(Type::Dyn)),
        };
    }
    simple(text).unwrap_or(Type::Dyn)
}

pub(super) fn simple(text: &str) -> Option<Type> {
    let ty = match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        _ => {
            if let Some(opaque) = OPAQUE.iter().find(|name| **name == text) {
                return Some(Type::Opaque(opaque));
            }
            let mut letters = text.chars();
            return match (letters.next(), letters.next()) {
                (Some(letter), None) if letter.is_ascii_uppercase() => Some(Type::Param(letter)),
                _ => None,
            };
        }
    };
    Some(ty)
}

/// The types of the libraries.
pub(super) const OPAQUE: &[&str] = &[
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "net.IP",
    "net.CIDR",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read() {
        let one = overload("map<K,V>.(K, optional<list<T>>) list<map<string, T>>");
        assert!(one.member);
        assert_eq!(one.params[0], Type::map(Type::Param('K'), Type::Param('V')));
        assert_eq!(one.params[2], Type::optional(Type::list(Type::Param('T'))));
        assert_eq!(one.result, Type::list(Type::map(Type::String, Type::Param('T'))));
        let none = overload("() kubernetes.Quantity");
        assert!(!none.member && none.params.is_empty());
        assert_eq!(none.result, Type::Opaque("kubernetes.Quantity"));
    }
}
