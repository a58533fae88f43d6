//! Which pods a ReplicaSet creates or deletes; decides only.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::ResourceExt;
use std::{cmp::Reverse, collections::HashMap, sync::Arc};

/// Pods created or deleted by one pass. A larger difference takes several passes,
/// so that one bad manifest cannot flood the API server.
const BURST_MAX: usize = 500;

/// One write that brings the cluster closer to the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create,
    Delete { name: String, uid: String },
}

/// `related` counts, by node, the active pods of this set and of those that share its owner.
pub(super) fn plan(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    related: &HashMap<String, usize>,
) -> Vec<Step> {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    let live: Vec<&Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).collect();
    if live.len() <= wanted {
        return vec![Step::Create; (wanted - live.len()).min(BURST_MAX)];
    }
    let surplus = (live.len() - wanted).min(BURST_MAX);
    let mut ranked: Vec<_> = live.iter().map(|pod| (rank(pod, related), *pod)).collect();
    ranked.sort_by(|left, right| left.0.cmp(&right.0));
    let doomed = ranked.into_iter().take(surplus);
    doomed
        .map(|(_, pod)| Step::Delete { name: pod.name_any(), uid: pod.uid().unwrap_or_default() })
        .collect()
}

/// The order of kube-controller-manager's ActivePodsWithRanks: unassigned before assigned,
/// pending before running, not ready before ready, cheap before dear, crowded nodes first,
/// the shortest ready, the most restarted, the youngest.
fn rank(pod: &Pod, related: &HashMap<String, usize>) -> impl Ord + use<> {
    let node = pods::node_name(pod);
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i32 = pod
        .annotations()
        .get("controller.kubernetes.io/pod-deletion-cost")
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0);
    let together = related.get(node.unwrap_or_default()).copied().unwrap_or(0);
    (
        (node.is_some(), phase, pods::is_ready(pod), cost),
        Reverse(together),
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

    fn related(pods: &[Arc<Pod>]) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for pod in pods {
            let node = pods::node_name(pod).unwrap_or_default().to_owned();
            *counts.entry(node).or_insert(0) += 1;
        }
        counts
    }

    fn deleted(replicas: i32, owned: &[Arc<Pod>]) -> Vec<String> {
        let steps = plan(&set(replicas), owned, &related(owned));
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
        let steps = plan(&set(3), &[pod(1, "Running", "a")], &HashMap::new());
        assert_eq!(steps, [Step::Create, Step::Create]);
    }

    #[test]
    fn does_not_count_finished_pods() {
        let owned = [pod(1, "Failed", "a"), pod(2, "Succeeded", "a")];
        assert_eq!(plan(&set(1), &owned, &HashMap::new()), [Step::Create]);
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
    fn pods_of_a_deployments_other_sets_count_as_siblings() {
        let owned = [pod(1, "Running", "a"), pod(9, "Running", "b")];
        let mut all = related(&owned);
        all.insert("b".into(), 3);
        let steps = plan(&set(1), &owned, &all);
        assert!(matches!(steps.as_slice(), [Step::Delete { name, .. }] if name == "web-9"));
    }

    #[test]
    fn a_dear_pod_stays_longer() {
        let mut dear = Arc::unwrap_or_clone(pod(1, "Running", "a"));
        dear.annotations_mut()
            .insert("controller.kubernetes.io/pod-deletion-cost".into(), "10".into());
        assert_eq!(deleted(1, &[Arc::new(dear), pod(9, "Running", "b")]), ["web-9"]);
    }

    #[test]
    fn one_pass_is_bounded() {
        assert_eq!(plan(&set(10_000), &[], &HashMap::new()).len(), BURST_MAX);
    }
}
