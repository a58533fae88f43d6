//! Taints that follow from a node's conditions, and whether evictions may go on.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Node, Pod, Taint, Toleration},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use std::{sync::Arc, time::Duration};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Condition, the status that taints, and the taint's key.
const SCHEDULE_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// More than this many nodes in a hundred unwell, and more than two, is a disturbance of
/// the whole zone rather than of nodes (kube-controller-manager's default of 0.55).
const UNHEALTHY_PERCENT_MAX: usize = 55;

/// Nodes that are lost within this time are lost at once (kube-controller-manager looks at
/// all of them every five seconds, and sees those together).
const TOGETHER: SignedDuration = SignedDuration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    NotReady,
    Unknown,
}

pub(super) fn health(node: &Node) -> Health {
    match condition(node, "Ready") {
        Some("True") => Health::Ready,
        Some("Unknown") => Health::Unknown,
        _ => Health::NotReady,
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

/// What may become of the pods of unwell nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evictions {
    Go,
    /// None begin yet; those that have begun go on.
    Hold,
    /// None begin, and those that have begun are called off.
    CallOff,
}

/// Whether pods may be moved away from unwell nodes. When most nodes vanish at once the
/// cause is more likely here than there, and moving everything would make it worse.
pub(super) fn evictions(nodes: &[Arc<Node>]) -> Evictions {
    let unwell = nodes.iter().filter(|node| health(node) != Health::Ready).count();
    let is_disturbed = unwell > 2 && unwell * 100 >= UNHEALTHY_PERCENT_MAX * nodes.len();
    if is_disturbed || unwell == nodes.len() {
        // Nodes that vanish together are noticed one by one, so the first of them have
        // begun to lose their pods already.
        return Evictions::CallOff;
    }
    Evictions::Go
}

/// The taints the node is to have, or `None` when it has them.
pub(super) fn taints(node: &Node, evictions: Evictions, now: Timestamp) -> Option<Vec<Taint>> {
    let known = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<Taint> = known.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    let keep = |key: &str, effect: &str| {
        let had = known.iter().find(|taint| taint.key == key && taint.effect == effect);
        had.cloned().unwrap_or_else(|| Taint {
            key: key.into(),
            effect: effect.into(),
            time_added: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
            value: None,
        })
    };
    for (kind, status, key) in SCHEDULE_TAINTS {
        // A node that has not said anything yet is not ready.
        let said = condition(node, kind).or((*kind == "Ready").then_some("False"));
        if said == Some(*status) {
            wanted.push(keep(key, "NoSchedule"));
        }
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(keep(UNSCHEDULABLE, "NoSchedule"));
    }
    let evicting = match health(node) {
        Health::Ready => None,
        Health::NotReady => Some(NOT_READY),
        Health::Unknown => Some(UNREACHABLE),
    };
    if let Some(key) = evicting {
        let had = known.iter().find(|taint| taint.key == key && taint.effect == "NoExecute");
        // Of nodes that vanish at once some are noticed first: what began with them is part
        // of the disturbance.
        let began = had.and_then(|taint| taint.time_added.as_ref()).map(|time| time.0);
        let before = began.is_some_and(|at| now.duration_since(at) > TOGETHER);
        if evictions == Evictions::Go || (evictions == Evictions::Hold && before) {
            wanted.push(keep(key, "NoExecute"));
        }
    }
    let sorted = |mut taints: Vec<Taint>| {
        taints.sort_by(|left, right| (&left.key, &left.effect).cmp(&(&right.key, &right.effect)));
        taints
    };
    (sorted(known) != sorted(wanted.clone())).then_some(wanted)
}

fn is_ours(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE
                || SCHEDULE_TAINTS.iter().any(|(_, _, key)| *key == taint.key)
        }
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    }
}

/// When a pod must leave its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    Forever,
    For(Duration),
    Leave,
}

/// What the node's NoExecute taints, each with its age, mean for `pod`, which has been on the
/// node for `there`: the shortest of the tolerations that match counts from when both were there.
pub(super) fn stay(taints: &[(Taint, Duration)], pod: &Pod, there: Duration) -> Stay {
    let tolerations =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut left: Option<Duration> = None;
    for (taint, age) in taints {
        let matching: Vec<&Toleration> =
            tolerations.iter().filter(|one| tolerates(one, taint)).collect();
        if matching.is_empty() {
            return Stay::Leave;
        }
        let Some(seconds) = matching.iter().filter_map(|one| one.toleration_seconds).min() else {
            continue;
        };
        let tolerated = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let rest = tolerated.saturating_sub((*age).min(there));
        left = Some(left.map_or(rest, |known| known.min(rest)));
    }
    match left {
        None => Stay::Forever,
        Some(Duration::ZERO) => Stay::Leave,
        Some(left) => Stay::For(left),
    }
}

