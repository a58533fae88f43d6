//! Which nodes a DaemonSet's pods are meant for: name, labels and taints.

use super::template::tolerations;
use crate::selector;
use k8s_openapi::api::{
    apps::v1::DaemonSetSpec,
    core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration},
};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// What a DaemonSet has to do with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// A pod is to be there.
    Runs,
    /// One that is there may stay, a new one is not made.
    Stays,
    Leaves,
}

pub(super) fn fit(spec: &DaemonSetSpec, node: &Node) -> Fit {
    let Some(pod) = spec.template.spec.as_ref() else { return Fit::Leaves };
    let name = node.name_any();
    let named = pod.node_name.as_deref().filter(|name| !name.is_empty());
    if named.is_some_and(|named| named != name) || !matches_labels(pod, node) {
        return Fit::Leaves;
    }
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let tolerations = tolerations(pod);
    let unborne = |effects: &[&str]| {
        let mut taints = taints.iter().filter(|taint| effects.contains(&taint.effect.as_str()));
        taints.any(|taint| !tolerations.iter().any(|one| tolerates(one, taint)))
    };
    if unborne(&["NoExecute"]) {
        Fit::Leaves
    } else if unborne(&["NoSchedule"]) {
        Fit::Stays
    } else {
        Fit::Runs
    }
}

/// Whether a change of a node can matter to a DaemonSet: a heartbeat does not.
pub(super) fn concerns(old: Option<&Node>, new: Option<&Node>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.uid() != new.uid() || old.labels() != new.labels() || taints(old) != taints(new)
}

fn matches_labels(pod: &PodSpec, node: &Node) -> bool {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.name_any();
    selector::contains_all(pod.node_selector.as_ref(), node.labels())
        && required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| matches_term(term, node.labels(), &name))
        })
}

/// An empty term matches nothing.
fn matches_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |one: &NodeSelectorRequirement| labels.get(&one.key).map(String::as_str);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| holds(label(one), one))
        && fields.iter().all(|one| one.key == "metadata.name" && holds(Some(name), one))
}

fn holds(value: Option<&str>, requirement: &NodeSelectorRequirement) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let numbers = || {
        let bound: i64 = values.first()?.parse().ok()?;
        Some((value?.parse::<i64>().ok()?, bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        // The API server refuses others; matching nothing is the safe reading.
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(pod: &Value) -> DaemonSetSpec {
        let mut pod = pod.clone();
        pod["containers"] = json!([]);
        serde_json::from_value(json!({ "selector": {}, "template": { "spec": pod } })).unwrap()
    }

    fn node(taints: &Value) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "a", "labels": { "disk": "ssd", "rank": "7" } },
            "spec": { "taints": taints },
        }))
        .unwrap()
    }

    fn fits(pod: &Value, taints: &Value) -> Fit {
        fit(&spec(pod), &node(taints))
    }

    #[test]
    fn labels_and_affinity_must_both_match() {
        let none = json!([]);
        assert_eq!(fits(&json!({}), &none), Fit::Runs);
        assert_eq!(fits(&json!({ "nodeSelector": { "disk": "ssd" } }), &none), Fit::Runs);
        assert_eq!(fits(&json!({ "nodeSelector": { "disk": "hdd" } }), &none), Fit::Leaves);
        assert_eq!(fits(&json!({ "nodeName": "b" }), &none), Fit::Leaves);
        let affinity = |term: Value| {
            json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution":
                    { "nodeSelectorTerms": [term] } } } })
        };
        let rank = |operator: &str| {
            json!({ "matchExpressions":
                [{ "key": "rank", "operator": operator, "values": ["5"] }] })
        };
        assert_eq!(fits(&affinity(rank("Gt")), &none), Fit::Runs);
        assert_eq!(fits(&affinity(rank("Lt")), &none), Fit::Leaves);
        assert_eq!(fits(&affinity(json!({})), &none), Fit::Leaves);
        let named = json!({ "matchFields":
            [{ "key": "metadata.name", "operator": "NotIn", "values": ["a"] }] });
        assert_eq!(fits(&affinity(named), &none), Fit::Leaves);
    }

    #[test]
    fn taints_keep_new_pods_away_or_drive_all_out() {
        let taint = |key: &str, effect: &str| json!([{ "key": key, "effect": effect }]);
        assert_eq!(fits(&json!({}), &taint("x", "NoSchedule")), Fit::Stays);
        assert_eq!(fits(&json!({}), &taint("x", "NoExecute")), Fit::Leaves);
        assert_eq!(fits(&json!({}), &taint("x", "PreferNoSchedule")), Fit::Runs);
        let unreachable = taint("node.kubernetes.io/unreachable", "NoExecute");
        assert_eq!(fits(&json!({}), &unreachable), Fit::Runs);
        let cordoned = taint("node.kubernetes.io/unschedulable", "NoSchedule");
        assert_eq!(fits(&json!({}), &cordoned), Fit::Runs);
        let bears = json!({ "tolerations": [{ "operator": "Exists" }] });
        assert_eq!(fits(&bears, &taint("x", "NoExecute")), Fit::Runs);
    }

    #[test]
    fn a_heartbeat_concerns_nobody() {
        let (old, mut new) = (node(&json!([])), node(&json!([])));
        new.status = Some(Default::default());
        assert!(!concerns(Some(&old), Some(&new)));
        new.labels_mut().insert("more".into(), "x".into());
        assert!(concerns(Some(&old), Some(&new)) && concerns(None, Some(&new)));
    }
}
