//! The two indexes of authorization and what they are built from.

use atoll_policy::bootstrap;
use atoll_policy::node::NodeGraph;
use atoll_policy::rbac::{Rbac, RbacKind};
use serde_json::Value;

use super::follow::Model;

pub(super) struct RbacModel(pub(super) Rbac);

impl Model for RbacModel {
    type Kind = RbacKind;

    fn sources() -> Vec<(RbacKind, &'static str, &'static str)> {
        RbacKind::ALL.map(|kind| (kind, "rbac.authorization.k8s.io", kind.resource())).to_vec()
    }

    fn empty() -> Self {
        Self(Rbac::default())
    }

    fn apply(&mut self, kind: RbacKind, object: &Value) {
        self.0.apply(kind, object);
    }

    fn remove(&mut self, kind: RbacKind, namespace: &str, name: &str) {
        self.0.remove(kind, namespace, name);
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum NodeSource {
    Pod,
    Volume,
}

pub(super) struct NodeModel(pub(super) NodeGraph);

impl Model for NodeModel {
    type Kind = NodeSource;

    fn sources() -> Vec<(NodeSource, &'static str, &'static str)> {
        vec![(NodeSource::Pod, "", "pods"), (NodeSource::Volume, "", "persistentvolumes")]
    }

    fn empty() -> Self {
        Self(NodeGraph::new(bootstrap::node_rules()))
    }

    fn apply(&mut self, kind: NodeSource, object: &Value) {
        match kind {
            NodeSource::Pod => self.0.apply_pod(object),
            NodeSource::Volume => self.0.apply_volume(object),
        }
    }

    fn remove(&mut self, kind: NodeSource, namespace: &str, name: &str) {
        match kind {
            NodeSource::Pod => self.0.remove_pod(namespace, name),
            NodeSource::Volume => self.0.remove_volume(name),
        }
    }
}
