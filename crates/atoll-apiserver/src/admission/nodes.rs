//! NodeRestriction: a node writes its own Node, its own pods, its own lease.

use atoll_api::access::Access as _;
use atoll_policy::node::node_of;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::pods::is_mirror;
use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;
use crate::tokens::objects::Objects;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NODE_LEASES: &str = "kube-node-lease";

/// Labels under kubernetes.io and k8s.io that a node may give itself.
const OWN_LABELS: [&str; 14] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// The plugin `TaintNodesByCondition`: nothing is placed on a node before it is ready.
pub(super) fn taint_new<'a>(
    _: &'a Core,
    request: &'a AdmissionRequest<'a>,
    node: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let new = request.operation == Operation::Create
        && request.row.group.is_empty()
        && request.row.resource == "nodes"
        && request.subresource.is_empty();
    let known =
        |taint: &Value| taint.text("key") == NOT_READY && taint.text("effect") == "NoSchedule";
    if new && !node["spec"].items("taints").iter().any(known) {
        let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
        match node["spec"]["taints"].as_array_mut() {
            Some(taints) => taints.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
    }
    async { Ok(()) }.boxed()
}

/// The plugin `NodeRestriction`.
pub(super) fn restrict<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let Some(node) = node_of(&request.user.name, &request.user.groups) else {
        return async { Ok(()) }.boxed();
    };
    check(core, request, node, object).boxed()
}

async fn check(
    core: &Core,
    request: &AdmissionRequest<'_>,
    node: &str,
    object: &Value,
) -> Result<(), Status> {
    let at = Node { name: node, request };
    if node.is_empty() {
        let user = &request.user.name;
        return at.refuse(format!("could not determine node from user {user:?}"));
    }
    match (&*request.row.group, &*request.row.resource) {
        ("", "pods") => match request.subresource {
            "" => at.pod(object),
            "status" => at.pod_status(object),
            "eviction" => at.eviction(core).await,
            other => at.refuse(format!(
                "unexpected pod subresource {other:?}, only 'status' and \
                                        'eviction' are allowed"
            )),
        },
        ("", "nodes") => at.node(object),
        ("coordination.k8s.io", "leases") => at.lease(object),
        ("storage.k8s.io", "csinodes") => at.named_like_node(object, "csi node"),
        _ => Ok(()),
    }
}

struct Node<'a> {
    name: &'a str,
    request: &'a AdmissionRequest<'a>,
}

