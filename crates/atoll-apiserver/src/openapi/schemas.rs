//! Schemas of a document: the definitions that its rows reach.

use std::collections::VecDeque;

use atoll_api::access::Access as _;
use atoll_api::kinds::Row;
use atoll_api::schema::{self, Definition, Field, ListKind, Special, Type};
use atoll_api::structural;
use serde_json::{Map, Value, json};

use super::{describe, usage};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const REFERENCE: &str = "#/components/schemas/";

/// All definitions that the rows reach, by name.
pub(super) fn of_rows(rows: &[Row], second: bool) -> Map<String, Value> {
    let descriptions = describe::of_rows(rows);
    let mut schemas = Map::new();
    let mut queue: VecDeque<&'static Definition> = VecDeque::new();
    let mut reach = |name: &str| {
        if let Some(id) = schema::by_name(name) {
            queue.push_back(id.definition());
        }
    };
    for name in ["DeleteOptions", "Status", "Patch", "WatchEvent"] {
        reach(&format!("{META}.{name}"));
    }
    for name in ["ObjectMeta", "ListMeta"] {
        reach(&format!("{META}.{name}"));
    }
    for row in rows {
        reach(&row.definition);
        reach(&format!("{}List", row.definition));
        for part in row.subresources.iter().filter(|part| part.served) {
            let (group, version) = match part.version {
                "" => (&*row.group, &*row.version),
                version => (part.group, version),
            };
            if let Some(id) = schema::by_gvk(group, version, &part.kind) {
                reach(&id.definition().name);
            }
        }
    }
    let measured = usage::definitions(rows);
    if !measured.is_empty() {
        reach("io.k8s.apimachinery.pkg.api.resource.Quantity");
    }
    schemas.extend(measured);
    let custom = rows.iter().filter(|row| row.custom.is_some());
    schemas.extend(custom.flat_map(|row| structural::openapi::definitions(row, second)));
    while let Some(definition) = queue.pop_front() {
        if schemas.contains_key(definition.name.as_ref()) {
            continue;
        }
        let described = descriptions.get(definition.name.as_ref());
        schemas.insert(definition.name.to_string(), of_definition(definition, described));
        for field in &definition.fields {
            push_reached(&field.ty, &mut queue);
        }
    }
    schemas
}

fn push_reached(ty: &Type, queue: &mut VecDeque<&'static Definition>) {
    match ty {
        Type::Object(id) => queue.push_back(id.definition()),
        Type::List(item) | Type::Map(item) => push_reached(item, queue),
        _ => {}
    }
}

fn of_definition(definition: &Definition, described: Option<&Value>) -> Value {
    let mut value = match definition.special {
        Some(special) => of_special(special),
        None => of_fields(definition, described),
    };
    if let Some(text) = described.and_then(|schema| schema.get("description")) {
        value["description"] = text.clone();
    }
    if !definition.kinds.is_empty() {
        let kinds = definition
            .kinds
            .iter()
            .map(|kind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind}));
        value["x-kubernetes-group-version-kind"] = Value::Array(kinds.collect());
    }
    if definition.atomic {
        value["x-kubernetes-map-type"] = json!("atomic");
    }
    let unions = definition.unions.as_deref().and_then(|text| serde_json::from_str(text).ok());
    if let Some(unions) = unions {
        let unions: Value = unions;
        value["x-kubernetes-unions"] = unions;
    }
    value
}

fn of_fields(definition: &Definition, described: Option<&Value>) -> Value {
    let mut value = json!({"type": "object"});
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &definition.fields {
        let text =
            described.and_then(|schema| schema["properties"][&*field.name].get("description"));
        properties.insert(field.name.to_string(), of_field(field, text));
        if field.required {
            required.push(field.name.as_ref());
        }
    }
    if !properties.is_empty() {
        value["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        value["required"] = json!(required);
    }
    value
}

fn of_field(field: &Field, text: Option<&Value>) -> Value {
    let mut value = of_type(&field.ty, true);
    if !field.values.is_empty() {
        innermost(&mut value)["enum"] = json!(field.values);
    }
    if let Some(text) = text {
        value["description"] = text.clone();
    }
    match &field.list {
        ListKind::Set => value["x-kubernetes-list-type"] = json!("set"),
        ListKind::Map(keys) => {
            value["x-kubernetes-list-type"] = json!("map");
            value["x-kubernetes-list-map-keys"] = json!(keys);
        }
        ListKind::Atomic if field.atomic && matches!(field.ty, Type::List(_)) => {
            value["x-kubernetes-list-type"] = json!("atomic");
        }
        ListKind::Atomic => {}
    }
    if field.atomic && !matches!(field.ty, Type::List(_)) {
        value["x-kubernetes-map-type"] = json!("atomic");
    }
    let strategy = match (field.merge.merge, field.merge.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => "",
    };
    if !strategy.is_empty() {
        value["x-kubernetes-patch-strategy"] = json!(strategy);
    }
    if let Some(key) = &field.merge_key {
        value["x-kubernetes-patch-merge-key"] = json!(key);
    }
    value
}

/// What the items of a list or map are, or the value itself.
fn innermost(mut value: &mut Value) -> &mut Value {
    while let Some(word) = ["items", "additionalProperties"].into_iter().find(|one| value.has(one))
    {
        value = &mut value[word];
    }
    value
}

/// `wrapped`: a reference that stands beside other words must stand in `allOf`.
fn of_type(ty: &Type, wrapped: bool) -> Value {
    match ty {
        Type::Any => json!({}),
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Object(id) => reference(&id.definition().name, wrapped),
        Type::Inline(definition) => of_definition(definition, None),
        Type::List(item) => json!({"type": "array", "items": of_type(item, false)}),
        Type::Map(item) => {
            json!({"type": "object", "additionalProperties": of_type(item, false)})
        }
    }
}

fn reference(name: &str, wrapped: bool) -> Value {
    let reference = json!({"$ref": format!("{REFERENCE}{name}")});
    if wrapped { json!({"allOf": [reference]}) } else { reference }
}

fn of_special(special: Special) -> Value {
    match special {
        Special::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Special::IntOrString => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        Special::Time | Special::MicroTime => json!({"type": "string", "format": "date-time"}),
        Special::Raw | Special::FieldsV1 => json!({"type": "object"}),
        Special::Json | Special::PropsOrArray | Special::PropsOrBool | Special::PropsOrStrings => {
            json!({})
        }
    }
}

/// Version 2 has its definitions elsewhere, and no `oneOf`.
pub(super) fn refer_to_definitions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(one)) = map.get("allOf")
                && let Some(reference) = one.first().and_then(|one| one.get("$ref")).cloned()
            {
                map.remove("allOf");
                map.insert("$ref".to_owned(), reference);
            }
            if map.remove("oneOf").is_some() {
                map.insert("type".to_owned(), json!("string"));
            }
            if let Some(Value::String(text)) = map.get_mut("$ref") {
                *text = text.replace(REFERENCE, "#/definitions/");
            }
            map.values_mut().for_each(refer_to_definitions);
        }
        Value::Array(items) => items.iter_mut().for_each(refer_to_definitions),
        _ => {}
    }
}
