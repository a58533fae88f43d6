//! Which of the nodes that can run a pod is best.
//!
//! Each part scores 0 to 100; the weights are kube-scheduler's, except that even spreading
//! weighs most, so that the replicas of one Deployment land on different nodes even when
//! these are unequally filled.

use crate::{
    affinity::{Topology, preferences},
    amounts::{self, Amounts},
    cluster::NodeState,
    filter::tolerated,
    selector::{Labels, node_term},
    spread::crowding,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

const SPREAD: i64 = 8;
const TAINTS: i64 = 3;
const NODE_AFFINITY: i64 = 2;
const POD_AFFINITY: i64 = 2;
const LEAST_USED: i64 = 1;
const BALANCED: i64 = 1;

/// The best of `nodes`. Equal ones are told apart by the fewest pods, then by name.
pub(crate) fn best<'a>(
    pod: &Pod,
    nodes: &[&'a NodeState],
    topology: &Topology<'_>,
    owner_labels: Option<&Labels>,
) -> Option<&'a NodeState> {
    let totals = totals(pod, nodes, topology, owner_labels);
    let ranked = nodes.iter().zip(totals);
    let best = ranked.max_by(|(left, left_total), (right, right_total)| {
        (left_total, right.pods.len(), right.node.name_any()).cmp(&(
            right_total,
            left.pods.len(),
            left.node.name_any(),
        ))
    });
    best.map(|(node, _)| *node)
}

fn totals(
    pod: &Pod,
    nodes: &[&NodeState],
    topology: &Topology<'_>,
    owner_labels: Option<&Labels>,
) -> Vec<i64> {
    let wanted = amounts::requested_or_assumed(pod);
    let parts = [
        (SPREAD, normalise(&crowding(pod, nodes, owner_labels), true)),
        (TAINTS, normalise(&each(nodes, |node| disliked_taints(pod, node)), true)),
        (NODE_AFFINITY, normalise(&each(nodes, |node| preferred_weight(pod, node)), false)),
        (POD_AFFINITY, normalise(&preferences(pod, nodes, topology), false)),
        (LEAST_USED, each(nodes, |node| least_used(&wanted, node))),
        (BALANCED, each(nodes, |node| balanced(&wanted, node))),
    ];
    let mut totals = vec![0; nodes.len()];
    for (weight, scores) in parts {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    }
    totals
}

/// What a pod counts for when nodes are compared.
pub(crate) fn wanted(pod: &Pod) -> Amounts {
    amounts::requested_or_assumed(pod)
}

/// The scale on which one node is scored without the others: least and most of what was
/// found when all were looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    taints: (i64, i64),
    affinity: (i64, i64),
}

/// What one sibling costs: more than all else that a node can be better by.
const SIBLING: i64 = SPREAD * 100;

impl Scale {
    pub(crate) fn of(pod: &Pod, nodes: &[&NodeState]) -> Self {
        let span = |values: Vec<i64>| {
            let low = values.iter().min().copied().unwrap_or(0);
            (low, values.iter().max().copied().unwrap_or(0))
        };
        Self {
            taints: span(each(nodes, |node| disliked_taints(pod, node))),
            affinity: span(each(nodes, |node| preferred_weight(pod, node))),
        }
    }

    /// Whether the node lies within what was found.
    pub(crate) fn holds(&self, pod: &Pod, node: &NodeState) -> bool {
        let within = |value: i64, (low, high): (i64, i64)| (low..=high).contains(&value);
        within(disliked_taints(pod, node), self.taints)
            && within(preferred_weight(pod, node), self.affinity)
    }

    /// As if it had no siblings.
    pub(crate) fn score(&self, pod: &Pod, node: &NodeState, wanted: &Amounts) -> i64 {
        let taints = 100 - stretched(disliked_taints(pod, node), self.taints, 0);
        let affinity = stretched(preferred_weight(pod, node), self.affinity, 100);
        TAINTS * taints
            + NODE_AFFINITY * affinity
            + LEAST_USED * least_used(wanted, node)
            + BALANCED * balanced(wanted, node)
    }
}

/// A score among so many siblings.
pub(crate) fn crowded(score: i64, siblings: i64) -> i64 {
    score.saturating_sub(SIBLING.saturating_mul(siblings))
}

fn stretched(value: i64, (low, high): (i64, i64), when_equal: i64) -> i64 {
    if low == high { when_equal } else { ((value - low) * 100 / (high - low)).clamp(0, 100) }
}

