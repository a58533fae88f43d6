//! The node authorizer: a node reads what the pods bound to it refer to, and little else.
//!
//! It speaks only for users `system:node:<name>` in the group `system:nodes`. RBAC stands
//! beside it and may allow more.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::message::Request;
use crate::rule::Rule;

mod references;

const NODE_LEASES: &str = "kube-node-lease";

/// What pods refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefKind {
    Secret,
    ConfigMap,
    ServiceAccount,
    PersistentVolumeClaim,
    PersistentVolume,
    Pod,
}

/// Kind, namespace, name.
type Target = (RefKind, String, String);

/// Which node has a reason to read what.
#[derive(Debug, Default)]
pub struct NodeGraph {
    pods: HashMap<(String, String), BoundPod>,
    /// How many pods of each node refer to the target.
    readers: HashMap<Target, HashMap<String, usize>>,
    /// A claim's volume, and what the volume refers to.
    volumes: HashMap<(String, String), Vec<Target>>,
    /// Volumes that are folders of a node, by name: the node looks after them.
    folders: HashMap<String, String>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct BoundPod {
    node: String,
    targets: HashSet<Target>,
}

/// What the node authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeVerdict {
    Allowed,
    /// Not by this authorizer; the reason may be empty.
    NoOpinion(String),
}

/// The node's name when the user is one: `Some("")` for a node that does not say which.
#[must_use]
pub fn node_of<'a>(user: &'a str, groups: &[String]) -> Option<&'a str> {
    groups.iter().any(|group| group == "system:nodes").then_some(())?;
    user.strip_prefix("system:node:")
}

