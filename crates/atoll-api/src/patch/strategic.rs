//! Strategic merge patch: a merge patch that knows which lists merge, and by which key.
//!
//! Directives: `$patch` (replace, delete, merge), `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`.

use serde_json::{Map, Value};

use super::{PatchError, primitive};
use crate::schema::{Definition, Field, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch.
///
/// # Errors
///
/// When a directive is unknown or malformed, or an item of a merging list lacks its key.
pub fn strategic<'a>(
    schema: impl Into<&'a Definition>,
    document: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("the patch is no object".to_owned()));
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    if let Value::Object(map) = document {
        merge_object(Some(schema.into()), map, patch)?;
    }
    Ok(())
}

fn merge_object(
    definition: Option<&Definition>,
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => {
                *map = without_directives(patch);
                return Ok(());
            }
            Some("delete") => {
                map.clear();
                return Ok(());
            }
            Some("merge") => {}
            _ => {
                let map = Value::Object(patch.clone());
                return Err(PatchError::UnknownDirective { directive: directive.clone(), map });
            }
        }
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        retain_keys(map, patch, retained)?;
    }
    merge_fields(definition, map, patch)
}

fn merge_fields(
    definition: Option<&Definition>,
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let before: Vec<(String, Value)> = lists_to_order(map, patch);
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE) {
            if let (Some(Value::Array(items)), Some(delete)) = (map.get_mut(list), value.as_array())
            {
                primitive::delete(items, delete);
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        if value.is_null() {
            map.remove(key);
            continue;
        }
        let field = definition.and_then(|one| one.field(key));
        merge_field(field, map, key, value)?;
    }
    for (key, value) in patch {
        let (Some(list), Some(order)) = (key.strip_prefix(ORDER), value.as_array()) else {
            continue;
        };
        let field = definition.and_then(|one| one.field(list));
        let before = before.iter().find(|(name, _)| name == list).and_then(|(_, v)| v.as_array());
        if let Some(Value::Array(items)) = map.get_mut(list) {
            let merge_key = field.and_then(|field| field.merge_key.as_deref());
            let before = before.map_or(&[][..], Vec::as_slice);
            primitive::reorder(items, order, before, |left, right| match merge_key {
                Some(key) => left.get(key).is_some() && left.get(key) == right.get(key),
                None => left == right,
            });
        }
    }
    Ok(())
}

fn lists_to_order(map: &Map<String, Value>, patch: &Map<String, Value>) -> Vec<(String, Value)> {
    let lists = patch.keys().filter_map(|key| key.strip_prefix(ORDER));
    lists.filter_map(|list| map.get(list).map(|value| (list.to_owned(), value.clone()))).collect()
}

fn merge_field(
    field: Option<&Field>,
    map: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), PatchError> {
    let merge = field.map(|field| field.merge).unwrap_or_default();
    match (value, map.get_mut(key)) {
        (Value::Object(patch), Some(Value::Object(current))) => {
            if merge.replace {
                *current = without_directives(patch);
                return Ok(());
            }
            merge_object(field.and_then(|field| field.ty.definition()), current, patch)
        }
        (Value::Array(patch), current) if merge.merge => {
            let mut items = match current {
                Some(Value::Array(items)) => std::mem::take(items),
                _ => Vec::new(),
            };
            let item = match field.map(|field| &field.ty) {
                Some(Type::List(item)) => item.definition(),
                _ => None,
            };
            match field.and_then(|field| field.merge_key.as_deref()) {
                Some(key) => merge_list(item, key, &mut items, patch)?,
                None => primitive::merge(&mut items, patch),
            }
            map.insert(key.to_owned(), Value::Array(items));
            Ok(())
        }
        (Value::Object(patch), _) => {
            // Nothing to merge with, but directives and nulls must not be stored.
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                map.remove(key);
                return Ok(());
            }
            let mut fresh = Map::new();
            merge_object(field.and_then(|field| field.ty.definition()), &mut fresh, patch)?;
            map.insert(key.to_owned(), Value::Object(fresh));
            Ok(())
        }
        (other, _) => {
            map.insert(key.to_owned(), other.clone());
            Ok(())
        }
    }
}

/// Merges items that are known by a key.
fn merge_list(
    definition: Option<&Definition>,
    merge_key: &str,
    items: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), PatchError> {
    let replaces = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str) == Some("replace");
    if patch.iter().any(|item| replaces(item) && item.get(merge_key).is_none()) {
        // An item that only says replace is about the whole list.
        *items = patch.iter().filter(|item| !replaces(item)).cloned().collect();
        return Ok(());
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(PatchError::BadDirective(format!(
                "expected a map in the list that merges by {merge_key}, found {item}"
            )));
        };
        let Some(key) = fields.get(merge_key) else {
            return Err(PatchError::NoMergeKey { map: item.clone(), key: merge_key.to_owned() });
        };
        let at = items.iter().position(|one| one.get(merge_key) == Some(key));
        match fields.get(DIRECTIVE).and_then(Value::as_str) {
            Some("delete") => items.retain(|one| one.get(merge_key) != Some(key)),
            _ => match at.and_then(|at| items[at].as_object_mut()) {
                Some(current) => merge_object(definition, current, fields)?,
                None => {
                    let mut fresh = Map::new();
                    merge_object(definition, &mut fresh, fields)?;
                    items.push(Value::Object(fresh));
                }
            },
        }
    }
    Ok(())
}

/// `$retainKeys` lists all keys that may be there after the patch.
fn retain_keys(
    map: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    retained: &Value,
) -> Result<(), PatchError> {
    let bad = |text: &str| Err(PatchError::BadDirective(text.to_owned()));
    let Some(retained) = retained.as_array() else {
        return bad("invalid patch format of $retainKeys list");
    };
    let kept = |key: &str| retained.iter().any(|one| one.as_str() == Some(key));
    if patch.iter().any(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key)) {
        return bad(
            "invalid patch format of $retainKeys list: it does not name every key of the patch",
        );
    }
    map.retain(|key, _| kept(key));
    Ok(())
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let fields = patch.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    fields.map(|(key, value)| (key.clone(), value.clone())).collect()
}
