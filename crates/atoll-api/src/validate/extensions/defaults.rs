//! Defaults of a schema: they must be what the schema itself would take.

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::structural::{self, Check, Node};

pub(super) fn check(at: &Path, schema: &Value, errors: &mut Vec<Error>) {
    walk(at, schema, true, errors);
}

fn walk(at: &Path, schema: &Value, root: bool, errors: &mut Vec<Error>) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let at = at.child("default");
        if root {
            errors.push(at.forbidden("must not be set in top level"));
        } else {
            one(&at, schema, default, errors);
        }
    }
    for (name, field) in schema.fields("properties").into_iter().flatten() {
        let at = at.child("properties").key(name);
        if root && name == "metadata" {
            if field.has("default") {
                errors.push(at.child("default").forbidden("must not be set in top level metadata"));
            }
            continue;
        }
        walk(&at, field, false, errors);
    }
    for word in ["items", "additionalProperties"] {
        if schema[word].is_object() {
            walk(&at.child(word), &schema[word], false, errors);
        }
    }
}

fn one(at: &Path, schema: &Value, default: &Value, errors: &mut Vec<Error>) {
    let node = Node::compile(schema);
    let mut pruned = serde_json::json!({"x": default});
    let mut whole = Node::default();
    whole.properties.insert("x".to_owned(), node.clone());
    structural::prune(&whole, &mut pruned).ok();
    if pruned["x"] != *default {
        errors.push(at.invalid(default.clone(), "must not have unknown fields"));
        return;
    }
    let mut filled = default.clone();
    structural::default(&node, &mut filled);
    let check = Check { value: &filled, old: None };
    for mut error in structural::check(&node, check) {
        let below = if error.path == "<nil>" { String::new() } else { format!(".{}", error.path) };
        error.path = format!("{}{below}", at.as_str());
        if error.detail.starts_with(" in body") {
            error.detail = format!("{}{}", at.as_str(), error.detail);
        }
        errors.push(error);
    }
    let twice = structural::list_items(&node, &filled).into_iter();
    errors.extend(
        twice.map(|error| Error { path: format!("{}{}", at.as_str(), error.path), ..error }),
    );
}
