//! The objects of a definition that is going: they go first.

use atoll_api::access::Access as _;
use atoll_api::kinds::metadata;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cache::{Entry, ResourceCache};
use crate::core::Core;
use crate::status::Status;
use crate::storage::{self, Extra};

/// Deletes that run at once.
const WORKERS: usize = 16;

/// Deletes what is there, as far as finalizers let it; true when nothing is left.
pub(super) async fn gone(core: &Core, crd: &Value) -> Result<bool, Status> {
    let (group, plural) =
        (crd["spec"].text("group"), crd["status"]["acceptedNames"].text("plural"));
    core.registry.catch_up().await?;
    let Some(cache) = core.registry.objects(group, plural) else { return Ok(true) };
    if cache.row().custom.as_ref().is_none_or(|custom| custom.crd != crd["metadata"].text("name")) {
        return Ok(true);
    }
    let entries = cache.list("");
    let deletes: Vec<_> = entries.iter().map(|entry| delete(core, &cache, entry)).collect();
    let mut deletes = futures::stream::iter(deletes).buffer_unordered(WORKERS);
    while let Some(done) = deletes.next().await {
        done?;
    }
    drop(deletes);
    core.registry.catch_up().await?;
    Ok(cache.is_empty())
}

async fn delete(core: &Core, cache: &ResourceCache, entry: &Entry) -> Result<(), Status> {
    let row = cache.row();
    let key = storage::key(row, entry.namespace(), entry.name());
    let Some(stored) = core.storage.get(row, entry.namespace(), entry.name()).await? else {
        return Ok(());
    };
    // As it stands: its version does not matter here.
    let mut object = storage::parse(&stored.value)?;
    if object["metadata"].items("finalizers").is_empty() {
        core.storage.delete(key, stored.revision, Extra::default()).await?;
        return Ok(());
    }
    if object["metadata"].has("deletionTimestamp") {
        return Ok(());
    }
    let generation = object["metadata"].int("generation").unwrap_or(0) + 1;
    let own = metadata::of(&mut object);
    own.insert("deletionTimestamp".to_owned(), json!(core.now_text()));
    own.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
    own.insert("generation".to_owned(), json!(generation));
    let value = serde_json::to_vec(&object).map_err(Status::internal)?;
    core.storage.update(key, stored.revision, value.into(), Extra::default()).await?;
    Ok(())
}
