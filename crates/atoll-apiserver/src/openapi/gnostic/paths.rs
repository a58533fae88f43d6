//! gnostic's messages for paths, operations and parameters.

use serde_json::Value;

use super::{bytes, schema, text, varint};

/// Method and its field number in `PathItem`.
const METHODS: [(&str, u32); 7] =
    [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];

/// `Paths`.
pub(super) fn paths(all: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, item) in all.as_object().into_iter().flatten() {
        let mut named = Vec::new();
        bytes(&mut named, 1, path.as_bytes());
        bytes(&mut named, 2, &path_item(item));
        bytes(&mut out, 2, &named);
    }
    out
}

fn path_item(item: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (method, number) in METHODS {
        if let Some(one) = item.get(method) {
            bytes(&mut out, number, &operation(one));
        }
    }
    parameters(&mut out, 9, &item["parameters"]);
    out
}

fn operation(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    texts(&mut out, 1, &value["tags"]);
    text(&mut out, 3, &value["description"]);
    text(&mut out, 5, &value["operationId"]);
    texts(&mut out, 6, &value["produces"]);
    texts(&mut out, 7, &value["consumes"]);
    parameters(&mut out, 8, &value["parameters"]);
    bytes(&mut out, 9, &responses(&value["responses"]));
    texts(&mut out, 10, &value["schemes"]);
    super::extensions_at(13, value.as_object(), &mut out);
    out
}

fn parameters(out: &mut Vec<u8>, number: u32, all: &Value) {
    for one in all.as_array().into_iter().flatten() {
        let parameter = match one["in"].as_str() {
            Some("body") => wrapped(1, &body_parameter(one)),
            Some("path") => wrapped(2, &wrapped(4, &path_parameter(one))),
            _ => wrapped(2, &wrapped(3, &query_parameter(one))),
        };
        // `ParametersItem`, `Parameter`.
        bytes(out, number, &wrapped(1, &parameter));
    }
}

fn body_parameter(one: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 1, &one["description"]);
    text(&mut out, 2, &one["name"]);
    text(&mut out, 3, &one["in"]);
    flag(&mut out, 4, &one["required"]);
    bytes(&mut out, 5, &schema(&one["schema"]));
    out
}

fn query_parameter(one: &Value) -> Vec<u8> {
    let mut out = common_parameter(one);
    text(&mut out, 6, &one["type"]);
    flag(&mut out, 20, &one["uniqueItems"]);
    out
}

fn path_parameter(one: &Value) -> Vec<u8> {
    let mut out = common_parameter(one);
    text(&mut out, 5, &one["type"]);
    flag(&mut out, 19, &one["uniqueItems"]);
    out
}

fn common_parameter(one: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    flag(&mut out, 1, &one["required"]);
    text(&mut out, 2, &one["in"]);
    text(&mut out, 3, &one["description"]);
    text(&mut out, 4, &one["name"]);
    out
}

fn responses(all: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, response) in all.as_object().into_iter().flatten() {
        let mut message = Vec::new();
        text(&mut message, 1, &response["description"]);
        if let Some(own) = response.get("schema") {
            bytes(&mut message, 2, &wrapped(1, &schema(own)));
        }
        let mut named = Vec::new();
        bytes(&mut named, 1, code.as_bytes());
        bytes(&mut named, 2, &wrapped(1, &message));
        bytes(&mut out, 1, &named);
    }
    out
}

fn texts(out: &mut Vec<u8>, number: u32, all: &Value) {
    for one in all.as_array().into_iter().flatten() {
        text(out, number, one);
    }
}

fn flag(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value == &Value::Bool(true) {
        varint(out, u64::from(number) << 3);
        varint(out, 1);
    }
}

/// A message with one field.
fn wrapped(number: u32, message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, number, message);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_stands_four_messages_deep() {
        let item = json!({"get": {"parameters": [{"name": "n", "in": "query", "type": "string"}]}});
        let bytes = path_item(&item);
        let query = b"\x12\x05query\x22\x01n\x32\x06string";
        assert_eq!(query.len(), 18);
        // get (2) > parameters (8) > parameter (1) > non-body (2) > query (3)
        let nested = [&[0x42, 24, 0x0a, 22, 0x12, 20, 0x1a, 18][..], query].concat();
        assert!(bytes.starts_with(&[0x12, u8::try_from(nested.len() + 2).unwrap()]), "{bytes:?}");
        assert_eq!(&bytes[2..28], &nested[..26]);
    }
}
