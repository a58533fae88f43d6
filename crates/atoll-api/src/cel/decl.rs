//! Declared types of a custom resource's values, from its structural schema.
//!
//! A declaration says what the checker sees as type, how JSON becomes a value (a string with the
//! format `date-time` is a timestamp), and how large a value may be, for estimates of cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::declared::{Fields, ObjectType, Type};
use super::escape;
use crate::access::Access as _;

/// Bytes of a request: what bounds everything that has no bound of its own. Upstream's number.
pub(super) const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// What values of one place in an object are.
#[derive(Debug, Clone)]
pub struct Decl {
    pub shape: Shape,
    /// `null` is a value too.
    pub nullable: bool,
    /// Characters of a string, items of a list, keys of a map, at most.
    pub size_max: Option<u64>,
    /// Bytes of the smallest value as JSON, with quotes and brackets.
    pub bytes_min: u64,
}

#[derive(Debug, Clone)]
pub enum Shape {
    /// Any JSON (`x-kubernetes-int-or-string`).
    Dyn,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Decl>, ListKind),
    Map(Arc<Decl>),
    Object(Arc<ObjectDecl>),
}

/// What two lists have to have in common to be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// The same items in the same order.
    Atomic,
    /// The same items.
    Set,
    /// The same items, known by these fields.
    Map(Vec<String>),
}

/// An object with fields.
#[derive(Debug)]
pub struct ObjectDecl {
    pub name: String,
    /// By identifier (see [`escape`]): the name in JSON, and the declaration.
    pub fields: BTreeMap<String, (String, Arc<Decl>)>,
}

impl ObjectDecl {
    #[must_use]
    pub fn field(&self, identifier: &str) -> Option<(&str, &Decl)> {
        self.fields.get(identifier).map(|(name, decl)| (name.as_str(), decl.as_ref()))
    }
}

impl Decl {
    /// From an OpenAPI v3 schema of a custom resource as it stands in a CRD. `name` names the
    /// type in errors. `None` where CEL cannot see the value: a schema without a type, or a list
    /// or map of such.
    ///
    /// With `root` the value is a whole object, and kind, apiVersion, metadata.name and
    /// metadata.generateName are seen whether the schema names them or not.
    #[must_use]
    pub fn of_schema(schema: &Json, name: &str, root: bool) -> Option<Self> {
        let whole = root || schema.flag("x-kubernetes-embedded-resource");
        let mut decl = Self::plain(Shape::Dyn, 2);
        decl.nullable = schema.flag("nullable");
        if schema.flag("x-kubernetes-int-or-string") {
            decl.bytes_min = 1;
            decl.size_max = Some(REQUEST_BYTES_MAX - 2);
            return Some(decl);
        }
        match schema.text("type") {
            "array" => decl.array(schema, name)?,
            "object" => decl.object(schema, name, whole)?,
            "" if whole => decl.object(schema, name, true)?,
            "string" => decl.string(schema),
            "boolean" => (decl.shape, decl.bytes_min) = (Shape::Bool, 4),
            "integer" => (decl.shape, decl.bytes_min) = (Shape::Int, 1),
            "number" => (decl.shape, decl.bytes_min) = (Shape::Double, 1),
            _ => return None,
        }
        Some(decl)
    }

    fn plain(shape: Shape, bytes_min: u64) -> Self {
        Self { shape, nullable: false, size_max: None, bytes_min }
    }

    fn array(&mut self, schema: &Json, name: &str) -> Option<()> {
        let item = Self::of_schema(&schema["items"], &format!("{name}.@idx"), false)?;
        let kind = match schema.text("x-kubernetes-list-type") {
            "set" => ListKind::Set,
            "map" => ListKind::Map(texts(schema.items("x-kubernetes-list-map-keys"))),
            _ => ListKind::Atomic,
        };
        let by_room = (REQUEST_BYTES_MAX - 2) / (item.bytes_min + 1);
        self.size_max = Some(limit(schema, "maxItems").unwrap_or(by_room));
        self.shape = Shape::List(Arc::new(item), kind);
        Some(())
    }

