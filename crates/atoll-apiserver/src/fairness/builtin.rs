//! The flow schemas and priority levels that the server makes, and what it says of theirs.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds::ResourceInfo;
use atoll_api::kinds::flow::{self, AUTO_UPDATE_ANNOTATION, FlowObject};
use serde_json::{Value, json};

use crate::cache::ResourceCache;
use crate::core::Core;
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Changes that come together are looked at once.
const TOGETHER: Duration = Duration::from_millis(500);

/// What every cluster begins with. In one that is there already only what is mandatory comes
/// back, for the others may have been deleted on purpose.
pub(crate) async fn create(core: &Core) -> Result<(), Status> {
    let begun = core
        .registry
        .objects(GROUP, "flowschemas")
        .is_some_and(|cache| cache.get("", "exempt").is_some());
    write_missing(core, |object| object.mandatory || !begun).await
}

async fn write_missing(core: &Core, wanted: impl Fn(&FlowObject) -> bool) -> Result<(), Status> {
    let mut batch = Vec::new();
    for object in flow::builtin().into_iter().filter(wanted) {
        let row = initial::row(GROUP, object.resource)?;
        if core.registry.cache(row).is_some_and(|cache| cache.get("", object.name).is_some()) {
            continue;
        }
        let annotations = json!({AUTO_UPDATE_ANNOTATION: "true"});
        let value = json!({"metadata": {"annotations": annotations}, "spec": object.spec});
        let value = initial::complete(core, row, "", object.name, value);
        batch.push((storage::key(row, "", object.name), storage::encode(row, &value)?));
    }
    core.storage.ensure(batch).await
}

/// Puts what is mandatory back whenever somebody deletes it, and says of each flow schema
/// whether its level is there.
pub(crate) async fn keep(core: Arc<Core>) {
    let caches = ["flowschemas", "prioritylevelconfigurations"]
        .map(|resource| core.registry.objects(GROUP, resource));
    let [Some(schemas), Some(levels)] = caches else { return };
    let (mut a, mut b) = (schemas.subscribe(), levels.subscribe());
    loop {
        if let Err(error) = settle(&core, &schemas, &levels).await {
            tracing::warn!(%error, "flow schemas could not be kept, will retry");
        }
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = a.changed() => changed,
            changed = b.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(TOGETHER).await;
        a.mark_unchanged();
        b.mark_unchanged();
    }
}

async fn settle(
    core: &Core,
    schemas: &ResourceCache,
    levels: &ResourceCache,
) -> Result<(), Status> {
    write_missing(core, |object| object.mandatory).await?;
    let known: HashSet<String> =
        levels.list("").iter().map(|level| level.name().to_owned()).collect();
    let row = initial::row(GROUP, "flowschemas")?;
    for entry in schemas.list("") {
        let schema = entry.object(row)?;
        let level = schema["spec"]["priorityLevelConfiguration"].text("name").to_owned();
        say(core, row, entry.name(), &level, known.contains(&level)).await?;
    }
    Ok(())
}

/// Writes the condition `Dangling` where it is not what it should be.
async fn say(
    core: &Core,
    row: &ResourceInfo,
    name: &str,
    level: &str,
    found: bool,
) -> Result<(), Status> {
    let Some(stored) = core.storage.get(row, "", name).await? else { return Ok(()) };
    let mut schema = stored.object(row)?;
    let condition = dangling(level, found, &core.now_text());
    let conditions = schema["status"].items("conditions");
    let own = conditions.iter().find(|one| one.text("type") == "Dangling");
    if own.is_some_and(|own| own["status"] == condition["status"]) {
        return Ok(());
    }
    let mut conditions: Vec<Value> =
        conditions.iter().filter(|one| one.text("type") != "Dangling").cloned().collect();
    conditions.push(condition);
    schema["status"] = json!({"conditions": conditions});
    let (key, value) = (storage::key(row, "", name), storage::encode(row, &schema)?);
    // Whoever was faster wakes this task again.
    core.storage.update(key, stored.revision, value, Extra::default()).await.map(drop)
}

fn dangling(level: &str, found: bool, now: &str) -> Value {
    let (status, reason, rest) = if found {
        ("False", "Found", "it exists")
    } else {
        ("True", "NotFound", "there is no such object")
    };
    json!({
        "type": "Dangling",
        "status": status,
        "reason": reason,
        "lastTransitionTime": now,
        "message": format!(
            "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and \
             {rest}"
        ),
    })
}
