//! Which pods a DaemonSet creates and deletes; decides only.
//!
//! Each node gets what it lacks and loses what it has too much first; only when nothing is left
//! to do there do old pods make room for those of a new template.

use super::{
    fit::{self, Fit},
    template::is_updated,
};
use crate::pods;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Pods created, and pods deleted, by one pass. A larger difference takes several passes, so
/// that one bad manifest cannot flood the API server.
const BURST_MAX: usize = 250;

/// Everything that decisions are made from.
pub(super) struct Scene<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: Vec<Arc<Node>>,
    /// The set's own, by node: bound ones first, then the oldest.
    pub(super) pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// What pods of the present template carry.
    pub(super) hash: &'a str,
    /// How much longer a failed pod of a node is left alone.
    pub(super) held: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Failed,
    Succeeded,
}

/// A pod to be deleted.
#[derive(Debug)]
pub(super) struct Doomed {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    pub(super) ended: Option<Ended>,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) nodes: Vec<String>,
    pub(super) doomed: Vec<Doomed>,
    /// When a failed pod is to be looked at again.
    pub(super) retry: Option<Duration>,
}

/// A node's pod of the present template, and one of another.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// How many nodes an update may touch at once.
struct Bounds {
    surge: usize,
    unavailable: usize,
    desired: usize,
}

impl Scene<'_> {
    pub(super) fn fit(&self, node: &Node) -> Fit {
        self.set.spec.as_ref().map_or(Fit::Leaves, |spec| fit::fit(spec, node))
    }

    /// The pods of a node, but for those that have ended and are going: nothing is left to be
    /// done about them.
    pub(super) fn on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let all = self.pods.get(node).into_iter().flatten();
        all.filter(|pod| !(pods::is_finished(pod) && is_going(pod)))
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let spec = self.set.spec.as_ref();
        let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        pods::available_in(pod, min_ready, self.now) == Some(0)
    }

    fn is_new(&self, pod: &Pod) -> bool {
        is_updated(self.set, pod, self.hash)
    }

    fn bounds(&self) -> Bounds {
        let desired = self.nodes.iter().filter(|node| self.fit(node) == Fit::Runs).count();
        let strategy = self.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let of = |bound: Option<&IntOrString>, default| {
            bound.map_or(default, |bound| share(bound, desired))
        };
        let surge = of(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0);
        let unavailable = of(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1);
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        Bounds { surge, unavailable, desired }
    }

    /// The pods of a node that are not going, a new one and an old one; `None` when there are
    /// more, which are thinned out first.
    fn pair(&self, node: &str) -> Option<Pair<'_>> {
        let (mut new, mut old) = (None, None);
        for pod in self.on(node).filter(|pod| !is_going(pod)) {
            let place = if self.is_new(pod) { &mut new } else { &mut old };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }
}

pub(super) fn plan(scene: &Scene<'_>) -> Plan {
    let bounds = scene.bounds();
    let mut plan = Plan::default();
    for node in &scene.nodes {
        keep_node(scene, &bounds, node, &mut plan);
    }
    forsaken(scene, &mut plan);
    let strategy = scene.set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let on_delete = strategy.and_then(|one| one.type_.as_deref()) == Some("OnDelete");
    if plan.nodes.is_empty() && plan.doomed.is_empty() && !on_delete {
        if bounds.surge == 0 {
            replace(scene, &bounds, &mut plan)
        } else {
            surge(scene, &bounds, &mut plan)
        }
    }
    plan.nodes.truncate(BURST_MAX);
    plan.doomed.truncate(BURST_MAX);
    plan
}

fn keep_node(scene: &Scene<'_>, bounds: &Bounds, node: &Node, plan: &mut Plan) {
    let name = node.name_any();
    let fit = scene.fit(node);
    let mut doom = |pod: &Arc<Pod>, ended| {
        plan.doomed.push(Doomed { pod: pod.clone(), node: name.clone(), ended });
    };
    if scene.on(&name).next().is_none() {
        if fit == Fit::Runs {
            plan.nodes.push(name);
        }
        return;
    }
    let standing = scene.on(&name).filter(|pod| !is_going(pod));
    if fit == Fit::Leaves {
        standing.for_each(|pod| doom(pod, None));
        return;
    }
    let mut running = Vec::new();
    let mut retry = None;
    for pod in standing {
        match pods::phase(pod) {
            "Failed" => match (scene.held)(&name) {
                Some(left) => retry = Some(left),
                None => doom(pod, Some(Ended::Failed)),
            },
            "Succeeded" => doom(pod, Some(Ended::Succeeded)),
            _ => running.push(pod),
        }
    }
    if bounds.surge == 0 {
        running.iter().skip(1).for_each(|pod| doom(pod, None));
    } else {
        surplus(scene, &running).into_iter().for_each(|pod| doom(pod, None));
        if running.is_empty() && fit == Fit::Runs {
            plan.nodes.push(name);
        }
    }
    plan.retry = plan.retry.into_iter().chain(retry).min();
}

