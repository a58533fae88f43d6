//! One decision: which node a pod gets, or why it waits, or who leaves for it.

use crate::{
    affinity::Topology,
    cluster::{Cluster, NodeState},
    explain::{self, Preempting, Refused},
    filter::{self, Refusal, Request},
    preempt::{self, Candidate},
    ranking::Rankings,
    score,
    selector::Labels,
    volumes::{self, Needs},
};
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc};

/// Nodes that can run a pod and are compared at least; more only as a share of all.
const COMPARED_MIN: usize = 100;
/// Of so many nodes each, the share that is compared falls by a hundredth, from a half
/// (kube-scheduler's percentageOfNodesToScore), but not below the least.
const NODES_PER_PERCENT: usize = 125;
const COMPARED_PERCENT: usize = 50;
const COMPARED_PERCENT_MIN: usize = 5;

pub(crate) enum Decision {
    Bind(String),
    /// Nothing can be done, and why.
    Wait(String),
    /// Pods leave a node for it; the sentence says what it waits for.
    Preempt(Candidate, String),
    Gated,
}

/// What a decision reads beside the pod.
pub(crate) struct Surroundings<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) namespace_labels: &'a BTreeMap<String, Labels>,
    pub(crate) owner_labels: Option<&'a Labels>,
    /// What the pod's claims ask of its node.
    pub(crate) needs: &'a Needs,
    pub(crate) budgets: &'a dyn Fn() -> Vec<Arc<PodDisruptionBudget>>,
}

/// Decisions in a row: what is kept between them.
#[derive(Default)]
pub(crate) struct Decider {
    rankings: Rankings,
    /// Where the next look at the nodes begins, so that all get their turn.
    start: usize,
}

/// Whether the pod waits for others to open its gates.
pub(crate) fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

/// Whether where a pod may go depends on where others stand.
pub(crate) fn minds_others(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let has_constraints =
        spec.topology_spread_constraints.as_ref().is_some_and(|list| !list.is_empty());
    let affinity = spec.affinity.as_ref();
    has_constraints
        || affinity.is_some_and(|one| one.pod_affinity.is_some() || one.pod_anti_affinity.is_some())
}

impl Decider {
    pub(crate) fn decide(&mut self, pod: &Arc<Pod>, around: &Surroundings<'_>) -> Decision {
        if is_gated(pod) {
            return Decision::Gated;
        }
        let spreads = around.owner_labels.is_some_and(|labels| !labels.is_empty());
        // Pods with claims are not alike: each has volumes of its own.
        if !volumes::has_claims(pod)
            && let Some(node) = self.rankings.best(pod, spreads, around.cluster)
        {
            return Decision::Bind(node);
        }
        self.decide_anew(pod, around)
    }

