//! Secrets: type and text data.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{normalise, zero};
use crate::kinds::metadata::child;

/// `stringData` is a way to write only: it is moved into `data`.
pub(crate) fn secret(secret: &mut Value) {
    normalise(secret);
    zero(secret, "type", "Opaque");
    let Value::Object(fields) = secret else { return };
    let Some(Value::Object(texts)) = fields.remove("stringData") else { return };
    if texts.is_empty() {
        return;
    }
    let encoded = texts
        .into_iter()
        .map(|(key, text)| (key, json!(STANDARD.encode(text.as_str().unwrap_or("")))));
    child(secret, "data").extend(encoded);
}
