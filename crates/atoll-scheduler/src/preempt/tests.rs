//! Victims on small hand-made nodes.

use super::*;
use crate::{
    affinity::Topology,
    filter::{self, Request},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};

fn pod(name: &str, priority: i32, cpu: &str, started: &str) -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": name, "uid": name, "namespace": "default", "labels": { "app": name } },
        "spec": { "priority": priority,
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] },
        "status": { "startTime": format!("2026-01-01T00:00:{started}Z") },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn cluster(nodes: &[(&str, Vec<Arc<Pod>>)]) -> Cluster {
    let mut cluster = Cluster::default();
    for (name, pods) in nodes {
        let node = json!({ "metadata": { "name": name },
            "status": { "allocatable": { "cpu": "2", "pods": "10" } } });
        cluster.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        for pod in pods {
            cluster.set_pod(pod.clone(), name);
        }
    }
    cluster
}

fn budget(app: &str, allowed: i32) -> Arc<PodDisruptionBudget> {
    let budget = json!({
        "metadata": { "name": "b", "namespace": "default" },
        "spec": { "selector": { "matchLabels": { "app": app } } },
        "status": { "disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1 },
    });
    Arc::new(serde_json::from_value(budget).unwrap())
}

fn preempt(
    cluster: &Cluster,
    pod: &Pod,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<(String, Vec<String>), Vec<Preempting>> {
    let none = BTreeMap::new();
    let topology = Topology { namespace_labels: &none, has_repelling: false };
    let request = Request::new(pod, &[], &topology);
    let (mut candidates, mut refusals) = (Vec::new(), Vec::new());
    for node in cluster.nodes() {
        let Some(first) = filter::refusal(&request, node) else { continue };
        let again = |state: &NodeState| filter::refusal(&request, state);
        match on_node(pod, node, &first, budgets, again) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => refusals.push(why),
        }
    }
    let chosen = choose(candidates).ok_or(refusals)?;
    Ok((chosen.node, chosen.victims.iter().map(|victim| victim.name_any()).collect()))
}

fn victims(nodes: &[(&str, Vec<Arc<Pod>>)], cpu: &str) -> (String, Vec<String>) {
    preempt(&cluster(nodes), &pod("urgent", 100, cpu, "59"), &[]).unwrap()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn as_few_go_as_are_needed_and_the_least_important_first() {
    let full =
        vec![pod("low", 1, "500m", "00"), pod("mid", 5, "1", "00"), pod("late", 1, "500m", "30")];
    assert_eq!(victims(&[("a", full.clone())], "500m"), ("a".into(), names(&["late"])));
    assert_eq!(victims(&[("a", full.clone())], "1"), ("a".into(), names(&["low", "late"])));
    assert_eq!(victims(&[("a", full)], "1500m"), ("a".into(), names(&["mid", "late"])));
}

#[test]
fn the_node_whose_victims_matter_least_is_taken() {
    let nodes = [
        ("a", vec![pod("a1", 9, "2", "00")]),
        ("b", vec![pod("b1", 3, "1", "00"), pod("b2", 3, "1", "00")]),
        ("c", vec![pod("c1", 3, "2", "00")]),
    ];
    assert_eq!(victims(&nodes, "2").0, "c");
    assert_eq!(victims(&nodes[..2], "2").0, "b");
}

#[test]
fn of_equal_victims_those_go_that_have_run_for_less_time() {
    let nodes = [("a", vec![pod("a1", 3, "2", "10")]), ("b", vec![pod("b1", 3, "2", "20")])];
    assert_eq!(victims(&nodes, "2").0, "b");
}

#[test]
fn budgets_are_kept_where_that_is_possible() {
    let nodes = [("a", vec![pod("x", 1, "2", "00")]), ("b", vec![pod("y", 9, "2", "00")])];
    let cluster = cluster(&nodes);
    let urgent = pod("urgent", 100, "2", "59");
    assert_eq!(preempt(&cluster, &urgent, &[budget("x", 0)]).unwrap().0, "b");
    assert_eq!(preempt(&cluster, &urgent, &[budget("x", 1)]).unwrap().0, "a");
    let both = [budget("x", 0), budget("y", 0)];
    assert_eq!(preempt(&cluster, &urgent, &both).unwrap().0, "a");
}

#[test]
fn nodes_say_why_they_do_not_help() {
    let nodes = [
        ("a", vec![pod("equal", 100, "1500m", "00")]),
        ("b", vec![pod("equal-2", 100, "1500m", "00"), pod("low", 1, "100m", "00")]),
    ];
    let why = preempt(&cluster(&nodes), &pod("urgent", 100, "1", "59"), &[]).unwrap_err();
    let still = Preempting::StillRefused(vec!["Insufficient cpu".into()]);
    assert_eq!(why, [Preempting::NoVictims, still]);
    let why = preempt(&cluster(&nodes), &pod("huge", 100, "3", "59"), &[]).unwrap_err();
    assert_eq!(why, [Preempting::NotHelpful, Preempting::NotHelpful]);
}

#[test]
fn a_pod_waits_for_those_that_are_leaving_for_it() {
    let mut leaving: Value = serde_json::to_value(pod("low", 1, "2", "00").as_ref()).unwrap();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let leaving = Arc::new(serde_json::from_value(leaving).unwrap());
    let mut cluster = cluster(&[("a", vec![leaving]), ("b", vec![pod("told", 1, "2", "00")])]);
    let urgent = pod("urgent", 100, "2", "59");
    assert!(ineligible(&urgent, &cluster).is_none());
    cluster.nominate(urgent.clone(), "a", HashSet::new());
    assert!(ineligible(&urgent, &cluster).is_some());
    cluster.nominate(urgent.clone(), "b", HashSet::new());
    assert!(ineligible(&urgent, &cluster).is_none());
    // It was told, and the cache does not show it yet.
    cluster.nominate(urgent.clone(), "b", HashSet::from(["told".to_owned()]));
    assert!(ineligible(&urgent, &cluster).is_some());
    let mut modest = Arc::unwrap_or_clone(urgent);
    modest.spec.as_mut().unwrap().preemption_policy = Some("Never".into());
    assert_eq!(ineligible(&modest, &cluster), Some("not eligible due to preemptionPolicy=Never."));
}