    fn decide_anew(&mut self, pod: &Arc<Pod>, around: &Surroundings<'_>) -> Decision {
        let cluster = around.cluster;
        let topology = Topology {
            namespace_labels: around.namespace_labels,
            has_repelling: cluster.has_repelling(),
        };
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let mut request = Request::new(pod, &nodes, &topology);
        request.needs = Some(around.needs);
        request.taken = around.needs.is_taken(pod, &nodes);
        if let Some(node) = nominated(pod, cluster, &request) {
            return Decision::Bind(node);
        }
        let wanted = compared(nodes.len());
        let (mut feasible, mut refused) = (Vec::new(), Vec::new());
        let mut looked_at = 0;
        let start = self.start.checked_rem(nodes.len()).unwrap_or(0);
        for node in nodes.iter().skip(start).chain(nodes.iter().take(start)) {
            looked_at += 1;
            match refusal(pod, node, cluster, &request) {
                None => feasible.push(*node),
                Some(refusal) => refused.push((*node, refusal)),
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        self.start = start + looked_at;
        match score::best(pod, &feasible, &topology, around.owner_labels) {
            Some(node) => Decision::Bind(node.node.name_any()),
            None => preemption(pod, around, &nodes, &request, refused),
        }
    }
}

/// The node that others left for the pod, if it can run there now.
fn nominated(pod: &Pod, cluster: &Cluster, request: &Request<'_>) -> Option<String> {
    let uid = pod.uid().unwrap_or_default();
    let node = cluster.node(cluster.nomination(&uid)?)?;
    refusal(pod, node, cluster, request).is_none().then(|| node.node.name_any())
}

/// As the node is, and as it will be with pods that others are leaving it for.
fn refusal(
    pod: &Pod,
    node: &NodeState,
    cluster: &Cluster,
    request: &Request<'_>,
) -> Option<Refusal> {
    filter::refusal(request, node).or_else(|| {
        let later = cluster.with_nominated(node, pod)?;
        filter::refusal(request, &later)
    })
}

/// How many nodes that can run a pod are enough to compare.
fn compared(nodes: usize) -> usize {
    if nodes <= COMPARED_MIN {
        return nodes;
    }
    let percent =
        COMPARED_PERCENT.saturating_sub(nodes / NODES_PER_PERCENT).max(COMPARED_PERCENT_MIN);
    (nodes * percent / 100).max(COMPARED_MIN)
}

fn preemption(
    pod: &Arc<Pod>,
    around: &Surroundings<'_>,
    nodes: &[&NodeState],
    request: &Request<'_>,
    refused: Vec<(&NodeState, Refusal)>,
) -> Decision {
    let cluster = around.cluster;
    let ineligible = preempt::ineligible(pod, cluster);
    let budgets = if ineligible.is_none() { (around.budgets)() } else { Vec::new() };
    let enough = preempt::enough(nodes.len());
    let (mut candidates, mut all) = (Vec::new(), Vec::new());
    for (node, refusal) in refused {
        let found = match ineligible {
            Some(_) => Err(Preempting::NotHelpful),
            None if candidates.len() >= enough => Err(Preempting::NotHelpful),
            None => {
                let again = |state: &NodeState| without(pod, state, around, nodes, request);
                preempt::on_node(pod, node, &refusal, &budgets, again)
            }
        };
        let preemption = match found {
            Ok(candidate) => {
                candidates.push(candidate);
                Preempting::NotHelpful
            }
            Err(why) => why,
        };
        all.push(Refused { refusal, preemption });
    }
    match preempt::choose(candidates) {
        Some(chosen) => Decision::Preempt(chosen, explain::unavailable(&all)),
        None => Decision::Wait(explain::sentence(&all, ineligible)),
    }
}

/// Whether a node without some of its pods can run this one.
fn without(
    pod: &Pod,
    state: &NodeState,
    around: &Surroundings<'_>,
    nodes: &[&NodeState],
    request: &Request<'_>,
) -> Option<Refusal> {
    let cluster = around.cluster;
    let later = cluster.with_nominated(state, pod);
    let state = later.as_ref().unwrap_or(state);
    if !minds_others(pod) && !cluster.has_repelling() {
        return filter::refusal(request, state);
    }
    // Where others stand counts, and some of them are gone in this state.
    let name = state.node.name_any();
    let replaced: Vec<&NodeState> =
        nodes.iter().map(|node| if node.node.name_any() == name { state } else { *node }).collect();
    let topology = Topology { namespace_labels: around.namespace_labels, has_repelling: true };
    let mut again = Request::new(pod, &replaced, &topology);
    (again.needs, again.taken) = (request.needs, request.taken.clone());
    filter::refusal(&again, state)
}

/// Labels of namespaces, which only pods that mind others need.
pub(crate) fn labels_of<'a>(
    namespaces: impl IntoIterator<Item = &'a Arc<k8s_openapi::api::core::v1::Namespace>>,
) -> BTreeMap<String, Labels> {
    namespaces
        .into_iter()
        .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_clusters_are_sampled() {
        assert_eq!(compared(3), 3);
        assert_eq!(compared(100), 100);
        assert_eq!(compared(500), 230);
        assert_eq!(compared(5_000), 500);
        assert_eq!(compared(10_000), 500);
    }
}
