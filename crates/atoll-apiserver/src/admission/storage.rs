//! Volumes and claims on their way in: protection, the default class, growing, and since when a
//! volume is in its phase.

use atoll_api::access::Access as _;
use atoll_api::kinds::storage;
use atoll_api::kinds::{self, quota::amounts};
use atoll_policy::node::node_of;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;

fn is(request: &AdmissionRequest<'_>, resource: &str) -> bool {
    request.row.group.is_empty()
        && request.row.resource == resource
        && request.subresource.is_empty()
}

fn is_new(request: &AdmissionRequest<'_>, resource: &str) -> bool {
    request.operation == Operation::Create && is(request, resource)
}

/// The plugin `StorageObjectInUseProtection`: what is used is not removed.
pub(super) fn protect<'a>(
    _: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    if is_new(request, "persistentvolumeclaims") {
        storage::protect(object, storage::CLAIM_PROTECTION);
    } else if is_new(request, "persistentvolumes") {
        storage::protect(object, storage::VOLUME_PROTECTION);
    }
    async { Ok(()) }.boxed()
}

/// Upstream does this in the kind's own strategy, which knows the time there.
pub(super) fn phase_time<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    volume: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    let volumes = request.row.group.is_empty() && request.row.resource == "persistentvolumes";
    if writes && volumes {
        storage::stamp_phase(volume, request.old, &core.now_text());
    }
    async { Ok(()) }.boxed()
}

/// The plugin `DefaultStorageClass`: a claim that names no class gets the default one.
pub(super) fn default_class<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    claim: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let done = if is_new(request, "persistentvolumeclaims") && storage::class_of(claim).is_none() {
        give_class(core, claim)
    } else {
        Ok(())
    };
    async move { done }.boxed()
}

/// Of several default classes the newest, then the first by name, as upstream.
fn give_class(core: &Core, claim: &mut Value) -> Result<(), Status> {
    let mut found: Option<(String, String)> = None;
    for class in classes(core)? {
        if !storage::is_default_class(&class) {
            continue;
        }
        let own = &class["metadata"];
        let this = (own.text("creationTimestamp").to_owned(), own.text("name").to_owned());
        let better =
            |known: &(String, String)| this.0 > known.0 || (this.0 == known.0 && this.1 < known.1);
        if found.as_ref().is_none_or(better) {
            found = Some(this);
        }
    }
    if let Some((_, name)) = found {
        claim["spec"]["storageClassName"] = json!(name);
    }
    Ok(())
}

fn classes(core: &Core) -> Result<Vec<Value>, Status> {
    let Some(row) = kinds::find("storage.k8s.io", "v1", "storageclasses") else {
        return Ok(Vec::new());
    };
    let Some(cache) = core.registry.cache(row) else { return Ok(Vec::new()) };
    cache.list("").iter().map(|entry| entry.object(row)).collect()
}

/// Part of `NodeRestriction`: a node changes nothing of a volume but whether it holds it.
pub(super) fn hold<'a>(
    _: &'a Core,
    request: &'a AdmissionRequest<'a>,
    volume: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let node = node_of(&request.user.name, &request.user.groups);
    let done = match (node, request.old) {
        (Some(node), Some(old)) if is(request, "persistentvolumes") => {
            check_hold(request, node, volume, old)
        }
        _ => Ok(()),
    };
    async move { done }.boxed()
}

/// What its own finalizer is called.
const FOLDER_FINALIZER: &str = "atoll.dev/local-volume";

fn check_hold(
    request: &AdmissionRequest<'_>,
    node: &str,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let rest = |volume: &Value| {
        let mut rest = volume.clone();
        let own = kinds::metadata::of(&mut rest);
        for field in ["managedFields", "resourceVersion"] {
            own.remove(field);
        }
        let kept: Vec<Value> = volume["metadata"]
            .items("finalizers")
            .iter()
            .filter(|one| *one != FOLDER_FINALIZER)
            .cloned()
            .collect();
        own.insert("finalizers".to_owned(), Value::Array(kept));
        rest
    };
    if request.operation == Operation::Update && rest(new) == rest(old) {
        return Ok(());
    }
    let why =
        format!("node {node:?} can only change the finalizer {FOLDER_FINALIZER:?} of volumes");
    Err(Status::forbidden(request.row, request.name, why))
}

/// The plugin `PersistentVolumeClaimResize`: claims grow only where their class lets them.
pub(super) fn resize<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    claim: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let done = match request.old {
        Some(old)
            if request.operation == Operation::Update && is(request, "persistentvolumeclaims") =>
        {
            check_resize(core, request, claim, old)
        }
        _ => Ok(()),
    };
    async move { done }.boxed()
}

fn check_resize(
    core: &Core,
    request: &AdmissionRequest<'_>,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    let size = |claim: &Value| {
        amounts::read(&claim["spec"]["resources"]["requests"]).get("storage").copied()
    };
    if size(new) <= size(old) {
        return Ok(());
    }
    let refuse = |why: &str| Err(Status::forbidden(request.row, request.name, why));
    if old["status"].text("phase") != "Bound" {
        return refuse("Only bound persistent volume claims can be expanded");
    }
    let class = storage::class_of(new).filter(|class| !class.is_empty());
    let same = class.is_some() && class == storage::class_of(old);
    let grows = |one: &Value| {
        Some(one["metadata"].text("name")) == class && one.flag("allowVolumeExpansion")
    };
    if !same || !classes(core)?.iter().any(grows) {
        return refuse(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        );
    }
    Ok(())
}
