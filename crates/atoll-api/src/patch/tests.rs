//! Patches as kubectl sends them.

use super::{PatchError, json, strategic};
use crate::schema;
use serde_json::{Value, json as tree};

fn deployment() -> Value {
    tree!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "template": {"metadata": {"finalizers": ["a", "b"]}, "spec": {
        "containers": [{"name": "web", "image": "a:1", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "1"}]}, {"name": "side", "image": "s"}],
        "tolerations": [{"key": "x"}],
        "nodeSelector": {"a": "b"}}}}})
}

fn patched(patch: &Value) -> Value {
    let mut object = deployment();
    strategic(schema::by_gvk("apps", "v1", "Deployment").unwrap(), &mut object, patch).unwrap();
    object
}

#[test]
fn merges_containers_by_name_and_replaces_atomic_lists() {
    let object = patched(&tree!({"spec": {"template": {"spec": {
        "containers": [{"name": "web", "image": "a:2", "env": [{"name": "B", "value": "2"}]}, {"name": "new", "image": "n"}],
        "tolerations": [{"key": "y"}], "nodeSelector": {"a": null, "c": "d"}}}}}));
    let pod = &object["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], "a:2");
    assert_eq!(pod["containers"][0]["env"].as_array().unwrap().len(), 2);
    assert_eq!(pod["containers"][0]["ports"], tree!([{"containerPort": 80}]));
    assert_eq!(pod["containers"][2], tree!({"name": "new", "image": "n"}));
    assert_eq!(pod["tolerations"], tree!([{"key": "y"}]));
    assert_eq!(pod["nodeSelector"], tree!({"c": "d"}));
}

#[test]
fn obeys_directives() {
    let object = patched(&tree!({"spec": {
        "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
        "template": {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}, "spec": {
        "$setElementOrder/containers": [{"name": "side"}, {"name": "new"}],
        "containers": [{"name": "web", "$patch": "delete"}, {"name": "new"}],
        "nodeSelector": {"$patch": "replace", "z": "z"}}}}}));
    assert_eq!(object["spec"]["strategy"], tree!({"type": "Recreate"}));
    let template = &object["spec"]["template"];
    assert_eq!(template["metadata"]["finalizers"], tree!(["b"]));
    assert_eq!(
        template["spec"]["containers"],
        tree!([{"name": "side", "image": "s"}, {"name": "new"}])
    );
    assert_eq!(template["spec"]["nodeSelector"], tree!({"z": "z"}));
}

#[test]
fn keeps_server_side_items_in_their_place_when_ordering() {
    let mut object = tree!({"metadata": {"finalizers": ["x", "a", "b"]}});
    let patch = tree!({"metadata": {"$setElementOrder/finalizers": ["b", "a"], "finalizers": []}});
    strategic(schema::by_gvk("", "v1", "Pod").unwrap(), &mut object, &patch).unwrap();
    assert_eq!(object["metadata"]["finalizers"], tree!(["x", "b", "a"]));
}

#[test]
fn refuses_items_without_merge_key() {
    let mut object = deployment();
    let patch = tree!({"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}});
    let error = strategic(schema::by_gvk("apps", "v1", "Deployment").unwrap(), &mut object, &patch);
    assert!(matches!(error, Err(PatchError::NoMergeKey { .. })));
}

#[test]
fn tells_a_malformed_json_patch_from_one_that_does_not_apply() {
    let mut object = tree!({"a": 1});
    assert!(json(&mut object, &tree!([{"op": "fly"}])).unwrap_err().is_malformed());
    let failing = tree!([{"op": "replace", "path": "/a", "value": 2}, {"op": "test", "path": "/a", "value": 3}]);
    assert!(!json(&mut object, &failing).unwrap_err().is_malformed());
    assert_eq!(object, tree!({"a": 1}));
}

#[test]
fn copies_that_double_the_object_are_refused_before_they_fill_the_memory() {
    let copy = tree!({"op": "copy", "from": "", "path": "/a/0"});
    let mut object = tree!({"a": [1]});
    let before = object.clone();
    let error = json(&mut object, &Value::Array(vec![copy; 60])).unwrap_err();
    assert!(matches!(error, PatchError::CopiesTooLarge(_)) && !error.is_malformed(), "{error}");
    assert!(error.to_string().ends_with("exceeding the limit 3145728"), "{error}");
    assert_eq!(object, before);
}

#[test]
fn a_field_that_is_absent_is_null() {
    let null = |path: &str| tree!({"op": "test", "path": path, "value": null});
    let add = tree!({"op": "add", "path": "/metadata/finalizers", "value": ["a"]});
    let mut object = tree!({"metadata": {"name": "x"}});
    json(&mut object, &Value::Array(vec![null("/metadata/finalizers"), add.clone()])).unwrap();
    assert_eq!(object["metadata"]["finalizers"], tree!(["a"]));
    for path in ["/metadata/finalizers", "/spec/x", "/metadata/name"] {
        let error = json(&mut object, &Value::Array(vec![null(path), add.clone()])).unwrap_err();
        assert!(!error.is_malformed(), "{path}");
    }
}
