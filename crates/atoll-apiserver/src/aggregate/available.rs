//! Keeps the condition `Available` of every APIService that names a Service.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::checked::{self, Availability};
use super::{GROUP, RESOURCE, Remote};
use crate::core::Core;
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra};

/// How often servers are asked again though nothing has changed; upstream's number.
const AGAIN: Duration = Duration::from_secs(30);
/// How often those are that are not there.
const SOON: Duration = Duration::from_secs(2);
/// Changes that come together are looked at once.
const TOGETHER: Duration = Duration::from_millis(500);
/// Servers that are asked at once.
const CHECKS_MAX: usize = 8;

pub(crate) async fn keep(core: Arc<Core>) {
    let caches = [(GROUP, RESOURCE), ("", "services"), ("discovery.k8s.io", "endpointslices")]
        .map(|(group, resource)| core.registry.objects(group, resource));
    let [Some(own), Some(services), Some(slices)] = caches else { return };
    let (mut a, mut b, mut c) = (own.subscribe(), services.subscribe(), slices.subscribe());
    loop {
        let remotes = core.aggregate.current().remotes.clone();
        let well = check_all(&core, &remotes).await;
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = a.changed() => changed,
            // Without servers nobody else's changes matter.
            changed = b.changed(), if !remotes.is_empty() => changed,
            changed = c.changed(), if !remotes.is_empty() => changed,
            () = tokio::time::sleep(if well { AGAIN } else { SOON }), if !remotes.is_empty() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(TOGETHER).await;
        a.mark_unchanged();
        b.mark_unchanged();
        c.mark_unchanged();
    }
}

/// Whether all of them are there.
async fn check_all(core: &Arc<Core>, remotes: &[Arc<Remote>]) -> bool {
    let checks = remotes.iter().map(|remote| async {
        let (availability, said) = checked::check(core, remote).await;
        let available = availability.available;
        if available {
            core.aggregate.said().insert(remote.name.clone(), said);
        } else {
            core.aggregate.said().remove(&remote.name);
        }
        if let Err(error) = write(core, &remote.name, &availability).await {
            tracing::warn!(%error, name = remote.name, "an APIService could not be updated");
        }
        available
    });
    let checks: Vec<_> = checks.collect();
    let found: Vec<bool> =
        futures::stream::iter(checks).buffer_unordered(CHECKS_MAX).collect().await;
    core.aggregate.said().retain(|name, _| remotes.iter().any(|remote| remote.name == *name));
    found.into_iter().all(|available| available)
}

async fn write(core: &Core, name: &str, found: &Availability) -> Result<(), Status> {
    let row = initial::row(GROUP, RESOURCE)?;
    let Some(stored) = core.storage.get(row, "", name).await? else { return Ok(()) };
    let mut service = stored.object(row)?;
    let status = if found.available { "True" } else { "False" };
    let wanted = condition(status, found.reason, &found.message, &core.now_text());
    if !put(&mut service, wanted) {
        return Ok(());
    }
    tracing::info!(name, status, reason = found.reason, "availability of an API server changed");
    let (key, value) = (storage::key(row, "", name), storage::encode(row, &service)?);
    // Whoever was faster wakes this task again.
    core.storage.update(key, stored.revision, value, Extra::default()).await.map(drop)
}

pub(super) fn condition(status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({
        "type": "Available",
        "status": status,
        "lastTransitionTime": now,
        "reason": reason,
        "message": message,
    })
}

/// Sets the condition; says whether anything but its time is different now.
pub(super) fn put(service: &mut Value, mut wanted: Value) -> bool {
    let conditions = service["status"].items("conditions");
    let own = conditions.iter().find(|one| one.text("type") == "Available");
    if let Some(own) = own {
        let same = |field: &str| own.text(field) == wanted.text(field);
        if same("status") && same("reason") && same("message") {
            return false;
        }
        if same("status") {
            wanted["lastTransitionTime"] = own["lastTransitionTime"].clone();
        }
    }
    let mut conditions: Vec<Value> =
        conditions.iter().filter(|one| one.text("type") != "Available").cloned().collect();
    conditions.push(wanted);
    service["status"] = json!({"conditions": conditions});
    true
}
