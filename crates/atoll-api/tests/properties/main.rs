//! What holds for any object of any kind: its forms say the same, and so do the patches that
//! mean the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

mod random;

use atoll_api::apply::{self, Manager, Operation};
use atoll_api::kinds::{self, ResourceInfo};
use atoll_api::schema::Definition;
use atoll_api::{patch, proto, schema, tree};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use random::{Source, without_zeros};

fn rows() -> Vec<&'static ResourceInfo> {
    let served = kinds::builtin().iter().filter(|row| row.served);
    served.filter(|row| proto::carried(&row.api_version(), &row.kind).is_some()).collect()
}

fn definition(row: &ResourceInfo) -> &'static Definition {
    schema::by_name(&row.definition).unwrap().definition()
}

/// An object of the kind with whatever the bytes decide.
fn object(row: &ResourceInfo, bytes: &[u8]) -> Value {
    let mut object = Source::new(bytes).object(definition(row));
    object["apiVersion"] = json!(row.api_version());
    object["kind"] = json!(row.kind);
    object
}

/// The same, of what a client owns: no status, and of the metadata labels and annotations.
fn owned(row: &ResourceInfo, bytes: &[u8]) -> Value {
    let mut object = object(row, bytes);
    let map = object.as_object_mut().unwrap();
    map.remove("status");
    let metadata = map.remove("metadata").unwrap_or_default();
    let mut kept = json!({"name": "x"});
    for field in ["labels", "annotations"] {
        if metadata.get(field).is_some() {
            kept[field] = metadata[field].clone();
        }
    }
    object["metadata"] = kept;
    object
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

/// Whether a field has its value already.
fn is_same(before: Option<&Value>, after: &Value) -> bool {
    before == Some(after)
}

/// The changes from one object to another, as RFC 7386 has them.
fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new.iter().filter(|(key, value)| !is_same(old.get(*key), value)) {
        let change = old.get(key).map_or_else(|| value.clone(), |old| merge_patch(old, value));
        patch.insert(key.clone(), change);
    }
    Value::Object(patch)
}

fn json_patch(at: &str, old: &Value, new: &Value, operations: &mut Vec<Value>) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        operations.push(json!({"op": "replace", "path": at, "value": new}));
        return;
    };
    let place = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        operations.push(json!({"op": "remove", "path": place(key)}));
    }
    for (key, value) in new {
        match old.get(key) {
            None => operations.push(json!({"op": "add", "path": place(key), "value": value})),
            Some(same) if same == value => {}
            Some(other) => json_patch(&place(key), other, value, operations),
        }
    }
}

