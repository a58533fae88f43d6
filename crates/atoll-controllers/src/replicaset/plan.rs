//! Which pods a ReplicaSet creates or deletes; decides only.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::ResourceExt;
use std::{cmp::Reverse, sync::Arc};

/// Pods created or deleted by one pass. A larger difference takes several passes,
/// so that one bad manifest cannot flood the API server.
const BURST_MAX: usize = 500;

/// One write that brings the cluster closer to the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Delete { name: String, uid: String },
}

/// `pods_on` counts the active pods of a node, whoever owns them.
pub(super) fn plan(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    pods_on: &dyn Fn(&str) -> usize,
) -> Vec<Step> {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let live: Vec<&Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    if live.len() <= wanted {
        return vec![Step::Create; (wanted - live.len()).min(BURST_MAX)];
    }
    let surplus = (live.len() - wanted).min(BURST_MAX);
    let mut ranked: Vec<_> = live.iter().map(|pod| (rank(pod, &live, pods_on), *pod)).collect();
    ranked.sort_by(|left, right| left.0.cmp(&right.0));
    let doomed = ranked.into_iter().take(surplus);
    doomed
        .map(|(_, pod)| Step::Delete { name: pod.name_any(), uid: pod.uid().unwrap_or_default() })
        .collect()
}

/// The order of kube-controller-manager's ActivePodsWithRanks: unassigned before assigned,
/// pending before running, not ready before ready, cheap before dear, crowded nodes first,
/// the shortest ready, the most restarted, the youngest.
fn rank(pod: &Pod, siblings: &[&Arc<Pod>], pods_on: &dyn Fn(&str) -> usize) -> impl Ord + use<> {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i64 = pod
        .annotations()
        .get("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0);
    let together = siblings.iter().filter(|other| pods::node_name(other) == node).count();
    let crowd = node.map_or(0, pods_on);
    (
        (node.is_some(), phase, pods::is_ready(pod), cost),
        (Reverse(together), Reverse(crowd)),
        Reverse(pods::ready_since(pod).unwrap_or(Timestamp::MIN)),
        (Reverse(pods::restarts(pod)), Reverse(pods::created_at(pod))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "uid": "rs-1" },
            "spec": { "replicas": replicas, "selector": {} },
        }))
        .unwrap()
    }

    /// A pod on `node` (none when empty), named after its age in minutes.
    fn pod(age: u8, phase: &str, node: &str) -> Arc<Pod> {
        let created = format!("2026-01-01T00:{:02}:00Z", 59 - age);
        let ready = if phase == "Running" { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": format!("web-{age}"), "uid": format!("uid-{age}"), "creationTimestamp": created },
            "spec": { "containers": [], "nodeName": node },
            "status": { "phase": phase, "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": created },
            ] },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn deleted(replicas: i32, owned: &[Arc<Pod>]) -> Vec<String> {
        let steps = plan(&set(replicas), owned, &|_| 0);
        steps
            .into_iter()
            .map(|step| match step {
                Step::Delete { name, .. } => name,
                Step::Create => panic!("a surplus must not create pods"),
            })
            .collect()
    }

    #[test]
    fn creates_what_is_missing() {
        let steps = plan(&set(3), &[pod(1, "Running", "a")], &|_| 0);
        assert_eq!(steps, [Step::Create, Step::Create]);
    }

    #[test]
    fn does_not_count_finished_pods() {
        let owned = [pod(1, "Failed", "a"), pod(2, "Succeeded", "a")];
        assert_eq!(plan(&set(1), &owned, &|_| 0), [Step::Create]);
    }

    #[test]
    fn deletes_unplaced_pods_first_then_pending_then_the_youngest() {
        let owned = [
            pod(9, "Running", "a"),
            pod(1, "Running", "b"),
            pod(5, "Pending", "c"),
            pod(3, "Pending", ""),
        ];
        assert_eq!(deleted(1, &owned), ["web-3", "web-5", "web-1"]);
    }

    #[test]
    fn thins_out_the_node_with_most_siblings() {
        let owned = [pod(1, "Running", "a"), pod(9, "Running", "b"), pod(8, "Running", "b")];
        assert_eq!(deleted(2, &owned), ["web-8"]);
    }

    #[test]
    fn one_pass_is_bounded() {
        assert_eq!(plan(&set(10_000), &[], &|_| 0).len(), BURST_MAX);
    }
}