/// While an update adds pods a node may have two: an old one that is ready, and a new one that
/// is not available yet.
fn surplus<'a>(scene: &Scene<'_>, running: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    if running.len() <= 1 {
        return Vec::new();
    }
    let (mut new, mut old) = (None, None);
    let mut doomed = Vec::new();
    for &pod in running {
        let place =
            if super::template::hash(pod) == Some(scene.hash) { &mut new } else { &mut old };
        match place {
            None => *place = Some(pod),
            Some(_) => doomed.push(pod),
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!pods::is_ready(old) || scene.is_available(new))
    {
        doomed.push(old);
    }
    doomed
}

/// Pods for nodes that are gone before they were bound: nobody else deletes them.
fn forsaken(scene: &Scene<'_>, plan: &mut Plan) {
    let nodes: BTreeSet<String> = scene.nodes.iter().map(|node| node.name_any()).collect();
    for (name, pods) in scene.pods.iter().filter(|(name, _)| !nodes.contains(*name)) {
        let unbound = pods.iter().filter(|pod| pods::node_name(pod).is_none() && !is_going(pod));
        let doomed =
            unbound.map(|pod| Doomed { pod: pod.clone(), node: name.clone(), ended: None });
        plan.doomed.extend(doomed);
    }
}

/// Old pods go until as many nodes as may be are without an available one; those that are not
/// available anyway go at once.
fn replace(scene: &Scene<'_>, bounds: &Bounds, plan: &mut Plan) {
    let mut unavailable = 0;
    let (mut at_once, mut later) = (Vec::new(), Vec::new());
    for name in scene.pods.keys() {
        if scene.on(name).next().is_none() {
            continue;
        }
        match scene.pair(name) {
            Some((Some(new), None)) => unavailable += usize::from(!scene.is_available(new)),
            Some((None, Some(old))) => {
                let list = if scene.is_available(old) { &mut later } else { &mut at_once };
                list.push(Doomed { pod: old.clone(), node: name.clone(), ended: None });
            }
            _ => unavailable += 1,
        }
    }
    later.truncate(bounds.unavailable.saturating_sub(unavailable));
    plan.doomed.extend(at_once.into_iter().chain(later));
}

/// New pods come beside old ones, which go when those are available.
fn surge(scene: &Scene<'_>, bounds: &Bounds, plan: &mut Plan) {
    let (mut surging, mut available) = (0, 0);
    let (mut at_once, mut later, mut misplaced) = (Vec::new(), Vec::new(), Vec::new());
    let runs: BTreeSet<String> = scene
        .nodes
        .iter()
        .filter(|node| scene.fit(node) == Fit::Runs)
        .map(|node| node.name_any())
        .collect();
    let doomed = |pod: &Arc<Pod>, name: &String| Doomed {
        pod: pod.clone(),
        node: name.clone(),
        ended: None,
    };
    for name in scene.pods.keys() {
        let Some((new, old)) = scene.pair(name) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|pod| scene.is_available(pod)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (runs.contains(name), scene.is_available(old)) {
                (true, true) => later.push(name.clone()),
                (true, false) => at_once.push(name.clone()),
                (false, true) => misplaced.push(doomed(old, name)),
                (false, false) => plan.doomed.push(doomed(old, name)),
            },
            (Some(new), Some(_)) if !scene.is_available(new) => surging += 1,
            (Some(_), Some(old)) => plan.doomed.push(doomed(old, name)),
        }
    }
    // Where the set moves from node to node, an old place is given up for a new one only.
    misplaced.truncate(available.saturating_sub(bounds.desired));
    plan.doomed.extend(misplaced);
    later.truncate(bounds.surge.saturating_sub(surging));
    plan.nodes.extend(at_once.into_iter().chain(later));
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// A number or a share, rounded up.
fn share(bound: &IntOrString, of: usize) -> usize {
    match bound {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => {
            let percent: usize =
                text.strip_suffix('%').and_then(|text| text.parse().ok()).unwrap_or(0);
            of.saturating_mul(percent).div_ceil(100)
        }
    }
}

#[cfg(test)]
mod tests;
