//! ReplicationControllers and PodTemplates.

use serde_json::Value;

use super::{absent, empty, normalise, normalise_metadata, pod, within, workload};
use crate::access::Access as _;

/// Selector and labels are those of the template when there are none.
pub(crate) fn controller(controller: &mut Value) {
    normalise(controller);
    empty(controller, "spec");
    within(controller, "spec", |spec| {
        if spec.has("template") {
            workload::template(spec);
        }
        absent(spec, "replicas", 1);
    });
    let labels = controller["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        within(controller, "spec", |spec| labels_of(spec, "selector", &labels));
        empty(controller, "metadata");
        within(controller, "metadata", |metadata| labels_of(metadata, "labels", &labels));
    }
    empty(controller, "status");
    within(controller, "status", |status| absent(status, "replicas", 0));
}

pub(crate) fn pod_template(template: &mut Value) {
    normalise(template);
    empty(template, "template");
    within(template, "template", |template| {
        empty(template, "metadata");
        within(template, "metadata", normalise_metadata);
        empty(template, "spec");
        within(template, "spec", pod::spec);
    });
}

fn labels_of(object: &mut Value, field: &str, labels: &Value) {
    let is_empty = object.fields(field).is_none_or(serde_json::Map::is_empty);
    if let Value::Object(fields) = object
        && is_empty
    {
        fields.insert(field.to_owned(), labels.clone());
    }
}
