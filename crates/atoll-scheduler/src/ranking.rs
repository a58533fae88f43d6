//! Nodes in the order of their scores for one kind of pod, kept while pods of that kind keep
//! coming.
//!
//! A decision from scratch looks at every node. The pods of one owner ask for the same, and
//! between two of them only the nodes have changed that something was placed on or taken
//! from: those are looked at again, the others stay where they are. Scores that compare nodes
//! with each other are compared on the scale of the first decision.

use crate::{
    affinity::Topology,
    cluster::{Cluster, NodeState, priority},
    filter::{self, Request},
    score::{self, Scale},
    selector::Labels,
    spread,
};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Kinds of pods that are remembered; the one that waited longest makes room.
const RANKINGS_MAX: usize = 32;
const ZONE: &str = "topology.kubernetes.io/zone";

/// More is better: score, then the fewest pods, then the first name.
type Rank = (i64, Reverse<usize>, Reverse<Arc<str>>);

/// What is known of a node.
struct Seat {
    /// `None` when it cannot run the pod.
    rank: Option<Rank>,
    zone: Arc<str>,
    /// Siblings there.
    crowd: i64,
}

struct Ranking {
    /// A pod of the kind, by which others are known to be of it.
    like: Arc<Pod>,
    owner_labels: Option<Labels>,
    scale: Scale,
    /// Every change of a node before this one is taken in.
    seen: u64,
    seats: HashMap<Arc<str>, Seat>,
    zones: BTreeMap<Arc<str>, Zone>,
    used_at: u64,
}

#[derive(Default)]
struct Zone {
    ranks: BTreeSet<Rank>,
    crowd: i64,
}

#[derive(Default)]
pub(crate) struct Rankings {
    by_owner: HashMap<String, Ranking>,
    uses: u64,
}

impl Rankings {
    /// The best node for the pod; `None` when it takes a decision from scratch.
    pub(crate) fn best(
        &mut self,
        pod: &Arc<Pod>,
        owner_labels: Option<&Labels>,
        cluster: &Cluster,
    ) -> Option<String> {
        if !is_plain(pod) || cluster.has_repelling() || cluster.has_nominations() {
            return None;
        }
        self.uses += 1;
        let owner = owner(pod);
        let known = self.by_owner.get_mut(&owner);
        let fits = known
            .filter(|known| alike(&known.like, pod) && known.owner_labels.as_ref() == owner_labels);
        let current = fits.is_some_and(|known| {
            known.used_at = self.uses;
            known.catch_up(cluster)
        });
        if !current {
            let ranking = Ranking::new(pod, owner_labels, cluster, self.uses);
            self.by_owner.insert(owner.clone(), ranking);
            self.shrink();
        }
        self.by_owner.get(&owner)?.first()
    }

    fn shrink(&mut self) {
        if self.by_owner.len() <= RANKINGS_MAX {
            return;
        }
        let oldest = self.by_owner.iter().min_by_key(|(_, ranking)| ranking.used_at);
        if let Some(oldest) = oldest.map(|(owner, _)| owner.clone()) {
            self.by_owner.remove(&oldest);
        }
    }
}

impl Ranking {
    fn new(pod: &Arc<Pod>, owner_labels: Option<&Labels>, cluster: &Cluster, used_at: u64) -> Self {
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let mut ranking = Self {
            like: pod.clone(),
            owner_labels: owner_labels.cloned(),
            scale: Scale::of(pod, &nodes, owner_labels),
            seen: cluster.changes(),
            seats: HashMap::new(),
            zones: BTreeMap::new(),
            used_at,
        };
        ranking.seat(&nodes);
        ranking
    }

    /// Whether all changes since could be taken in.
    fn catch_up(&mut self, cluster: &Cluster) -> bool {
        let Some(touched) = cluster.touched_since(self.seen) else { return false };
        let touched: BTreeSet<&str> = touched.collect();
        for name in &touched {
            self.leave(name);
        }
        let nodes: Vec<&NodeState> = touched.iter().filter_map(|name| cluster.node(name)).collect();
        self.seat(&nodes);
        self.seen = cluster.changes();
        true
    }

    /// Gives a place to each node that can run the pod, and counts the siblings on all.
    fn seat(&mut self, nodes: &[&NodeState]) {
        let none = BTreeMap::new();
        let topology = Topology { namespace_labels: &none, has_repelling: false };
        let pod = self.like.clone();
        let request = Request::new(&pod, &[], &topology);
        let wanted = score::wanted(&pod);
        for node in nodes {
            let crowd = spread::siblings(&pod, node, self.owner_labels.as_ref());
            let name: Arc<str> = node.node.name_any().into();
            let zone: Arc<str> = node.node.labels().get(ZONE).cloned().unwrap_or_default().into();
            let place = self.zones.entry(zone.clone()).or_default();
            place.crowd += crowd;
            let rank = filter::refusal(&request, node).is_none().then(|| {
                let score = self.scale.score(&pod, node, &wanted, crowd);
                (score, Reverse(node.pods.len()), Reverse(name.clone()))
            });
            place.ranks.extend(rank.clone());
            self.seats.insert(name, Seat { rank, zone, crowd });
        }
    }

