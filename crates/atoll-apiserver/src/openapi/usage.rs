//! The types of metrics.k8s.io, which stand in no schema table.

use atoll_api::kinds::Row;
use serde_json::{Value, json};

use crate::metrics_api;

const PACKAGE: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1";
const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "#/components/schemas/io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The definitions of the rows that are of metrics: the kinds, their lists, and the parts.
pub(super) fn definitions(rows: &[Row]) -> Vec<(String, Value)> {
    let mut definitions = Vec::new();
    for row in rows.iter().filter(|row| metrics_api::is(row)) {
        definitions.push((row.definition.to_string(), one(row)));
        definitions.push((format!("{}List", row.definition), list(row)));
        if row.namespaced() {
            definitions.push((format!("{PACKAGE}.ContainerMetrics"), container()));
        }
    }
    definitions
}

fn one(row: &Row) -> Value {
    let subject = if row.namespaced() { "pod" } else { "node" };
    let mut properties = kind_and_metadata("ObjectMeta");
    properties["timestamp"] = json!({
        "allOf": [{"$ref": format!("{META}.Time")}],
        "description": "The end of the interval in which the usage was measured.",
    });
    properties["window"] = json!({
        "type": "string",
        "description": "How long before the timestamp the interval began.",
    });
    let measured = if row.namespaced() { "containers" } else { "usage" };
    properties[measured] = if row.namespaced() {
        json!({
            "type": "array",
            "items": {"$ref": format!("#/components/schemas/{PACKAGE}.ContainerMetrics")},
            "description": "What each container uses, measured in the same interval.",
            "x-kubernetes-patch-merge-key": "name",
            "x-kubernetes-patch-strategy": "merge",
        })
    } else {
        usage()
    };
    json!({
        "type": "object",
        "description": format!("{} says what a {subject} uses.", row.kind),
        "required": ["timestamp", "window", measured],
        "properties": properties,
        "x-kubernetes-group-version-kind": kind(row, &row.kind),
    })
}

fn list(row: &Row) -> Value {
    let mut properties = kind_and_metadata("ListMeta");
    properties["items"] = json!({
        "type": "array",
        "items": {"$ref": format!("#/components/schemas/{}", row.definition)},
    });
    json!({
        "type": "object",
        "description": format!("{} is a list of {}.", row.list_kind, row.kind),
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": kind(row, &row.list_kind),
    })
}

fn container() -> Value {
    json!({
        "type": "object",
        "description": "ContainerMetrics says what a container uses.",
        "required": ["name", "usage"],
        "properties": {
            "name": {"type": "string", "description": "The container's name in its pod."},
            "usage": usage(),
        },
    })
}

fn usage() -> Value {
    json!({
        "type": "object",
        "additionalProperties": {"$ref": QUANTITY},
        "description": "What is used of cpu, averaged over the interval, and of memory.",
    })
}

fn kind_and_metadata(meta: &str) -> Value {
    json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"allOf": [{"$ref": format!("{META}.{meta}")}]},
    })
}

fn kind(row: &Row, kind: &str) -> Value {
    json!([{"group": row.group, "version": row.version, "kind": kind}])
}
