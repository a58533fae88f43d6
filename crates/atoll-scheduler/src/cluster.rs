//! Nodes with what their pods use: the state that decisions are made from.
//!
//! A pod that has just been bound counts at once ("assumed"), until the API shows it.

use crate::{
    amounts::{self, Amounts},
    filter::ports::HostPort,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

/// A node and the pods on it, assumed ones included.
#[derive(Clone)]
pub(crate) struct NodeState {
    pub(crate) node: Arc<Node>,
    pub(crate) allocatable: Amounts,
    pub(crate) pods: BTreeMap<String, Arc<Pod>>,
    pub(crate) requested: Amounts,
    /// As `requested`, with amounts assumed for containers that state none.
    pub(crate) weighed: Amounts,
    pub(crate) host_ports: Vec<HostPort>,
}

impl NodeState {
    fn new(node: Arc<Node>) -> Self {
        Self {
            allocatable: allocatable(&node),
            node,
            pods: BTreeMap::new(),
            requested: Amounts::new(),
            weighed: Amounts::new(),
            host_ports: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, uid: String, pod: Arc<Pod>) {
        amounts::add(&mut self.requested, &amounts::requested(&pod));
        amounts::add(&mut self.weighed, &amounts::requested_or_assumed(&pod));
        self.host_ports.extend(HostPort::of(&pod));
        self.pods.insert(uid, pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        amounts::subtract(&mut self.requested, &amounts::requested(&pod));
        amounts::subtract(&mut self.weighed, &amounts::requested_or_assumed(&pod));
        for port in HostPort::of(&pod) {
            if let Some(position) = self.host_ports.iter().position(|one| *one == port) {
                self.host_ports.swap_remove(position);
            }
        }
    }
}

fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    let stated = status.and_then(|one| one.allocatable.as_ref().or(one.capacity.as_ref()));
    stated.map(amounts::parse).unwrap_or_default()
}

/// Changes of nodes that a ranking may catch up with; one that is further behind starts anew.
const TOUCHED_MAX: usize = 16_384;

/// A pod that counts, and where.
struct Placed {
    node: String,
    pod: Arc<Pod>,
}

struct Nomination {
    at: Placed,
    /// Uids of those that were told to leave.
    victims: HashSet<String>,
}

#[derive(Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// By uid, every pod that counts, its node known or not.
    placed: HashMap<String, Placed>,
    /// Placed by us and not yet shown by the API.
    assumed: HashSet<String>,
    /// Pods that wait for others to leave a node, by uid.
    nominated: HashMap<String, Nomination>,
    /// Pods whose anti-affinity may close nodes to others, by uid.
    repelling: HashSet<String>,
    /// How many pods of each controller, by its uid, stand on which known nodes, those not counted
    /// that are leaving.
    siblings: HashMap<String, HashMap<String, i64>>,
    /// Which nodes have changed, the latest last; it begins with change number `touched_from`.
    touched: VecDeque<String>,
    touched_from: u64,
}

impl Cluster {
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values()
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeState> {
        self.nodes.get(name)
    }

    /// Whether some pod's anti-affinity may close nodes to others.
    pub(crate) fn has_repelling(&self) -> bool {
        !self.repelling.is_empty()
    }

    pub(crate) fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// The nodes on which pods of the same controller stand, and how many.
    pub(crate) fn siblings(&self, pod: &Pod) -> Option<&HashMap<String, i64>> {
        self.siblings.get(controller(pod)?)
    }

    fn count_sibling(&mut self, pod: &Pod, node: &str, more: i64) {
        let Some(owner) = controller(pod).filter(|_| pod.metadata.deletion_timestamp.is_none())
        else {
            return;
        };
        if !self.nodes.contains_key(node) {
            return;
        }
        let nodes = self.siblings.entry(owner.to_owned()).or_default();
        let count = nodes.entry(node.to_owned()).or_default();
        *count += more;
        if *count == 0 {
            nodes.remove(node);
        }
        if nodes.is_empty() {
            self.siblings.remove(owner);
        }
    }

    /// Counts, or no longer counts, the siblings on a node that comes or goes.
    fn count_all(&mut self, node: &str, more: i64) {
        let pods = self.nodes.get(node).map(|state| state.pods.values().cloned());
        for pod in pods.into_iter().flatten().collect::<Vec<_>>() {
            self.count_sibling(&pod, node, more);
        }
    }

    /// The number of the next change of a node.
    pub(crate) fn changes(&self) -> u64 {
        self.touched_from + u64::try_from(self.touched.len()).unwrap_or(0)
    }

    /// The nodes that have changed since change number `from`; `None` when that is too long ago.
    pub(crate) fn touched_since(&self, from: u64) -> Option<impl Iterator<Item = &str>> {
        let skip = usize::try_from(from.checked_sub(self.touched_from)?).ok()?;
        Some(self.touched.iter().skip(skip).map(String::as_str))
    }

    fn touch(&mut self, node: &str) {
        if self.touched.len() >= TOUCHED_MAX {
            self.touched.pop_front();
            self.touched_from += 1;
        }
        self.touched.push_back(node.to_owned());
    }

    /// Returns whether the change may let a waiting pod run.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) -> bool {
        let name = node.name_any();
        if let Some(known) = self.nodes.get_mut(&name) {
            let opens = may_open(&known.node, &node);
            if opens {
                known.allocatable = allocatable(&node);
            }
            known.node = node;
            if opens {
                self.touch(&name);
            }
            return opens;
        }
        let mut state = NodeState::new(node);
        for (uid, placed) in &self.placed {
            if placed.node == name {
                state.add(uid.clone(), placed.pod.clone());
            }
        }
        self.touch(&name);
        self.nodes.insert(name.clone(), state);
        self.count_all(&name, 1);
        true
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        self.count_all(name, -1);
        self.nodes.remove(name);
        self.touch(name);
    }

    /// Takes in what the API shows of a pod that is bound and has not ended. Returns whether it
    /// was there before in another size.
    pub(crate) fn set_pod(&mut self, pod: Arc<Pod>, node: &str) -> bool {
        let uid = pod.uid().unwrap_or_default();
        self.assumed.remove(&uid);
        self.nominated.remove(&uid);
        let before = self.placed.get(&uid);
        let resized = before.is_some_and(|placed| !same_size(&placed.pod, &pod));
        self.place(uid, pod, node);
        resized
    }

    pub(crate) fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        let uid = pod.uid().unwrap_or_default();
        self.assumed.insert(uid.clone());
        self.nominated.remove(&uid);
        self.place(uid, pod, node);
    }

    /// Forgets an assumption whose binding failed.
    pub(crate) fn unassume(&mut self, uid: &str) {
        if self.assumed.remove(uid) {
            self.take_off(uid);
        }
    }

    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Keeps room on a node for a pod that others, by uid, are leaving it for.
    pub(crate) fn nominate(&mut self, pod: Arc<Pod>, node: &str, victims: HashSet<String>) {
        let uid = pod.uid().unwrap_or_default();
        let at = Placed { node: node.to_owned(), pod };
        self.nominated.insert(uid, Nomination { at, victims });
    }

    pub(crate) fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    pub(crate) fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|nomination| nomination.at.node.as_str())
    }

    /// Whether pods are still on their way off the node that they leave for this one.
    pub(crate) fn is_being_cleared(&self, pod: &Pod) -> bool {
        let nomination = self.nominated.get(&pod.uid().unwrap_or_default());
        nomination.is_some_and(|nomination| {
            let node = self.nodes.get(&nomination.at.node);
            let mut pods = node.into_iter().flat_map(|node| &node.pods);
            pods.any(|(uid, other)| {
                let leaves =
                    other.metadata.deletion_timestamp.is_some() && priority(other) < priority(pod);
                leaves || nomination.victims.contains(uid)
            })
        })
    }

    /// The node as it will be with the pods nominated to it that matter as much as `pod`.
    pub(crate) fn with_nominated(&self, node: &NodeState, pod: &Pod) -> Option<NodeState> {
        let (name, uid) = (node.node.name_any(), pod.uid().unwrap_or_default());
        let mut state: Option<NodeState> = None;
        for (other, Nomination { at, .. }) in &self.nominated {
            let counts = priority(&at.pod) >= priority(pod) && *other != uid;
            if counts && at.node == name {
                let state = state.get_or_insert_with(|| node.clone());
                state.add(other.clone(), at.pod.clone());
            }
        }
        state
    }

    /// Returns whether it freed anything.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        let kept_room = self.nominated.remove(uid).is_some();
        self.take_off(uid) || kept_room
    }

    fn place(&mut self, uid: String, pod: Arc<Pod>, node: &str) {
        // Most changes of a pod are of its status, and use no other room.
        if let Some(placed) = self.placed.get_mut(&uid)
            && placed.node == node
            && same_size(&placed.pod, &pod)
        {
            let seen = seen_by_others(&placed.pod) != seen_by_others(&pod);
            let before = std::mem::replace(&mut placed.pod, pod.clone());
            self.count_sibling(&before, node, -1);
            self.count_sibling(&pod, node, 1);
            if let Some(state) = self.nodes.get_mut(node) {
                state.pods.insert(uid, pod);
            }
            if seen {
                self.touch(node);
            }
            return;
        }
        self.take_off(&uid);
        if let Some(state) = self.nodes.get_mut(node) {
            state.add(uid.clone(), pod.clone());
        }
        if repels(&pod) {
            self.repelling.insert(uid.clone());
        }
        self.touch(node);
        self.count_sibling(&pod, node, 1);
        self.placed.insert(uid, Placed { node: node.to_owned(), pod });
    }

    fn take_off(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else { return false };
        self.repelling.remove(uid);
        if let Some(state) = self.nodes.get_mut(&placed.node) {
            state.remove(uid);
        }
        self.touch(&placed.node);
        self.count_sibling(&placed.pod, &placed.node, -1);
        true
    }
}

