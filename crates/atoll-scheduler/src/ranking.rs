//! Nodes in the order of their scores for one kind of pod, kept while pods of that kind keep
//! coming.
//!
//! A decision from scratch looks at every node. Many pods ask for the same, those of one owner
//! and often those of many, and between two of them only the nodes have changed that something
//! was placed on or taken from: those are looked at again, the others stay where they are. Scores
//! that compare nodes with each other are compared on the scale of the first decision. How many
//! siblings stand on a node is the owner's own matter and is taken off when one is chosen.

use crate::{
    affinity::Topology,
    cluster::{Cluster, NodeState, priority},
    filter::{self, Request},
    score::{self, Scale},
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
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
/// How many siblings stand on which nodes.
type Crowd = HashMap<String, i64>;

/// What is known of a node.
struct Seat {
    /// `None` when it cannot run the pod.
    rank: Option<Rank>,
    zone: Arc<str>,
}

struct Ranking {
    /// A pod of the kind, by which others are known to be of it.
    like: Arc<Pod>,
    scale: Scale,
    /// Every change of a node before this one is taken in.
    seen: u64,
    seats: HashMap<Arc<str>, Seat>,
    zones: BTreeMap<Arc<str>, BTreeSet<Rank>>,
    used_at: u64,
}

#[derive(Default)]
pub(crate) struct Rankings {
    all: Vec<Ranking>,
    uses: u64,
}

impl Rankings {
    /// The best node for the pod; `None` when it takes a decision from scratch. With `spreads`
    /// its siblings keep apart.
    pub(crate) fn best(
        &mut self,
        pod: &Arc<Pod>,
        spreads: bool,
        cluster: &Cluster,
    ) -> Option<String> {
        if !is_plain(pod) || cluster.has_repelling() || cluster.has_nominations() {
            return None;
        }
        self.uses += 1;
        let uses = self.uses;
        let known = self.all.iter_mut().position(|known| alike(&known.like, pod));
        let at = known.unwrap_or_else(|| {
            self.shrink();
            self.all.push(Ranking::new(pod, cluster, uses));
            self.all.len() - 1
        });
        let ranking = self.all.get_mut(at)?;
        if !ranking.catch_up(cluster) {
            *ranking = Ranking::new(pod, cluster, uses);
        }
        ranking.used_at = uses;
        let none = Crowd::new();
        ranking.first(cluster.siblings(pod).filter(|_| spreads).unwrap_or(&none))
    }

    /// Makes room for one more.
    fn shrink(&mut self) {
        if self.all.len() < RANKINGS_MAX {
            return;
        }
        let ages = self.all.iter().enumerate();
        if let Some((oldest, _)) = ages.min_by_key(|(_, ranking)| ranking.used_at) {
            self.all.swap_remove(oldest);
        }
    }
}

impl Ranking {
    fn new(pod: &Arc<Pod>, cluster: &Cluster, used_at: u64) -> Self {
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let mut ranking = Self {
            like: pod.clone(),
            scale: Scale::of(pod, &nodes),
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
        if !nodes.iter().all(|node| self.scale.holds(&self.like, node)) {
            return false;
        }
        self.seat(&nodes);
        self.seen = cluster.changes();
        true
    }

    /// Gives a place to each node that can run the pod.
    fn seat(&mut self, nodes: &[&NodeState]) {
        let none = BTreeMap::new();
        let topology = Topology { namespace_labels: &none, has_repelling: false };
        let pod = self.like.clone();
        let request = Request::new(&pod, &[], &topology);
        let wanted = score::wanted(&pod);
        for node in nodes {
            let name: Arc<str> = node.node.name_any().into();
            let zone = node.node.labels().get(ZONE).map_or("", String::as_str);
            let zone = self.zone(zone);
            let rank = filter::refusal(&request, node).is_none().then(|| {
                let score = self.scale.score(&pod, node, &wanted);
                (score, Reverse(node.pods.len()), Reverse(name.clone()))
            });
            self.zones.entry(zone.clone()).or_default().extend(rank.clone());
            self.seats.insert(name, Seat { rank, zone });
        }
    }

    /// A zone's name, one for all its nodes.
    fn zone(&self, name: &str) -> Arc<str> {
        self.zones.get_key_value(name).map_or_else(|| name.into(), |(known, _)| known.clone())
    }

    fn leave(&mut self, name: &str) {
        let Some(seat) = self.seats.remove(name) else { return };
        if let (Some(ranks), Some(rank)) = (self.zones.get_mut(&seat.zone), &seat.rank) {
            ranks.remove(rank);
        }
    }

    /// The best of all zones; a zone with many siblings counts for less.
    fn first(&self, crowd: &Crowd) -> Option<String> {
        let by_zone = self.crowd_by_zone(crowd);
        let is_everywhere = crowd.len() >= self.seats.len();
        let least = crowd.values().min().copied().filter(|_| is_everywhere).unwrap_or(0);
        let bests = self.zones.iter().filter_map(|(name, ranks)| {
            let (score, pods, node) = Self::first_of(ranks, crowd, least)?;
            let crowd = by_zone.get(name).copied().unwrap_or(0);
            Some((score::crowded(score, crowd), pods, node))
        });
        bests.max().map(|(_, _, Reverse(node))| node.to_string())
    }

    /// The best with its siblings taken off, of which each node has so many at `least`. They
    /// take off and never add: what ranks below the best found cannot win any more.
    fn first_of(ranks: &BTreeSet<Rank>, crowd: &Crowd, least: i64) -> Option<Rank> {
        let mut best: Option<Rank> = None;
        for (score, pods, node) in ranks.iter().rev() {
            // Many nodes have the same score: it takes the whole rank to know that all others
            // are behind.
            let at_best = (score::crowded(*score, least), pods, node);
            if best.as_ref().is_some_and(|(score, pods, node)| at_best < (*score, pods, node)) {
                break;
            }
            let siblings = crowd.get(&*node.0).copied().unwrap_or(0);
            let rank = (score::crowded(*score, siblings), *pods, node.clone());
            best = best.max(Some(rank));
        }
        best
    }

    /// Nodes without a zone are in none.
    fn crowd_by_zone(&self, crowd: &Crowd) -> HashMap<Arc<str>, i64> {
        let mut found = HashMap::new();
        if self.zones.len() < 2 {
            return found;
        }
        for (node, siblings) in crowd {
            let Some(seat) = self.seats.get(node.as_str()) else { continue };
            if !seat.zone.is_empty() {
                *found.entry(seat.zone.clone()).or_default() += siblings;
            }
        }
        found
    }
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

/// Whether two pods are the same to every filter and score, siblings apart. Labels and namespace
/// count only for what minds other pods, which neither does.
fn alike(one: &Pod, other: &Pod) -> bool {
    let (Some(left), Some(right)) = (one.spec.as_ref(), other.spec.as_ref()) else { return false };
    fn sizes(pod: &PodSpec) -> impl Iterator<Item = impl PartialEq + '_> {
        let all = pod.containers.iter().chain(pod.init_containers.iter().flatten());
        all.map(|one| (&one.resources, &one.ports, &one.restart_policy))
    }
    priority(one) == priority(other)
        && left.node_selector == right.node_selector
        && left.affinity == right.affinity
        && left.tolerations == right.tolerations
        && left.node_name == right.node_name
        && left.overhead == right.overhead
        && left.resources == right.resources
        && left.containers.len() == right.containers.len()
        && sizes(left).eq(sizes(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;
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
        let node = rankings.best(&pod, true, cluster)?;
        cluster.assume(pod, &node);
        Some(node)
    }

    /// The end of the search is not before the best.
    #[test]
    fn the_best_is_the_best_of_all() {
        use rand::{Rng as _, SeedableRng as _};
        for seed in 0..500 {
            let mut random = rand::rngs::StdRng::seed_from_u64(seed);
            let nodes: Vec<Arc<str>> = (0..20).map(|index| format!("n{index}").into()).collect();
            let mut draw = |from: i64, to: i64| random.random_range(from..=to);
            let least = draw(0, 1);
            let crowd: Crowd = nodes
                .iter()
                .map(|node| (node.to_string(), draw(least, 3)))
                .filter(|(_, siblings)| *siblings > 0)
                .collect();
            let ranks: BTreeSet<Rank> = nodes
                .iter()
                .map(|node| {
                    let pods = usize::try_from(draw(0, 2)).unwrap();
                    (draw(0, 4) * 100, Reverse(pods), Reverse(node.clone()))
                })
                .collect();
            let siblings = |node: &str| crowd.get(node).copied().unwrap_or(0);
            let all = ranks.iter().map(|(score, pods, node)| {
                (score::crowded(*score, siblings(&node.0)), *pods, node.clone())
            });
            assert_eq!(Ranking::first_of(&ranks, &crowd, least), all.max(), "seed {seed}");
        }
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
    fn owners_whose_pods_ask_for_the_same_share_a_ranking_and_spread_each_for_itself() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(4, false));
        for index in 0..4 {
            for owner in ["s", "t"] {
                let mut pod = Arc::unwrap_or_clone(pod(0));
                let uid = format!("{owner}{index}");
                (pod.metadata.name, pod.metadata.uid) = (Some(uid.clone()), Some(uid));
                pod.metadata.owner_references.as_mut().unwrap()[0].uid = owner.to_owned();
                let pod = Arc::new(pod);
                let node = rankings.best(&pod, true, &cluster).unwrap();
                cluster.assume(pod, &node);
            }
        }
        assert_eq!(rankings.all.len(), 1);
        for owner in ["s", "t"] {
            let mut pod = Arc::unwrap_or_clone(pod(0));
            pod.metadata.owner_references.as_mut().unwrap()[0].uid = owner.to_owned();
            assert_eq!(cluster.siblings(&pod).unwrap().len(), 4, "{owner} is on every node");
        }
    }

    #[test]
    fn a_taint_that_comes_later_counts() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(2, false));
        let pod = pod(0);
        assert_eq!(rankings.best(&pod, false, &cluster).as_deref(), Some("n0"));
        let mut node = Node::clone(&cluster.node("n0").unwrap().node);
        let taints = json!([{ "key": "a", "effect": "PreferNoSchedule" }]);
        node.spec.get_or_insert_default().taints = serde_json::from_value(taints).unwrap();
        cluster.set_node(Arc::new(node));
        assert_eq!(rankings.best(&pod, false, &cluster).as_deref(), Some("n1"));
    }

    #[test]
    fn pods_that_ask_for_something_else_are_decided_anew() {
        let (mut rankings, mut cluster) = (Rankings::default(), cluster(2, false));
        place(&mut rankings, &mut cluster, 0).unwrap();
        let mut picky = Arc::unwrap_or_clone(pod(1));
        let selector = BTreeMap::from([("kubernetes.io/hostname".to_owned(), "n1".to_owned())]);
        picky.spec.as_mut().unwrap().node_selector = Some(selector);
        let picky = Arc::new(picky);
        let node = rankings.best(&picky, true, &cluster);
        assert_eq!(node.as_deref(), Some("n1"));
    }
}