/// `v1.Toleration.ToleratesTaint`: an empty key with Exists matches every taint.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "Equal" => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// Whether the node is known to be switched off for good, so that its pods can be
/// forgotten without its word.
pub(super) fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == "node.kubernetes.io/out-of-service")
        && node.metadata.deletion_timestamp.is_none()
        && !node.name_any().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, ready: &str, taints: Value) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "spec": { "taints": taints },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            }))
            .unwrap(),
        )
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:30Z".parse().unwrap()
    }

    fn text(taints: Option<Vec<Taint>>) -> Vec<String> {
        let taints = taints.unwrap_or_default();
        taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn a_lost_node_is_tainted_twice_and_a_returned_one_not_at_all() {
        let lost = node("a", "Unknown", json!([]));
        let both = [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")];
        assert_eq!(text(taints(&lost, Evictions::Go, now())), both);
        let back = node(
            "a",
            "True",
            json!([
                { "key": UNREACHABLE, "effect": "NoSchedule" },
                { "key": UNREACHABLE, "effect": "NoExecute" },
                { "key": "mine", "effect": "NoSchedule" },
            ]),
        );
        assert_eq!(text(taints(&back, Evictions::Go, now())), ["mine:NoSchedule"]);
        assert_eq!(taints(&node("a", "True", json!([])), Evictions::Go, now()), None);
    }

    #[test]
    fn nothing_is_evicted_when_most_nodes_vanish() {
        let cluster = |unwell: usize, all: usize| -> Vec<Arc<Node>> {
            (0..all)
                .map(|index| node("n", if index < unwell { "Unknown" } else { "True" }, json!([])))
                .collect()
        };
        assert_eq!(evictions(&cluster(1, 3)), Evictions::Go);
        assert_eq!(evictions(&cluster(2, 3)), Evictions::Go);
        assert_eq!(evictions(&cluster(3, 3)), Evictions::CallOff);
        assert_eq!(evictions(&cluster(3, 4)), Evictions::CallOff);
        assert_eq!(evictions(&cluster(4, 10)), Evictions::Go);
        let lost = node("a", "Unknown", json!([]));
        assert_eq!(text(taints(&lost, Evictions::Hold, now())).len(), 1);
    }

    #[test]
    fn what_began_with_the_first_of_many_lost_nodes_is_called_off() {
        let since = |second: u32| {
            let at = format!("2026-01-01T00:00:{second:02}Z");
            let taints = json!([
                { "key": UNREACHABLE, "effect": "NoSchedule", "timeAdded": at },
                { "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": at },
            ]);
            text(taints_under_hold(&node("a", "Unknown", taints)))
        };
        // Unchanged: the node was lost by itself, long before the others.
        assert!(since(20).is_empty());
        assert_eq!(since(28), [format!("{UNREACHABLE}:NoSchedule")]);
    }

    fn taints_under_hold(node: &Node) -> Option<Vec<Taint>> {
        taints(node, Evictions::Hold, now())
    }

    #[test]
    fn evictions_that_began_before_the_last_node_vanished_are_called_off() {
        let leaving = json!([
            { "key": UNREACHABLE, "effect": "NoSchedule" },
            { "key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:28Z" },
        ]);
        let lost = node("a", "Unknown", leaving);
        let left = text(taints(&lost, Evictions::CallOff, now()));
        assert_eq!(left, [format!("{UNREACHABLE}:NoSchedule")]);
    }

    #[test]
    fn the_shortest_matching_toleration_counts_from_when_pod_and_taint_met() {
        let taint = |seconds| {
            let taint = json!({ "key": UNREACHABLE, "effect": "NoExecute" });
            [(serde_json::from_value(taint).unwrap(), Duration::from_secs(seconds))]
        };
        let pod = |tolerations: Value| -> Pod {
            serde_json::from_value(
                json!({ "spec": { "containers": [], "tolerations": tolerations } }),
            )
            .unwrap()
        };
        let five = pod(
            json!([{ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 }]),
        );
        let long = Duration::from_secs(60);
        assert_eq!(stay(&taint(2), &five, long), Stay::For(Duration::from_secs(3)));
        assert_eq!(stay(&taint(5), &five, long), Stay::Leave);
        // A pod that comes to an old taint has all its time.
        assert_eq!(
            stay(&taint(60), &five, Duration::from_secs(1)),
            Stay::For(Duration::from_secs(4))
        );
        assert_eq!(stay(&taint(60), &five, Duration::ZERO), Stay::For(Duration::from_secs(5)));
        assert_eq!(stay(&taint(0), &pod(json!([])), long), Stay::Leave);
        assert_eq!(stay(&taint(9), &pod(json!([{ "operator": "Exists" }])), long), Stay::Forever);
    }
}
