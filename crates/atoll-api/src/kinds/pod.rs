//! Pod: containers that live and die together on one node.

pub mod qos;

use serde_json::{Value, json};

use super::{Hooks, UpdateHooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

/// How long a pod may take to stop when nobody says otherwise.
pub const GRACE_PERIOD_SECONDS: i64 = 30;

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::pod::pod),
    prepare_create: Some(create),
    prepare_update: Some(update),
    prepare_status_update: Some(status_update),
    validate_create: Some(validate::pod::create),
    validate_update: Some(validate::pod_update::update),
    validate_status_update: Some(validate::pod_update::status_update),
    warnings: Some(validate::warnings::pod),
    selectable_fields,
    selectable_names: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.podIPs",
        "status.nominatedNodeName",
    ],
    columns: columns::pod::COLUMNS,
    row: columns::pod::row,
    row_conditions: Some(columns::pod::conditions),
    graceful_delete: Some(grace_period),
    ..Hooks::NONE
};

/// The `ephemeralcontainers` subresource: it adds containers to a running pod.
pub(super) const EPHEMERAL_CONTAINERS: UpdateHooks = UpdateHooks {
    prepare: ephemeral_update,
    validate: Some(validate::pod_update::ephemeral_containers),
};

/// The `resize` subresource: it changes what running containers may use.
pub(super) const RESIZE: UpdateHooks =
    UpdateHooks { prepare: resize_update, validate: Some(validate::pod_resize::resize) };

/// Whether a condition of the status is `True`.
#[must_use]
pub fn condition_is_true(status: &Value, kind: &str) -> bool {
    status
        .items("conditions")
        .iter()
        .find(|condition| condition.text("type") == kind)
        .is_some_and(|condition| condition.text("status") == "True")
}

/// An init container that runs on beside the others.
#[must_use]
pub fn is_sidecar(container: &Value) -> bool {
    container.text("restartPolicy") == "Always"
}

/// Seconds that a delete gives the pod to stop. A pod that no node has taken, or that has
/// finished, goes at once (zero).
#[must_use]
pub fn grace_period(pod: &Value, requested: Option<i64>) -> Option<i64> {
    let spec = &pod["spec"];
    let period = requested
        .or_else(|| spec.int("terminationGracePeriodSeconds"))
        .unwrap_or(GRACE_PERIOD_SECONDS);
    let unassigned = spec.text("nodeName").is_empty();
    let finished = matches!(pod["status"].text("phase"), "Succeeded" | "Failed");
    if unassigned || finished {
        return Some(0);
    }
    // A negative period is an old client's way to ask for the shortest.
    Some(if period < 0 { 1 } else { period })
}

/// What a Binding does to a pod: the node's name, the binding's annotations, and the condition
/// that it is scheduled. The error is the text of a Conflict.
///
/// # Errors
/// When the pod is being deleted, is gated, or already has a node.
pub fn bind(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
    let name = pod["metadata"].text("name").to_owned();
    let node = binding["target"].text("name").to_owned();
    if pod["metadata"].has("deletionTimestamp") {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let holder = pod["spec"].text("nodeName");
    if !holder.is_empty() {
        return Err(format!(
            "pod {name} is already assigned to node {}",
            crate::field::quote(holder)
        ));
    }
    if !pod["spec"].items("schedulingGates").is_empty() {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    metadata::child(pod, "spec").insert("nodeName".to_owned(), json!(node));
    for (key, value) in binding["metadata"].fields("annotations").into_iter().flatten() {
        let annotations = metadata::grandchild(pod, "metadata", "annotations");
        annotations.insert(key.clone(), value.clone());
    }
    let generation = pod["metadata"]["generation"].clone();
    set_condition(
        metadata::child(pod, "status"),
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
               "lastTransitionTime": now, "observedGeneration": generation}),
    );
    Ok(())
}