fn each(nodes: &[&NodeState], of: impl Fn(&NodeState) -> i64) -> Vec<i64> {
    nodes.iter().map(|node| of(node)).collect()
}

/// Stretches values to 0 to 100; `reverse` gives the smallest the most. Equal values all
/// get 100, so that such a part decides nothing.
fn normalise(values: &[i64], reverse: bool) -> Vec<i64> {
    let low = values.iter().min().copied().unwrap_or(0);
    let high = values.iter().max().copied().unwrap_or(0);
    if low == high {
        return vec![100; values.len()];
    }
    let stretched = values.iter().map(|value| (value - low) * 100 / (high - low));
    stretched.map(|score| if reverse { 100 - score } else { score }).collect()
}

fn disliked_taints(pod: &Pod, node: &NodeState) -> i64 {
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
    i64::try_from(soft.filter(|taint| !tolerated(pod, taint)).count()).unwrap_or(i64::MAX)
}

fn preferred_weight(pod: &Pod, node: &NodeState) -> i64 {
    let terms =
        pod.spec.iter().filter_map(|spec| spec.affinity.as_ref()?.node_affinity.as_ref()).flat_map(
            |one| one.preferred_during_scheduling_ignored_during_execution.iter().flatten(),
        );
    let (labels, name) = (node.node.labels(), node.node.name_any());
    let met = terms.filter(|term| node_term(&term.preference, labels, &name));
    met.map(|term| i64::from(term.weight)).sum()
}

/// Hundredths of `name` in use with the pod there; `None` when the node has none.
fn percent_used(wanted: &Amounts, node: &NodeState, name: &str) -> Option<i64> {
    let total = node.allocatable.get(name).copied().filter(|total| *total > 0)?;
    let used = node.weighed.get(name).copied().unwrap_or(0);
    let with_pod = used.saturating_add(wanted.get(name).copied().unwrap_or(0));
    Some((i128::from(with_pod) * 100 / i128::from(total)).clamp(0, 100) as i64)
}

fn least_used(wanted: &Amounts, node: &NodeState) -> i64 {
    let used: Vec<i64> =
        ["cpu", "memory"].iter().filter_map(|name| percent_used(wanted, node, name)).collect();
    let count = i64::try_from(used.len()).unwrap_or(1).max(1);
    100 - used.iter().sum::<i64>() / count
}

/// A node whose CPU and memory fill alike can be filled completely.
fn balanced(wanted: &Amounts, node: &NodeState) -> i64 {
    let cpu = percent_used(wanted, node, "cpu");
    let memory = percent_used(wanted, node, "memory");
    cpu.zip(memory).map_or(0, |(cpu, memory)| 100 - (cpu - memory).abs() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Cluster;
    use serde_json::json;
    use std::{collections::BTreeMap, sync::Arc};

    fn cluster(names: &[&str]) -> Cluster {
        let mut cluster = Cluster::default();
        for name in names {
            let node = json!({
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "110" } },
            });
            cluster.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        cluster
    }

    fn pod(uid: &str, app: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": uid, "uid": uid, "namespace": "default", "labels": { "app": app } },
                "spec": { "containers": [{ "name": "c" }] },
            }))
            .unwrap(),
        )
    }

    fn place(cluster: &mut Cluster, pod: &Arc<Pod>) -> String {
        let labels = BTreeMap::new();
        let topology = Topology { namespace_labels: &labels, has_repelling: true };
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let node = best(pod, &nodes, &topology, Some(pod.labels())).unwrap().node.name_any();
        cluster.assume(pod.clone(), &node);
        node
    }

    #[test]
    fn replicas_spread_evenly() {
        let mut cluster = cluster(&["a", "b", "c"]);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for index in 0..6 {
            *counts.entry(place(&mut cluster, &pod(&index.to_string(), "web"))).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| *count == 2), "{counts:?}");
    }

    #[test]
    fn replicas_spread_even_over_unequally_filled_nodes() {
        let mut cluster = cluster(&["a", "b"]);
        for index in 0..12 {
            cluster.assume(pod(&format!("other-{index}"), "other"), "a");
        }
        let nodes: Vec<String> =
            (0..2).map(|index| place(&mut cluster, &pod(&index.to_string(), "web"))).collect();
        assert_eq!(nodes, ["b", "a"]);
    }
}
