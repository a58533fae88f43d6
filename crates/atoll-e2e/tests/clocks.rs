//! Clocks that jump by an hour, back and forward, under a running cluster.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster, clock,
    cluster::{is_ready, run},
    eventually, is_root,
};
use serde_json::Value;
use std::{
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

const HOUR: i64 = 3_600;
const SOON: Duration = Duration::from_secs(30);

fn can_run() -> bool {
    is_root("clocks") && clock::can_be_set("clocks")
}

/// Sets the clock of one of its parts.
fn set(cluster: &Cluster, role: &str, seconds: i64) {
    let pids = cluster.pids(role);
    assert!(!pids.is_empty(), "no process is an `atoll {role}`");
    for pid in pids {
        clock::set(pid, seconds);
    }
}

const SERVER: &str = "server --data-dir";
const AGENTS: &str = "agent --join";

#[test]
fn a_cluster_goes_on_whatever_its_clocks_say() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.hello();
    let token = cluster.kubectl(&["create", "token", "default"]).ok();
    let (health, containers) = (cluster.node_health(), cluster.containers());
    for (server, agents) in [(-HOUR, 0), (HOUR, 0), (0, -HOUR), (0, HOUR), (-HOUR, -HOUR)] {
        set(&cluster, SERVER, server);
        set(&cluster, AGENTS, agents);
        let told = time_of_the_server(&cluster);
        assert!((told - server).abs() < 5, "the server is {told} s off instead of {server}");
        // Longer than a node may be silent.
        let watched = Instant::now();
        while watched.elapsed() < Duration::from_secs(4) {
            assert_eq!(cluster.node_health(), health, "with {server} and {agents}");
            sleep(Duration::from_millis(500));
        }
        assert_eq!(cluster.containers(), containers, "with {server} and {agents}");
        if server <= 0 {
            // It lives for an hour; the clock may be before its beginning.
            let mut whoami = Command::new("kubectl");
            whoami.arg("--kubeconfig").arg(cluster.kubeconfig()).env("HOME", "/nonexistent");
            whoami.args(["auth", "whoami", "-o", "name", "--token", token.trim()]);
            run(whoami, "").ok();
        }
        pods_come_and_go(&cluster);
    }
}

/// How far the server is ahead, by the `Date` of its answers.
fn time_of_the_server(cluster: &Cluster) -> i64 {
    let said = cluster.kubectl(&["version", "-v=8"]).stderr;
    let date = said.split("Date: ").nth(1).unwrap().lines().next().unwrap();
    let told = jiff::fmt::rfc2822::parse(date).unwrap().timestamp();
    told.as_second() - jiff::Timestamp::now().as_second()
}

fn pods_come_and_go(cluster: &Cluster) {
    let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: one}\nspec:\n  \
               terminationGracePeriodSeconds: 1\n  containers: [{name: c, image: atoll.local/hello}]\n";
    cluster.apply(one);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]).ok();
    let said = cluster.kubectl(&["exec", "one", "--", "/atoll", "--version"]).ok();
    assert!(said.starts_with("atoll "), "{said}");
    let said = cluster.kubectl(&["logs", "one"]).ok();
    assert!(said.contains("hello from"), "{said}");
    cluster.kubectl(&["delete", "pod", "one", "--timeout=20s"]).ok();
}

/// What counts from a time of day counts no further when the clock is set back.
#[test]
fn waits_are_no_longer_for_a_clock_that_is_set_back() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::start(3);
    cluster.hello();
    // Pods stay for 5 s on a node that is lost; the clock jumps while they do.
    cluster.chaos("kill", "node-3");
    eventually(SOON, "the node is tainted", || {
        let node = cluster.json(&["node", "node-3"]);
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let evicts = taints.iter().any(|taint| taint["effect"] == "NoExecute");
        if evicts { Ok(()) } else { Err(node["spec"].to_string()) }
    });
    set(&cluster, SERVER, -HOUR);
    cluster.ready_elsewhere("app=hello", "node-3", 5, Duration::from_secs(12));
    set(&cluster, SERVER, 0);
    cluster.chaos("heal", "node-3");
    cluster.node_ready("node-3", SOON);

    // A container that fails waits 10 s, then 20 s for its next start.
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: failing}\nspec:\n  nodeName: node-2\n  \
         containers: [{name: c, image: atoll.local/hello, command: [/atoll, no-such-command]}]\n",
    );
    let waits = |status: &Value| status["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let count = |status: &Value| status["restartCount"].as_i64().unwrap_or(-1);
    let is = |check: &dyn Fn(&Value) -> bool| {
        cluster.pod_becomes("failing", SOON, |pod| {
            check(&pod["status"]["containerStatuses"][0]).then_some(())
        });
    };
    is(&|status| count(status) == 2 && waits(status));
    set(&cluster, AGENTS, -HOUR);
    is(&|status| count(status) > 2);
    set(&cluster, AGENTS, 0);
    cluster.kubectl(&["delete", "pod", "failing", "--grace-period=1"]).ok();
}

/// A certificate that is not valid yet opens nothing, and the server says so and lives on.
#[test]
fn certificates_of_the_future_are_refused() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::start(1);
    cluster.kubectl(&["create", "configmap", "before"]).ok();
    // Its certificates begin two hours before they were made.
    set(&cluster, SERVER, -3 * HOUR);
    let refused = cluster.kubectl(&["get", "configmaps"]);
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(!refused.stderr.contains("refused - did you specify"), "{}", refused.stderr);
    set(&cluster, SERVER, 0);
    cluster.kubectl(&["get", "configmap", "before"]).ok();
    times_in_objects(&cluster);
}

/// Times that clients write into objects decide nothing.
fn times_in_objects(cluster: &Cluster) {
    let health = cluster.node_health();
    for offset in [-HOUR, HOUR] {
        let at = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + offset).unwrap();
        let lease = format!(
            "{{\"spec\":{{\"renewTime\":\"{}\"}}}}",
            at.strftime("%Y-%m-%dT%H:%M:%S.000000Z")
        );
        let patch = ["patch", "lease", "node-1", "-n", "kube-node-lease", "--type=merge", "-p"];
        cluster.kubectl(&[&patch[..], &[&lease]].concat()).ok();
        let event = serde_json::json!({
            "apiVersion": "v1", "kind": "Event", "metadata": { "name": format!("at{offset}") },
            "involvedObject": { "kind": "Pod", "name": "p", "namespace": "default" },
            "reason": "Told", "message": "from another time", "type": "Normal",
            "firstTimestamp": at.to_string(), "lastTimestamp": at.to_string(), "count": 1,
            "source": { "component": "test" },
        });
        cluster.apply(&event.to_string());
    }
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(4) {
        assert_eq!(cluster.node_health(), health);
        sleep(Duration::from_millis(500));
    }
    let events = cluster.kubectl(&["events"]).ok();
    assert_eq!(events.matches("from another time").count(), 2, "{events}");
    let pods: Value = cluster.json(&["pods"]);
    assert!(pods["items"].as_array().unwrap().iter().all(is_ready));
}
