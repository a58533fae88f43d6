//! OpenAPI v2 in protobuf, for kubectl and Helm: the message that gnostic defines.
//!
//! Only what our documents have is written: title, paths, definitions, and in these what
//! [`super::schemas`] makes.

mod paths;

use serde_json::{Map, Value};

/// The media type by which clients ask for it.
pub(super) const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same without `@`, as later clients write it.
pub(super) const MEDIA_TYPE_DOTTED: &str =
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A version 2 document as gnostic's `Document`.
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut about = Vec::new();
    text(&mut about, 1, &document["info"]["title"]);
    text(&mut about, 2, &document["info"]["version"]);
    let mut out = Vec::new();
    text(&mut out, 1, &document["swagger"]);
    bytes(&mut out, 2, &about);
    bytes(&mut out, 8, &paths::paths(&document["paths"]));
    bytes(&mut out, 9, &named_schemas(&document["definitions"]));
    out
}

/// `Definitions` and `Properties` have one form: schemas with names.
fn named_schemas(all: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in all.as_object().into_iter().flatten() {
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &schema(value));
        bytes(&mut out, 1, &named);
    }
    out
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &value["$ref"]);
    text(&mut out, 2, &value["format"]);
    text(&mut out, 4, &value["description"]);
    for required in value["required"].as_array().into_iter().flatten() {
        text(&mut out, 19, required);
    }
    for one in value["enum"].as_array().into_iter().flatten() {
        let mut any = Vec::new();
        bytes(&mut any, 2, one.to_string().as_bytes());
        bytes(&mut out, 20, &any);
    }
    if let Some(more) = value.get("additionalProperties") {
        bytes(&mut out, 21, &wrapped(&schema(more)));
    }
    if value["type"].is_string() {
        let mut kinds = Vec::new();
        text(&mut kinds, 1, &value["type"]);
        bytes(&mut out, 22, &kinds);
    }
    if let Some(items) = value.get("items") {
        bytes(&mut out, 23, &wrapped(&schema(items)));
    }
    if let Some(properties) = value.get("properties") {
        bytes(&mut out, 25, &named_schemas(properties));
    }
    extensions(value.as_object(), &mut out);
    out
}

/// `x-…`, each as YAML, of which JSON is a part.
fn extensions(map: Option<&Map<String, Value>>, out: &mut Vec<u8>) {
    extensions_at(31, map, out);
}

fn extensions_at(number: u32, map: Option<&Map<String, Value>>, out: &mut Vec<u8>) {
    let all = map.into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    for (name, value) in all {
        let mut any = Vec::new();
        bytes(&mut any, 2, value.to_string().as_bytes());
        let mut named = Vec::new();
        bytes(&mut named, 1, name.as_bytes());
        bytes(&mut named, 2, &any);
        bytes(out, number, &named);
    }
}

/// A message whose first field is this one.
fn wrapped(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, message);
    out
}

fn text(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
        bytes(out, number, text.as_bytes());
    }
}

/// A field of length-delimited bytes.
fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_definition_is_named_and_typed() {
        let bytes = document(&json!({
            "swagger": "2.0",
            "info": {"title": "K", "version": "v1"},
            "definitions": {"a": {"type": "object", "x-y": [1]}},
        }));
        let schema = [&[0xb2, 1, 8, 10, 6][..], b"object", &[0xfa, 1, 10, 10, 3], b"x-y"].concat();
        let schema = [&schema[..], &[18, 5 - 2, 18, 3 - 2]].concat();
        assert!(
            bytes.starts_with(&[10, 3, b'2', b'.', b'0', 18, 7, 10, 1, b'K', 18, 2, b'v', b'1'])
        );
        assert!(bytes.windows(12).any(|window| window == &schema[..12]), "{bytes:?}");
        assert!(bytes.ends_with(b"[1]"));
    }

    #[test]
    fn long_fields_have_long_lengths() {
        let mut out = Vec::new();
        bytes(&mut out, 31, &[7; 300]);
        assert_eq!(&out[..4], [0xfa, 1, 0xac, 2]);
    }
}
