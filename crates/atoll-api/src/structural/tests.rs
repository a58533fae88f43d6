//! Pruning, defaults and validation by a schema.

use serde_json::{Value, json};

use super::*;

fn node() -> Node {
    Node::compile(&json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "maximum": 10, "minimum": 1},
                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                    "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
                    "port": {"x-kubernetes-int-or-string": true,
                        "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                        "properties": {"known": {"type": "object"}}},
                    "tags": {"type": "array", "x-kubernetes-list-type": "set",
                        "items": {"type": "string"}, "maxItems": 3},
                    "items": {"type": "array", "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["id"],
                        "items": {"type": "object", "required": ["id"], "properties": {
                            "id": {"type": "string"}, "n": {"type": "integer", "default": 1}}}},
                    "maybe": {"type": "string", "nullable": true},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.size < 9 || self.color == 'blue'", "message": "large ones are blue"},
                    {"rule": "!has(oldSelf.name) || self.name == oldSelf.name",
                     "messageExpression": "'name was ' + oldSelf.name"},
                ],
            },
        },
    }))
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "a"}, "spec": spec})
}

fn errors(spec: Value, old: Option<Value>) -> Vec<String> {
    let (new, old) = (object(spec), old.map(object));
    let check = Check { value: &new, old: old.as_ref() };
    let mut errors = super::check(&node(), check);
    errors.extend(list_items(&node(), &new));
    errors.extend(rules::check(&node(), check));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn unknown_fields_go_and_what_is_free_stays() {
    let mut value = object(json!({
        "size": 1, "x": 1, "free": {"y": {"z": 1}, "known": {"w": 1}},
        "items": [{"id": "a", "q": 1}],
    }));
    value["metadata"]["foo"] = json!("bar");
    let mut unknown = prune(&node(), &mut value).unwrap().unknown;
    unknown.sort();
    assert_eq!(unknown, ["metadata.foo", "spec.free.known.w", "spec.items[0].q", "spec.x"]);
    let spec = json!({"size": 1, "free": {"y": {"z": 1}, "known": {}}, "items": [{"id": "a"}]});
    assert_eq!(value, object(spec));
}

#[test]
fn metadata_of_a_wrong_type_is_found_where_it_is() {
    let node = Node::compile(&json!({"type": "object", "properties": {
        "embedded": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true}}}));
    let why =
        "json: cannot unmarshal number into Go struct field ObjectMeta.namespace of type string";
    let metadata = json!({"name": "a", "namespace": 42});
    let mut inside = json!({"embedded": {"metadata": metadata}});
    let shown = "embedded.metadata: Invalid value: {\"name\":\"a\",\"namespace\":42}: ";
    let text = prune(&node, &mut inside).unwrap_err().to_string();
    assert_eq!(text, format!("{shown}{why}"));
    let mut own = json!({"metadata": metadata});
    assert_eq!(prune(&node, &mut own).unwrap_err().to_string(), why);
}

#[test]
fn defaults_fill_what_is_absent_and_nulls_go() {
    let mut value =
        object(json!({"color": null, "name": null, "maybe": null, "items": [{"id": "a"}]}));
    default(&node(), &mut value);
    drop_nulls(&node(), &mut value);
    let spec = json!({"color": "red", "maybe": null, "items": [{"id": "a", "n": 1}]});
    assert_eq!(value, object(spec));
}

#[test]
fn values_are_judged_in_upstreams_words() {
    let cases = [
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": 11, "color": "blue"}),
            "spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10",
        ),
        (
            json!({"size": 1, "color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (
            json!({"size": 1, "name": "A"}),
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (json!({"size": 1, "name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes"),
        (json!({"size": 1, "tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\""),
        (
            json!({"size": 1, "tags": ["a", "b", "c", "d"]}),
            "spec.tags: Too many: 4: must have at most 3 items",
        ),
        (
            json!({"size": 1, "items": [{"id": "a"}, {"id": "a"}]}),
            "spec.items[1]: Duplicate value: {\"id\":\"a\"}",
        ),
        (
            json!({"size": 1, "port": true}),
            "<nil>: Invalid value: \"\": \"spec.port\" must validate at least one schema (anyOf)",
        ),
        (
            json!({"size": 9, "color": "red"}),
            "spec: Invalid value: \"object\": large ones are blue",
        ),
    ];
    for (spec, expected) in cases {
        let errors = errors(spec.clone(), None);
        assert!(errors.iter().any(|error| error == expected), "{spec}: {errors:?}");
    }
    assert_eq!(
        errors(json!({"size": 1, "color": "red", "port": "a", "maybe": null}), None),
        [""; 0]
    );
}

#[test]
fn what_did_not_change_is_not_judged_again() {
    let old = json!({"size": 99, "color": "red", "name": "a"});
    assert_eq!(
        errors(json!({"size": 99, "color": "blue", "name": "a"}), Some(old.clone())),
        [""; 0]
    );
    let changed = json!({"size": 99, "color": "blue", "name": "b"});
    let expected = "spec: Invalid value: \"object\": name was a";
    assert_eq!(errors(changed, Some(old)), [expected]);
}

#[test]
fn a_definition_adds_rows() {
    let crd = json!({
        "metadata": {"name": "xs.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "versions": [
            {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true},
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
             "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}},
             "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.n"}],
             "selectableFields": [{"jsonPath": ".spec.n"}]}]},
        "status": {"acceptedNames": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList", "shortNames": ["q"]}},
    });
    let rows = rows(&crd);
    let versions: Vec<&str> = rows.iter().map(|row| &*row.version).collect();
    assert_eq!(versions, ["v1", "v1alpha1"]);
    let (row, old) = (&rows[0], &rows[1]);
    let text = "x.io/v1alpha1 X is deprecated; use x.io/v1 X";
    assert_eq!(old.deprecation.as_deref(), Some(text));
    assert_eq!(old.storage.version, "v1");
    assert_eq!(&*row.definition, "io.x.v1.X");
    assert!(row.subresource("status").is_some() && row.subresource("scale").is_some());
    let object = json!({"metadata": {"name": "a"}, "spec": {"n": 3}});
    assert_eq!(row.cells(&object, jiff::Timestamp::UNIX_EPOCH), [json!("a"), json!(3)]);
    assert_eq!(row.selectable_fields(&object), [("spec.n".into(), "3".to_owned())]);
    let mut changed = object.clone();
    row.prepare_create(&mut changed);
    assert_eq!(changed["metadata"]["generation"], 1);
}
