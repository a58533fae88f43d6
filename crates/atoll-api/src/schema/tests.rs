//! The table's content, and the walker's texts.

use std::sync::Arc;

use super::{
    Definition, Field, ListKind, Merge, Type, by_gvk, by_name, definitions, prune_and_check,
};
use crate::apply;
use serde_json::{Value, json};

fn check(kind: &str, mut object: Value) -> (Value, Result<Vec<String>, String>) {
    let group = if kind == "Deployment" { "apps" } else { "" };
    let schema = by_gvk(group, "v1", kind).unwrap();
    let result = prune_and_check(schema, &mut object).map_err(|error| error.to_string());
    (object, result)
}

#[test]
fn has_every_definition_and_what_is_special_about_it() {
    assert!(definitions().len() >= 771);
    let pod = by_name("io.k8s.api.core.v1.PodSpec").unwrap().definition();
    let containers = pod.field("containers").unwrap();
    assert_eq!(containers.list, ListKind::Map(vec!["name".into()]));
    assert!(containers.merge.merge && containers.required);
    let Type::List(item) = &containers.ty else { panic!("{:?}", containers.ty) };
    assert_eq!(item.definition().unwrap().go_name(), "v1.Container");
    assert!(pod.field("nodeSelector").unwrap().atomic);
    assert_eq!(by_gvk("apps", "v1", "DeleteOptions"), by_gvk("", "v1", "DeleteOptions"));
    let volume = by_name("io.k8s.api.core.v1.Volume").unwrap().definition();
    assert_eq!(volume.field("hostPath").unwrap().tags, [2, 1]);
}

#[test]
fn is_sorted_so_that_fields_are_found() {
    for definition in definitions() {
        for field in &definition.fields {
            assert!(definition.field(&field.name).is_some(), "{}.{}", definition.name, field.name);
        }
    }
}

#[test]
fn drops_unknown_fields_and_nulls() {
    let (object, unknown) = check(
        "Pod",
        json!({"kind": "Pod", "foo": 1, "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"containers": [{"name": "a", "imag": "x", "env": null}]}}),
    );
    assert_eq!(unknown.unwrap(), ["foo", "spec.containers[0].imag"]);
    assert_eq!(
        object,
        json!({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a"}]}})
    );
}

#[test]
fn says_which_field_has_another_type_in_gos_words() {
    let table = [
        (
            "ConfigMap",
            json!({"data": {"a": 1}}),
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            "ConfigMap",
            json!({"data": "x"}),
            "json: cannot unmarshal string into Go struct field ConfigMap.data of type map[string]string",
        ),
        (
            "Pod",
            json!({"spec": {"containers": [{"env": [{"value": true}]}]}}),
            "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            "Pod",
            json!({"spec": {"containers": {"a": 1}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "Pod",
            json!({"spec": {"restartPolicy": 1}}),
            "json: cannot unmarshal number into Go struct field PodSpec.spec.restartPolicy of type v1.RestartPolicy",
        ),
        (
            "Pod",
            json!({"spec": {"priority": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            "Deployment",
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            "Service",
            json!({"spec": {"ports": [{"targetPort": true}]}}),
            "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        ("Secret", json!({"data": {"a": "?"}}), "illegal base64 data at input byte 0"),
        (
            "Pod",
            json!({"metadata": {"creationTimestamp": "soon"}}),
            "parsing time \"soon\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"soon\" as \"2006\"",
        ),
        (
            "Pod",
            json!({"spec": {"overhead": {"cpu": "x"}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (kind, object, expected) in table {
        assert_eq!(check(kind, object).1.unwrap_err(), expected);
    }
}

#[test]
fn brings_values_into_the_stored_form() {
    let (object, _) = check(
        "Pod",
        json!({"metadata": {"creationTimestamp": "2020-01-01T01:00:00.5+01:00", "labels": {"a": null}},
            "spec": {"overhead": {"cpu": 1, "memory": "1024Mi"}}}),
    );
    assert_eq!(object["metadata"]["creationTimestamp"], "2020-01-01T00:00:00Z");
    assert_eq!(object["metadata"]["labels"], json!({"a": ""}));
    assert_eq!(object["spec"]["overhead"], json!({"cpu": "1", "memory": "1Gi"}));
}

#[test]
fn walks_a_type_made_at_run_time() {
    let field = |name: &'static str, ty: Type| Field {
        name: name.into(),
        ty,
        list: ListKind::Set,
        atomic: false,
        merge: Merge::default(),
        merge_key: None,
        required: false,
        pointer: false,
        omit_empty: true,
        tags: Vec::new(),
        wrapped: false,
        go_type: None,
        default: None,
        values: Vec::new(),
    };
    let spec = Definition {
        name: "example.com.v1.Spec".into(),
        fields: vec![field("colors", Type::List(Arc::new(Type::String)))],
        ..Definition::default()
    };
    let meta = by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
    let kind = Definition {
        name: "example.com.v1.Paint".into(),
        fields: vec![
            field("apiVersion", Type::String),
            field("kind", Type::String),
            field("metadata", Type::Object(meta)),
            field("spec", Type::Inline(Arc::new(spec))),
        ],
        ..Definition::default()
    };
    let config = json!({"apiVersion": "example.com/v1", "kind": "Paint", "metadata": {"name": "a"},
        "spec": {"colors": ["red"]}});
    let mut object = config.clone();
    object["spec"]["size"] = json!(1);
    assert_eq!(prune_and_check(&kind, &mut object).unwrap(), ["spec.size"]);
    let manager = apply::Manager {
        name: "m".into(),
        operation: apply::Operation::Apply,
        api_version: "example.com/v1".into(),
        subresource: String::new(),
    };
    let applied = apply::apply(&kind, None, &config, &manager, false, "2026-01-01T00:00:00Z");
    assert_eq!(
        applied.unwrap()["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:colors": {"v:\"red\"": {}}}})
    );
}
