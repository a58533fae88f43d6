//! ConfigMaps and Secrets: type and text data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{normalise, zero};
use crate::kinds::metadata::child;

pub(crate) fn config_map(config_map: &mut Value) {
    normalise(config_map);
    for field in ["data", "binaryData"] {
        drop_empty(config_map, field);
    }
}

/// `stringData` is a way to write only: it is moved into `data`.
pub(crate) fn secret(secret: &mut Value) {
    normalise(secret);
    zero(secret, "type", "Opaque");
    if let Value::Object(fields) = secret
        && let Some(Value::Object(texts)) = fields.remove("stringData")
        && !texts.is_empty()
    {
        let encoded = texts
            .into_iter()
            .map(|(key, text)| (key, json!(STANDARD.encode(text.as_str().unwrap_or("")))));
        child(secret, "data").extend(encoded);
    }
    drop_empty(secret, "data");
}

fn drop_empty(object: &mut Value, field: &str) {
    if let Value::Object(fields) = object
        && fields.get(field).and_then(Value::as_object).is_some_and(Map::is_empty)
    {
        fields.remove(field);
    }
}