pub(crate) fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// The uid of what made the pod and looks after it.
fn controller(pod: &Pod) -> Option<&str> {
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
    Some(&owner.uid)
}

/// Generation moves with the spec, from which a pod's requests and ports follow; what it holds
/// while it is resized stands in its status.
fn same_size(one: &Pod, other: &Pod) -> bool {
    one.metadata.generation.is_some()
        && one.metadata.generation == other.metadata.generation
        && (amounts::same_held(one, other) || amounts::requested(one) == amounts::requested(other))
}

/// What affinity and spreading of others go by.
fn seen_by_others(pod: &Pod) -> impl PartialEq + '_ {
    (pod.labels(), pod.metadata.deletion_timestamp.is_some())
}

fn repels(pod: &Pod) -> bool {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let apart = affinity.and_then(|one| one.pod_anti_affinity.as_ref());
    apart
        .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref())
        .is_some_and(|terms| !terms.is_empty())
}

/// A node's heartbeat changes nothing for waiting pods; these do.
fn may_open(old: &Node, new: &Node) -> bool {
    let spec =
        |node: &Node| node.spec.as_ref().map(|spec| (spec.unschedulable, spec.taints.clone()));
    old.labels() != new.labels() || spec(old) != spec(new) || allocatable(old) != allocatable(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name },
                "status": { "allocatable": { "cpu": "2", "pods": "10" } },
            }))
            .unwrap(),
        )
    }

    fn pod(uid: &str, cpu: &str) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": uid, "uid": uid },
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] },
            }))
            .unwrap(),
        )
    }

    fn used(cluster: &Cluster) -> i64 {
        cluster.nodes().map(|node| node.requested.get("cpu").copied().unwrap_or(0)).sum()
    }

    #[test]
    fn an_assumed_pod_counts_once_when_the_api_shows_it() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        cluster.assume(pod("p", "500m"), "a");
        assert_eq!(used(&cluster), 500);
        cluster.set_pod(pod("p", "500m"), "a");
        assert_eq!(used(&cluster), 500);
        cluster.unassume("p");
        assert_eq!(used(&cluster), 500, "the API's word stands");
        assert!(cluster.remove_pod("p"));
        assert_eq!(used(&cluster), 0);
    }

    #[test]
    fn pods_seen_before_their_node_count_when_it_comes() {
        let mut cluster = Cluster::default();
        cluster.set_pod(pod("p", "1"), "a");
        cluster.set_node(node("a"));
        assert_eq!(used(&cluster), 1_000);
    }

    #[test]
    fn a_nominated_pod_keeps_its_room_from_those_that_matter_less() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        let mut urgent = Arc::unwrap_or_clone(pod("urgent", "1500m"));
        urgent.spec.as_mut().unwrap().priority = Some(10);
        cluster.nominate(Arc::new(urgent), "a", HashSet::new());
        let state = cluster.node("a").unwrap();
        let seen = cluster.with_nominated(state, &pod("other", "1")).unwrap();
        assert_eq!(seen.requested["cpu"], 1_500);
        let mut more_urgent = Arc::unwrap_or_clone(pod("more", "1"));
        more_urgent.spec.as_mut().unwrap().priority = Some(11);
        assert!(cluster.with_nominated(state, &more_urgent).is_none());
    }

    #[test]
    fn a_ranking_learns_what_has_changed_since() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        let from = cluster.changes();
        cluster.assume(pod("p", "1"), "a");
        let touched: Vec<&str> = cluster.touched_since(from).unwrap().collect();
        assert_eq!(touched, ["a"]);
        for _ in 0..=TOUCHED_MAX {
            cluster.touch("b");
        }
        assert!(cluster.touched_since(from).is_none());
    }

    #[test]
    fn siblings_count_until_they_leave() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        let of = |uid: &str| {
            let mut pod = Arc::unwrap_or_clone(pod(uid, "1"));
            let owner = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s",
                "uid": "s", "controller": true }]);
            pod.metadata.owner_references = serde_json::from_value(owner).unwrap();
            pod.metadata.generation = Some(1);
            pod
        };
        let counted = |cluster: &Cluster| cluster.siblings(&of("p"))?.get("a").copied();
        cluster.assume(Arc::new(of("p")), "a");
        cluster.set_pod(Arc::new(of("p")), "a");
        cluster.set_pod(Arc::new(of("q")), "a");
        assert_eq!(counted(&cluster), Some(2));
        let mut leaving = of("q");
        leaving.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        cluster.set_pod(Arc::new(leaving), "a");
        assert_eq!(counted(&cluster), Some(1));
        cluster.remove_pod("q");
        assert_eq!(counted(&cluster), Some(1));
        // A node that goes takes its count along, and brings it back.
        cluster.remove_node("a");
        assert!(cluster.siblings(&of("p")).is_none());
        cluster.set_pod(Arc::new(of("r")), "a");
        cluster.set_node(node("a"));
        assert_eq!(counted(&cluster), Some(2));
        cluster.remove_pod("r");
        cluster.remove_node("a");
        cluster.remove_pod("p");
        cluster.set_node(node("a"));
        assert!(cluster.siblings(&of("p")).is_none());
    }

    #[test]
    fn a_pod_that_was_resized_makes_room_when_its_node_has_done_it() {
        let mut cluster = Cluster::default();
        cluster.set_node(node("a"));
        let resized = |generation: i64, cpu: &str, holds: &str| {
            let mut pod = Arc::unwrap_or_clone(pod("p", cpu));
            pod.metadata.generation = Some(generation);
            let status = json!({ "containerStatuses": [{ "name": "c", "ready": true, "image": "",
                "imageID": "", "restartCount": 0, "resources": { "requests": { "cpu": holds } } }] });
            pod.status = serde_json::from_value(status).unwrap();
            Arc::new(pod)
        };
        cluster.set_pod(resized(1, "1", "1"), "a");
        assert!(!cluster.set_pod(resized(1, "1", "1"), "a"));
        assert!(cluster.set_pod(resized(2, "500m", "1"), "a"));
        assert_eq!(used(&cluster), 1_000);
        assert!(cluster.set_pod(resized(2, "500m", "500m"), "a"));
        assert_eq!(used(&cluster), 500);
    }

    #[test]
    fn a_heartbeat_opens_nothing() {
        let mut cluster = Cluster::default();
        assert!(cluster.set_node(node("a")));
        assert!(!cluster.set_node(node("a")));
    }
}