    fn leave(&mut self, name: &str) {
        let Some(seat) = self.seats.remove(name) else { return };
        if let Some(zone) = self.zones.get_mut(&seat.zone) {
            if let Some(rank) = &seat.rank {
                zone.ranks.remove(rank);
            }
            zone.crowd -= seat.crowd;
        }
    }

    /// The best of all zones; a zone with many siblings counts for less.
    fn first(&self) -> Option<String> {
        let bests = self.zones.iter().filter_map(|(name, zone)| {
            let (score, pods, node) = zone.ranks.last()?;
            let crowd = if name.is_empty() { 0 } else { zone.crowd };
            Some((self.scale.crowded(*score, crowd), *pods, node.clone()))
        });
        bests.max().map(|(_, _, Reverse(node))| node.to_string())
    }
}

/// Pods without a controller are known by their namespace.
fn owner(pod: &Pod) -> String {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    controller.map_or_else(|| pod.namespace().unwrap_or_default(), |owner| owner.uid.clone())
}

/// Whether where the pod may go depends on nothing but what each node has.
fn is_plain(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let affinity = spec.affinity.as_ref();
    let minds_pods =
        affinity.is_some_and(|one| one.pod_affinity.is_some() || one.pod_anti_affinity.is_some());
    let spreads = spec.topology_spread_constraints.as_ref().is_some_and(|all| !all.is_empty());
    let claims = spec.resource_claims.as_ref().is_some_and(|all| !all.is_empty());
    let has_volumes = spec
        .volumes
        .iter()
        .flatten()
        .any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    !minds_pods && !spreads && !claims && !has_volumes
}

/// Whether two pods are the same to every filter and score.
fn alike(one: &Pod, other: &Pod) -> bool {
    let (Some(left), Some(right)) = (one.spec.as_ref(), other.spec.as_ref()) else { return false };
    let sizes = |pod: &k8s_openapi::api::core::v1::PodSpec| {
        let all = pod.containers.iter().chain(pod.init_containers.iter().flatten());
        all.map(|one| (one.resources.clone(), one.ports.clone(), one.restart_policy.clone()))
            .collect::<Vec<_>>()
    };
    priority(one) == priority(other)
        && one.namespace() == other.namespace()
        && one.labels() == other.labels()
        && left.node_selector == right.node_selector
        && left.affinity == right.affinity
        && left.tolerations == right.tolerations
        && left.node_name == right.node_name
        && left.overhead == right.overhead
        && left.resources == right.resources
        && sizes(left) == sizes(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(count: usize, zones: bool) -> Cluster {
        let mut cluster = Cluster::default();
        for index in 0..count {
            let name = format!("n{index}");
            let mut labels = json!({ "kubernetes.io/hostname": name });
            if zones {
                // The first zone has more nodes than the second.
                labels[ZONE] = json!(if index * 3 < count * 2 { "a" } else { "b" });
            }
            let node = json!({ "metadata": { "name": name, "labels": labels },
                "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "4" } } });
            cluster.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        cluster
    }

    fn pod(uid: usize) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": uid.to_string(), "uid": uid.to_string(),
                "namespace": "default", "labels": { "app": "web" }, "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "s",
                  "controller": true }] },
            "spec": { "containers": [{ "name": "c",
                "resources": { "requests": { "cpu": "500m" } } }] } });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn place(rankings: &mut Rankings, cluster: &mut Cluster, uid: usize) -> Option<String> {
        let pod = pod(uid);
        let node = rankings.best(&pod, Some(pod.labels()), cluster)?;
        cluster.assume(pod, &node);
        Some(node)
    }

    #[test]
    fn pods_spread_until_every_node_is_full() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(3, false));
        for round in 1..=4 {
            for index in 0..3 {
                place(&mut rankings, &mut cluster, round * 10 + index).unwrap();
            }
            assert!(cluster.nodes().all(|node| node.pods.len() == round), "round {round}");
        }
        assert_eq!(place(&mut rankings, &mut cluster, 99), None);
        cluster.remove_pod("10");
        assert!(place(&mut rankings, &mut cluster, 100).is_some());
    }

    #[test]
    fn zones_fill_alike_though_one_has_more_nodes() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(6, true));
        for index in 0..8 {
            place(&mut rankings, &mut cluster, index).unwrap();
        }
        let in_a: usize = cluster
            .nodes()
            .filter(|node| node.node.labels()[ZONE] == "a")
            .map(|node| node.pods.len())
            .sum();
        assert_eq!(in_a, 4);
    }

    #[test]
    fn a_node_that_comes_later_is_found() {
        let (mut rankings, mut small) = (Rankings::default(), cluster(1, false));
        place(&mut rankings, &mut small, 0).unwrap();
        let more = cluster(2, false);
        small.set_node(more.node("n1").unwrap().node.clone());
        assert_eq!(place(&mut rankings, &mut small, 1).as_deref(), Some("n1"));
    }

    #[test]
    fn pods_that_ask_for_something_else_are_decided_anew() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(2, false));
        place(&mut rankings, &mut cluster, 0).unwrap();
        let mut picky = Arc::unwrap_or_clone(pod(1));
        let selector = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n1".to_owned())]);
        picky.spec.as_mut().unwrap().node_selector = Some(selector);
        let picky = Arc::new(picky);
        let node = rankings.best(&picky, Some(picky.labels()), &cluster);
        assert_eq!(node.as_deref(), Some("n1"));
    }
}
