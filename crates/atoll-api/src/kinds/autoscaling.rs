//! HorizontalPodAutoscaler, in two versions.
//!
//! Objects are stored as `v2`. What `v1` has no fields for stands in its annotations, as
//! upstream writes them.

mod convert;

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{Hooks, Storage, prepare};
use crate::{columns, defaults, validate};

pub use convert::{to_v1, to_v2};

/// Metrics of a `v1` object that are not CPU utilisation.
pub(crate) const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
/// Where a metric's type keeps its particulars.
pub(crate) const METRIC_SOURCES: [&str; 5] =
    ["object", "pods", "resource", "containerResource", "external"];

pub(super) const AUTOSCALER_HOOKS: Hooks = Hooks {
    default: Some(defaults::autoscaling::autoscaler),
    prepare_create: Some(create),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::autoscaling::autoscaler),
    validate_update: Some(validate::autoscaling::autoscaler_update),
    validate_status_update: Some(validate::autoscaling::status_update),
    columns: columns::autoscaling::AUTOSCALER,
    row: columns::autoscaling::autoscaler,
    ..Hooks::NONE
};

pub(super) const AUTOSCALER_V1_HOOKS: Hooks = Hooks {
    default: Some(defaults::autoscaling::autoscaler_v1),
    prepare_create: Some(create_v1),
    validate_create: Some(validate::autoscaling::autoscaler_v1),
    validate_update: Some(validate::autoscaling::autoscaler_v1_update),
    row: columns::autoscaling::autoscaler_v1,
    prepare_update: Some(update_v1),
    prepare_status_update: Some(prepare::keep_spec),
    ..AUTOSCALER_HOOKS
};

pub(super) const V1_STORAGE: Storage = Storage {
    group: Cow::Borrowed("autoscaling"),
    version: Cow::Borrowed("v2"),
    resource: Cow::Borrowed("horizontalpodautoscalers"),
    kind: Cow::Borrowed("HorizontalPodAutoscaler"),
    to_storage: Some(to_v2),
    from_storage: Some(to_v1),
};

fn create(scaler: &mut Value) {
    let status = json!({"desiredReplicas": 0, "currentMetrics": null});
    prepare::put(scaler, "status", Some(status));
}

fn create_v1(scaler: &mut Value) {
    let status = json!({"currentReplicas": 0, "desiredReplicas": 0});
    prepare::put(scaler, "status", Some(status));
    for annotation in convert::STATUS_ANNOTATIONS {
        convert::take_annotation(scaler, annotation);
    }
}

/// A part of the status stands in annotations, which an update of the object leaves alone.
fn update_v1(new: &mut Value, old: &Value) {
    prepare::keep_status(new, old);
    for annotation in convert::STATUS_ANNOTATIONS {
        convert::take_annotation(new, annotation);
        if let Some(value) = old["metadata"]["annotations"].get(annotation) {
            let annotations = super::metadata::grandchild(new, "metadata", "annotations");
            annotations.insert(annotation.to_owned(), value.clone());
        }
    }
}
