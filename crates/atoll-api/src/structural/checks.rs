//! Validation by a schema, in the words of upstream's OpenAPI validator.

use serde_json::{Number, Value};

use super::{Additional, List, Node, formats};
use crate::field::{Error, ErrorKind, Path};

/// An object and, on update, the one before: what did not change is not judged again.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    pub value: &'a Value,
    pub old: Option<&'a Value>,
}

/// All that is wrong with an object by its schema.
#[must_use]
pub fn check(node: &Node, object: Check<'_>) -> Vec<Error> {
    let mut errors = Vec::new();
    value(node, object, "", &mut errors);
    errors
}

fn value(node: &Node, one: Check<'_>, at: &str, errors: &mut Vec<Error>) {
    if one.old.is_some_and(|old| old == one.value) {
        return;
    }
    kind(node, one.value, at, errors);
    if one.value.is_null() {
        return;
    }
    alternatives(node, one, at, errors);
    match one.value {
        Value::String(text) => {
            string(node, text, at, errors);
            format(node, text, at, errors);
        }
        Value::Number(number) => self::number(node, number, at, errors),
        Value::Array(items) => array(node, items, one.old, at, errors),
        _ => {}
    }
    allowed(node, one.value, at, errors);
    if one.value.is_object() {
        object(node, one, at, errors);
    }
}

fn place(at: &str) -> Path {
    if at.is_empty() { Path::root() } else { Path::new(at) }
}

fn error(at: &str, kind: ErrorKind, bad: impl Into<Value>, detail: String) -> Error {
    let path = if at.is_empty() { "<nil>".to_owned() } else { at.to_owned() };
    Error { kind, path, bad_value: Some(bad.into()), detail }
}

fn invalid(at: &str, bad: impl Into<Value>, what: &str) -> Error {
    error(at, ErrorKind::Invalid, bad, format!("{at} in body {what}"))
}

fn mistyped(at: &str, wanted: &str, found: &str) -> Error {
    let detail = format!("{at} in body must be of type {wanted}: {found:?}");
    error(at, ErrorKind::TypeInvalid, found, detail)
}

/// The type that OpenAPI sees in a value.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn kind(node: &Node, value: &Value, at: &str, errors: &mut Vec<Error>) {
    if node.ty.is_empty() {
        return;
    }
    let found = type_of(value);
    let numeric = matches!(node.ty.as_str(), "number" | "integer");
    let fits = match value {
        Value::Null => node.nullable,
        Value::Number(number) => {
            let whole = number.as_f64().is_some_and(|one| one.fract() == 0.0);
            node.ty == "number" || (node.ty == "integer" && whole)
        }
        // Upstream leaves these to the format.
        Value::String(_) | Value::Array(_) if !node.limits.format.is_empty() && !numeric => true,
        _ => node.ty == found,
    };
    if !fits {
        errors.push(mistyped(at, &node.ty, found));
    }
}

fn string(node: &Node, text: &str, at: &str, errors: &mut Vec<Error>) {
    let limits = &node.limits;
    let length = text.chars().count();
    if let Some(max) = limits.length_max.filter(|max| length > *max) {
        let mut error = place(at).too_long(max);
        error.bad_value = Some(Value::from(text));
        errors.push(error);
    }
    if let Some(min) = limits.length_min.filter(|min| length < *min) {
        errors.push(invalid(at, text, &format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|one| !one.regex.is_match(text)) {
        errors.push(invalid(at, text, &format!("should match '{}'", pattern.text)));
    }
}

fn format(node: &Node, text: &str, at: &str, errors: &mut Vec<Error>) {
    let format = node.limits.format.as_str();
    if formats::holds(format, text) == Some(false) {
        let detail = format!("{at} in body must be of type {format}: {text:?}");
        errors.push(error(at, ErrorKind::TypeInvalid, text, detail));
    }
}

fn number(node: &Node, number: &Number, at: &str, errors: &mut Vec<Error>) {
    let limits = &node.limits;
    let own = number.as_f64().unwrap_or(0.0);
    let bound = |limit: &Option<Number>| limit.as_ref().and_then(Number::as_f64);
    let shown = |limit: &Option<Number>| limit.as_ref().map(go_number).unwrap_or_default();
    let mut refuse = |what: String| errors.push(invalid(at, number.clone(), &what));
    if let Some(step) = bound(&limits.multiple_of).filter(|step| *step > 0.0) {
        let times = own / step;
        if times.fract().abs() > f64::EPSILON {
            refuse(format!("should be a multiple of {}", shown(&limits.multiple_of)));
        }
    }
    if let Some(max) = bound(&limits.maximum) {
        let text = shown(&limits.maximum);
        if limits.exclusive_maximum && own >= max {
            refuse(format!("should be less than {text}"));
        } else if !limits.exclusive_maximum && own > max {
            refuse(format!("should be less than or equal to {text}"));
        }
    }
    if let Some(min) = bound(&limits.minimum) {
        let text = shown(&limits.minimum);
        if limits.exclusive_minimum && own <= min {
            refuse(format!("should be greater than {text}"));
        } else if !limits.exclusive_minimum && own < min {
            refuse(format!("should be greater than or equal to {text}"));
        }
    }
}

/// As Go's `%v` prints a float: whole ones without a point.
fn go_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => {
            if float.abs() >= 1e21 {
                format!("{float:e}")
            } else {
                format!("{float}")
            }
        }
        _ => number.to_string(),
    }
}

