//! Topology spread: how unevenly matching pods stand over zones, nodes or other domains.

use crate::{
    cluster::NodeState,
    filter::{Refusal, matches_node, never, taken, tolerated},
    selector::{Labels, label_selector},
};
use k8s_openapi::{
    api::core::v1::{Pod, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::ResourceExt;
use std::collections::HashMap;

/// The domains that one constraint compares.
struct Counted {
    constraint: TopologySpreadConstraint,
    /// Matching pods by domain, over the nodes that count.
    by_domain: HashMap<String, i64>,
    minimum: i64,
    /// Whether the pod itself adds to the count.
    counts_itself: bool,
}

/// Required constraints (`whenUnsatisfiable: DoNotSchedule`).
pub(crate) struct State(Vec<Counted>);

impl State {
    pub(crate) fn required(pod: &Pod, nodes: &[&NodeState]) -> Self {
        let constraints = constraints(pod, "DoNotSchedule");
        let keys: Vec<String> = constraints.iter().map(|one| one.topology_key.clone()).collect();
        let eligible =
            |node: &&&NodeState| keys.iter().all(|key| node.node.labels().contains_key(key));
        let nodes: Vec<&NodeState> = nodes.iter().filter(eligible).copied().collect();
        Self(constraints.into_iter().map(|one| Counted::new(pod, one, &nodes)).collect())
    }

    pub(crate) fn refusal(&self, node: &NodeState) -> Option<Refusal> {
        for counted in &self.0 {
            let Some(domain) = node.node.labels().get(&counted.constraint.topology_key) else {
                return never(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let here = counted.by_domain.get(domain).copied().unwrap_or(0);
            let skew = here + i64::from(counted.counts_itself) - counted.minimum;
            if skew > i64::from(counted.constraint.max_skew) {
                return taken("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }
}

impl Counted {
    fn new(pod: &Pod, constraint: TopologySpreadConstraint, nodes: &[&NodeState]) -> Self {
        let selector = effective_selector(pod, &constraint);
        let mut by_domain: HashMap<String, i64> = HashMap::new();
        for node in nodes.iter().filter(|node| counts(pod, &constraint, node)) {
            let Some(domain) = node.node.labels().get(&constraint.topology_key) else { continue };
            let matching = matching(pod, selector.as_ref(), node);
            *by_domain.entry(domain.clone()).or_insert(0) += matching;
        }
        let domains = i32::try_from(by_domain.len()).unwrap_or(i32::MAX);
        let minimum = if constraint.min_domains.is_some_and(|wanted| domains < wanted) {
            0
        } else {
            by_domain.values().min().copied().unwrap_or(0)
        };
        let counts_itself = label_selector(selector.as_ref(), pod.labels());
        Self { constraint, by_domain, minimum, counts_itself }
    }
}

/// Whether a node takes part, by nodeAffinityPolicy (Honor by default) and
/// nodeTaintsPolicy (Ignore by default).
fn counts(pod: &Pod, constraint: &TopologySpreadConstraint, node: &NodeState) -> bool {
    let affine = constraint.node_affinity_policy.as_deref() == Some("Ignore")
        || matches_node(pod, node.node.labels(), &node.node.name_any());
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.into_iter().filter(|taint| taint.effect != "PreferNoSchedule");
    let clean = constraint.node_taints_policy.as_deref() != Some("Honor")
        || hard.all(|taint| tolerated(pod, taint));
    affine && clean
}

fn matching(pod: &Pod, selector: Option<&LabelSelector>, node: &NodeState) -> i64 {
    let matching = node.pods.values().filter(|other| {
        other.metadata.deletion_timestamp.is_none()
            && other.namespace() == pod.namespace()
            && label_selector(selector, other.labels())
    });
    i64::try_from(matching.count()).unwrap_or(i64::MAX)
}

/// `None`, which selects nobody, when the constraint has no selector.
fn effective_selector(pod: &Pod, constraint: &TopologySpreadConstraint) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone()?;
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels().get(key) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    Some(selector)
}

fn constraints(pod: &Pod, when: &str) -> Vec<TopologySpreadConstraint> {
    let all = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
    all.filter(|one| one.when_unsatisfiable == when).cloned().collect()
}

/// How many siblings each node's domains hold, larger being worse: the soft constraints of
/// the pod, or, when it has none, even spreading of the pods of one owner over nodes and
/// then zones (kube-scheduler's default constraints).
pub(crate) fn crowding(pod: &Pod, nodes: &[&NodeState], owner_labels: Option<&Labels>) -> Vec<i64> {
    let mut soft = constraints(pod, "ScheduleAnyway");
    let stated = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    if stated.is_none_or(Vec::is_empty)
        && let Some(labels) = owner_labels.filter(|labels| !labels.is_empty())
    {
        soft = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
            .map(|key| default_constraint(key, labels))
            .to_vec();
    }
    let mut crowding = vec![0; nodes.len()];
    for constraint in soft {
        let key = constraint.topology_key.clone();
        let counted = Counted::new(pod, constraint, nodes);
        for (total, node) in crowding.iter_mut().zip(nodes) {
            let domain = node.node.labels().get(&key);
            *total += domain.and_then(|one| counted.by_domain.get(one)).copied().unwrap_or(0);
        }
    }
    crowding
}

fn default_constraint(key: &str, labels: &Labels) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        topology_key: key.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        max_skew: 1,
        label_selector: Some(LabelSelector {
            match_labels: Some(labels.clone()),
            match_expressions: None,
        }),
        ..TopologySpreadConstraint::default()
    }
}
