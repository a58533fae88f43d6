//! ConfigMaps and Secrets: keys, sizes, types, and what `immutable` forbids.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{IMMUTABLE, faults, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

/// All data of a ConfigMap or Secret together; more does not fit into the store's objects.
const DATA_BYTES_MAX: usize = 1024 * 1024;

const FROZEN: &str = "field is immutable when `immutable` is set";

pub(crate) fn config_map(config_map: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut bytes = 0;
    let binary = config_map.fields("binaryData");
    for (key, value) in config_map.fields("data").into_iter().flatten() {
        let at = Path::new("data").key(key);
        faults(&at, key, names::config_map_key(key), &mut errors);
        if binary.is_some_and(|binary| binary.contains_key(key)) {
            errors.push(at.invalid(key.as_str(), "duplicate of key present in binaryData"));
        }
        bytes += value.as_str().unwrap_or("").len();
    }
    for (key, value) in binary.into_iter().flatten() {
        let at = Path::new("binaryData").key(key);
        faults(&at, key, names::config_map_key(key), &mut errors);
        bytes += decoded_length(value);
    }
    if bytes > DATA_BYTES_MAX {
        // As upstream prints a path of an empty name.
        errors.push(Path::new("[]").too_long(DATA_BYTES_MAX));
    }
    errors
}

pub(crate) fn config_map_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    frozen(new, old, &["data", "binaryData"], &mut errors);
    errors.extend(config_map(new));
    errors
}

pub(crate) fn secret(secret: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let data_at = Path::new("data");
    let empty = Map::new();
    let entries = secret.fields("data").unwrap_or(&empty);
    let mut bytes = 0;
    for (key, value) in entries {
        faults(&data_at.key(key), key, names::config_map_key(key), &mut errors);
        bytes += decoded_length(value);
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(data_at.too_long(DATA_BYTES_MAX));
    }
    secret_type(secret, entries, &mut errors);
    errors
}

pub(crate) fn secret_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    if new.text("type") != old.text("type") {
        errors.push(Path::new("type").invalid(new.text("type"), IMMUTABLE));
    }
    frozen(new, old, &["data"], &mut errors);
    errors.extend(secret(new));
    errors
}

fn frozen(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<Error>) {
    if !old.flag("immutable") {
        return;
    }
    if !new.flag("immutable") {
        errors.push(Path::new("immutable").forbidden(FROZEN));
    }
    for field in fields {
        if !same(&new[*field], &old[*field]) {
            errors.push(Path::new(field).forbidden(FROZEN));
        }
    }
}

fn secret_type(secret: &Value, entries: &Map<String, Value>, errors: &mut Vec<Error>) {
    let at = Path::new("data");
    let mut require = |key: &str| {
        if !entries.contains_key(key) {
            errors.push(at.key(key).required(""));
        }
    };
    match secret.text("type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            if secret["metadata"]["annotations"].text(key).is_empty() {
                let at = Path::new("metadata").child("annotations").key(key);
                errors.push(at.required(""));
            }
        }
        "kubernetes.io/dockercfg" => registry_logins(entries, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => registry_logins(entries, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth"
            if !entries.contains_key("username") && !entries.contains_key("password") =>
        {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => {
            let empty = entries.get("ssh-privatekey").is_none_or(|key| decoded_length(key) == 0);
            if empty {
                errors.push(at.key("ssh-privatekey").required(""));
            }
        }
        "kubernetes.io/tls" => {
            require("tls.crt");
            require("tls.key");
        }
        _ => {}
    }
}

fn registry_logins(entries: &Map<String, Value>, key: &str, errors: &mut Vec<Error>) {
    let at = Path::new("data").key(key);
    let Some(value) = entries.get(key) else {
        errors.push(at.required(""));
        return;
    };
    let decoded = STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&decoded) {
        errors.push(at.invalid("<secret contents redacted>", error.to_string()));
    }
}

/// Bytes that base64 text stands for.
fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("").trim_end_matches('=');
    text.len() * 3 / 4
}
