//! Keeps the status of definitions: accepted names, conditions, and their end.
//!
//! Every server does this; writes compare and swap, so the first one wins and the others see
//! that nothing is left to do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo, extensions};
use atoll_store::kv::Revision;
use serde_json::{Value, json};

use super::{instances, names};
use crate::cache::Entry;
use crate::core::Core;
use crate::status::Status;
use crate::storage::{self, Extra, Stored};

/// Between two looks at definitions whose objects are going.
const AGAIN: Duration = Duration::from_millis(200);

/// Follows the definitions until the server stops.
pub(crate) async fn run(core: Arc<Core>) {
    let Some(row) = kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
        return;
    };
    let Some(cache) = core.registry.cache(row) else { return };
    let mut changes = cache.subscribe();
    let mut known = Known::default();
    loop {
        changes.mark_unchanged();
        let all = known.renew(&cache.list(""), row);
        let mut again = false;
        for crd in &all {
            match sync(&core, row, crd, &all).await {
                Ok(done) => again |= !done,
                Err(error) => {
                    let name = crd["metadata"].text("name");
                    tracing::warn!(%error, name, "the status of a definition was not written");
                    again = true;
                }
            }
        }
        let wait = async {
            if again {
                tokio::time::sleep(AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

/// Definitions without their versions, which are large and do not matter here: only those that
/// changed are read again.
#[derive(Default)]
struct Known(HashMap<Box<str>, (Revision, Arc<Value>)>);

impl Known {
    fn renew(&mut self, entries: &[Arc<Entry>], row: &ResourceInfo) -> Vec<Arc<Value>> {
        let mut next = HashMap::with_capacity(entries.len());
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            let same = self.0.remove(&entry.key).filter(|(at, _)| *at == entry.revision);
            let crd = match same {
                Some((_, crd)) => crd,
                None => {
                    let Ok(mut crd) = entry.object(row) else { continue };
                    if let Some(spec) = crd["spec"].as_object_mut() {
                        spec.remove("versions");
                    }
                    Arc::new(crd)
                }
            };
            all.push(crd.clone());
            next.insert(entry.key.clone(), (entry.revision, crd));
        }
        self.0 = next;
        all
    }
}

/// One pass over one definition; false when there is more to do later.
async fn sync(
    core: &Arc<Core>,
    row: &ResourceInfo,
    crd: &Value,
    all: &[Arc<Value>],
) -> Result<bool, Status> {
    if crd["metadata"].has("deletionTimestamp") {
        return end(core, row, crd).await;
    }
    let mut wanted = crd.clone();
    let verdict = names::judge(crd, all);
    wanted["status"]["acceptedNames"] = verdict.accepted;
    match &verdict.conflict {
        Some((reason, message)) => {
            set(core, &mut wanted, "NamesAccepted", false, reason, message);
            if !extensions::is(crd, "Established") {
                let why = "not all names are accepted";
                set(core, &mut wanted, "Established", false, "NotAccepted", why);
            }
        }
        None => {
            set(core, &mut wanted, "NamesAccepted", true, "NoConflicts", "no conflicts found");
            let why = "the initial names have been accepted";
            set(core, &mut wanted, "Established", true, "InitialNamesAccepted", why);
        }
    }
    approval(core, &mut wanted);
    write(core, row, crd, &wanted).await
}

/// A definition that is going: its objects first, then itself.
async fn end(core: &Arc<Core>, row: &ResourceInfo, crd: &Value) -> Result<bool, Status> {
    let finalizers = crd["metadata"].items("finalizers");
    if !finalizers.iter().any(|one| one == extensions::CLEANUP_FINALIZER) {
        return Ok(true);
    }
    let mut wanted = crd.clone();
    if !extensions::is(crd, "Terminating") {
        let why = "CustomResource deletion is in progress";
        set(core, &mut wanted, "Terminating", true, "InstanceDeletionInProgress", why);
        write(core, row, crd, &wanted).await?;
        return Ok(false);
    }
    if extensions::is(crd, "Established") && !instances::gone(core, crd).await? {
        return Ok(false);
    }
    let why = "removed all instances";
    set(core, &mut wanted, "Terminating", false, "InstanceDeletionCompleted", why);
    let left: Vec<Value> =
        finalizers.iter().filter(|one| **one != extensions::CLEANUP_FINALIZER).cloned().collect();
    if let Some(metadata) = wanted["metadata"].as_object_mut() {
        if left.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), Value::Array(left.clone()));
        }
    }
    if !left.is_empty() {
        return write(core, row, crd, &wanted).await;
    }
    let name = crd["metadata"].text("name");
    let key = storage::key(row, "", name);
    let Some(stored) = core.storage.get(row, "", name).await? else { return Ok(true) };
    if !same(&stored, crd) {
        return Ok(false);
    }
    core.storage.delete(key, stored.revision, Extra::default()).await?;
    Ok(true)
}

fn same(stored: &Stored, crd: &Value) -> bool {
    crd["metadata"].text("resourceVersion") == stored.revision.to_string()
}

/// Groups of Kubernetes itself are for those who were asked.
fn approval(core: &Core, crd: &mut Value) {
    let group = crd["spec"].text("group");
    if !group.ends_with(".k8s.io") && !group.ends_with(".kubernetes.io") {
        return;
    }
    let text = crd["metadata"]["annotations"].text("api-approved.kubernetes.io").to_owned();
    let kind = "KubernetesAPIApprovalPolicyConformant";
    if text.starts_with("http") {
        let why = format!("approved in {text}");
        set(core, crd, kind, true, "ApprovedAnnotation", &why);
    } else if text.starts_with("unapproved") {
        let why = format!("not approved: {text:?}");
        set(core, crd, kind, false, "UnapprovedAnnotation", &why);
    }
}

/// Sets a condition; its time moves only with its status.
fn set(core: &Core, crd: &mut Value, kind: &str, holds: bool, reason: &str, message: &str) {
    let status = if holds { "True" } else { "False" };
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = crd["status"]["conditions"].as_array_mut() else { return };
    let old = conditions.iter_mut().find(|one| one.text("type") == kind);
    let time = match &old {
        Some(old) if old.text("status") == status => old["lastTransitionTime"].clone(),
        _ => json!(core.now_text()),
    };
    let new = json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": time,
        "reason": reason,
        "message": message,
    });
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Writes a definition that differs; false when somebody else was faster.
async fn write(
    core: &Core,
    row: &ResourceInfo,
    crd: &Value,
    wanted: &Value,
) -> Result<bool, Status> {
    if wanted == crd {
        return Ok(true);
    }
    let name = crd["metadata"].text("name");
    let Some(stored) = core.storage.get(row, "", name).await? else { return Ok(true) };
    if !same(&stored, crd) {
        return Ok(false);
    }
    let mut object = stored.object(row)?;
    object["status"] = wanted["status"].clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        match wanted["metadata"].get("finalizers") {
            Some(left) => metadata.insert("finalizers".to_owned(), left.clone()),
            None => metadata.remove("finalizers"),
        };
    }
    let value = storage::encode(row, &object)?;
    let key = storage::key(row, "", name);
    let written = core.storage.update(key, stored.revision, value, Extra::default()).await?;
    Ok(matches!(written, storage::Written::Done(_)))
}
