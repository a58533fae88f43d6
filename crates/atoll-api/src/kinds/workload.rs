//! Deployment and ReplicaSet: replicas of a pod template.

use serde_json::Value;

use super::{Hooks, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

/// The annotation by which a Deployment numbers its ReplicaSets.
pub const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";

pub(super) const DEPLOYMENT_HOOKS: Hooks = Hooks {
    default: Some(defaults::workload::deployment),
    prepare_create: Some(create_deployment),
    prepare_update: Some(update_deployment),
    prepare_status_update: Some(status_update),
    validate_create: Some(validate::workload::deployment),
    validate_update: Some(validate::workload::deployment_update),
    validate_status_update: Some(validate::workload::deployment_status_update),
    warnings: Some(validate::warnings::workload),
    columns: columns::workload::DEPLOYMENT,
    row: columns::workload::deployment,
    ..Hooks::NONE
};

pub(super) const REPLICA_SET_HOOKS: Hooks = Hooks {
    default: Some(defaults::workload::replica_set),
    prepare_create: Some(create_replica_set),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::workload::replica_set),
    validate_update: Some(validate::workload::replica_set_update),
    validate_status_update: Some(validate::workload::replica_set_status_update),
    warnings: Some(validate::warnings::workload),
    selectable_fields: replica_set_fields,
    selectable_names: &["status.replicas"],
    columns: columns::workload::REPLICA_SET,
    row: columns::workload::replica_set,
    ..Hooks::NONE
};

fn create_deployment(deployment: &mut Value) {
    prepare::create_with_generation(deployment);
    prepare::put(deployment, "status", Some(serde_json::json!({})));
}

fn create_replica_set(set: &mut Value) {
    prepare::create_with_generation(set);
    prepare::put(set, "status", Some(serde_json::json!({"replicas": 0})));
}

/// Annotations count like the spec: the controller copies them to its ReplicaSets.
fn update_deployment(new: &mut Value, old: &Value) {
    prepare::keep_status(new, old);
    let annotated = new["metadata"].get("annotations") != old["metadata"].get("annotations");
    if annotated || new.get("spec") != old.get("spec") {
        super::metadata::raise_generation(new, old);
    }
}

fn status_update(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    prepare::keep_metadata(new, old, "labels");
}

fn replica_set_fields(set: &Value) -> Vec<(&'static str, String)> {
    vec![("status.replicas", set["status"].int("replicas").unwrap_or(0).to_string())]
}
