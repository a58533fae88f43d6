//! Who owns whom, from metadata alone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An object, as far as the collector cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Its place in the catalog of kinds.
    pub(super) kind: usize,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<Owner>,
    pub(super) finalizers: Vec<String>,
    pub(super) deleting: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) controller: Option<bool>,
    /// Foreground deletion of the owner waits for this object.
    pub(super) blocks: bool,
}

impl Owner {
    pub(super) fn reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: self.controller,
            block_owner_deletion: self.blocks.then_some(true),
        }
    }
}

impl Node {
    pub(super) fn of(kind: usize, metadata: &ObjectMeta) -> Self {
        let owners = metadata.owner_references.iter().flatten().map(|owner| Owner {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            controller: owner.controller,
            blocks: owner.block_owner_deletion == Some(true),
        });
        Self {
            kind,
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            owners: owners.collect(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }

    pub(super) fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }

    /// Whether it is being deleted and `finalizer` holds it.
    pub(super) fn waits_for(&self, finalizer: &str) -> bool {
        self.deleting && self.has_finalizer(finalizer)
    }
}

/// All objects, by uid, and their dependents.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    /// Owner's uid → dependents' uids; an owner need not be known.
    dependents: HashMap<String, BTreeSet<String>>,
    /// Dependent's uid → uids of the owners in other namespaces that were told of.
    told: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Stores the newest state; returns the uids that need a look because of it.
    ///
    /// `same_kind` says whether an owner reference names the kind of a known object.
    pub(super) fn insert(
        &mut self,
        node: Node,
        same_kind: &dyn Fn(&Owner, &Node) -> bool,
    ) -> Vec<String> {
        let uid = node.uid.clone();
        self.unlink(&uid);
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let held = node.waits_for(super::FOREGROUND) || node.waits_for(super::ORPHAN);
        let owner_is_leaving = node.owners.iter().any(|owner| {
            self.owner(&node, owner, same_kind)
                .is_none_or(|known| known.waits_for(super::FOREGROUND))
        });
        let mut look_at = Vec::new();
        if held || (owner_is_leaving && !node.deleting) {
            look_at.push(uid.clone());
        }
        // Owners that wait for this object in the foreground need not do so any longer.
        let before = self.nodes.get(&uid).map(|before| before.owners.clone()).unwrap_or_default();
        let blocks = |owner: &Owner| {
            node.owners.iter().any(|now| now.uid == owner.uid && now.blocks == owner.blocks)
        };
        let unblocked = before.into_iter().filter(|owner| owner.blocks && !blocks(owner));
        look_at.extend(unblocked.map(|owner| owner.uid));
        self.nodes.insert(uid, node);
        look_at
    }

    /// The object that `owner` names, as seen from its dependent `node`: an owner stands in
    /// the same namespace or in none, and all that the reference says of it is true.
    pub(super) fn owner(
        &self,
        node: &Node,
        owner: &Owner,
        same_kind: &dyn Fn(&Owner, &Node) -> bool,
    ) -> Option<&Node> {
        self.nodes.get(&owner.uid).filter(|known| {
            known.name == owner.name
                && (known.namespace.is_empty() || known.namespace == node.namespace)
                && same_kind(owner, known)
        })
    }

    /// Whether the owner is known to stand in another namespace than `node`, and this was not
    /// asked before.
    pub(super) fn is_news_of_elsewhere(&mut self, node: &Node, owner: &Owner) -> bool {
        let known = self.nodes.get(&owner.uid).map_or("", |known| &known.namespace);
        let elsewhere = !known.is_empty() && known != node.namespace;
        elsewhere && self.told.entry(node.uid.clone()).or_default().insert(owner.uid.clone())
    }

    /// Forgets an object; returns its namespace and the uids that need a look.
    pub(super) fn remove(&mut self, uid: &str) -> (Option<String>, Vec<String>) {
        self.unlink(uid);
        self.told.remove(uid);
        let Some(node) = self.nodes.remove(uid) else { return (None, Vec::new()) };
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        let waiting = node.owners.iter().map(|owner| owner.uid.clone());
        (Some(node.namespace), dependents.chain(waiting).collect())
    }

