//! A daemon pod: for one node, which it names by affinity, and with tolerations of its own.

use crate::{history::POD_LABEL, pod_control::pod_of, pods};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec},
    core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration},
};
use kube::{Resource, ResourceExt};

const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const NODE_NAME: &str = "metadata.name";

/// Taints that every daemon pod bears, and their effects: it is there for the node, not for
/// what the node may run.
const BORNE: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What pods with the node's own network bear besides.
const BORNE_BY_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub(super) fn pod(set: &DaemonSet, spec: &DaemonSetSpec, node: &str, hash: &str) -> Pod {
    let owner = set.controller_owner_ref(&());
    let mut pod = pod_of(spec.template.clone(), set.namespace(), owner);
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    if let Some(generation) = generation(set) {
        pod.labels_mut().insert(GENERATION_LABEL.into(), generation.into());
    }
    if !hash.is_empty() {
        pod.labels_mut().insert(POD_LABEL.into(), hash.into());
    }
    if let Some(spec) = pod.spec.as_mut() {
        bind(spec, node);
        spec.tolerations = Some(tolerations(spec));
    }
    pod
}

/// The tolerations of a template and those of every daemon pod.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let host = Some(BORNE_BY_HOST).filter(|_| spec.host_network == Some(true));
    for (key, effect) in BORNE.into_iter().chain(host) {
        let wanted = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let same = |one: &Toleration| {
            let value = one.value.as_deref().unwrap_or("");
            one.key == wanted.key
                && one.effect == wanted.effect
                && one.operator == wanted.operator
                && value.is_empty()
        };
        match all.iter().position(same) {
            Some(position) => all[position] = wanted,
            None => all.push(wanted),
        }
    }
    all
}

/// The node that a pod is bound to or made for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter());
    let named = fields.flatten().find(|field| field.key == NODE_NAME && field.operator == "In")?;
    match named.values.as_deref() {
        Some([node]) => Some(node),
        _ => None,
    }
}

/// The hash of the template that a pod was made from.
pub(super) fn hash(pod: &Pod) -> Option<&str> {
    pod.labels().get(POD_LABEL).map(String::as_str)
}

/// The hash that a revision's pods carry.
pub(super) fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(POD_LABEL).cloned().unwrap_or_else(|| revision.name_any())
}

/// Whether a pod is of the present template.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let same = |label: &str, value: Option<&str>| {
        value.is_some_and(|value| pod.labels().get(label).is_some_and(|known| known == value))
    };
    same(POD_LABEL, Some(hash).filter(|hash| !hash.is_empty()))
        || same(GENERATION_LABEL, generation(set))
}

fn generation(set: &DaemonSet) -> Option<&str> {
    set.annotations().get(GENERATION).map(String::as_str)
}

/// Other terms that nodes have to match are left out: they have been looked at.
fn bind(spec: &mut PodSpec, node: &str) {
    let named = NodeSelectorRequirement {
        key: NODE_NAME.into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![named]), ..Default::default() };
    let affinity = spec.affinity.get_or_insert_default();
    affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(pod_spec: &Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": { "name": "ds", "namespace": "ns", "uid": "set",
                          "annotations": { GENERATION: "4" } },
            "spec": { "selector": {}, "template": {
                "metadata": { "labels": { "app": "ds" } }, "spec": pod_spec } },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_is_for_one_node() {
        let preferred = json!([{ "weight": 1, "preference": {} }]);
        let required = json!({ "nodeSelectorTerms": [{ "matchExpressions":
            [{ "key": "a", "operator": "Exists" }] }] });
        let set = set(&json!({ "containers": [], "affinity": { "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            "requiredDuringSchedulingIgnoredDuringExecution": required } } }));
        let pod = pod(&set, set.spec.as_ref().unwrap(), "node-1", "h");
        assert_eq!(node_of(&pod), Some("node-1"));
        let affinity = pod.spec.as_ref().unwrap().affinity.clone().unwrap();
        let affinity = serde_json::to_value(affinity).unwrap();
        let node = &affinity["nodeAffinity"];
        assert_eq!(node["preferredDuringSchedulingIgnoredDuringExecution"], preferred);
        let terms = &node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(
            *terms,
            json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In",
                                       "values": ["node-1"] }] }])
        );
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("ds-"));
        assert!(is_updated(&set, &pod, "h") && is_updated(&set, &pod, "other generation"));
    }

    #[test]
    fn daemon_pods_bear_what_nodes_suffer() {
        let spec = json!({ "containers": [], "hostNetwork": true, "tolerations": [
            { "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
              "tolerationSeconds": 3 },
            { "key": "mine", "operator": "Exists" },
        ] });
        let set = set(&spec);
        let pod = pod(&set, set.spec.as_ref().unwrap(), "node-1", "h");
        let all = pod.spec.unwrap().tolerations.unwrap();
        let keys: Vec<&str> =
            all.iter().map(|one| one.key.as_deref().unwrap().rsplit('/').next().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "not-ready",
                "mine",
                "unreachable",
                "disk-pressure",
                "memory-pressure",
                "pid-pressure",
                "unschedulable",
                "network-unavailable"
            ]
        );
        assert_eq!(all[0].toleration_seconds, None);
    }
}
