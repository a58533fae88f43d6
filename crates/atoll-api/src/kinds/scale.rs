//! The `scale` subresource: the replicas of several kinds under one interface.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::metadata;
use crate::access::Access as _;
use crate::columns::{self, Column};
use crate::field::{Error, Path};
use crate::names;
use crate::structural::ScalePaths;

/// The Scale of an object with replicas.
#[must_use]
pub fn get(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"]},
        "spec": {},
        "status": {"replicas": object["status"].int("replicas").unwrap_or(0)},
    });
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if metadata.has(field) {
            scale["metadata"][field] = metadata[field].clone();
        }
    }
    let replicas = object["spec"].int("replicas").unwrap_or(0);
    if replicas != 0 {
        scale["spec"]["replicas"] = json!(replicas);
    }
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

const COLUMNS: &[Column] = &[
    columns::NAME,
    columns::integer(
        "Desired",
        "replicas is the desired number of instances for the scaled object.",
    ),
    columns::integer(
        "Available",
        "replicas is the actual number of observed instances of the scaled object.",
    ),
    columns::AGE,
];

/// What a Table of a Scale shows.
#[must_use]
pub fn column_definitions() -> Value {
    COLUMNS.iter().map(Column::to_value).collect()
}

#[must_use]
pub fn cells(scale: &Value, now: Timestamp) -> Vec<Value> {
    let replicas = |part: &str| json!(scale[part].int("replicas").unwrap_or(0));
    let name = json!(scale["metadata"].text("name"));
    vec![name, replicas("spec"), replicas("status"), columns::age(scale, now)]
}

/// Whether an object is the Scale of another.
#[must_use]
pub fn is(object: &Value) -> bool {
    object.text("kind") == "Scale" && object.text("apiVersion") == "autoscaling/v1"
}

/// The Scale of a custom resource, whose definition says where its parts stand.
#[must_use]
pub(crate) fn of_custom(object: &Value, paths: &ScalePaths) -> Value {
    let mut plain = json!({"metadata": object["metadata"]});
    plain["status"] = json!({"replicas": paths.current(object)});
    plain["spec"] = json!({"replicas": paths.replicas(object).unwrap_or(0)});
    let mut scale = get(&plain);
    let selector = paths.selector_text(object);
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

pub(crate) fn put_custom(object: &mut Value, scale: &Value, paths: &ScalePaths) {
    paths.put(object, scale["spec"].int("replicas").unwrap_or(0));
    let version = scale["metadata"].text("resourceVersion");
    if !version.is_empty() {
        metadata::of(object).insert("resourceVersion".to_owned(), json!(version));
    }
}

/// Checks a Scale that came in.
#[must_use]
pub fn validate(scale: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let metadata = Path::new("metadata");
    let name = scale["metadata"].text("name");
    if name.is_empty() {
        errors.push(metadata.child("name").required("name or generateName is required"));
    } else {
        for fault in names::subdomain_rule(name, false) {
            errors.push(metadata.child("name").invalid(name, fault));
        }
    }
    let replicas = scale["spec"].int("replicas").unwrap_or(0);
    if replicas < 0 {
        let at = Path::new("spec").child("replicas");
        errors.push(at.invalid(replicas, "must be greater than or equal to 0"));
    }
    errors
}

/// Carries the replicas and the precondition of a Scale into the object that it scales.
pub fn put(object: &mut Value, scale: &Value) {
    let replicas = scale["spec"].int("replicas").unwrap_or(0);
    metadata::child(object, "spec").insert("replicas".to_owned(), json!(replicas));
    let version = scale["metadata"].text("resourceVersion");
    if !version.is_empty() {
        metadata::of(object).insert("resourceVersion".to_owned(), json!(version));
    }
}

/// What a configuration of a Scale says of the object that it scales.
#[must_use]
pub fn configuration(scale: &Value, api_version: &str, kind: &str) -> Value {
    let own = &scale["metadata"];
    let mut config = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": own["name"], "namespace": own["namespace"]},
    });
    if let Some(replicas) = scale["spec"].int("replicas") {
        config["spec"] = json!({"replicas": replicas});
    }
    config
}

/// A selector in the form of a URL parameter: a metav1.LabelSelector, or the labels
/// themselves as a ReplicationController has them.
#[must_use]
pub fn selector_text(selector: &Value) -> String {
    let mut terms: Vec<(String, String)> = Vec::new();
    let labels = selector.fields("matchLabels").into_iter().flatten();
    // All of a LabelSelector's fields are objects or lists.
    let own = selector.as_object().into_iter().flatten().filter(|(_, value)| value.is_string());
    for (key, value) in labels.chain(own) {
        terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
    }
    for expression in selector.items("matchExpressions") {
        let key = expression.text("key");
        let mut values: Vec<&str> =
            expression.items("values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression.text("operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}
