//! Resources whose objects are computed when somebody reads them and stand nowhere:
//! ComponentStatus, by which old clients ask whether the parts of a server are well.

use std::sync::Arc;

use atoll_api::access::Access as _;
use atoll_api::kinds::ResourceInfo;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::call::Call;
use crate::core::Core;
use crate::render::ListMeta;
use crate::selection::Selection;
use crate::status::Status;
use crate::storage;

type Compute = fn(&Core) -> Vec<Value>;

static COMPUTED: &[(&str, &str, Compute)] = &[("", "componentstatuses", components)];

/// Components that run where they hold a Lease of this name in kube-system.
const LEASED: [(&str, &str); 2] =
    [("scheduler", "kube-scheduler"), ("controller-manager", "kube-controller-manager")];

/// What computes the objects of a row, when they are computed.
pub(crate) fn of(row: &ResourceInfo) -> Option<Compute> {
    let found = |one: &&(&str, &str, Compute)| one.0 == row.group && one.1 == row.resource;
    COMPUTED.iter().find(found).map(|(_, _, compute)| *compute)
}

/// Answers a get or a list.
pub(crate) fn read(call: &Call, compute: Compute) -> Result<Bytes, Status> {
    let mut entries = Vec::new();
    for object in compute(&call.core) {
        let name = object["metadata"].text("name").to_owned();
        let value = storage::encode(&call.row, &object)?;
        entries.push(Arc::new(Entry::decode(&call.row, &name, 0, &value)?));
    }
    if call.name().is_empty() {
        let selection = Selection::parse(call)?;
        entries.retain(|entry| selection.matches(&call.row, entry));
        return call.view().list(&entries, &ListMeta::default());
    }
    let entry = entries.iter().find(|entry| entry.name() == call.name());
    call.view().entry(entry.ok_or_else(|| call.not_found())?)
}

fn components(core: &Core) -> Vec<Value> {
    let mut all: Vec<Value> =
        LEASED.iter().map(|(name, lease)| component(name, lease_problem(core, lease))).collect();
    let alone = "the store has no leader that this server sees".to_owned();
    all.push(component("etcd-0", core.is_cut_off().then_some(alone)));
    all.sort_by(|one, other| one["metadata"].text("name").cmp(other["metadata"].text("name")));
    all
}

fn component(name: &str, problem: Option<String>) -> Value {
    let condition = match problem {
        None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Some(error) => json!({"type": "Healthy", "status": "False", "error": error}),
    };
    json!({"metadata": {"name": name}, "conditions": [condition]})
}

/// A holder that has not renewed its Lease in time is not there.
fn lease_problem(core: &Core, name: &str) -> Option<String> {
    let cache = core.registry.objects("coordination.k8s.io", "leases");
    let entry = cache.as_ref().and_then(|cache| cache.get("kube-system", name));
    let Some(entry) = entry else {
        return Some(format!("nobody holds the Lease kube-system/{name}"));
    };
    let object = entry.object(cache.as_ref()?.row()).ok()?;
    let spec = &object["spec"];
    let renewed: Option<Timestamp> = spec.text("renewTime").parse().ok();
    let holds = spec.int("leaseDurationSeconds").unwrap_or(0);
    let age = renewed.map(|at| core.now().duration_since(at).as_secs());
    match age {
        Some(age) if age <= holds && !spec.text("holderIdentity").is_empty() => None,
        _ => Some(format!("the holder of the Lease kube-system/{name} has not renewed it")),
    }
}
