//! Definitions of custom resources: their schemas, what these make of objects, and paths.

use atoll_api::kinds;
use atoll_api::structural::{self, Check, Node, jsonpath::JsonPath};
use serde_json::{Value, json};

use super::{parts, texts};
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "custom-resources", run: objects, seeds: object_seeds },
    Target { name: "json-paths", run: paths, seeds: path_seeds },
];

/// A schema, an object, and the object before.
fn objects(input: &[u8]) {
    let Some([schema, object, old]) = parts::<3>(input) else { return };
    let read = |bytes: &[u8]| atoll_api::tree::from_json(bytes).map(|read| read.object);
    let (Ok(schema), Ok(mut object), Ok(old)) = (read(schema), read(object), read(old)) else {
        return;
    };
    let row = kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let refused = row.is_none_or(|row| !row.validate_create(&definition(&schema)).is_empty());
    let node = Node::compile(&schema);
    if structural::prune(&node, &mut object).is_err() {
        return;
    }
    let again = structural::prune(&node, &mut object.clone());
    assert!(again.is_ok_and(|again| again.unknown.is_empty()), "pruned, and not all of it");
    structural::default(&node, &mut object);
    structural::drop_nulls(&node, &mut object);
    let mut twice = object.clone();
    structural::default(&node, &mut twice);
    // What a definition may say has defaults that are whole.
    assert!(refused || twice == object, "defaults that have defaults");
    let check = Check { value: &object, old: Some(&old) };
    drop(structural::check(&node, check));
    drop(structural::check(&node, Check { value: &object, old: None }));
    drop(structural::list_items(&node, &object));
    drop(structural::embedded(&node, &object));
    drop(structural::rules::check(&node, check));
    drop(node.definition("fuzz"));
}

fn definition(schema: &Value) -> Value {
    json!({
        "metadata": {"name": "xs.x.io"},
        "spec": {
            "group": "x.io",
            "scope": "Cluster",
            "names": {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList"},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn object_seeds() -> Vec<Vec<u8>> {
    let schema = r#"{"type":"object","properties":{"spec":{"type":"object","properties":{
        "a":{"type":"integer","default":1,"maximum":5},"b":{"type":"string","nullable":true,
        "pattern":"^a+$","format":"date"},"c":{"type":"array","x-kubernetes-list-type":"map",
        "x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],
        "properties":{"k":{"type":"string"}}}},"d":{"x-kubernetes-int-or-string":true,
        "anyOf":[{"type":"integer"},{"type":"string"}]},"e":{"type":"object",
        "x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}},
        "x-kubernetes-validations":[{"rule":"self.a > 0 || oldSelf.a > 0"}]}}}"#;
    let object =
        r#"{"spec":{"a":9,"b":null,"c":[{"k":"x"},{"k":"x"}],"d":"1","e":{"metadata":{}},"z":1}}"#;
    let old = r#"{"spec":{"a":1}}"#;
    vec![[schema, object, old].join("\0").into_bytes()]
}

fn paths(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(path) = JsonPath::parse(text) else { return };
    let object = json!({"a": [{"type": "Ready", "n": 1}, {"type": "b", "x": {"y": [true]}}]});
    std::hint::black_box(path.first(&object));
    drop(path.simple());
}

fn path_seeds() -> Vec<Vec<u8>> {
    texts(&[
        ".a[0].n",
        ".a[?(@.type==\"Ready\")].n",
        ".a[*]['x'].y[-1]",
        "$.a[?(@.n>=1)]",
        ".metadata.labels.app\\.io/name",
    ])
}
