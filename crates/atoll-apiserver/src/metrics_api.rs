//! metrics.k8s.io/v1beta1: what nodes and pods use right now.
//!
//! Nothing of it is stored. Each request asks the kubelets that it concerns, which have read
//! their counters within the last seconds; a node that does not answer is left out.

mod row;
mod scrape;

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo};
use atoll_api::quantity::Quantity;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::call::Call;
use crate::negotiate::Shape;
use crate::render::ListMeta;
use crate::selection::Selection;
use crate::status::Status;
use crate::{render, storage, table};

pub(crate) use row::rows;
use scrape::Summary;

/// Whether the row's objects are made here.
pub(crate) fn is(row: &ResourceInfo) -> bool {
    row.group == row::GROUP
}

/// Answers a get or a list.
pub(crate) async fn serve(call: &Call) -> Result<Bytes, Status> {
    let selection = Selection::parse(call)?;
    let subjects = subjects(call, &selection)?;
    let summaries = scrape::all(call, &nodes_of(call, &subjects)).await;
    let view = call.view();
    let mut objects: Vec<Value> =
        subjects.iter().filter_map(|subject| metrics(call, subject, &summaries)).collect();
    if call.info.verb == "get" {
        let object = objects.pop().ok_or_else(|| not_found(call))?;
        return view.encode(&view.object(object));
    }
    let meta = ListMeta::default();
    match call.accept.shape {
        Shape::Table { version } => view.encode(&table::of_list(&view, version, &objects, &meta)),
        Shape::PartialMetadata { version } => view.encode(&json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": version.api_version(),
            "metadata": {},
            "items": objects.iter().map(|one| render::partial(version, one)).collect::<Vec<_>>(),
        })),
        Shape::Full => {
            for object in &mut objects {
                if let Some(map) = object.as_object_mut() {
                    map.remove("kind");
                    map.remove("apiVersion");
                }
            }
            view.encode(&json!({
                "kind": call.row.list_kind,
                "apiVersion": call.row.api_version(),
                "metadata": {},
                "items": objects,
            }))
        }
    }
}

/// As metrics-server names what it does not know.
fn not_found(call: &Call) -> Status {
    let resource = call.row.kind.to_lowercase().into();
    let row = ResourceInfo { resource, ..ResourceInfo::clone(&call.row) };
    let name = match call.namespace() {
        "" => call.name().to_owned(),
        namespace => format!("{namespace}/{}", call.name()),
    };
    Status::not_found(&row, &name)
}

/// The nodes or pods that are asked about.
fn subjects(call: &Call, selection: &Selection) -> Result<Vec<Value>, Status> {
    let row = kinds::find("", "v1", &call.row.resource).ok_or_else(Status::no_resource)?;
    let cache = call.core.registry.cache(row).ok_or_else(Status::no_resource)?;
    let entries = cache.list(call.namespace());
    let fits = |entry: &&std::sync::Arc<Entry>| {
        (call.name().is_empty() || entry.name() == call.name()) && selection.matches(row, entry)
    };
    entries.iter().filter(fits).map(|entry| storage::parse(&entry.json)).collect()
}

fn nodes_of(call: &Call, subjects: &[Value]) -> Vec<String> {
    let node = |subject: &Value| match call.row.namespaced() {
        true => subject["spec"].text("nodeName").to_owned(),
        false => subject["metadata"].text("name").to_owned(),
    };
    let mut nodes: Vec<String> =
        subjects.iter().map(node).filter(|name| !name.is_empty()).collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

fn metrics(call: &Call, subject: &Value, summaries: &[Summary]) -> Option<Value> {
    match call.row.namespaced() {
        true => pod_metrics(call, subject, summaries),
        false => node_metrics(call, subject, summaries),
    }
}

fn node_metrics(call: &Call, node: &Value, summaries: &[Summary]) -> Option<Value> {
    let name = node["metadata"].text("name");
    let summary = summaries.iter().find(|summary| summary.node == name)?;
    let own = &summary.answer["node"];
    let mut object = begin(call, node, own)?;
    object["usage"] = usage(own)?;
    Some(object)
}

/// A pod of which a container cannot be told has none: a sum over some would mislead.
fn pod_metrics(call: &Call, pod: &Value, summaries: &[Summary]) -> Option<Value> {
    let node = pod["spec"].text("nodeName");
    let summary = summaries.iter().find(|summary| summary.node == node)?;
    let own = summary.answer.items("pods").iter().find(|one| is_of(&one["podRef"], pod))?;
    let mut object = begin(call, pod, own)?;
    let containers = own.items("containers").iter().map(|container| {
        usage(container).map(|usage| json!({"name": container["name"], "usage": usage}))
    });
    object["containers"] = Value::Array(containers.collect::<Option<Vec<Value>>>()?);
    Some(object)
}

/// A namesake that ran before is another pod.
fn is_of(reference: &Value, pod: &Value) -> bool {
    let metadata = &pod["metadata"];
    let same = |field| reference.text(field) == metadata.text(field);
    same("namespace") && same("name") && (!reference.has("uid") || same("uid"))
}

/// Everything but the usage.
fn begin(call: &Call, subject: &Value, own: &Value) -> Option<Value> {
    let cpu = &own["cpu"];
    let mut metadata = json!({
        "name": subject["metadata"]["name"],
        "creationTimestamp": call.core.now_text(),
    });
    for field in ["namespace", "labels"] {
        if subject["metadata"].has(field) {
            metadata[field] = subject["metadata"][field].clone();
        }
    }
    let at: jiff::Timestamp = cpu["time"].as_str()?.parse().ok()?;
    Some(json!({
        "kind": call.row.kind,
        "apiVersion": call.row.api_version(),
        "metadata": metadata,
        "timestamp": crate::core::timestamp(at),
        "window": window(cpu["windowNanoSeconds"].as_u64()?),
    }))
}

/// As Go prints a duration of seconds.
fn window(nanos: u64) -> String {
    let (seconds, millis) = (nanos / 1_000_000_000, nanos / 1_000_000 % 1000);
    let fraction = format!("{millis:03}");
    match fraction.trim_end_matches('0') {
        "" => format!("{seconds}s"),
        fraction => format!("{seconds}.{fraction}s"),
    }
}

fn usage(own: &Value) -> Option<Value> {
    let cpu = own["cpu"]["usageNanoCores"].as_u64()?;
    let memory = own["memory"]["workingSetBytes"].as_u64()?;
    let memory = if memory.is_multiple_of(1024) {
        format!("{}Ki", memory / 1024)
    } else {
        memory.to_string()
    };
    let canonical = |text: String| text.parse::<Quantity>().ok().map(|one| one.to_string());
    Some(json!({"cpu": canonical(format!("{cpu}n"))?, "memory": canonical(memory)?}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_in_the_units_of_quantities() {
        let own = json!({"cpu": {"usageNanoCores": 1_500_000},
            "memory": {"workingSetBytes": 4096 * 3}});
        assert_eq!(usage(&own), Some(json!({"cpu": "1500u", "memory": "12Ki"})));
        assert_eq!(usage(&json!({"cpu": {}, "memory": {"workingSetBytes": 1}})), None);
    }

    #[test]
    fn a_window_is_a_duration() {
        assert_eq!(window(10_000_000_000), "10s");
        assert_eq!(window(10_012_345_678), "10.012s");
    }
}