fn array(node: &Node, items: &[Value], old: Option<&Value>, at: &str, errors: &mut Vec<Error>) {
    if let Some(inner) = &node.items {
        for (index, item) in items.iter().enumerate() {
            let before = old.and_then(|old| counterpart(&node.list, old, item));
            let one = Check { value: item, old: before };
            value(inner, one, &format!("{at}[{index}]"), errors);
        }
    }
    let limits = &node.limits;
    if let Some(min) = limits.items_min.filter(|min| items.len() < *min) {
        let bad = Value::from(items.len());
        errors.push(invalid(at, bad, &format!("should have at least {min} items")));
    }
    if let Some(max) = limits.items_max.filter(|max| items.len() > *max) {
        errors.push(place(at).too_many(items.len(), max));
    }
    let twice = |(index, item): (usize, &Value)| items[..index].contains(item);
    if limits.unique && items.iter().enumerate().any(twice) {
        errors.push(invalid(at, Value::Null, "shouldn't contain duplicates"));
    }
}

/// The item of the old list that an item was, where items are known by keys.
pub(super) fn counterpart<'a>(list: &List, old: &'a Value, item: &Value) -> Option<&'a Value> {
    let List::Map(keys) = list else { return None };
    old.as_array()?.iter().find(|one| keys.iter().all(|key| one.get(key) == item.get(key)))
}

fn object(node: &Node, one: Check<'_>, at: &str, errors: &mut Vec<Error>) {
    let Some(map) = one.value.as_object() else { return };
    let limits = &node.limits;
    if let Some(min) = limits.properties_min.filter(|min| map.len() < *min) {
        let bad = Value::from(map.len());
        errors.push(invalid(at, bad, &format!("should have at least {min} properties")));
    }
    if let Some(max) = limits.properties_max.filter(|max| map.len() > *max) {
        errors.push(place(at).too_many(map.len(), max));
    }
    for name in &limits.required {
        if !map.contains_key(name) {
            errors.push(place(at).child(name).required(""));
        }
    }
    for (name, inner) in map {
        let field = match (node.properties.get(name), &node.additional) {
            (Some(field), _) => field,
            (None, Additional::Node(field)) => field,
            _ => continue,
        };
        let here = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let old = one.old.and_then(|old| old.get(name));
        value(field, Check { value: inner, old }, &here, errors);
    }
}

fn allowed(node: &Node, value: &Value, at: &str, errors: &mut Vec<Error>) {
    let all = &node.limits.allowed;
    if all.is_empty() || all.contains(value) || (value.is_null() && node.nullable) {
        return;
    }
    let texts: Vec<String> =
        all.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    errors.push(place(at).not_supported(value.clone(), &texts));
}

/// `anyOf`, `oneOf`, `allOf` and `not`. Upstream tells of them without a path.
fn alternatives(node: &Node, one: Check<'_>, at: &str, errors: &mut Vec<Error>) {
    let limits = &node.limits;
    let judge = |all: &[Node]| -> Vec<Vec<Error>> {
        let judged = all.iter().map(|node| {
            let mut errors = Vec::new();
            value(node, Check { value: one.value, old: None }, at, &mut errors);
            errors
        });
        judged.collect()
    };
    let refuse = |what: String| error("", ErrorKind::Invalid, "", format!("{at:?} {what}"));
    let any = judge(&limits.any_of);
    if !any.is_empty() && !any.iter().any(Vec::is_empty) {
        errors.push(refuse("must validate at least one schema (anyOf)".to_owned()));
        errors.extend(any.into_iter().min_by_key(Vec::len).into_iter().flatten());
    }
    let alone = judge(&limits.one_of);
    let valid = alone.iter().filter(|errors| errors.is_empty()).count();
    if !alone.is_empty() && valid != 1 {
        let found = match valid {
            0 => "Found none valid".to_owned(),
            several => format!("Found {several} valid alternatives"),
        };
        errors.push(refuse(format!("must validate one and only one schema (oneOf). {found}")));
        if valid == 0 {
            errors.extend(alone.into_iter().min_by_key(Vec::len).into_iter().flatten());
        }
    }
    let all = judge(&limits.all_of);
    let valid = all.iter().filter(|errors| errors.is_empty()).count();
    if valid != all.len() {
        let none = if valid == 0 { ". None validated" } else { "" };
        errors.push(refuse(format!("must validate all the schemas (allOf){none}")));
        errors.extend(all.into_iter().flatten());
    }
    let not = limits.not.as_deref().map(std::slice::from_ref).map(judge);
    if not.is_some_and(|errors| errors.iter().all(Vec::is_empty)) {
        errors.push(refuse("must not validate the schema (not)".to_owned()));
    }
}