    fn unlink(&mut self, uid: &str) {
        let owners = self.nodes.get(uid).map(|node| node.owners.clone()).unwrap_or_default();
        for owner in owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    /// The objects of `kind` that a complete list did not have.
    pub(super) fn missing(&self, kind: usize, listed: &BTreeSet<String>) -> Vec<String> {
        let known = self.nodes.values().filter(|node| node.kind == kind);
        known.filter(|node| !listed.contains(&node.uid)).map(|node| node.uid.clone()).collect()
    }

    pub(super) fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Node> {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        dependents.filter_map(|uid| self.nodes.get(uid).cloned()).collect()
    }

    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<String> {
        let blocks = |node: &Node| node.owners.iter().any(|owner| owner.uid == uid && owner.blocks);
        let dependents = self.dependents(uid).into_iter();
        dependents.filter(blocks).map(|node| node.uid).collect()
    }

    pub(super) fn census(&self, namespace: &str) -> BTreeMap<usize, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.namespace == namespace) {
            *counts.entry(node.kind).or_insert(0) += 1;
        }
        counts
    }

    pub(super) fn finalizers(&self, namespace: &str) -> Vec<(String, usize)> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for node in self.nodes.values().filter(|node| node.namespace == namespace) {
            for finalizer in &node.finalizers {
                *counts.entry(finalizer.clone()).or_insert(0) += 1;
            }
        }
        counts.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[&str]) -> Node {
        let owners = owners.iter().map(|uid| Owner {
            uid: (*uid).to_owned(),
            name: (*uid).to_owned(),
            blocks: true,
            ..Owner::default()
        });
        Node {
            uid: uid.into(),
            name: uid.into(),
            namespace: "ns".into(),
            owners: owners.collect(),
            ..Node::default()
        }
    }

    #[test]
    fn an_owners_end_calls_for_a_look_at_its_dependents() {
        let mut graph = Graph::default();
        graph.insert(node("owner", &[]), &|_, _| true);
        assert!(graph.insert(node("pod", &["owner"]), &|_, _| true).is_empty());
        let (namespace, look_at) = graph.remove("owner");
        assert_eq!(
            (namespace.as_deref(), look_at.as_slice()),
            (Some("ns"), &["pod".to_owned()][..])
        );
    }

    #[test]
    fn an_object_of_an_unknown_owner_is_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.insert(node("pod", &["nobody"]), &|_, _| true), ["pod"]);
    }

    #[test]
    fn a_dependents_end_calls_for_a_look_at_the_waiting_owner() {
        let mut graph = Graph::default();
        let mut owner = node("owner", &[]);
        owner.deleting = true;
        owner.finalizers = vec![super::super::FOREGROUND.into()];
        graph.insert(node("pod", &["owner"]), &|_, _| true);
        assert_eq!(graph.insert(owner, &|_, _| true), ["owner"]);
        assert_eq!(graph.blocking_dependents("owner"), ["pod"]);
        assert_eq!(graph.remove("pod").1, ["owner"]);
        assert!(graph.blocking_dependents("owner").is_empty());
    }

    #[test]
    fn a_dependent_that_disowns_itself_frees_the_waiting_owner() {
        let mut graph = Graph::default();
        graph.insert(node("pod", &["owner", "other"]), &|_, _| true);
        let look_at = graph.insert(node("pod", &["other"]), &|_, _| true);
        assert!(look_at.contains(&"owner".to_owned()), "{look_at:?}");
        let mut willing = node("pod", &["other"]);
        willing.owners[0].blocks = false;
        assert!(graph.insert(willing, &|_, _| true).contains(&"other".to_owned()));
    }

    #[test]
    fn an_owner_elsewhere_or_of_another_name_or_kind_is_none() {
        let mut graph = Graph::default();
        let mut elsewhere = node("owner", &[]);
        elsewhere.namespace = "far".into();
        graph.insert(elsewhere, &|_, _| true);
        let pod = node("pod", &["owner"]);
        assert_eq!(graph.insert(pod.clone(), &|_, _| true), ["pod"]);
        let told: Vec<bool> =
            (0..2).map(|_| graph.is_news_of_elsewhere(&pod, &pod.owners[0])).collect();
        assert_eq!(told, [true, false]);
        graph.insert(node("owner", &[]), &|_, _| true);
        let other = node("other", &["owner"]);
        assert!(!graph.is_news_of_elsewhere(&other, &other.owners[0]), "it stands beside it");
        assert!(graph.insert(node("pod", &["owner"]), &|_, _| true).is_empty());
        assert_eq!(graph.insert(node("pod", &["owner"]), &|_, _| false), ["pod"]);
        let mut misnamed = node("pod", &["owner"]);
        misnamed.owners[0].name = "another".into();
        assert_eq!(graph.insert(misnamed, &|_, _| true), ["pod"]);
    }

    #[test]
    fn a_list_shows_what_went_unseen() {
        let mut graph = Graph::default();
        graph.insert(node("a", &[]), &|_, _| true);
        graph.insert(node("b", &[]), &|_, _| true);
        assert_eq!(graph.missing(0, &BTreeSet::from(["a".to_owned()])), ["b"]);
    }
}
