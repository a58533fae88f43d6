//! Why no node can run a pod, in the sentence that kube-scheduler writes.

use std::collections::BTreeMap;

/// `reasons` has one list a node.
pub(crate) fn sentence(reasons: &[Vec<String>]) -> String {
    if reasons.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons.iter().flatten() {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut parts: Vec<String> =
        counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{} nodes are available: {}.", reasons.len(), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_nodes_by_reason() {
        let cpu = || vec!["Insufficient cpu".to_owned()];
        let both = vec!["Insufficient cpu".to_owned(), "Insufficient memory".to_owned()];
        let reasons = [cpu(), both, vec!["node(s) were unschedulable".to_owned()]];
        assert_eq!(
            sentence(&reasons),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable, 2 Insufficient cpu."
        );
        assert_eq!(sentence(&[]), "no nodes available to schedule pods");
    }
}
