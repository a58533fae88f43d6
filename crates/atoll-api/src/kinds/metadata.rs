//! The metadata that the server owns, whatever the kind.

use serde_json::{Map, Value, json};

use crate::access::Access as _;

/// Fields that a client cannot set when it creates an object.
const SERVER_SET: [&str; 5] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

/// The metadata as a map to change; it is made when there is none.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Removes what a client may not set on create. Generation is the kind's business and starts
/// absent.
pub fn wipe(object: &mut Value) {
    let metadata = of(object);
    for field in SERVER_SET {
        metadata.remove(field);
    }
    metadata.remove("generation");
    metadata.remove("resourceVersion");
}

/// Fills in on update what clients leave out and what only the server changes: uid, times of
/// creation and deletion, generation.
pub fn carry_over(new: &mut Value, old: &Value) {
    let empty = Map::new();
    let was = old.fields("metadata").unwrap_or(&empty);
    let metadata = of(new);
    for field in ["uid", "creationTimestamp"] {
        let missing = metadata
            .get(field)
            .is_none_or(|value| value.is_null() || value.as_str().is_some_and(str::is_empty));
        if missing && let Some(value) = was.get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        match was.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.remove("selfLink");
}

/// Generation 1, for kinds that count their specs.
pub(crate) fn start_generation(object: &mut Value) {
    of(object).insert("generation".to_owned(), json!(1));
}

/// One more than the old generation.
pub(crate) fn raise_generation(new: &mut Value, old: &Value) {
    let generation = old["metadata"].int("generation").unwrap_or(0).saturating_add(1);
    of(new).insert("generation".to_owned(), json!(generation));
}

/// A child object to change; it replaces anything that is no object.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    object_at(&mut object[key])
}

/// A child of a child to change.
pub(crate) fn grandchild<'a>(
    object: &'a mut Value,
    key: &str,
    inner: &str,
) -> &'a mut Map<String, Value> {
    let slot = child(object, key).entry(inner).or_insert(Value::Null);
    object_at(slot)
}

pub(super) fn object_at(slot: &mut Value) -> &mut Map<String, Value> {
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("set to an object above"),
    }
}
