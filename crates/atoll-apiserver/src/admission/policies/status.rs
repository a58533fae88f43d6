//! `status.typeChecking` of validating policies: what is wrong with their expressions for the
//! kinds that they name. Warnings only; a policy works with them all the same.

use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::cel::admission::type_check::{self, Known};
use atoll_api::cel::{Decl, Type};
use atoll_api::kinds::{ResourceInfo, Row};
use serde_json::{Value, json};

use super::{params, validating_row};
use crate::admission::policies::kept::ParamKind;
use crate::cache::Entry;
use crate::core::Core;
use crate::status::Status;
use crate::storage::{self, Extra};

/// Between a change and the next look, so that many changes are looked at together.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the policies until the server stops.
pub(crate) async fn keep(core: Arc<Core>) {
    let Some(row) = validating_row() else { return };
    let Some(cache) = core.registry.cache(row) else { return };
    let mut changes = cache.subscribe();
    loop {
        changes.borrow_and_update();
        for entry in cache.list("") {
            if let Err(error) = look(&core, row, &entry).await {
                tracing::warn!(policy = entry.name(), %error, "its status was not written");
            }
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Writes the status of one policy unless it is that of its generation. Another server may be
/// faster; then the revision has changed and nothing is written.
async fn look(core: &Core, row: &'static ResourceInfo, entry: &Entry) -> Result<(), Status> {
    let mut policy = entry.object(row)?;
    let generation = policy["metadata"].int("generation").unwrap_or(0);
    if policy["status"].int("observedGeneration") == Some(generation) {
        return Ok(());
    }
    let warnings = warnings(core, &policy["spec"]);
    policy["status"]["observedGeneration"] = json!(generation);
    policy["status"]["typeChecking"] =
        if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    let key = storage::key(row, "", entry.name());
    let value = storage::encode(row, &policy)?;
    core.storage.update(key, entry.revision, value, Extra::default()).await?;
    Ok(())
}

fn warnings(core: &Core, spec: &Value) -> Vec<Value> {
    let mut kinds = Vec::new();
    for named in type_check::named(spec) {
        let row = core.registry.row(&named.group, &named.version, &named.resource);
        let Some(row) = row else { continue };
        if let Some(ty) = type_of(&row) {
            kinds.push(Known { shown: format!("{}, Kind={}", row.api_version(), row.kind), ty });
        }
    }
    let params = spec.has("paramKind").then(|| ParamKind {
        api_version: spec["paramKind"].text("apiVersion").to_owned(),
        kind: spec["paramKind"].text("kind").to_owned(),
    });
    let params = params.and_then(|kind| params::row(core, &kind)).and_then(|row| type_of(&row));
    type_check::warnings(spec, &kinds, params.as_ref())
}

/// The type of a kind's objects.
fn type_of(row: &Row) -> Option<Type> {
    match &row.custom {
        Some(custom) => Decl::of_schema(&custom.schema, &row.kind, true).map(|decl| decl.ty()),
        None => Type::builtin(&row.definition),
    }
}
