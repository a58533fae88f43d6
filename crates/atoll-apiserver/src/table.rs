//! Tables: what `kubectl get` prints, made by the row's columns.

use atoll_api::kinds::scale;
use serde_json::{Value, json};

use crate::negotiate::MetaVersion;
use crate::render::{ListMeta, View, partial};

pub(crate) fn of_list(
    view: &View<'_>,
    version: MetaVersion,
    objects: &[Value],
    meta: &ListMeta,
) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": meta.to_value(),
        "columnDefinitions": view.row.column_definitions(),
        "rows": objects.iter().map(|object| row(view, version, object)).collect::<Vec<_>>(),
    })
}

pub(crate) fn of_object(view: &View<'_>, version: MetaVersion, object: &Value) -> Value {
    let mut table = without_columns(view, version, object);
    table["columnDefinitions"] =
        if scale::is(object) { scale::column_definitions() } else { view.row.column_definitions() };
    table
}

/// For all but the first event of a watch.
pub(crate) fn without_columns(view: &View<'_>, version: MetaVersion, object: &Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
        "columnDefinitions": null,
        "rows": [row(view, version, object)],
    })
}

fn row(view: &View<'_>, version: MetaVersion, object: &Value) -> Value {
    let shown = match view.include_object {
        "None" => Value::Null,
        "Object" => object.clone(),
        _ => partial(version, object),
    };
    if scale::is(object) {
        return json!({"cells": scale::cells(object, view.now), "object": shown});
    }
    let mut row = json!({"cells": view.row.cells(object, view.now), "object": shown});
    let conditions = view.row.hooks.row_conditions.map(|conditions| conditions(object));
    if let Some(conditions) = conditions.filter(|conditions| !conditions.is_empty()) {
        row["conditions"] = Value::Array(conditions);
    }
    row
}
