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
    collections::{BTreeMap, HashMap},
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

    fn add(&mut self, uid: String, pod: Arc<Pod>) {
        amounts::add(&mut self.requested, &amounts::requested(&pod));
        amounts::add(&mut self.weighed, &amounts::requested_or_assumed(&pod));
        self.host_ports.extend(HostPort::of(&pod));
        self.pods.insert(uid, pod);
    }

    fn remove(&mut self, uid: &str) {
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

#[derive(Default)]
pub(crate) struct Cluster {
    nodes: BTreeMap<String, NodeState>,
    /// Pod uid → node, for every pod that counts, its node known or not.
    placed: HashMap<String, (String, Arc<Pod>)>,
    /// Placed by us and not yet shown by the API.
    assumed: HashMap<String, String>,
}

impl Cluster {
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeState> {
        self.nodes.values()
    }

    pub(crate) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Returns whether the change may let a waiting pod run.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) -> bool {
        let name = node.name_any();
        if let Some(known) = self.nodes.get_mut(&name) {
            let opens = may_open(&known.node, &node);
            known.allocatable = allocatable(&node);
            known.node = node;
            return opens;
        }
        let mut state = NodeState::new(node);
        for (uid, (on, pod)) in &self.placed {
            if *on == name {
                state.add(uid.clone(), pod.clone());
            }
        }
        self.nodes.insert(name, state);
        true
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// Takes in what the API shows of a pod that is bound and has not ended.
    pub(crate) fn set_pod(&mut self, pod: Arc<Pod>, node: &str) {
        let uid = pod.uid().unwrap_or_default();
        self.assumed.remove(&uid);
        self.place(uid, pod, node);
    }

    pub(crate) fn assume(&mut self, pod: Arc<Pod>, node: &str) {
        let uid = pod.uid().unwrap_or_default();
        self.assumed.insert(uid.clone(), node.to_owned());
        self.place(uid, pod, node);
    }

    /// Forgets an assumption whose binding failed.
    pub(crate) fn unassume(&mut self, uid: &str) {
        if self.assumed.remove(uid).is_some() {
            self.take_off(uid);
        }
    }

    pub(crate) fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains_key(uid)
    }

    /// Returns whether it freed anything.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        self.assumed.remove(uid);
        self.take_off(uid)
    }

    fn place(&mut self, uid: String, pod: Arc<Pod>, node: &str) {
        self.take_off(&uid);
        if let Some(state) = self.nodes.get_mut(node) {
            state.add(uid.clone(), pod.clone());
        }
        self.placed.insert(uid, (node.to_owned(), pod));
    }

    fn take_off(&mut self, uid: &str) -> bool {
        let Some((node, _)) = self.placed.remove(uid) else { return false };
        if let Some(state) = self.nodes.get_mut(&node) {
            state.remove(uid);
        }
        true
    }
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
    fn a_heartbeat_opens_nothing() {
        let mut cluster = Cluster::default();
        assert!(cluster.set_node(node("a")));
        assert!(!cluster.set_node(node("a")));
    }
}
