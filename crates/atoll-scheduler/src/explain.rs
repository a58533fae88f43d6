//! Why no node can run a pod, in the sentence that kube-scheduler writes.

use crate::filter::Refusal;
use std::collections::BTreeMap;

/// One node's refusal, and what preemption could make of it.
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) preemption: Preempting,
}

/// Why preemption does not help on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Preempting {
    /// The node would refuse even if it were empty.
    NotHelpful,
    /// No pod there matters less.
    NoVictims,
    /// It would refuse without those that matter less, too.
    StillRefused(Vec<String>),
}

/// The whole sentence; `instead` is why preemption was not even looked at.
pub(crate) fn sentence(refused: &[Refused], instead: Option<&str>) -> String {
    if refused.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let preemption = instead.map_or_else(|| preemption(refused), str::to_owned);
    format!("{} preemption: {preemption}", unavailable(refused))
}

/// The sentence without a word on preemption, which has begun.
pub(crate) fn unavailable(refused: &[Refused]) -> String {
    let reasons = refused.iter().flat_map(|one| one.refusal.reasons.iter().map(String::as_str));
    counted(refused.len(), reasons)
}

fn preemption(refused: &[Refused]) -> String {
    let reasons = refused.iter().flat_map(|one| match &one.preemption {
        Preempting::NotHelpful => vec!["Preemption is not helpful for scheduling"],
        Preempting::NoVictims => vec!["No preemption victims found for incoming pod"],
        Preempting::StillRefused(reasons) => reasons.iter().map(String::as_str).collect(),
    });
    counted(refused.len(), reasons)
}

fn counted<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reasons: &[&str], preemption: Preempting) -> Refused {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Refused { refusal: Refusal { reasons, is_final: false }, preemption }
    }

    #[test]
    fn counts_nodes_by_reason() {
        let all = [
            refused(&["Insufficient cpu"], Preempting::NoVictims),
            refused(&["Insufficient cpu", "Insufficient memory"], Preempting::NotHelpful),
            refused(&["node(s) were unschedulable"], Preempting::NotHelpful),
        ];
        assert_eq!(
            sentence(&all, None),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
        assert_eq!(sentence(&[], None), "no nodes available to schedule pods");
    }

    #[test]
    fn says_what_refuses_even_without_lesser_pods() {
        let still = Preempting::StillRefused(vec!["Insufficient cpu".into()]);
        let all = [refused(&["Insufficient cpu"], still)];
        assert!(
            sentence(&all, None)
                .ends_with("preemption: 0/1 nodes are available: 1 Insufficient cpu.")
        );
        let never = "not eligible due to preemptionPolicy=Never.";
        assert!(sentence(&all, Some(never)).ends_with(never));
    }
}
