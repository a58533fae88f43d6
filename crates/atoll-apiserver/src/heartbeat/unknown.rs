//! Writes down that nobody hears from a node, as upstream's node controller does.

use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Clock;
use crate::core::timestamp;
use crate::status::Status;
use crate::storage::{self, Extra, Storage, Written};

const CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const RETRY: Duration = Duration::from_millis(200);

/// Sets the conditions to Unknown; tries until it is written, the Node is gone or `stop`.
pub(super) async fn mark(
    storage: &Storage,
    clock: &dyn Clock,
    name: &str,
    stop: &CancellationToken,
) {
    loop {
        match attempt(storage, clock, name).await {
            Ok(true) => return,
            Ok(false) => continue,
            Err(error) => {
                tracing::warn!(%error, node = name, "marking the node failed, will retry")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// False when somebody else wrote in between.
async fn attempt(storage: &Storage, clock: &dyn Clock, name: &str) -> Result<bool, Status> {
    let row = kinds::find("", "v1", "nodes").ok_or_else(Status::no_resource)?;
    let Some(stored) = storage.get(row, "", name).await? else { return Ok(true) };
    let mut node = stored.object(row)?;
    if !set_unknown(&mut node, &timestamp(clock.now())) {
        return Ok(true);
    }
    let key = storage::key(row, "", name);
    let value = storage::encode(row, &node)?;
    let written = storage.update(key, stored.revision, value, Extra::default()).await?;
    Ok(matches!(written, Written::Done(_)))
}

/// Whether anything changed.
fn set_unknown(node: &mut Value, now: &str) -> bool {
    if !node["status"].is_object() {
        node["status"] = json!({});
    }
    let mut conditions = node["status"].items("conditions").to_vec();
    let mut changed = false;
    for kind in CONDITIONS {
        let at = conditions.iter().position(|condition| condition.text("type") == kind);
        let known = at.and_then(|at| conditions.get_mut(at));
        match known {
            Some(condition) if condition.text("status") == "Unknown" => {}
            Some(condition) => {
                condition["status"] = json!("Unknown");
                condition["reason"] = json!("NodeStatusUnknown");
                condition["message"] = json!("Kubelet stopped posting node status.");
                condition["lastTransitionTime"] = json!(now);
                changed = true;
            }
            None => {
                conditions.push(json!({
                    "type": kind,
                    "status": "Unknown",
                    "reason": "NodeStatusNeverUpdated",
                    "message": "Kubelet never posted node status.",
                    "lastHeartbeatTime": node["metadata"]["creationTimestamp"],
                    "lastTransitionTime": now,
                }));
                changed = true;
            }
        }
    }
    node["status"]["conditions"] = conditions.into();
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_unknown_in_every_respect() {
        let mut node = json!({"metadata": {"creationTimestamp": "t0"}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "t1"},
            {"type": "Other", "status": "True"},
        ]}});
        assert!(set_unknown(&mut node, "t2"));
        let conditions = node["status"].items("conditions");
        assert_eq!(conditions[0]["reason"], "NodeStatusUnknown");
        assert_eq!(conditions[0]["lastHeartbeatTime"], "t1");
        assert_eq!(conditions[0]["lastTransitionTime"], "t2");
        assert_eq!(conditions[1]["status"], "True");
        assert_eq!(conditions[2]["reason"], "NodeStatusNeverUpdated");
        assert_eq!(conditions.len(), 5);
        assert!(!set_unknown(&mut node, "t3"), "nothing to do twice");
    }
}
