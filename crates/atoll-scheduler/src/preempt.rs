//! Which pods a more important one may push off a node, and from which node; decides only.
//!
//! The order of preferences is kube-scheduler's: the fewest broken disruption budgets, then
//! the least important victims, then the fewest.

use crate::{
    cluster::{Cluster, NodeState, priority},
    explain::Preempting,
    filter::Refusal,
    selector::{Labels, label_selector},
};
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use std::{cmp::Reverse, collections::HashSet, sync::Arc};

/// Nodes that are tried at least, and the share of all that is tried, in hundredths.
const CANDIDATES_MIN: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

/// A node that can run the pod once its victims have left.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// The most important first.
    pub(crate) victims: Vec<Arc<Pod>>,
    /// How many of them a budget wants to stay.
    violations: usize,
}

impl Candidate {
    pub(crate) fn uids(&self) -> HashSet<String> {
        self.victims.iter().filter_map(|victim| victim.uid()).collect()
    }
}

/// How many nodes with victims are enough.
pub(crate) fn enough(nodes: usize) -> usize {
    (nodes * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN)
}

/// Why the pod cannot preempt, apart from what nodes say.
pub(crate) fn ineligible(pod: &Pod, cluster: &Cluster) -> Option<&'static str> {
    if pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    cluster
        .is_being_cleared(pod)
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The fewest victims on one node, or why there are none. `refusal` says whether the node, in
/// another state, can run the pod.
pub(crate) fn on_node(
    pod: &Pod,
    node: &NodeState,
    first: &Refusal,
    budgets: &[Arc<PodDisruptionBudget>],
    refusal: impl Fn(&NodeState) -> Option<Refusal>,
) -> Result<Candidate, Preempting> {
    if first.is_final {
        return Err(Preempting::NotHelpful);
    }
    let lesser = |other: &&Arc<Pod>| priority(other) < priority(pod);
    let mut victims: Vec<Arc<Pod>> = node.pods.values().filter(lesser).cloned().collect();
    if victims.is_empty() {
        return Err(Preempting::NoVictims);
    }
    let mut state = node.clone();
    for victim in &victims {
        state.remove(&victim.uid().unwrap_or_default());
    }
    if let Some(still) = refusal(&state) {
        return Err(Preempting::StillRefused(still.reasons));
    }
    victims.sort_by_key(importance);
    let (protected, others) = split_by_budgets(victims, budgets);
    let mut kept_off = Vec::new();
    let mut violations = 0;
    let mut spare = |victim: Arc<Pod>, protected: bool| {
        let uid = victim.uid().unwrap_or_default();
        state.add(uid.clone(), victim.clone());
        if refusal(&state).is_some() {
            state.remove(&uid);
            violations += usize::from(protected);
            kept_off.push(victim);
        }
    };
    protected.into_iter().for_each(|victim| spare(victim, true));
    others.into_iter().for_each(|victim| spare(victim, false));
    kept_off.sort_by_key(importance);
    Ok(Candidate { node: node.node.name_any(), victims: kept_off, violations })
}

/// The candidate that hurts least.
pub(crate) fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by_key(|candidate| {
        let victims = &candidate.victims;
        let highest = victims.iter().map(|victim| priority(victim)).max().unwrap_or(i32::MIN);
        // Shifted, so that of two sums the one of more victims is never the smaller.
        let sum: i64 = victims
            .iter()
            .map(|victim| i64::from(priority(victim)) + i64::from(i32::MAX) + 1)
            .sum();
        let earliest = victims
            .iter()
            .filter(|victim| priority(victim) == highest)
            .map(|victim| started_at(victim))
            .min();
        (candidate.violations, highest, sum, victims.len(), Reverse(earliest))
    })
}

/// The most important first: by priority, then those that have run longest.
fn importance(pod: &Arc<Pod>) -> (Reverse<i32>, Timestamp) {
    (Reverse(priority(pod)), started_at(pod))
}

fn started_at(pod: &Pod) -> Timestamp {
    let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let created = || pod.creation_timestamp().map_or(Timestamp::MAX, |time| time.0);
    start.map_or_else(created, |time| time.0)
}

/// Those whose going would break a budget, and the others.
fn split_by_budgets(
    victims: Vec<Arc<Pod>>,
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let allowed = |budget: &Arc<PodDisruptionBudget>| {
        budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0)
    };
    let mut left: Vec<i32> = budgets.iter().map(allowed).collect();
    victims.into_iter().partition(|victim| {
        let mut breaks = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            if protects(budget, victim) {
                *left -= 1;
                breaks |= *left < 0;
            }
        }
        breaks
    })
}

/// A pod that the budget has let go already is not counted once more.
fn protects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let is_empty = selector.is_none_or(|one| {
        one.match_labels.as_ref().is_none_or(Labels::is_empty)
            && one.match_expressions.as_ref().is_none_or(Vec::is_empty)
    });
    let going = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    budget.metadata.namespace == pod.metadata.namespace
        && !is_empty
        && label_selector(selector, pod.labels())
        && !going.is_some_and(|pods| pods.contains_key(&pod.name_any()))
}

#[cfg(test)]
mod tests;
