//! Why no node can run a pod, in the sentence that kube-scheduler writes.

use crate::filter::Refusal;
use std::collections::BTreeMap;

/// One node's refusal, and whether it has pods that are less important than the one
/// refused.
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) has_lesser_pods: bool,
}

/// The whole sentence; `never_preempts` is the pod's own wish.
pub(crate) fn sentence(refused: &[Refused], never_preempts: bool) -> String {
    if refused.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let reasons = refused.iter().flat_map(|one| one.refusal.reasons.iter().map(String::as_str));
    format!(
        "{} preemption: {}",
        counted(refused.len(), reasons),
        preemption(refused, never_preempts)
    )
}

/// Preemption does not take place here; what kube-scheduler would say where it does not
/// take place there either is said in its words.
fn preemption(refused: &[Refused], never_preempts: bool) -> String {
    if never_preempts {
        return "not eligible due to preemptionPolicy=Never.".into();
    }
    let reasons = refused.iter().map(|one| match (one.refusal.is_final, one.has_lesser_pods) {
        (true, _) => "Preemption is not helpful for scheduling",
        (false, false) => "No preemption victims found for incoming pod",
        (false, true) => "node(s) had pods of lower priority, which are not preempted",
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

    fn refused(reasons: &[&str], is_final: bool, has_lesser_pods: bool) -> Refused {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Refused { refusal: Refusal { reasons, is_final }, has_lesser_pods }
    }

    #[test]
    fn counts_nodes_by_reason() {
        let all = [
            refused(&["Insufficient cpu"], false, false),
            refused(&["Insufficient cpu", "Insufficient memory"], true, false),
            refused(&["node(s) were unschedulable"], true, true),
        ];
        assert_eq!(
            sentence(&all, false),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
             2 Preemption is not helpful for scheduling."
        );
        assert_eq!(sentence(&[], false), "no nodes available to schedule pods");
    }

    #[test]
    fn says_that_lesser_pods_are_left_alone() {
        let all = [refused(&["Insufficient cpu"], false, true)];
        assert!(sentence(&all, false).ends_with(
            "preemption: 0/1 nodes are available: 1 node(s) had pods of lower priority, which are not preempted."
        ));
        assert!(sentence(&all, true).ends_with("not eligible due to preemptionPolicy=Never."));
    }
}
