//! Pods that want to be near others, or far from them.
//!
//! Counts are made once a decision: how many matching pods each topology domain has.

use crate::{
    cluster::NodeState,
    filter::{Refusal, never, taken},
    selector::{Labels, label_selector},
};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, WeightedPodAffinityTerm};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What affinity needs beside nodes and pods: the labels of namespaces, and whether any pod
/// keeps others away.
pub(crate) struct Topology<'a> {
    pub(crate) namespace_labels: &'a BTreeMap<String, Labels>,
    pub(crate) has_repelling: bool,
}

/// Topology key and value.
type Domain = (String, String);

pub(crate) struct AffinityState {
    /// For each required term: its key and the domains that have a match.
    affinity: Vec<(String, HashSet<String>)>,
    /// The pod's own terms all match itself and nobody else matches them: it is the first
    /// of its group and may go anywhere that has the keys.
    is_first: bool,
    anti_affinity: HashSet<Domain>,
    /// Domains that the anti-affinity of running pods closes to this one.
    closed: HashSet<Domain>,
}

impl AffinityState {
    /// Where nobody has terms nobody is looked at.
    pub(crate) fn new(pod: &Pod, nodes: &[&NodeState], topology: &Topology<'_>) -> Self {
        let wanted = required_affinity(pod);
        let unwanted = required_anti_affinity(pod);
        let nobody = wanted.is_empty() && unwanted.is_empty() && !topology.has_repelling;
        let nodes = if nobody { &[] } else { nodes };
        let mut state = Self {
            affinity: wanted
                .iter()
                .map(|term| (term.topology_key.clone(), HashSet::new()))
                .collect(),
            is_first: false,
            anti_affinity: HashSet::new(),
            closed: HashSet::new(),
        };
        let mut any_match = false;
        for node in nodes {
            let labels = node.node.labels();
            for other in node.pods.values() {
                for (index, term) in wanted.iter().enumerate() {
                    if term_matches(term, pod, other, topology) {
                        any_match = true;
                        state.affinity[index].1.extend(labels.get(&term.topology_key).cloned());
                    }
                }
                for term in &unwanted {
                    if term_matches(term, pod, other, topology) {
                        state.anti_affinity.extend(domain(term, labels));
                    }
                }
                for term in required_anti_affinity(other) {
                    if term_matches(term, other, pod, topology) {
                        state.closed.extend(domain(term, labels));
                    }
                }
            }
        }
        let matches_itself = || wanted.iter().all(|term| term_matches(term, pod, pod, topology));
        state.is_first = !wanted.is_empty() && !any_match && matches_itself();
        state
    }

    pub(crate) fn refusal(&self, node: &NodeState) -> Option<Refusal> {
        let labels = node.node.labels();
        let near = self.affinity.iter().all(|(key, domains)| match labels.get(key) {
            None => false,
            Some(value) => self.is_first || domains.contains(value),
        });
        let hit = |domains: &HashSet<Domain>| {
            domains.iter().any(|(key, value)| labels.get(key) == Some(value))
        };
        if !near {
            never("node(s) didn't match pod affinity rules")
        } else if hit(&self.anti_affinity) {
            taken("node(s) didn't match pod anti-affinity rules")
        } else if hit(&self.closed) {
            taken("node(s) didn't satisfy existing pods anti-affinity rules")
        } else {
            None
        }
    }
}

fn domain(term: &PodAffinityTerm, labels: &Labels) -> Option<Domain> {
    let value = labels.get(&term.topology_key)?;
    Some((term.topology_key.clone(), value.clone()))
}

fn required_affinity(pod: &Pod) -> Vec<&PodAffinityTerm> {
    let affinity = pod.spec.iter().filter_map(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
    affinity
        .flat_map(|one| one.required_during_scheduling_ignored_during_execution.iter().flatten())
        .collect()
}

fn required_anti_affinity(pod: &Pod) -> Vec<&PodAffinityTerm> {
    let affinity =
        pod.spec.iter().filter_map(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity
        .flat_map(|one| one.required_during_scheduling_ignored_during_execution.iter().flatten())
        .collect()
}

/// Whether `term` of `owner` speaks of `other`.
fn term_matches(term: &PodAffinityTerm, owner: &Pod, other: &Pod, topology: &Topology<'_>) -> bool {
    in_namespaces(term, owner, other, topology)
        && label_selector(term.label_selector.as_ref(), other.labels())
        && keys_agree(term, owner, other)
}

fn in_namespaces(
    term: &PodAffinityTerm,
    owner: &Pod,
    other: &Pod,
    topology: &Topology<'_>,
) -> bool {
    let namespace = other.namespace().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    if listed.is_empty() && term.namespace_selector.is_none() {
        return owner.namespace().unwrap_or_default() == namespace;
    }
    let empty = Labels::new();
    let labels = topology.namespace_labels.get(&namespace).unwrap_or(&empty);
    listed.contains(&namespace)
        || term.namespace_selector.as_ref().is_some_and(|one| label_selector(Some(one), labels))
}

/// `matchLabelKeys` and `mismatchLabelKeys` compare the owner's own labels.
fn keys_agree(term: &PodAffinityTerm, owner: &Pod, other: &Pod) -> bool {
    let same = |key: &String| owner.labels().get(key) == other.labels().get(key);
    let has = |key: &&String| owner.labels().contains_key(*key);
    term.match_label_keys.iter().flatten().filter(has).all(same)
        && term.mismatch_label_keys.iter().flatten().filter(has).all(|key| !same(key))
}

/// The sum of preferred terms' weights that each node earns, anti-affinity counting
/// against it.
pub(crate) fn preferences(pod: &Pod, nodes: &[&NodeState], topology: &Topology<'_>) -> Vec<i64> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let near = affinity
        .and_then(|one| one.pod_affinity.as_ref())
        .and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_deref());
    let far = affinity
        .and_then(|one| one.pod_anti_affinity.as_ref())
        .and_then(|one| one.preferred_during_scheduling_ignored_during_execution.as_deref());
    let (near, far) = (near.unwrap_or_default(), far.unwrap_or_default());
    if near.is_empty() && far.is_empty() {
        return vec![0; nodes.len()];
    }
    let mut by_domain: HashMap<Domain, i64> = HashMap::new();
    let mut count = |terms: &[WeightedPodAffinityTerm], sign: i64| {
        for weighted in terms {
            let term = &weighted.pod_affinity_term;
            for node in nodes {
                let matching = node.pods.values();
                let matching = matching.filter(|other| term_matches(term, pod, other, topology));
                let matching = i64::try_from(matching.count()).unwrap_or(i64::MAX);
                if let Some(domain) = domain(term, node.node.labels()).filter(|_| matching > 0) {
                    *by_domain.entry(domain).or_insert(0) +=
                        sign * i64::from(weighted.weight) * matching;
                }
            }
        }
    };
    count(near, 1);
    count(far, -1);
    let earned = |node: &&NodeState| {
        let labels = node.node.labels();
        let hit = by_domain.iter().filter(|((key, value), _)| labels.get(key) == Some(value));
        hit.map(|(_, weight)| weight).sum()
    };
    nodes.iter().map(earned).collect()
}
