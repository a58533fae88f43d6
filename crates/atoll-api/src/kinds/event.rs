//! Event: what happened to an object. One thing in two groups.
//!
//! Events are stored as core events; those of `events.k8s.io` are converted on their way.

use serde_json::{Map, Value, json};

use super::{Hooks, Storage};
use crate::access::Access as _;
use crate::schema::Name;
use crate::{columns, defaults, validate};

/// Fields whose names differ: core, events.k8s.io.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(super) const CORE_HOOKS: Hooks = Hooks {
    default: Some(defaults::event::core),
    validate_create: Some(validate::event::core),
    validate_update: Some(validate::event::core_update),
    selectable_fields: core_fields,
    selectable_names: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    columns: columns::event::COLUMNS,
    row: columns::event::row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::event::new),
    validate_create: Some(validate::event::new),
    validate_update: Some(validate::event::new_update),
    selectable_fields: new_fields,
    selectable_names: &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ],
    columns: columns::event::COLUMNS,
    row: columns::event::new_row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const STORAGE: Storage = Storage {
    group: Name::Borrowed(""),
    version: Name::Borrowed("v1"),
    resource: Name::Borrowed("events"),
    kind: Name::Borrowed("Event"),
    to_storage: Some(to_core),
    from_storage: Some(from_core),
};

/// Turns an events.k8s.io/v1 Event into a core/v1 Event.
pub fn to_core(event: &mut Value) {
    rename(event, "v1", |(core, new)| (new, core));
}

/// Turns a core/v1 Event into an events.k8s.io/v1 Event.
pub fn from_core(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(core, new)| (core, new));
}

fn rename(
    event: &mut Value,
    api_version: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Value::Object(fields) = event else { return };
    if fields.get("apiVersion").and_then(Value::as_str) == Some(api_version) {
        return;
    }
    let moved: Vec<(&str, Value)> = RENAMED
        .into_iter()
        .filter_map(|pair| {
            let (from, to) = direction(pair);
            fields.remove(from).map(|value| (to, value))
        })
        .collect();
    fields.extend(moved.into_iter().map(|(name, value)| (name.to_owned(), value)));
    fields.insert("apiVersion".to_owned(), json!(api_version));
    rename_managed(fields, api_version, direction);
}

/// Who owns which field moves along with the fields.
fn rename_managed(
    event: &mut Map<String, Value>,
    api_version: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let managed = event.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields"));
    let Some(Value::Array(entries)) = managed else { return };
    for entry in entries {
        let Value::Object(entry) = entry else { continue };
        entry.insert("apiVersion".to_owned(), json!(api_version));
        let Some(Value::Object(owned)) = entry.get_mut("fieldsV1") else { continue };
        for pair in RENAMED {
            let (from, to) = direction(pair);
            if let Some(value) = owned.remove(&format!("f:{from}")) {
                owned.insert(format!("f:{to}"), value);
            }
        }
    }
}

fn core_fields(event: &Value) -> Vec<(&'static str, String)> {
    let object = &event["involvedObject"];
    let text = |field: &str| object.text(field).to_owned();
    let source = match event["source"].text("component") {
        "" => event.text("reportingComponent"),
        component => component,
    };
    vec![
        ("involvedObject.kind", text("kind")),
        ("involvedObject.namespace", text("namespace")),
        ("involvedObject.name", text("name")),
        ("involvedObject.uid", text("uid")),
        ("involvedObject.apiVersion", text("apiVersion")),
        ("involvedObject.resourceVersion", text("resourceVersion")),
        ("involvedObject.fieldPath", text("fieldPath")),
        ("reason", event.text("reason").to_owned()),
        ("reportingComponent", event.text("reportingComponent").to_owned()),
        ("source", source.to_owned()),
        ("type", event.text("type").to_owned()),
    ]
}

fn new_fields(event: &Value) -> Vec<(&'static str, String)> {
    let object = &event["regarding"];
    let text = |field: &str| object.text(field).to_owned();
    vec![
        ("regarding.kind", text("kind")),
        ("regarding.namespace", text("namespace")),
        ("regarding.name", text("name")),
        ("regarding.uid", text("uid")),
        ("regarding.apiVersion", text("apiVersion")),
        ("regarding.resourceVersion", text("resourceVersion")),
        ("regarding.fieldPath", text("fieldPath")),
        ("reason", event.text("reason").to_owned()),
        ("reportingController", event.text("reportingController").to_owned()),
        ("type", event.text("type").to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_both_ways_without_loss() {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "p"},
            "message": "m", "source": {"component": "c"}, "firstTimestamp": null, "count": 2,
            "reportingComponent": "c", "reportingInstance": "i",
            "metadata": {"managedFields": [{"apiVersion": "v1", "fieldsV1": {"f:message": {}}}]},
        });
        let mut other = event.clone();
        from_core(&mut other);
        assert_eq!(other["regarding"]["name"], "p");
        assert_eq!(other["note"], "m");
        assert_eq!(other["deprecatedCount"], 2);
        assert_eq!(other["metadata"]["managedFields"][0]["fieldsV1"], json!({"f:note": {}}));
        to_core(&mut other);
        assert_eq!(other, event);
    }
}
