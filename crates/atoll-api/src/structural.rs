//! Schemas of custom resources, compiled: what pruning, defaulting and validation walk along.
//!
//! A [`Node`] is one schema of `openAPIV3Schema`. Nested validations (`allOf`, `not`) are nodes
//! too; only the structural part of a schema specifies fields. Compiling never fails: what a
//! definition may say is checked by `validate::extensions` before it is stored, and what cannot
//! be understood is left out.

mod checks;
mod custom;
mod defaulting;
mod definition;
pub mod formats;
pub mod jsonpath;
mod lists;
pub mod openapi;
mod pruning;
pub mod rules;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Number, Value};

use crate::access::Access as _;

pub use checks::{Check, check};
pub use custom::{Column, CustomKind, Read, ScalePaths, rows};
pub use defaulting::{default, drop_nulls};
pub use lists::{embedded, list_items};
pub use pruning::{Pruned, prune};

/// Levels of a schema that are compiled; deeper ones allow anything. Bounds recursion.
pub const DEPTH_MAX: usize = 128;

/// One schema.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty when there is none.
    pub ty: String,
    pub nullable: bool,
    pub properties: BTreeMap<String, Node>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub default: Option<Value>,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    pub int_or_string: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    pub list: List,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    pub limits: Limits,
    /// `x-kubernetes-validations`
    pub rules: Vec<rules::Rule>,
}

/// Fields that have no name of their own.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    #[default]
    None,
    Any,
    Node(Box<Node>),
}

/// `x-kubernetes-list-type`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// What values must be like.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub format: String,
    pub maximum: Option<Number>,
    pub exclusive_maximum: bool,
    pub minimum: Option<Number>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<Number>,
    pub length_max: Option<usize>,
    pub length_min: Option<usize>,
    pub pattern: Option<Pattern>,
    pub items_max: Option<usize>,
    pub items_min: Option<usize>,
    pub unique: bool,
    pub properties_max: Option<usize>,
    pub properties_min: Option<usize>,
    pub required: Vec<String>,
    pub allowed: Vec<Value>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

/// A regular expression with its text.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub text: String,
    pub regex: Regex,
}

/// Bytes that one compiled expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Compiles an expression of a schema.
///
/// # Errors
///
/// When it is no regular expression.
pub fn pattern(text: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build()
}

impl Node {
    /// Compiles a JSONSchemaProps.
    #[must_use]
    pub fn compile(schema: &Value) -> Self {
        Self::at_depth(schema, 0)
    }

    fn at_depth(schema: &Value, depth: usize) -> Self {
        if depth >= DEPTH_MAX {
            return Self { preserve: true, ..Self::default() };
        }
        let nested = |value: &Value| Self::at_depth(value, depth + 1);
        let properties = schema.fields("properties").into_iter().flatten();
        Self {
            ty: schema.text("type").to_owned(),
            nullable: schema.flag("nullable"),
            properties: properties.map(|(name, value)| (name.clone(), nested(value))).collect(),
            additional: match schema.get("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Any,
                Some(value @ Value::Object(_)) => Additional::Node(Box::new(nested(value))),
                _ => Additional::None,
            },
            items: schema.get("items").filter(|items| items.is_object()).map(nested).map(Box::new),
            default: schema.get("default").filter(|default| !default.is_null()).cloned(),
            preserve: schema.flag("x-kubernetes-preserve-unknown-fields"),
            int_or_string: schema.flag("x-kubernetes-int-or-string"),
            embedded: schema.flag("x-kubernetes-embedded-resource"),
            list: match schema.text("x-kubernetes-list-type") {
                "set" => List::Set,
                "map" => List::Map(texts(schema.items("x-kubernetes-list-map-keys"))),
                _ => List::Atomic,
            },
            atomic: schema.text("x-kubernetes-map-type") == "atomic",
            limits: Limits::compile(schema, &nested),
            rules: rules::Rule::all(schema, depth == 0),
        }
    }

    /// The schema of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(node), _) => Some(node),
            (None, Additional::Node(node)) => Some(node),
            (None, _) => None,
        }
    }
}

impl Limits {
    fn compile(schema: &Value, nested: &dyn Fn(&Value) -> Node) -> Self {
        let number = |name: &str| schema.get(name).and_then(Value::as_number).cloned();
        let size = |name: &str| schema.int(name).and_then(|size| usize::try_from(size).ok());
        let all = |name: &str| schema.items(name).iter().map(nested).collect();
        let text = schema.text("pattern");
        Self {
            format: schema.text("format").to_owned(),
            maximum: number("maximum"),
            exclusive_maximum: schema.flag("exclusiveMaximum"),
            minimum: number("minimum"),
            exclusive_minimum: schema.flag("exclusiveMinimum"),
            multiple_of: number("multipleOf"),
            length_max: size("maxLength"),
            length_min: size("minLength"),
            pattern: pattern(text)
                .ok()
                .filter(|_| !text.is_empty())
                .map(|regex| Pattern { text: text.to_owned(), regex }),
            items_max: size("maxItems"),
            items_min: size("minItems"),
            unique: schema.flag("uniqueItems"),
            properties_max: size("maxProperties"),
            properties_min: size("minProperties"),
            required: texts(schema.items("required")),
            allowed: schema.items("enum").to_vec(),
            all_of: all("allOf"),
            any_of: all("anyOf"),
            one_of: all("oneOf"),
            not: schema.get("not").filter(|not| not.is_object()).map(nested).map(Box::new),
        }
    }
}

fn texts(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
