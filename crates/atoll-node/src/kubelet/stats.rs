//! `/stats/summary` and `/pods`: what runs here and what it uses.

use serde_json::{Value, json};

use crate::kubelet::routes::Routes;
use crate::kubelet::{Answer, json as answer_json};
use crate::machine::meminfo_bytes;

pub(crate) async fn answer(routes: &Routes) -> Answer {
    let cx = &routes.cx;
    let now = cx.now().to_string();
    let mut pods = Vec::new();
    for handle in routes.pods.all().values() {
        let shown = handle.shown.borrow().clone();
        let mut containers = Vec::new();
        for (name, container) in &shown.containers {
            let Some(run) = container.current.as_ref().filter(|run| run.is_running()) else {
                continue;
            };
            let Ok(stats) = cx.runtime.stats(&run.reference).await else { continue };
            containers.push(json!({
                "name": name,
                "cpu": { "time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns },
                "memory": {
                    "time": now,
                    "usageBytes": stats.memory_usage_bytes,
                    "workingSetBytes": stats.memory_working_set_bytes,
                    "rssBytes": stats.memory_rss_bytes,
                },
            }));
        }
        let id = &handle.id;
        pods.push(json!({
            "podRef": { "name": id.name, "namespace": id.namespace, "uid": id.uid },
            "containers": containers,
        }));
    }
    let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.unwrap_or_default();
    let available = meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(0);
    let node = json!({
        "nodeName": cx.config.node_name,
        "memory": { "time": now, "availableBytes": available,
            "workingSetBytes": cx.machine.memory_bytes - available },
    });
    answer_json(&json!({ "node": node, "pods": pods }))
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
