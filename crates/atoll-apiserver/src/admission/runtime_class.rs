//! The plugin `RuntimeClass`: what the class of a pod adds to it, and pods of a class that
//! there is not.

use atoll_api::access::Access as _;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;

fn is_new_pod(request: &AdmissionRequest<'_>) -> bool {
    request.operation == Operation::Create
        && request.row.group.is_empty()
        && request.row.resource == "pods"
        && request.subresource.is_empty()
}

/// Adds overhead, node selector and tolerations of the class.
pub(super) fn complete<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if !is_new_pod(request) {
            return Ok(());
        }
        let Some(class) = class_of(core, request, pod).await? else { return Ok(()) };
        let overhead = &class["overhead"]["podFixed"];
        if !overhead.is_null() && !pod["spec"].has("overhead") {
            pod["spec"]["overhead"] = overhead.clone();
        }
        place(request, &class["scheduling"], pod)
    }
    .boxed()
}

/// A pod has the overhead of its class and no other.
pub(super) fn check<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if !is_new_pod(request) {
            return Ok(());
        }
        let own = pod["spec"].fields("overhead").filter(|overhead| !overhead.is_empty());
        let class = class_of(core, request, pod).await?;
        let wanted = class.as_ref().and_then(|class| class["overhead"].fields("podFixed"));
        match (own, wanted) {
            (None, _) => Ok(()),
            (Some(own), Some(wanted)) if own == wanted => Ok(()),
            (Some(_), Some(_)) => Err(rejected(
                request,
                "Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            )),
            (Some(_), None) => Err(rejected(
                request,
                "Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
        }
    }
    .boxed()
}

async fn class_of(
    core: &Core,
    request: &AdmissionRequest<'_>,
    pod: &Value,
) -> Result<Option<Value>, Status> {
    let Some(name) = pod["spec"].opt_text("runtimeClassName") else { return Ok(None) };
    let row = crate::initial::row("node.k8s.io", "runtimeclasses")?;
    // Few pods name one, and one that was deleted a moment ago counts no more.
    match core.storage.get(row, "", name).await? {
        Some(stored) => stored.object(row).map(Some),
        None => Err(rejected(request, &format!("RuntimeClass {name:?} not found"))),
    }
}

fn rejected(request: &AdmissionRequest<'_>, why: &str) -> Status {
    Status::forbidden(request.row, request.name, format!("pod rejected: {why}"))
}

/// Where pods of the class may run.
fn place(
    request: &AdmissionRequest<'_>,
    scheduling: &Value,
    pod: &mut Value,
) -> Result<(), Status> {
    let mut selector: Map<String, Value> =
        pod["spec"].fields("nodeSelector").cloned().unwrap_or_default();
    for (label, value) in scheduling.fields("nodeSelector").into_iter().flatten() {
        if let Some(own) = selector.get(label).filter(|own| *own != value) {
            let (own, value) = (own.as_str().unwrap_or(""), value.as_str().unwrap_or(""));
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {value}; \
                 pod.spec.nodeSelector[{label}] = {own}"
            );
            return Err(Status::forbidden(request.row, request.name, why));
        }
        selector.insert(label.clone(), value.clone());
    }
    if !selector.is_empty() {
        pod["spec"]["nodeSelector"] = Value::Object(selector);
    }
    let mut tolerations = pod["spec"].items("tolerations").to_vec();
    for toleration in scheduling.items("tolerations") {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        pod["spec"]["tolerations"] = json!(tolerations);
    }
    Ok(())
}
