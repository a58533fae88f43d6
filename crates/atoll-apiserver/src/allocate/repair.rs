//! Makes IPAddress objects agree with Services again: after an upgrade from a release that
//! made none, and when somebody deletes or invents some.
//!
//! It looks whenever either changes, on the server that leads only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use serde_json::Value;

use super::addresses::{self, GROUP, MANAGED_BY, MANAGED_LABEL};
use crate::cache::ResourceCache;
use crate::core::Core;
use crate::status::Status;
use crate::storage::{self, Extra};

/// Changes of the same moment are looked at together.
const SETTLE: Duration = Duration::from_secs(1);

/// Follows Services and IPAddress objects until the server stops.
pub(crate) async fn run(core: Arc<Core>) {
    let caches =
        (core.registry.objects("", "services"), core.registry.objects(GROUP, "ipaddresses"));
    let (Some(services), Some(held)) = caches else { return };
    let (mut a, mut b) = (services.subscribe(), held.subscribe());
    loop {
        if core.config.servers.as_ref().is_none_or(|servers| *servers.leads.borrow())
            && let Err(error) = pass(&core, &services, &held).await
        {
            tracing::warn!(%error, "IPAddress objects could not be made to agree with Services");
        }
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = a.changed() => changed,
            changed = b.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

async fn pass(core: &Core, services: &ResourceCache, held: &ResourceCache) -> Result<(), Status> {
    // The order matters: a Service that comes between the two has its IPAddress from the same
    // transaction, and must not look as if it were missing.
    let known = held.list("");
    let wanted = holders(services)?;
    for (address, service) in &wanted {
        let name = address.to_string();
        if !known.iter().any(|entry| entry.name() == name) {
            create(core, *address, service).await?;
        }
    }
    for entry in known {
        let object = entry.object(held.row())?;
        if entry.label(MANAGED_LABEL) == Some(MANAGED_BY) && is_orphan(&object, &wanted) {
            remove(core, held, &object).await?;
        }
    }
    Ok(())
}

fn holders(services: &ResourceCache) -> Result<BTreeMap<Ipv4Addr, Value>, Status> {
    let mut all = BTreeMap::new();
    for entry in services.list("") {
        let service = entry.object(services.row())?;
        if let Some(address) = addresses::of(&service) {
            all.insert(address, service);
        }
    }
    Ok(all)
}

fn is_orphan(object: &Value, wanted: &BTreeMap<Ipv4Addr, Value>) -> bool {
    let Ok(address) = object["metadata"].text("name").parse() else { return false };
    let parent = &object["spec"]["parentRef"];
    wanted.get(&address).is_none_or(|service| {
        ["namespace", "name"].iter().any(|part| parent.text(part) != service["metadata"].text(part))
    })
}

/// Only while the Service still is what was seen.
async fn create(core: &Core, address: Ipv4Addr, service: &Value) -> Result<(), Status> {
    let key = addresses::object_key(address)?;
    let mut extra = Extra::default();
    let row = crate::initial::row("", "services")?;
    let metadata = &service["metadata"];
    let own = storage::key(row, metadata.text("namespace"), metadata.text("name"));
    extra.require(own, revision(service));
    let value = addresses::encoded(core, address, service)?;
    core.storage.create(key.into(), value.into(), extra).await?;
    Ok(())
}

async fn remove(core: &Core, held: &ResourceCache, object: &Value) -> Result<(), Status> {
    let key = storage::key(held.row(), "", object["metadata"].text("name"));
    core.storage.delete(key, revision(object), Extra::default()).await?;
    Ok(())
}

fn revision(object: &Value) -> i64 {
    object["metadata"].text("resourceVersion").parse().unwrap_or(0)
}
