//! `/stats/summary` and `/pods`: what runs here and what it uses.

use serde_json::{Value, json};

use crate::kubelet::routes::Routes;
use crate::kubelet::usage::Reading;
use crate::kubelet::{Answer, json as answer_json};
use crate::pod::task::{PodHandle, Shown};
use crate::pod::track::RunState;

pub(crate) fn answer(routes: &Routes) -> Answer {
    let cx = &routes.cx;
    let pods: Vec<Value> = routes.pods.all().values().map(|handle| pod(routes, handle)).collect();
    let mut node = json!({ "nodeName": cx.config.node_name });
    if let Some(reading) = routes.usage.node() {
        node["cpu"] = cpu(&reading);
        node["memory"] = memory(&reading);
        let total = u64::try_from(cx.machine.memory_bytes).unwrap_or(0);
        node["memory"]["availableBytes"] =
            json!(total.saturating_sub(reading.memory_working_set_bytes));
    }
    answer_json(&json!({ "node": node, "pods": pods }))
}

fn pod(routes: &Routes, handle: &PodHandle) -> Value {
    let shown = handle.shown.borrow().clone();
    let readings = running(routes, &shown);
    let containers: Vec<Value> = readings
        .iter()
        .map(|(name, started, reading)| {
            json!({
                "name": name,
                "startTime": started,
                "cpu": cpu(reading),
                "memory": memory(reading),
            })
        })
        .collect();
    let id = &handle.id;
    let mut pod = json!({
        "podRef": { "name": id.name, "namespace": id.namespace, "uid": id.uid },
        "startTime": shown.status.start_time,
        "containers": containers,
    });
    if let Some(sum) = sum(&readings) {
        pod["cpu"] = cpu(&sum);
        pod["memory"] = memory(&sum);
    }
    pod
}

/// Name, start and reading of every container that runs.
pub(crate) fn running(routes: &Routes, shown: &Shown) -> Vec<(String, String, Reading)> {
    let mut readings = Vec::new();
    for (name, container) in &shown.containers {
        let Some(run) = container.current.as_ref() else { continue };
        let RunState::Running { started_at } = &run.state else { continue };
        if let Some(reading) = routes.usage.container(&run.reference) {
            readings.push((name.clone(), started_at.to_string(), reading));
        }
    }
    readings
}

/// What the containers of a pod use together.
pub(crate) fn sum(readings: &[(String, String, Reading)]) -> Option<Reading> {
    let (_, _, mut sum) = readings.first()?.clone();
    for (_, _, one) in &readings[1..] {
        sum.cpu_ns += one.cpu_ns;
        sum.memory_usage_bytes += one.memory_usage_bytes;
        sum.memory_working_set_bytes += one.memory_working_set_bytes;
        sum.memory_rss_bytes += one.memory_rss_bytes;
        sum.rate = match (sum.rate, one.rate) {
            (Some(mut rate), Some(own)) => {
                rate.nanocores += own.nanocores;
                Some(rate)
            }
            _ => None,
        };
    }
    Some(sum)
}

fn cpu(reading: &Reading) -> Value {
    let mut cpu = json!({ "time": reading.at.to_string(), "usageCoreNanoSeconds": reading.cpu_ns });
    if let Some(rate) = reading.rate {
        cpu["usageNanoCores"] = json!(rate.nanocores);
        // Not in the kubelet's answer: over which time the rate is.
        cpu["windowNanoSeconds"] = json!(u64::try_from(rate.window.as_nanos()).unwrap_or(0));
    }
    cpu
}

fn memory(reading: &Reading) -> Value {
    json!({
        "time": reading.at.to_string(),
        "usageBytes": reading.memory_usage_bytes,
        "workingSetBytes": reading.memory_working_set_bytes,
        "rssBytes": reading.memory_rss_bytes,
    })
}

/// The pods with the status that this node gives them.
pub(crate) fn pods(routes: &Routes) -> Answer {
    let items: Vec<Value> = routes
        .pods
        .all()
        .values()
        .filter_map(|handle| serde_json::to_value(handle.shown.borrow().object()).ok())
        .collect();
    answer_json(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}
