//! The plugin `LimitRanger`: what the LimitRanges of a namespace give to containers, and bound.

use atoll_api::access::Access as _;
use atoll_api::kinds;
use atoll_api::kinds::quota::limits;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{AdmissionRequest, Operation, pods};
use crate::core::Core;
use crate::status::Status;

fn is_new_pod(request: &AdmissionRequest<'_>) -> bool {
    request.operation == Operation::Create
        && request.row.group.is_empty()
        && request.row.resource == "pods"
        && request.subresource.is_empty()
}

/// Pods when they are created or resized, claims also when they change.
fn bounds(
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Option<fn(&Value, &Value) -> Vec<String>> {
    if !request.row.group.is_empty() {
        return None;
    }
    let resized = request.operation == Operation::Update && request.subresource == "resize";
    let changed = request.operation == Operation::Update
        && request.subresource.is_empty()
        && !object["metadata"].has("deletionTimestamp");
    let created = request.operation == Operation::Create && request.subresource.is_empty();
    if request.row.resource == "pods" && (created || resized) {
        return Some(limits::check_pod);
    }
    if request.row.resource == "persistentvolumeclaims" && (created || changed) {
        return Some(limits::check_claim);
    }
    None
}

pub(super) fn complete<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let done = if is_new_pod(request) && !pods::is_mirror(pod) {
        ranges(core, request.namespace)
            .map(|all| all.iter().for_each(|range| limits::complete(pod, range)))
    } else {
        Ok(())
    };
    async move { done }.boxed()
}

pub(super) fn check<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let done = refuse(core, request, object);
    async move { done }.boxed()
}

fn refuse(core: &Core, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let Some(check) = bounds(request, object) else { return Ok(()) };
    for range in ranges(core, request.namespace)? {
        let mut wrong = check(object, &range);
        match wrong.len() {
            0 => {}
            1 => return Err(Status::forbidden(request.row, request.name, wrong.remove(0))),
            _ => {
                let why = format!("[{}]", wrong.join(", "));
                return Err(Status::forbidden(request.row, request.name, why));
            }
        }
    }
    Ok(())
}

fn ranges(core: &Core, namespace: &str) -> Result<Vec<Value>, Status> {
    let Some(row) = kinds::find("", "v1", "limitranges") else { return Ok(Vec::new()) };
    let Some(cache) = core.registry.cache(row) else { return Ok(Vec::new()) };
    cache.list(namespace).iter().map(|entry| entry.object(row)).collect()
}