/// As kubectl makes it: lists that merge are told by their keys what comes, what goes, and in
/// which order they stand then.
fn strategic_patch(definition: Option<&Definition>, old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new.iter().filter(|(key, value)| !is_same(old.get(*key), value)) {
        let field = definition.and_then(|definition| definition.field(key));
        match (old.get(key), value) {
            (Some(Value::Array(old)), Value::Array(new))
                if field.is_some_and(|field| field.merge.merge) =>
            {
                let field = field.unwrap();
                match &field.merge_key {
                    Some(name) => {
                        let ty = random::item(&field.ty).and_then(|ty| ty.definition());
                        keyed_list(&mut patch, key, name, ty, old, new);
                    }
                    None => primitive_list(&mut patch, key, old, new),
                }
            }
            (Some(Value::Object(_)), Value::Object(_))
                if field.is_some_and(|field| field.merge.replace) =>
            {
                let mut whole = value.clone();
                whole["$patch"] = json!("replace");
                patch.insert(key.clone(), whole);
            }
            (Some(old), value) => {
                let ty = field.and_then(|field| field.ty.definition());
                let ty = ty.filter(|definition| definition.special.is_none());
                patch.insert(key.clone(), strategic_patch(ty, old, value));
            }
            (None, value) => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

fn keyed_list(
    patch: &mut Map<String, Value>,
    key: &str,
    name: &str,
    ty: Option<&Definition>,
    old: &[Value],
    new: &[Value],
) {
    let find =
        |list: &[Value], item: &Value| list.iter().find(|other| other[name] == item[name]).cloned();
    let mut items: Vec<Value> = Vec::new();
    for item in new {
        match find(old, item) {
            Some(same) if same == *item => {}
            Some(other) => {
                let mut change = strategic_patch(ty, &other, item);
                change[name] = item[name].clone();
                items.push(change);
            }
            None => items.push(item.clone()),
        }
    }
    for item in old.iter().filter(|item| find(new, item).is_none()) {
        items.push(json!({"$patch": "delete", name: item[name]}));
    }
    let order: Vec<Value> = new.iter().map(|item| json!({name: item[name]})).collect();
    patch.insert(format!("$setElementOrder/{key}"), json!(order));
    patch.insert(key.to_owned(), json!(items));
}

fn primitive_list(patch: &mut Map<String, Value>, key: &str, old: &[Value], new: &[Value]) {
    let added: Vec<&Value> = new.iter().filter(|item| !old.contains(item)).collect();
    let gone: Vec<&Value> = old.iter().filter(|item| !new.contains(item)).collect();
    patch.insert(format!("$setElementOrder/{key}"), json!(new));
    if !gone.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{key}"), json!(gone));
    }
    patch.insert(key.to_owned(), json!(added));
}

/// Lists that are known by keys may stand in another order after an apply.
fn unordered(definition: &Definition, value: &mut Value) {
    let Value::Object(map) = value else { return };
    for (key, value) in map.iter_mut() {
        let Some(field) = definition.field(key) else { continue };
        match value {
            Value::Array(items) => {
                if let Some(ty) = random::item(&field.ty).and_then(|ty| ty.definition())
                    && ty.special.is_none()
                {
                    items.iter_mut().for_each(|item| unordered(ty, item));
                }
                if field.list != schema::ListKind::Atomic {
                    items.sort_by_key(ToString::to_string);
                }
            }
            Value::Object(_) => {
                if let Some(ty) = field.ty.definition().filter(|ty| ty.special.is_none()) {
                    unordered(ty, value);
                }
            }
            _ => {}
        }
    }
}

/// Whether everything of `wanted` stands in `found`.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| covers(found, value))),
        _ => found == wanted,
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn protobuf_json_and_yaml_say_the_same(row in 0..rows().len(), bytes in bytes()) {
        let row = rows()[row];
        let first = object(row, &bytes);
        let encoded = proto::encode(&first).unwrap();
        let (named, second) = proto::decode(&encoded).unwrap();
        prop_assert_eq!(&named.kind, &*row.kind);
        let shape = definition(row);
        prop_assert_eq!(without_zeros(shape, &first), without_zeros(shape, &second));
        // What was decoded once is in its form.
        prop_assert_eq!(&proto::encode(&second).unwrap(), &encoded);
        let json = tree::from_json(first.to_string().as_bytes()).unwrap().object;
        prop_assert_eq!(&json, &first);
        let yaml = tree::from_yaml(tree::to_yaml(&first).as_bytes()).unwrap().object;
        prop_assert_eq!(&yaml, &first);
        let mut pruned = first.clone();
        let unknown = schema::prune_and_check(shape, &mut pruned).unwrap();
        prop_assert_eq!(unknown, Vec::<String>::new());
    }

    #[test]
    fn versions_are_converted_without_loss(bytes in bytes()) {
        for row in kinds::builtin().iter().filter(|row| row.served) {
            let (Some(to), Some(from)) = (row.storage.to_storage, row.storage.from_storage) else {
                continue;
            };
            let mut first = object(row, &bytes);
            // Who owns which field is told in the version of what is written.
            if let Some(metadata) = first.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
            (row.hooks.default.unwrap())(&mut first);
            let mut stored = first.clone();
            to(&mut stored);
            let mut back = stored.clone();
            from(&mut back);
            let shape = definition(row);
            // Upstream tells of more in annotations; what was there is there.
            let (found, wanted) = (without_zeros(shape, &back), without_zeros(shape, &first));
            prop_assert!(covers(&found, &wanted), "{}: {wanted}\nis not in {found}", row.kind);
            let mut again = back.clone();
            to(&mut again);
            prop_assert_eq!(&again, &stored, "{} as it is stored", row.kind);
        }
    }

    #[test]
    fn patches_that_mean_the_same_make_the_same(
        row in 0..rows().len(),
        old in bytes(),
        new in bytes(),
    ) {
        let row = rows()[row];
        let shape = definition(row);
        let (old, new) = (owned(row, &old), owned(row, &new));
        let mut merged = old.clone();
        patch::merge(&mut merged, &merge_patch(&old, &new));
        prop_assert_eq!(&merged, &new, "merge patch");
        let mut operations = Vec::new();
        json_patch("", &old, &new, &mut operations);
        let mut patched = old.clone();
        patch::json(&mut patched, &json!(operations)).unwrap();
        prop_assert_eq!(&patched, &new, "JSON patch");
        let mut strategic = old.clone();
        let change = strategic_patch(Some(shape), &old, &new);
        patch::strategic(shape, &mut strategic, &change).unwrap();
        prop_assert_eq!(&strategic, &new, "strategic merge patch {}", change);
    }

    /// Who owns all of an object makes of it what he states.
    #[test]
    fn an_apply_makes_what_it_states_and_does_so_once(
        row in 0..rows().len(),
        old in bytes(),
        new in bytes(),
    ) {
        let row = rows()[row];
        let shape = definition(row);
        let manager = Manager {
            name: "m".to_owned(),
            operation: Operation::Apply,
            api_version: row.api_version(),
            subresource: String::new(),
        };
        let (old, new) = (owned(row, &old), owned(row, &new));
        let run = |live: Option<&Value>, config: &Value, now: &str| {
            apply::apply(shape, live, config, &manager, false, now).unwrap()
        };
        let live = run(None, &old, "2026-01-01T00:00:00Z");
        let once = run(Some(&live), &new, "2026-01-01T00:00:01Z");
        prop_assert_eq!(&run(Some(&once), &new, "2026-01-01T00:00:02Z"), &once, "twice");
        let mut plain = once.clone();
        plain["metadata"].as_object_mut().unwrap().remove("managedFields");
        let mut wanted = new.clone();
        unordered(shape, &mut plain);
        unordered(shape, &mut wanted);
        prop_assert_eq!(&plain, &wanted);
    }
}