impl NodeGraph {
    /// `rules` are those that every node has: see `bootstrap::node_rules`.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Takes in a pod that was created or changed.
    pub fn apply_pod(&mut self, pod: &Value) {
        let metadata = &pod["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        let name = metadata["name"].as_str().unwrap_or_default();
        self.remove_pod(namespace, name);
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else {
            return;
        };
        let targets = references::of_pod(pod, namespace, name);
        for target in &targets {
            let readers = self.readers.entry(target.clone()).or_default();
            *readers.entry(node.to_owned()).or_default() += 1;
        }
        let key = (namespace.to_owned(), name.to_owned());
        self.pods.insert(key, BoundPod { node: node.to_owned(), targets });
    }

    pub fn remove_pod(&mut self, namespace: &str, name: &str) {
        let Some(pod) = self.pods.remove(&(namespace.to_owned(), name.to_owned())) else {
            return;
        };
        for target in pod.targets {
            let Some(readers) = self.readers.get_mut(&target) else { continue };
            if let Some(count) = readers.get_mut(&pod.node) {
                *count -= 1;
                if *count == 0 {
                    readers.remove(&pod.node);
                }
            }
            if readers.is_empty() {
                self.readers.remove(&target);
            }
        }
    }

    /// Takes in a PersistentVolume: its claim's readers may read it and its secrets.
    pub fn apply_volume(&mut self, volume: &Value) {
        let name = volume["metadata"]["name"].as_str().unwrap_or_default();
        self.remove_volume(name);
        if let Some(node) = references::folder_of(volume) {
            self.folders.insert(name.to_owned(), node.to_owned());
        }
        let claim = &volume["spec"]["claimRef"];
        let (Some(namespace), Some(claim)) = (claim["namespace"].as_str(), claim["name"].as_str())
        else {
            return;
        };
        let mut targets = references::of_volume(volume, namespace);
        targets.push((RefKind::PersistentVolume, String::new(), name.to_owned()));
        self.volumes.insert((namespace.to_owned(), claim.to_owned()), targets);
    }

    pub fn remove_volume(&mut self, name: &str) {
        self.folders.remove(name);
        self.volumes.retain(|_, targets| {
            !targets.iter().any(|(kind, _, own)| *kind == RefKind::PersistentVolume && own == name)
        });
    }

    /// Whether a pod of the node refers to the object.
    #[must_use]
    pub fn may_read(&self, node: &str, kind: RefKind, namespace: &str, name: &str) -> bool {
        let target = (kind, namespace.to_owned(), name.to_owned());
        if self.readers.get(&target).is_some_and(|readers| readers.contains_key(node)) {
            return true;
        }
        if !matches!(kind, RefKind::PersistentVolume | RefKind::Secret) {
            return false;
        }
        self.volumes.iter().any(|((space, claim), targets)| {
            targets.contains(&target)
                && self.may_read(node, RefKind::PersistentVolumeClaim, space, claim)
        })
    }

    /// Answers for nodes; `None` for everyone else.
    #[must_use]
    pub fn authorize(&self, request: &Request<'_>) -> Option<NodeVerdict> {
        let node = node_of(request.user, request.groups)?;
        if node.is_empty() {
            let user = request.user;
            return Some(NodeVerdict::NoOpinion(format!("unknown node for user {user:?}")));
        }
        Some(self.decide(node, request))
    }

    fn decide(&self, node: &str, request: &Request<'_>) -> NodeVerdict {
        if request.resource_request {
            match (request.group, request.resource) {
                ("", "secrets") => return self.read(node, RefKind::Secret, request),
                ("", "configmaps") => return self.read(node, RefKind::ConfigMap, request),
                ("", "persistentvolumeclaims") => {
                    return self.claim(node, request);
                }
                ("", "persistentvolumes") => {
                    return self.volume(node, request);
                }
                ("", "serviceaccounts") => return self.token(node, request),
                ("", "nodes") => return own_node(node, request),
                ("", "pods") => return self.pod(node, request),
                ("coordination.k8s.io", "leases") => return lease(node, request),
                ("storage.k8s.io", "csinodes") => return csi_node(node, request),
                _ => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(request)) {
            return NodeVerdict::Allowed;
        }
        no("")
    }

    fn related(&self, node: &str, kind: RefKind, request: &Request<'_>) -> NodeVerdict {
        if request.name.is_empty() {
            return no("No Object name found");
        }
        let namespace = if kind == RefKind::PersistentVolume { "" } else { request.namespace };
        if self.may_read(node, kind, namespace, request.name) {
            return NodeVerdict::Allowed;
        }
        NodeVerdict::NoOpinion(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    fn read(&self, node: &str, kind: RefKind, request: &Request<'_>) -> NodeVerdict {
        if !matches!(request.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !request.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if request.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, kind, request)
    }

    fn get(&self, node: &str, kind: RefKind, request: &Request<'_>) -> NodeVerdict {
        if request.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !request.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, kind, request)
    }

    /// A node follows the volumes that are its folders, and holds them by a finalizer, which is
    /// all of them that admission lets it change.
    fn volume(&self, node: &str, request: &Request<'_>) -> NodeVerdict {
        let own = self.folders.get(request.name).is_some_and(|holder| holder == node);
        let looks_after = matches!(request.verb, "get" | "list" | "watch" | "patch");
        if own && looks_after && request.subresource.is_empty() {
            return NodeVerdict::Allowed;
        }
        self.get(node, RefKind::PersistentVolume, request)
    }

    fn claim(&self, node: &str, request: &Request<'_>) -> NodeVerdict {
        let kind = RefKind::PersistentVolumeClaim;
        if request.subresource != "status" {
            return self.get(node, kind, request);
        }
        if !matches!(request.verb, "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        self.related(node, kind, request)
    }

    fn token(&self, node: &str, request: &Request<'_>) -> NodeVerdict {
        if request.verb != "create" || request.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if request.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, RefKind::ServiceAccount, request)
    }

    /// What a node writes to pods is narrowed further by admission, which sees the object.
    fn pod(&self, node: &str, request: &Request<'_>) -> NodeVerdict {
        match (request.subresource, request.verb) {
            ("", "get") => self.related(node, RefKind::Pod, request),
            ("", "list" | "watch") => {
                if selects(request.field_selector, "spec.nodeName", node) {
                    NodeVerdict::Allowed
                } else if request.name.is_empty() {
                    no("can only list/watch pods with spec.nodeName field selector")
                } else {
                    self.related(node, RefKind::Pod, request)
                }
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => {
                NodeVerdict::Allowed
            }
            _ => no(""),
        }
    }
}

fn own_node(node: &str, request: &Request<'_>) -> NodeVerdict {
    match (request.subresource, request.verb) {
        // Admission holds these to the node's own object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => {
            NodeVerdict::Allowed
        }
        ("", "get" | "list" | "watch") if request.name == node => NodeVerdict::Allowed,
        ("", "get" | "list" | "watch") if request.name.is_empty() => NodeVerdict::NoOpinion(
            format!("node '{node}' cannot read all nodes, only its own Node object"),
        ),
        ("", "get" | "list" | "watch") => NodeVerdict::NoOpinion(format!(
            "node '{node}' cannot read '{}', only its own Node object",
            request.name
        )),
        _ => no(""),
    }
}

fn lease(node: &str, request: &Request<'_>) -> NodeVerdict {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if request.namespace != NODE_LEASES {
        return NodeVerdict::NoOpinion(format!(
            "can only access leases in the {NODE_LEASES:?} system namespace"
        ));
    }
    // The name is not known on create: admission checks it there.
    if request.verb != "create" && request.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    NodeVerdict::Allowed
}

fn csi_node(node: &str, request: &Request<'_>) -> NodeVerdict {
    if !matches!(request.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !request.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if request.verb != "create" && request.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    NodeVerdict::Allowed
}

fn no(reason: &str) -> NodeVerdict {
    NodeVerdict::NoOpinion(reason.to_owned())
}

/// Whether a field selector holds `field` to exactly `value`.
#[must_use]
pub fn selects(selector: &str, field: &str, value: &str) -> bool {
    selected(selector, field) == Some(value)
}

/// The one value that a field selector holds `field` to.
#[must_use]
pub fn selected<'a>(selector: &'a str, field: &str) -> Option<&'a str> {
    selector.split(',').find_map(|term| {
        let (own, value) = term.split_once('=')?;
        // `a!=b` leaves the `!` on the left, `a==b` a `=` on the right.
        (own.trim() == field).then(|| value.strip_prefix('=').unwrap_or(value).trim())
    })
}

#[cfg(test)]
mod tests;
