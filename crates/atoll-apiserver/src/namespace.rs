//! Namespaces: nothing is created in one that is missing or going away.

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::admission::{AdmissionRequest, Operation};
use crate::call::Call;
use crate::core::Core;
use crate::status::Status;
use crate::storage::{self, Extra};

/// Namespaces that cannot be deleted.
const PERMANENT: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The row of namespaces themselves.
pub(crate) fn row() -> Option<&'static ResourceInfo> {
    kinds::find("", "v1", "namespaces")
}

/// A namespace as far as creates in it care.
struct Found {
    revision: i64,
    terminating: bool,
}

/// The admission plugin `NamespaceLifecycle`.
pub(crate) fn lifecycle<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    _: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    check(core, request).boxed()
}

async fn check(core: &Core, request: &AdmissionRequest<'_>) -> Result<(), Status> {
    let own = request.row.group.is_empty() && request.row.resource == "namespaces";
    if own && request.operation == Operation::Delete && PERMANENT.contains(&request.name) {
        let why = "this namespace may not be deleted";
        return Err(Status::forbidden(request.row, request.name, why));
    }
    if request.operation != Operation::Create || !request.row.namespaced() {
        return Ok(());
    }
    let found = find(core, request.namespace, false).await?;
    if found.terminating && !allowed_while_terminating(request) {
        return Err(Status::namespace_terminating(request.row, request.name, request.namespace));
    }
    Ok(())
}

/// Reviews are answers, not objects.
fn allowed_while_terminating(request: &AdmissionRequest<'_>) -> bool {
    request.row.virtual_only || !request.subresource.is_empty()
}

/// What makes a create fail when its namespace goes away at the same time.
pub(crate) async fn guard(call: &Call, fresh: bool) -> Result<Extra, Status> {
    let mut extra = Extra::default();
    if call.row.namespaced() {
        let namespace = call.namespace();
        let found = find(&call.core, namespace, fresh).await?;
        if found.terminating {
            return Err(Status::namespace_terminating(&call.row, call.name(), namespace));
        }
        if let Some(row) = row() {
            extra.require(storage::key(row, "", namespace), found.revision);
        }
    }
    Ok(extra)
}

/// From memory; from the store when it is not there or `fresh` is asked for.
async fn find(core: &Core, name: &str, fresh: bool) -> Result<Found, Status> {
    let Some(row) = row() else { return Err(Status::no_resource()) };
    let cached = core.registry.cache(row).and_then(|cache| cache.get("", name));
    if let Some(entry) = cached.filter(|_| !fresh) {
        let phase = entry.fields.iter().find(|(field, _)| *field == "status.phase");
        let terminating = phase.is_some_and(|(_, phase)| phase.as_ref() == "Terminating");
        return Ok(Found { revision: entry.revision, terminating });
    }
    let stored = core.storage.get(row, "", name).await?;
    let stored = stored.ok_or_else(|| Status::not_found(row, name))?;
    let object = stored.object(row)?;
    let terminating = object["metadata"].has("deletionTimestamp");
    Ok(Found { revision: stored.revision, terminating })
}
