//! CustomResourceDefinition.

use serde_json::{Value, json};

use super::{absent, each, within, zero};
use crate::access::Access as _;

pub(crate) fn definition(crd: &mut Value) {
    // Schemas stand as they came: an empty list in them may be a default.
    let schemas: Vec<Option<Value>> = within_versions(crd)
        .map(|version| version.as_object_mut().and_then(|version| version.remove("schema")))
        .collect();
    // Go writes the lists of the status also when they are empty.
    let status = crd.as_object_mut().and_then(|crd| crd.remove("status"));
    super::normalise(crd);
    if let (Some(status), Some(map)) = (status, crd.as_object_mut()) {
        map.insert("status".to_owned(), status);
    }
    for (version, schema) in within_versions(crd).zip(schemas) {
        if let (Some(schema), Some(version)) = (schema, version.as_object_mut()) {
            version.insert("schema".to_owned(), schema);
        }
    }
    let kind = crd["spec"]["names"].text("kind").to_owned();
    within(crd, "spec", |spec| {
        within(spec, "names", |names| {
            if !kind.is_empty() {
                zero(names, "singular", kind.to_lowercase());
                zero(names, "listKind", format!("{kind}List"));
            }
        });
        absent(spec, "conversion", json!({"strategy": "None"}));
        within(spec, "conversion", |conversion| {
            zero(conversion, "strategy", "None");
            within(conversion, "webhook", |webhook| {
                within(webhook, "clientConfig", |config| {
                    within(config, "service", |service| absent(service, "port", 443));
                });
            });
        });
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
            crate::kinds::prepare::remove(spec, "preserveUnknownFields");
        }
        for version in each(spec, "versions") {
            absent(version, "served", false);
            absent(version, "storage", false);
        }
    });
}

fn within_versions(crd: &mut Value) -> impl Iterator<Item = &mut Value> {
    let versions = crd.get_mut("spec").and_then(|spec| spec.get_mut("versions"));
    versions.and_then(Value::as_array_mut).into_iter().flatten()
}
