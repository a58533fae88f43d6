//! The schemas of a custom resource as OpenAPI documents show them.

use serde_json::{Map, Value, json};

use crate::access::Access as _;
use crate::kinds::ResourceInfo;

const META: &str = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1";
const API_VERSION_TEXT: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
     convert recognized schemas to the latest internal value, and may reject unrecognized values. \
     More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND_TEXT: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
     this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More \
     info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA_TEXT: &str = "Standard object's metadata. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA_TEXT: &str = "Standard list metadata. More info: \
     https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The definitions of a row that a custom resource made: the kind and its list.
#[must_use]
pub fn definitions(row: &ResourceInfo, second: bool) -> Vec<(String, Value)> {
    let Some(custom) = &row.custom else { return Vec::new() };
    let mut schema = custom.schema.clone();
    if second {
        simplify(&mut schema);
    }
    if !schema.is_object() {
        schema = json!({"type": "object"});
    }
    let empty = second && custom.node.preserve;
    if empty {
        // Clients of version 2 take fields that are named for all that there may be.
        schema = json!({"type": "object"});
    }
    if !schema["properties"].is_object() && !empty {
        schema["properties"] = json!({});
    }
    if schema["properties"].is_object() {
        inject(&mut schema["properties"], "ObjectMeta", METADATA_TEXT);
        embed(&mut schema);
    }
    schema["x-kubernetes-group-version-kind"] = kind(row, &row.kind);
    vec![(row.definition.to_string(), schema), (format!("{}List", row.definition), list(row))]
}

fn kind(row: &ResourceInfo, kind: &str) -> Value {
    json!([{"group": row.group, "version": row.version, "kind": kind}])
}

fn list(row: &ResourceInfo) -> Value {
    let mut properties = json!({
        "items": {
            "description": format!(
                "List of {}. More info: https://git.k8s.io/community/contributors/devel/\
                 sig-architecture/api-conventions.md", row.resource
            ),
            "type": "array",
            "items": {"$ref": format!("#/components/schemas/{}", row.definition)},
        },
    });
    inject(&mut properties, "ListMeta", LIST_METADATA_TEXT);
    json!({
        "description": format!("{} is a list of {}", row.list_kind, row.kind),
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": kind(row, &row.list_kind),
    })
}

fn inject(properties: &mut Value, meta: &str, text: &str) {
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION_TEXT});
    properties["kind"] = json!({"type": "string", "description": KIND_TEXT});
    properties["metadata"] =
        json!({"allOf": [{"$ref": format!("{META}.{meta}")}], "description": text});
}

/// Objects within the object have metadata too.
fn embed(schema: &mut Value) {
    let mut inner: Vec<&mut Value> = Vec::new();
    let Some(map) = schema.as_object_mut() else { return };
    for (word, value) in map.iter_mut() {
        match word.as_str() {
            "properties" => {
                inner.extend(value.as_object_mut().into_iter().flatten().map(|(_, v)| v))
            }
            "items" | "additionalProperties" => inner.push(value),
            _ => {}
        }
    }
    for schema in inner {
        embed(schema);
        if schema.flag("x-kubernetes-embedded-resource") {
            if !schema["properties"].is_object() {
                schema["properties"] = json!({});
            }
            inject(&mut schema["properties"], "ObjectMeta", METADATA_TEXT);
        }
    }
}

/// Version 2 cannot say everything: what it cannot, goes.
fn simplify(schema: &mut Value) {
    let nullable = schema.flag("nullable");
    let preserve = schema.flag("x-kubernetes-preserve-unknown-fields");
    let either = schema.flag("x-kubernetes-int-or-string");
    let untyped = schema["items"].is_object() && schema["items"].text("type").is_empty();
    let Some(map) = schema.as_object_mut() else { return };
    for word in ["allOf", "anyOf", "oneOf", "not", "nullable"] {
        map.remove(word);
    }
    if nullable || preserve {
        for word in ["type", "items", "properties", "additionalProperties", "required"] {
            map.remove(word);
        }
    }
    if either {
        map.remove("type");
    }
    if untyped {
        map.remove("items");
        map.remove("type");
    }
    for (word, value) in map.iter_mut() {
        match word.as_str() {
            "properties" => each(value, simplify),
            "items" | "additionalProperties" => simplify(value),
            _ => {}
        }
    }
}

fn each(value: &mut Value, change: fn(&mut Value)) {
    let empty = &mut Map::new();
    value.as_object_mut().unwrap_or(empty).values_mut().for_each(change);
}
