//! Fields of custom resources that nobody knows, or that stand twice.

use serde_json::{Value, json};

use super::{DEFINITIONS, soon};
use crate::client::{Answer, Api, JSON};

const JARS: &str = "/apis/fields.example.com/v1/namespaces/default/jars";

/// Jars keep what nobody knows in their spec, and embed another object there.
pub(crate) fn jars() -> Value {
    let template = json!({
        "type": "object", "x-kubernetes-embedded-resource": true,
        "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": {"type": "object"},
        },
    });
    let spec = json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "description": "Keeps what nobody knows.",
        "properties": {
            "foo": {"type": "string"}, "template": template,
            "kept": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true, "description": "Another object."},
        },
    });
    json!({
        "metadata": {"name": "jars.fields.example.com"},
        "spec": {
            "group": "fields.example.com", "scope": "Namespaced",
            "names": {"plural": "jars", "kind": "Jar"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
            }, {
                "name": "v2", "served": true, "storage": false,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

async fn world() -> Api {
    let api = Api::start().await;
    api.create(DEFINITIONS, &jars()).await.ok();
    soon(&api, JARS, |answer| answer.code == 200).await;
    api
}

async fn apply(api: &Api, place: &str, validation: &str, yaml: &str) -> Answer {
    let path = format!("{place}/j?fieldManager=m&fieldValidation={validation}");
    let format = ("content-type", "application/apply-patch+yaml");
    api.send(http::Method::PATCH, &path, &[format], yaml.to_owned()).await
}

const TWICE: &str = "
apiVersion: fields.example.com/v1
kind: Jar
metadata:
  name: j
spec:
  unknown: uk1
  foo: foo1
  foo: foo2
";

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_stand_twice_are_found_where_everything_is_kept() {
    let api = world().await;
    let why = "error converting YAML to JSON: yaml: unmarshal errors:\n  line 9: key \"foo\" \
               already set in map";
    apply(&api, JARS, "Strict", TWICE)
        .await
        .fails(400, &format!("error strict decoding YAML: {why}"));
    assert_eq!(api.get(&format!("{JARS}/j")).await.code, 404);
    let warned = apply(&api, JARS, "Warn", TWICE).await;
    assert!(warned.warnings()[0].contains("line 9: key \\\"foo\\\""), "{:?}", warned.warnings());
    assert_eq!(warned.ok()["spec"], json!({"unknown": "uk1", "foo": "foo2"}));
    let ignored = apply(&api, JARS, "Ignore", TWICE).await;
    assert!(ignored.warnings().is_empty());
    ignored.ok();
    let body = r#"{"apiVersion":"fields.example.com/v1","kind":"Jar","metadata":{"name":"k"},
        "spec":{"any":1,"foo":"1","foo":"2"}}"#;
    let strict = format!("{JARS}?fieldValidation=Strict");
    api.send(http::Method::POST, &strict, &[JSON], body).await.fails(
        400,
        "Jar in version \"v1\" cannot be handled as a Jar: strict decoding error: duplicate field \
         \"spec.foo\"",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_known_at_the_root_and_within() {
    let api = world().await;
    let yaml = "
apiVersion: fields.example.com/v1
kind: Jar
metadata:
  name: j
  unknownMeta: unknown
spec:
  template:
    apiVersion: foo/v1
    kind: Sub
    metadata:
      unknownSubMeta: unknown
      name: subobject
";
    let refused = apply(&api, JARS, "Strict", yaml).await;
    let text = refused.body["message"].as_str().unwrap();
    assert_eq!(refused.code, 500, "{text}");
    assert!(text.contains(".metadata.unknownMeta: field not declared in schema"), "{text}");
    let object = json!({
        "apiVersion": "fields.example.com/v1", "kind": "Jar",
        "metadata": {"name": "k", "unknownMeta": "u"},
        "spec": {"template": {"apiVersion": "foo/v1", "kind": "Sub",
            "metadata": {"name": "s", "unknownSubMeta": "u"}}},
    });
    api.create(&format!("{JARS}?fieldValidation=Strict"), &object).await.fails(
        400,
        "Jar in version \"v1\" cannot be handled as a Jar: strict decoding error: unknown field \
         \"metadata.unknownMeta\", unknown field \"spec.template.metadata.unknownSubMeta\"",
    );
    let made = api.create(JARS, &object).await;
    assert_eq!(made.warnings().len(), 2, "{:?}", made.warnings());
    let made = made.ok();
    assert_eq!(made["metadata"].get("unknownMeta"), None);
    assert_eq!(made["spec"]["template"]["metadata"], json!({"name": "s"}));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_schema_everything_is_taken() {
    let api = world().await;
    let (place, yaml) = (JARS.replace("/v1/", "/v2/"), TWICE.replace("/v1", "/v2"));
    let once = yaml.replace("  foo: foo2\n", "  ports:\n  - name: x\n");
    let made = apply(&api, &place, "Strict", &once).await.ok();
    let expected = json!({"unknown": "uk1", "foo": "foo1", "ports": [{"name": "x"}]});
    assert_eq!(made["spec"], expected);
    let object = json!({"apiVersion": "fields.example.com/v2", "kind": "Jar",
        "metadata": {"name": "k"}, "spec": expected, "more": [1]});
    let made = api.create(&format!("{place}?fieldValidation=Strict"), &object).await.ok();
    assert_eq!(made["more"], json!([1]));
    api.shutdown().await;
}
