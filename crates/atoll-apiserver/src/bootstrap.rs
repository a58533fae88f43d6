//! What a cluster has from the start: roles, bindings, priority classes.
//!
//! They are written where they are missing and completed where they lost something; an
//! unchanged cluster costs one comparison in memory. ClusterRoles that gather others are
//! kept filled, so that whoever reads them sees what they hold.

use std::sync::Arc;

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo};
use atoll_policy::rbac::RbacKind;
use atoll_policy::reconcile::{Step, reconcile};
use atoll_policy::{Rule, bootstrap};
use serde_json::{Value, json};

use crate::authz::ClusterAuthorizer;
use crate::core::Core;
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra, Written};

const GROUP: &str = "rbac.authorization.k8s.io";
/// Attempts against other writers of the same object.
const ATTEMPTS_MAX: usize = 5;

const PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another \
         node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// Writes what is missing. To be called when the caches are loaded, before serving.
pub(crate) async fn run(core: &Core) -> Result<(), Status> {
    let mut missing = Vec::new();
    let mut changed = Vec::new();
    for (kind, expected) in bootstrap::objects() {
        let row = row(kind)?;
        match cached(core, row, &expected)? {
            None => missing.push(fresh(core, row, expected)?),
            Some(stored) => changed.extend(reconcile(&expected, &stored).map(|step| (row, step))),
        }
    }
    missing.extend(priorities(core)?);
    missing.extend(local_class(core)?);
    core.storage.ensure(missing).await?;
    for (row, step) in changed {
        match step {
            Step::Update(object) => complete(core, row, &object).await?,
            Step::Recreate(object) => recreate(core, row, object).await?,
        }
    }
    Ok(())
}

/// Fills the gathered ClusterRoles before anyone is served, so that nobody sees them half full.
pub(crate) async fn gather(core: &Core, authorizer: &ClusterAuthorizer) -> Result<(), Status> {
    // A role may gather one that gathers itself; upstream's are three deep.
    for _ in 0..ATTEMPTS_MAX {
        if aggregate(core, authorizer).await? == 0 {
            return Ok(());
        }
        core.registry.catch_up().await?;
    }
    Ok(())
}

/// Keeps gathered ClusterRoles filled until the server stops.
pub(crate) async fn aggregate_forever(core: Arc<Core>, authorizer: Arc<ClusterAuthorizer>) {
    let Some(cache) = core.registry.objects(GROUP, "clusterroles") else { return };
    let mut changes = cache.subscribe();
    loop {
        changes.borrow_and_update();
        if let Err(error) = aggregate(&core, &authorizer).await {
            tracing::warn!(%error, "filling a gathered ClusterRole failed, will retry with the next change");
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// How many roles it had to write.
async fn aggregate(core: &Core, authorizer: &ClusterAuthorizer) -> Result<usize, Status> {
    let mut written = 0;
    let row = row(RbacKind::ClusterRole)?;
    let wanted: Vec<(String, Vec<Rule>)> = authorizer.with_rbac(|rbac| {
        rbac.aggregating()
            .filter_map(|name| Some((name.to_owned(), rbac.aggregate(name)?)))
            .collect()
    });
    for (name, rules) in wanted {
        let cached = core.registry.cache(row).and_then(|cache| cache.get("", &name));
        let Some(entry) = cached else { continue };
        let mut object = entry.object(row)?;
        if Rule::list(&object) == rules {
            continue;
        }
        object["rules"] = rules.iter().map(Rule::to_value).collect();
        replace(core, row, &name, &object, entry.revision).await?;
        written += 1;
    }
    Ok(written)
}

fn row(kind: RbacKind) -> Result<&'static ResourceInfo, Status> {
    kinds::find(GROUP, "v1", kind.resource()).ok_or_else(Status::no_resource)
}

fn names(object: &Value) -> (&str, &str) {
    (object["metadata"].text("namespace"), object["metadata"].text("name"))
}

fn cached(core: &Core, row: &ResourceInfo, wanted: &Value) -> Result<Option<Value>, Status> {
    let (namespace, name) = names(wanted);
    let entry = core.registry.cache(row).and_then(|cache| cache.get(namespace, name));
    entry.map(|entry| entry.object(row)).transpose()
}

fn fresh(
    core: &Core,
    row: &ResourceInfo,
    object: Value,
) -> Result<(bytes::Bytes, bytes::Bytes), Status> {
    let (namespace, name) = names(&object);
    let key = storage::key(row, namespace, name);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let object = initial::complete(core, row, &namespace, &name, object);
    Ok((key, storage::encode(row, &object)?))
}

fn priorities(core: &Core) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, Status> {
    let Some(row) = kinds::find("scheduling.k8s.io", "v1", "priorityclasses") else {
        return Ok(Vec::new());
    };
    let mut missing = Vec::new();
    for (name, value, description) in PRIORITIES {
        let class = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        });
        if cached(core, row, &class)?.is_none() {
            missing.push(fresh(core, row, class)?);
        }
    }
    Ok(missing)
}

/// The class of claims that name none: folders of nodes, made where the first pod goes.
fn local_class(core: &Core) -> Result<Option<(bytes::Bytes, bytes::Bytes)>, Status> {
    let Some(row) = kinds::find("storage.k8s.io", "v1", "storageclasses") else { return Ok(None) };
    let class = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local",
            "annotations": {kinds::storage::DEFAULT_CLASS: "true"},
        },
        "provisioner": "atoll.dev/local",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    if cached(core, row, &class)?.is_some() {
        return Ok(None);
    }
    fresh(core, row, class).map(Some)
}

/// Writes a completed object; somebody else's write in between is completed in turn.
async fn complete(core: &Core, row: &ResourceInfo, completed: &Value) -> Result<(), Status> {
    let (namespace, name) = names(completed);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let expected = bootstrap::objects()
        .into_iter()
        .map(|(_, object)| object)
        .find(|object| object["kind"] == *row.kind && names(object) == (&namespace, &name));
    let Some(expected) = expected else { return Ok(()) };
    for _ in 0..ATTEMPTS_MAX {
        let Some(stored) = core.storage.get(row, &namespace, &name).await? else { return Ok(()) };
        let Some(Step::Update(object)) = reconcile(&expected, &stored.object(row)?) else {
            return Ok(());
        };
        let key = storage::key(row, &namespace, &name);
        let value = storage::encode(row, &object)?;
        let written = core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(_) = written {
            return Ok(());
        }
    }
    Err(Status::modified(row, &name))
}

async fn recreate(core: &Core, row: &ResourceInfo, object: Value) -> Result<(), Status> {
    let (namespace, name) = names(&object);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    if let Some(stored) = core.storage.get(row, &namespace, &name).await? {
        let key = storage::key(row, &namespace, &name);
        core.storage.delete(key, stored.revision, Extra::default()).await?;
    }
    core.storage.ensure(vec![fresh(core, row, object)?]).await
}

async fn replace(
    core: &Core,
    row: &ResourceInfo,
    name: &str,
    object: &Value,
    expected: i64,
) -> Result<(), Status> {
    let key = storage::key(row, "", name);
    let value = storage::encode(row, object)?;
    // Whoever wrote in between changes the cache, and that brings us back.
    core.storage.update(key, expected, value, Extra::default()).await.map(|_written| ())
}
