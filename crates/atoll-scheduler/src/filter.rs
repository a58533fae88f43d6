//! Which nodes can run a pod; each filter gives the reason why not, in kube-scheduler's words.

pub(crate) mod ports;

use crate::{
    affinity::{AffinityState, Topology},
    amounts::{self, Amounts},
    cluster::NodeState,
    selector::{Labels, node_term},
    spread,
    volumes::Needs,
};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::ResourceExt;
use ports::HostPort;

/// What a filter needs to know of the pod and the whole cluster, computed once a decision.
pub(crate) struct Request<'a> {
    pub(crate) pod: &'a Pod,
    requested: Amounts,
    ports: Vec<HostPort>,
    affinity: AffinityState,
    spread: spread::State,
    /// What the pod's claims ask of its node.
    pub(crate) needs: Option<&'a Needs>,
    /// A claim of the pod is for one pod alone and another has it.
    pub(crate) taken: Option<Refusal>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(pod: &'a Pod, nodes: &[&NodeState], topology: &Topology<'_>) -> Self {
        Self {
            pod,
            requested: amounts::requested(pod),
            ports: HostPort::of(pod),
            affinity: AffinityState::new(pod, nodes, topology),
            spread: spread::State::required(pod, nodes),
            needs: None,
            taken: None,
        }
    }
}

/// Why a node cannot run a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// Whether it would refuse even if no other pod were there.
    pub(crate) is_final: bool,
}

/// The reasons why `node` cannot run the pod: of the first filter that refuses, all that
/// it has to say (as kube-scheduler counts them).
pub(crate) fn refusal(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    const FILTERS: &[fn(&Request<'_>, &NodeState) -> Option<Refusal>] = &[
        unschedulable,
        name,
        taints,
        node_affinity,
        host_ports,
        fits,
        |request, _| request.taken.clone(),
        |request, node| request.needs.and_then(|needs| needs.refusal(node)),
        |request, node| request.spread.refusal(node),
        |request, node| request.affinity.refusal(node),
    ];
    FILTERS.iter().find_map(|filter| filter(request, node))
}

/// Nothing that happens to other pods changes it.
pub(crate) fn never(reason: &str) -> Option<Refusal> {
    Some(Refusal { reasons: vec![reason.to_owned()], is_final: true })
}

/// Other pods stand in the way.
pub(crate) fn taken(reason: &str) -> Option<Refusal> {
    Some(Refusal { reasons: vec![reason.to_owned()], is_final: false })
}

fn unschedulable(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    if cordoned && !tolerated(request.pod, &taint) {
        return never("node(s) were unschedulable");
    }
    None
}

fn name(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    let wanted = request.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match wanted {
        Some(wanted) if !wanted.is_empty() && wanted != node.node.name_any() => {
            never("node(s) didn't match the requested node name")
        }
        _ => None,
    }
}

fn taints(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut hard = taints.into_iter().filter(|taint| taint.effect != "PreferNoSchedule");
    if hard.any(|taint| !tolerated(request.pod, taint)) {
        return never("node(s) had untolerated taint(s)");
    }
    None
}

pub(crate) fn tolerated(pod: &Pod, taint: &Taint) -> bool {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    tolerations.into_iter().any(|toleration| tolerates(toleration, taint))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Equal" => value == taint.value.as_deref().unwrap_or_default(),
            _ => false,
        }
}

fn node_affinity(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    if matches_node(request.pod, node.node.labels(), &node.node.name_any()) {
        None
    } else {
        never("node(s) didn't match Pod's node affinity/selector")
    }
}

/// Whether a node's labels are what the pod asks for, for a node that is to run a pod which may
/// never have met a scheduler.
#[must_use]
pub fn admits_labels(pod: &Pod, node: &Node) -> bool {
    matches_node(pod, node.labels(), &node.name_any())
}

/// Whether the pod may stay where these taints are: those alone that drive pods out count.
#[must_use]
pub fn admits_taints(pod: &Pod, node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let mut driving = taints.into_iter().filter(|taint| taint.effect == "NoExecute");
    driving.all(|taint| tolerated(pod, taint))
}

/// `nodeSelector` and the required node affinity together.
pub(crate) fn matches_node(pod: &Pod, labels: &Labels, name: &str) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return true };
    let pairs = spec.node_selector.iter().flatten();
    if !pairs.into_iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|one| one.node_affinity.as_ref())
        .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| node_term(term, labels, name))
    })
}

fn host_ports(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    let in_use = |port: &HostPort| node.host_ports.iter().any(|known| known.conflicts(port));
    if request.ports.iter().any(in_use) {
        return taken("node(s) didn't have free ports for the requested pod ports");
    }
    None
}

fn fits(request: &Request<'_>, node: &NodeState) -> Option<Refusal> {
    let mut refusal = Refusal::default();
    let room = node.allocatable.get("pods").copied().unwrap_or(0);
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= room {
        refusal.reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in request.requested.iter().filter(|(_, amount)| **amount > 0) {
        let total = node.allocatable.get(name).copied().unwrap_or(0);
        let used = node.requested.get(name).copied().unwrap_or(0);
        if *amount > total.saturating_sub(used) {
            refusal.reasons.push(format!("Insufficient {name}"));
            refusal.is_final |= *amount > total;
        }
    }
    (!refusal.reasons.is_empty()).then_some(refusal)
}

#[cfg(test)]
mod tests;
