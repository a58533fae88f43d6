//! APIServices of what this server answers itself: one for each group and version, those of
//! custom resources too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds::aggregation::AUTOMANAGED_LABEL;
use serde_json::{Value, json};

use super::available::{condition, put};
use super::{GROUP, RESOURCE};
use crate::core::Core;
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra};

/// Custom resources are served a moment after their definition is there.
const SETTLE: Duration = Duration::from_millis(500);

/// Order of groups in discovery, upstream's numbers: the higher, the sooner.
const PRIORITIES: [(&str, i64); 21] = [
    ("", 18_000),
    ("admissionregistration.k8s.io", 16_700),
    ("apiextensions.k8s.io", 16_700),
    ("apiregistration.k8s.io", 18_000),
    ("apps", 17_800),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("coordination.k8s.io", 16_500),
    ("discovery.k8s.io", 16_200),
    ("events.k8s.io", 17_750),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("networking.k8s.io", 17_200),
    ("node.k8s.io", 16_300),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("resource.k8s.io", 15_900),
    ("scheduling.k8s.io", 16_600),
    ("storage.k8s.io", 16_800),
];
/// Priorities of groups of custom resources, upstream's.
const CUSTOM: (i64, i64) = (1000, 100);

pub(crate) async fn keep(core: Arc<Core>) {
    let caches = [(GROUP, RESOURCE), ("apiextensions.k8s.io", "customresourcedefinitions")]
        .map(|(group, resource)| core.registry.objects(group, resource));
    let [Some(own), Some(definitions)] = caches else { return };
    let (mut a, mut b) = (own.subscribe(), definitions.subscribe());
    loop {
        a.mark_unchanged();
        b.mark_unchanged();
        if let Err(error) = settle(&core).await {
            tracing::warn!(%error, "APIServices could not be kept, will retry");
        }
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = a.changed() => changed,
            changed = b.changed() => {
                tokio::time::sleep(SETTLE).await;
                changed
            }
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn settle(core: &Core) -> Result<(), Status> {
    let row = initial::row(GROUP, RESOURCE)?;
    let Some(cache) = core.registry.objects(GROUP, RESOURCE) else { return Ok(()) };
    let served = served(core);
    let mut batch = Vec::new();
    for (name, spec) in &served {
        if cache.get("", name).is_some() {
            continue;
        }
        let own = json!({"metadata": {"labels": {AUTOMANAGED_LABEL: label(spec)}}, "spec": spec});
        let mut object = initial::complete(core, row, "", name, own);
        put(&mut object, local(core));
        batch.push((storage::key(row, "", name), storage::encode(row, &object)?));
    }
    core.storage.ensure(batch).await?;
    for entry in cache.list("") {
        let object = entry.object(row)?;
        if object["spec"].has("service") {
            continue;
        }
        let managed = entry.label(AUTOMANAGED_LABEL) == Some("true");
        if managed && !served.contains_key(entry.name()) {
            let key = storage::key(row, "", entry.name());
            core.storage.delete(key, entry.revision, Extra::default()).await?;
        } else {
            say_local(core, entry.name(), object).await?;
        }
    }
    Ok(())
}

/// One that names no Service is this server's own, and as available as it is.
async fn say_local(core: &Core, name: &str, mut object: Value) -> Result<(), Status> {
    if !put(&mut object, local(core)) {
        return Ok(());
    }
    let row = initial::row(GROUP, RESOURCE)?;
    let Some(stored) = core.storage.get(row, "", name).await? else { return Ok(()) };
    let mut fresh = stored.object(row)?;
    if fresh["spec"].has("service") {
        return Ok(());
    }
    put(&mut fresh, local(core));
    let (key, value) = (storage::key(row, "", name), storage::encode(row, &fresh)?);
    core.storage.update(key, stored.revision, value, Extra::default()).await.map(drop)
}

fn local(core: &Core) -> Value {
    let message = "Local APIServices are always available";
    condition("True", "Local", message, &core.now_text())
}

fn label(spec: &Value) -> &'static str {
    if spec.int("groupPriorityMinimum") == Some(CUSTOM.0) { "true" } else { "onstart" }
}

/// The specs of what is served, by the names of their objects.
fn served(core: &Core) -> BTreeMap<String, Value> {
    let mut served: BTreeMap<String, Value> = BTreeMap::new();
    for row in core.registry.rows() {
        let known = PRIORITIES.iter().find(|(group, _)| *group == row.group);
        let newest = if row.version == "v2" { 30 } else { 15 };
        let (group_priority, version_priority) = match known {
            Some(("", priority)) => (*priority, 1),
            Some((_, priority)) => (*priority, newest),
            None => CUSTOM,
        };
        let mut spec = json!({
            "version": row.version,
            "groupPriorityMinimum": group_priority,
            "versionPriority": version_priority,
        });
        if !row.group.is_empty() {
            spec["group"] = json!(row.group);
        }
        served.entry(format!("{}.{}", row.version, row.group)).or_insert(spec);
    }
    served
}