impl Node<'_> {
    fn refuse(&self, why: String) -> Result<(), Status> {
        Err(Status::forbidden(self.request.row, self.request.name, why))
    }

    fn pod(&self, pod: &Value) -> Result<(), Status> {
        let node = self.name;
        match self.request.operation {
            Operation::Create => self.new_pod(pod),
            Operation::Delete => {
                if self.request.old.is_some_and(|old| old["spec"].text("nodeName") == node) {
                    return Ok(());
                }
                self.refuse(format!(
                    "node {node:?} can only delete pods with spec.nodeName set to itself"
                ))
            }
            _ => self.refuse(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror \
                 pods"
            )),
        }
    }

    fn new_pod(&self, pod: &Value) -> Result<(), Status> {
        let node = self.name;
        if !is_mirror(pod) {
            return self.refuse(format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can \
                 only create mirror pods"
            ));
        }
        if pod["spec"].text("nodeName") != node {
            return self.refuse(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        let owners = pod["metadata"].items("ownerReferences");
        let own = |owner: &Value| {
            owner.text("apiVersion") == "v1"
                && owner.text("kind") == "Node"
                && owner.text("name") == node
                && owner.flag("controller")
                && !owner.flag("blockOwnerDeletion")
        };
        if owners.len() != 1 || !owners.iter().all(own) {
            return self.refuse(format!(
                "node {node:?} can only create pods with a controller owner reference set to \
                 itself"
            ));
        }
        Ok(())
    }

    fn pod_status(&self, pod: &Value) -> Result<(), Status> {
        let node = self.name;
        let old = self.request.old.unwrap_or(&Value::Null);
        if old["spec"].text("nodeName") != node {
            return self.refuse(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        if old["metadata"].fields("labels") != pod["metadata"].fields("labels") {
            return self.refuse(format!("node {node:?} cannot update labels through pod status"));
        }
        Ok(())
    }

    async fn eviction(&self, core: &Core) -> Result<(), Status> {
        let node = self.name;
        let objects = Objects { registry: &core.registry, storage: &core.storage };
        let pod = objects.get("pods", self.request.namespace, self.request.name).await?;
        if pod.is_some_and(|pod| pod["spec"].text("nodeName") == node) {
            return Ok(());
        }
        self.refuse(format!("node {node:?} can only evict pods with spec.nodeName set to itself"))
    }

    fn node(&self, object: &Value) -> Result<(), Status> {
        let node = self.name;
        let name = if self.request.name.is_empty() {
            object["metadata"].text("name")
        } else {
            self.request.name
        };
        if name != node {
            return self.refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
        }
        match self.request.operation {
            Operation::Create => {
                let forbidden = restricted_labels(object, &Value::Null);
                self.refuse_labels(forbidden, "set the following labels")?;
                if !object["metadata"].items("ownerReferences").is_empty() {
                    return self
                        .refuse(format!("node {node:?} is not allowed to set ownerReferences"));
                }
                Ok(())
            }
            Operation::Update => self.updated_node(object),
            Operation::Delete => {
                self.refuse(format!("node {node:?} is not allowed to delete node {name:?}"))
            }
            Operation::Connect => Ok(()),
        }
    }

    fn updated_node(&self, object: &Value) -> Result<(), Status> {
        let node = self.name;
        let old = self.request.old.unwrap_or(&Value::Null);
        // A status update keeps the rest of the object whatever it says.
        if old["spec"].items("taints") != object["spec"].items("taints") {
            return self.refuse(format!("node {node:?} is not allowed to modify taints"));
        }
        let owners = |object: &Value| object["metadata"]["ownerReferences"].clone();
        if owners(old) != owners(object) {
            return self.refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
        self.refuse_labels(restricted_labels(object, old), "modify labels")
    }

    fn refuse_labels(&self, mut labels: Vec<&str>, what: &str) -> Result<(), Status> {
        if labels.is_empty() {
            return Ok(());
        }
        labels.sort_unstable();
        let (node, labels) = (self.name, labels.join(", "));
        self.refuse(format!("node {node:?} is not allowed to {what}: {labels}"))
    }

    fn lease(&self, lease: &Value) -> Result<(), Status> {
        if self.request.namespace != NODE_LEASES {
            return self
                .refuse(format!("can only access leases in the {NODE_LEASES:?} system namespace"));
        }
        self.named_like_node(lease, "node lease")
    }

    fn named_like_node(&self, object: &Value, what: &str) -> Result<(), Status> {
        let name = if self.request.name.is_empty() {
            object["metadata"].text("name")
        } else {
            self.request.name
        };
        if name == self.name {
            return Ok(());
        }
        self.refuse(format!("can only access {what} with the same name as the requesting node"))
    }
}

/// Labels that differ and that are not the node's to set.
fn restricted_labels<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let labels = |object: &'a Value| object["metadata"].fields("labels");
    let (new, old) = (labels(new), labels(old));
    let keys = new.into_iter().chain(old).flat_map(|map| map.keys());
    let changed = |key: &&String| {
        new.and_then(|map| map.get(key.as_str())) != old.and_then(|map| map.get(key.as_str()))
    };
    let mut found: Vec<&str> =
        keys.filter(changed).map(String::as_str).filter(|key| !may_label(key)).collect();
    found.dedup();
    found
}

fn may_label(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || OWN_LABEL_DOMAINS.iter().any(|parent| within(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_labels_itself_within_limits() {
        for key in [
            "team",
            "example.com/rack",
            "kubernetes.io/hostname",
            "node.kubernetes.io/any",
            "kubelet.kubernetes.io/any",
        ] {
            assert!(may_label(key), "{key}");
        }
        for key in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/secure",
            "sub.node-restriction.kubernetes.io/x",
            "kubernetes.io/other",
            "x.k8s.io/y",
        ] {
            assert!(!may_label(key), "{key}");
        }
    }

    #[test]
    fn only_changed_labels_count() {
        let old = json!({"metadata": {"labels": {"node-role.kubernetes.io/x": "", "a": "b"}}});
        let mut new = old.clone();
        new["metadata"]["labels"]["a"] = json!("c");
        assert!(restricted_labels(&new, &old).is_empty());
        new["metadata"]["labels"]["node-role.kubernetes.io/x"] = json!("changed");
        assert_eq!(restricted_labels(&new, &old), ["node-role.kubernetes.io/x"]);
        let none = json!({"metadata": {}});
        assert_eq!(restricted_labels(&none, &old), ["node-role.kubernetes.io/x"]);
    }
}