    fn object(&mut self, schema: &Json, name: &str, whole: bool) -> Option<()> {
        if schema["additionalProperties"].is_object() {
            let of = &schema["additionalProperties"];
            let value = Self::of_schema(of, &format!("{name}.@elem"), false)?;
            // The shortest key is empty: two quotes, a colon, a comma.
            let by_room = (REQUEST_BYTES_MAX - 2) / (value.bytes_min + 4);
            self.size_max = Some(limit(schema, "maxProperties").unwrap_or(by_room));
            self.shape = Shape::Map(Arc::new(value));
            return Some(());
        }
        let required = texts(schema.items("required"));
        let mut fields = BTreeMap::new();
        for (property, of) in schema.fields("properties").into_iter().flatten() {
            let Some(identifier) = escape::escape(property) else { continue };
            let Some(decl) = Self::of_schema(of, &format!("{name}.{identifier}"), false) else {
                continue;
            };
            if required.contains(property) && !of.has("default") {
                // Quotes, colon and comma.
                self.bytes_min += u64::try_from(property.len()).unwrap_or(0) + decl.bytes_min + 4;
            }
            fields.insert(identifier, (property.clone(), Arc::new(decl)));
        }
        if whole {
            whole_object(&mut fields, name);
        }
        self.shape = Shape::Object(Arc::new(ObjectDecl { name: name.to_owned(), fields }));
        Some(())
    }

    fn string(&mut self, schema: &Json) {
        self.shape = Shape::String;
        self.bytes_min = 2;
        let longest = limit(schema, "maxLength");
        match schema.text("format") {
            "byte" => {
                self.shape = Shape::Bytes;
                self.size_max = Some(longest.unwrap_or(REQUEST_BYTES_MAX - 2));
            }
            "duration" => {
                (self.shape, self.bytes_min) = (Shape::Duration, 2);
                self.size_max = Some(REQUEST_BYTES_MAX - 2);
            }
            "date" => {
                // `2006-01-02`, with quotes.
                (self.shape, self.bytes_min, self.size_max) = (Shape::Timestamp, 12, Some(10));
            }
            "date-time" => {
                (self.shape, self.bytes_min, self.size_max) = (Shape::Timestamp, 22, Some(30));
            }
            _ => {
                let words = schema.items("enum").iter().filter_map(Json::as_str);
                let word = words.map(|one| u64::try_from(one.len()).unwrap_or(u64::MAX)).max();
                // A character may be four bytes.
                let by_length = longest.map(|length| length.saturating_mul(4));
                self.size_max = word.or(by_length).or(Some(REQUEST_BYTES_MAX - 2));
            }
        }
    }

    /// What the checker sees.
    #[must_use]
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Dyn => Type::Dyn,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Timestamp => Type::Timestamp,
            Shape::Duration => Type::Duration,
            Shape::List(item, _) => Type::list(item.ty()),
            Shape::Map(value) => Type::map(Type::String, value.ty()),
            Shape::Object(object) => Type::Object(Arc::new(ObjectType {
                name: object.name.clone(),
                fields: Fields::Declared(object.clone()),
            })),
        }
    }
}

/// The fields that every whole object has.
fn whole_object(fields: &mut BTreeMap<String, (String, Arc<Decl>)>, name: &str) {
    let text = || {
        let decl = Decl::plain(Shape::String, 2);
        Arc::new(Decl { size_max: Some(REQUEST_BYTES_MAX - 2), ..decl })
    };
    for field in ["kind", "apiVersion"] {
        fields.insert(field.to_owned(), (field.to_owned(), text()));
    }
    let own = ["name", "generateName"].map(|field| (field.to_owned(), (field.to_owned(), text())));
    let metadata = ObjectDecl { name: format!("{name}.metadata"), fields: own.into() };
    let metadata = Decl::plain(Shape::Object(Arc::new(metadata)), 2);
    fields.insert("metadata".to_owned(), ("metadata".to_owned(), Arc::new(metadata)));
}

fn limit(schema: &Json, field: &str) -> Option<u64> {
    schema.get(field).and_then(Json::as_u64)
}

fn texts(list: &[Json]) -> Vec<String> {
    list.iter().filter_map(Json::as_str).map(str::to_owned).collect()
}
