//! The files of configMap, secret, downwardAPI and projected volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret};

use crate::pod::env::{EnvError, Surroundings, field_value, resource_value};

/// The mode of files for which the pod names none.
pub const DEFAULT_MODE: u32 = 0o644;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// Whose it is; the node's root by default.
    pub user: Option<u32>,
}

impl File {
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>, mode: u32) -> File {
        File { bytes: bytes.into(), mode, user: None }
    }
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// A reference that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    #[error("configmap references non-existent config key: {0}")]
    NoConfigMapKey(String),
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    #[error("path \"{0}\" leaves the volume")]
    BadPath(String),
    #[error(transparent)]
    Field(#[from] EnvError),
}

/// Which keys go where.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    pub items: Option<&'a Vec<KeyToPath>>,
    pub default_mode: Option<i32>,
    pub optional: bool,
}

pub fn config_map(
    name: &str,
    map: Option<&ConfigMap>,
    selection: Selection<'_>,
) -> Result<Payload, PayloadError> {
    let Some(map) = map else {
        return if selection.optional {
            Ok(Payload::new())
        } else {
            Err(PayloadError::NoConfigMap(name.to_owned()))
        };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice()));
    let entries: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
    select(&entries, selection, PayloadError::NoConfigMapKey)
}

pub fn secret(
    name: &str,
    secret: Option<&Secret>,
    selection: Selection<'_>,
) -> Result<Payload, PayloadError> {
    let Some(secret) = secret else {
        return if selection.optional {
            Ok(Payload::new())
        } else {
            Err(PayloadError::NoSecret(name.to_owned()))
        };
    };
    let entries: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.as_slice())).collect();
    select(&entries, selection, PayloadError::NoSecretKey)
}

fn select(
    entries: &BTreeMap<&str, &[u8]>,
    selection: Selection<'_>,
    missing: fn(String) -> PayloadError,
) -> Result<Payload, PayloadError> {
    let default_mode = mode(selection.default_mode, DEFAULT_MODE);
    let mut payload = Payload::new();
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in entries {
            payload.insert((*key).to_owned(), File::new(*bytes, default_mode));
        }
        return Ok(payload);
    };
    for item in items {
        match entries.get(item.key.as_str()) {
            Some(bytes) => {
                let file = File::new(*bytes, mode(item.mode, default_mode));
                payload.insert(checked(&item.path)?, file);
            }
            None if selection.optional => {}
            None => return Err(missing(item.key.clone())),
        }
    }
    Ok(payload)
}

pub fn downward(
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    around: &Surroundings<'_>,
) -> Result<Payload, PayloadError> {
    let default_mode = mode(default_mode, DEFAULT_MODE);
    let mut payload = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => field_value(&field.field_path, around)?,
            (_, Some(resource)) => resource_value(resource, None, around)?,
            (None, None) => continue,
        };
        let file = File::new(text, mode(item.mode, default_mode));
        payload.insert(checked(&item.path)?, file);
    }
    Ok(payload)
}

#[must_use]
pub fn mode(wanted: Option<i32>, default: u32) -> u32 {
    wanted.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(default) & 0o777
}

/// A path that stays inside the volume and clear of the `..` names that the writer uses.
pub fn checked(path: &str) -> Result<String, PayloadError> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.split('/').any(|part| part == ".." || part == "." || part.is_empty())
        || path.starts_with("..");
    if bad { Err(PayloadError::BadPath(path.to_owned())) } else { Ok(path.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map() -> ConfigMap {
        serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap()
    }

    fn selection(items: Option<&Vec<KeyToPath>>, optional: bool) -> Selection<'_> {
        Selection { items, default_mode: Some(0o400), optional }
    }

    #[test]
    fn all_keys_or_the_chosen_ones() {
        let all = config_map("m", Some(&map()), selection(None, false)).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all["a"].mode, 0o400);
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "a", "path": "x/y", "mode": 384}])).unwrap();
        let one = config_map("m", Some(&map()), selection(Some(&items), false)).unwrap();
        assert_eq!((one.len(), one["x/y"].mode), (1, 0o600));
    }

    #[test]
    fn what_is_missing_waits_unless_it_is_optional() {
        let error = config_map("m", None, selection(None, false)).unwrap_err();
        assert_eq!(error.to_string(), "configmap \"m\" not found");
        assert_eq!(config_map("m", None, selection(None, true)).unwrap(), Payload::new());
        let items: Vec<KeyToPath> =
            serde_json::from_value(json!([{"key": "z", "path": "z"}])).unwrap();
        let error = config_map("m", Some(&map()), selection(Some(&items), false)).unwrap_err();
        assert_eq!(error.to_string(), "configmap references non-existent config key: z");
    }

    #[test]
    fn no_path_leaves_the_volume() {
        for path in ["/etc", "../x", "a/../../x", "", "..data", "a//b"] {
            assert!(checked(path).is_err(), "{path}");
        }
        assert!(checked("a/b.c").is_ok());
    }
}
