//! StatefulSets, DaemonSets and ReplicationControllers on three nodes, seen by kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and prints what it measured"
)]

mod daemon;
mod frail;
mod replication;
mod stateful;

use atoll_e2e::{Cluster, eventually, image::import_busybox, is_root};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn sets_keep_what_manifests_promise() {
    if !is_root("sets") {
        return;
    }
    let cluster = Cluster::start(3);
    import_busybox(&cluster, frail::IMAGE, json!({ "Cmd": ["sh"] }));
    stateful::stateful_set_comes_up_in_order(&cluster);
    stateful::names_resolve(&cluster);
    stateful::partition(&cluster);
    stateful::history_of_a_stateful_set(&cluster);
    stateful::what_may_not_change(&cluster);
    stateful::a_node_dies(&cluster);
    stateful::scale_down_in_order(&cluster);
    stateful::in_parallel(&cluster);
    frail::the_unhealthy_hold_up(&cluster);
    frail::a_port_that_is_taken(&cluster);
    stateful::a_name_that_is_taken(&cluster);
    stateful::claims(&cluster);
    daemon::daemon_set_on_every_node(&cluster);
    daemon::lost_pods_come_back(&cluster);
    daemon::rolled_back_on_the_way(&cluster);
    daemon::daemon_set_is_updated(&cluster);
    daemon::daemon_set_follows_nodes(&cluster);
    daemon::templates_are_shown_as_kubectl_does(&cluster);
    replication::replication_controller(&cluster);
    replication::adopts_and_lets_go(&cluster);
    nothing_is_written_at_rest(&cluster);
}

fn apply(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn template(app: &str, version: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "c", "image": "atoll.local/hello",
                "env": [{ "name": "VERSION", "value": version }],
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 },
                                    "periodSeconds": 1 },
            }],
        },
    })
}

/// A set of the built-in image; `more` is laid over its spec.
fn set(kind: &str, name: &str, version: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name },
        "spec": { "selector": { "matchLabels": { "app": name } },
                  "template": template(name, version) },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn rolled_out(cluster: &Cluster, target: &str) -> String {
    let output = cluster.kubectl(&["rollout", "status", target, "--timeout=90s"]);
    let pods = cluster.kubectl(&["get", "pods", "-o", "wide"]).stdout;
    assert_eq!(output.code, 0, "{output:?}\n{pods}\n{}", cluster.logs());
    output.stdout
}

/// Reads the scale of an object, at its path, and writes it back with another size.
fn scale_by_hand(cluster: &Cluster, path: &str, replicas: u32) {
    let path = format!("{path}/scale");
    let scale = cluster.kubectl(&["get", "--raw", &path]).ok();
    let mut scale: Value = serde_json::from_str(&scale).unwrap();
    assert_eq!(scale["kind"], "Scale", "{scale}");
    scale["spec"]["replicas"] = json!(replicas);
    let written = cluster.kubectl_with(&["replace", "--raw", &path, "-f", "-"], &scale.to_string());
    let written: Value = serde_json::from_str(&written.ok()).unwrap();
    assert_eq!(written["spec"]["replicas"], replicas, "{written}");
}

fn pods(cluster: &Cluster, app: &str) -> BTreeMap<String, Value> {
    let listed = cluster.json(&["pods", "-l", &format!("app={app}")]);
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let named = items.into_iter().map(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        (name, pod)
    });
    named.collect()
}

fn names(pods: &BTreeMap<String, Value>) -> Vec<&str> {
    pods.keys().map(String::as_str).collect()
}

fn version(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or_default()
}

fn versions(cluster: &Cluster, app: &str) -> Vec<String> {
    pods(cluster, app).values().map(|pod| version(pod).to_owned()).collect()
}

/// The same words by kubectl and by our own command line.
fn alike(cluster: &Cluster, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let (theirs, ours) = (cluster.kubectl(&words), cluster.atoll(&words));
    assert_eq!((ours.code, &ours.stdout), (theirs.code, &theirs.stdout), "{command}: {ours:?}");
}

fn rollouts_by_our_own_command(cluster: &Cluster, target: &str) {
    for command in ["history", "status", "history --revision=3", "history --revision=99"] {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        alike(cluster, format!("rollout {verb} {target} {rest}").trim_end());
    }
    let held = cluster.atoll(&["rollout", "pause", target]).fails();
    assert!(held.contains("pausing is not supported"), "{held}");
}

/// When everything is as it should be, nobody writes a status again.
fn nothing_is_written_at_rest(cluster: &Cluster) {
    apply(cluster, &set("DaemonSet", "rest", "1", &json!({ "minReadySeconds": 1 })));
    apply(cluster, &set("StatefulSet", "rest", "1", &json!({ "minReadySeconds": 1 })));
    rolled_out(cluster, "daemonset/rest");
    rolled_out(cluster, "statefulset/rest");
    let versions = || -> Vec<String> {
        let listed = cluster.json(&["daemonset,statefulset,controllerrevision,pod"]);
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|one| one["metadata"]["resourceVersion"].to_string()).collect()
    };
    let available = || {
        let status = cluster.json(&["statefulset", "rest"])["status"].clone();
        if status["availableReplicas"] == 1 { Ok(()) } else { Err(status.to_string()) }
    };
    eventually(SOON, "its replica is available", available);
    std::thread::sleep(Duration::from_secs(2));
    let before = versions();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(versions(), before);
}