/// Replaces the condition of the same type; its time of transition stays when its status does.
fn set_condition(status: &mut serde_json::Map<String, Value>, mut condition: Value) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(list) = conditions else { return };
    let kind = condition.text("type").to_owned();
    match list.iter_mut().find(|one| one.text("type") == kind) {
        Some(before) => {
            if before.text("status") == condition.text("status") && before.has("lastTransitionTime")
            {
                condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            *before = condition;
        }
        None => list.push(condition),
    }
}

fn update(new: &mut Value, old: &Value) {
    lift_grace(new);
    prepare::update_with_generation(new, old);
}

/// Negative means one second (upstream keeps such pods valid so).
fn lift_grace(pod: &mut Value) {
    if pod["spec"].int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    }
}

fn create(pod: &mut Value) {
    lift_grace(pod);
    metadata::start_generation(pod);
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(pod)});
    if !pod["spec"].items("schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null,
        }]);
    }
    prepare::put(pod, "status", Some(status));
}

fn status_update(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    prepare::keep_metadata(new, old, "ownerReferences");
    let class = old["status"].get("qosClass").cloned();
    if let Some(class) = class {
        metadata::child(new, "status").insert("qosClass".to_owned(), class);
    }
}

fn ephemeral_update(new: &mut Value, old: &Value) {
    let mut spec = old["spec"].clone();
    prepare::keep(&mut spec, &new["spec"], "ephemeralContainers");
    replace_spec(new, old, spec);
}

/// Takes over what a resize may change. Containers that came, went or moved are left as they
/// are, for the validation to name them.
fn resize_update(new: &mut Value, old: &Value) {
    let lists = ["containers", "initContainers"];
    let count = |pod: &Value, list: &str| pod["spec"].items(list).len();
    if lists.iter().any(|list| count(new, list) != count(old, list)) {
        return;
    }
    let mut spec = old["spec"].clone();
    prepare::keep(&mut spec, &new["spec"], "resources");
    for list in lists {
        resize_containers(&mut spec, list, &new["spec"]);
    }
    replace_spec(new, old, spec);
}

fn resize_containers(spec: &mut Value, list: &str, new: &Value) {
    let moved = |(was, is): (&Value, &Value)| was.text("name") != is.text("name");
    if spec.items(list).iter().zip(new.items(list)).any(moved) {
        prepare::keep(spec, new, list);
        return;
    }
    let Some(Value::Array(containers)) = spec.get_mut(list) else { return };
    for (container, new) in containers.iter_mut().zip(new.items(list)) {
        for field in ["resources", "resizePolicy"] {
            prepare::keep(container, new, field);
        }
    }
}

/// The old object with another spec, and the bookkeeping that every write changes.
fn replace_spec(new: &mut Value, old: &Value, spec: Value) {
    let version = new["metadata"].get("resourceVersion").cloned();
    let managed = new["metadata"].get("managedFields").cloned();
    new.clone_from(old);
    prepare::put(new, "spec", Some(spec));
    for (field, value) in [("resourceVersion", version), ("managedFields", managed)] {
        if let Some(value) = value {
            metadata::of(new).insert(field.to_owned(), value);
        }
    }
    prepare::raise_if_spec_changed(new, old);
}

fn selectable_fields(pod: &Value) -> Vec<(&'static str, String)> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let addresses: Vec<&str> = status.items("podIPs").iter().map(|one| one.text("ip")).collect();
    let first = addresses.first().copied().unwrap_or("");
    vec![
        ("spec.nodeName", spec.text("nodeName").to_owned()),
        ("spec.restartPolicy", spec.text("restartPolicy").to_owned()),
        ("spec.schedulerName", spec.text("schedulerName").to_owned()),
        ("spec.serviceAccountName", spec.text("serviceAccountName").to_owned()),
        ("spec.hostNetwork", spec.flag("hostNetwork").to_string()),
        ("status.phase", status.text("phase").to_owned()),
        ("status.podIP", first.to_owned()),
        ("status.podIPs", addresses.join(",")),
        ("status.nominatedNodeName", status.text("nominatedNodeName").to_owned()),
    ]
}
