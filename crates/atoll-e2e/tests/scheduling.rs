//! Where pods go, why they wait, and that they wait no longer than they must.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, eventually, is_root};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const SOON: Duration = Duration::from_secs(20);
/// A debug build on a loaded machine; a second or two otherwise.
const MANY: Duration = Duration::from_secs(10);

#[test]
fn pods_find_their_nodes() {
    if !is_root("scheduling") {
        return;
    }
    let cluster = Cluster::start(3);
    refusals(&cluster);
    wake_ups(&cluster);
    even_spread(&cluster);
    three_hundred(&cluster);
}

fn apply(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn pod(name: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "name": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": "atoll.local/hello" }],
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn requests(cpu: &str) -> Value {
    json!({ "containers": [{ "name": "c", "image": "atoll.local/hello",
        "resources": { "requests": { "cpu": cpu } } }] })
}

fn affinity(kind: &str, of: &str) -> Value {
    json!({ "affinity": { kind: { "requiredDuringSchedulingIgnoredDuringExecution": [{
        "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "name": of } },
    }] } } })
}

/// Waits for what the condition PodScheduled is to say. The scheduler watches pods and nodes apart:
/// it may see a pod before the taint of a node that is older, and corrects itself.
fn waits_because(cluster: &Cluster, name: &str, reason: &str, is_right: impl Fn(&str) -> bool) {
    eventually(SOON, &format!("{name} says why it waits"), || {
        let pod = cluster.json(&["pod", name]);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let said = conditions.iter().find(|one| one["type"] == "PodScheduled");
        let text = |key: &str| said.and_then(|one| one[key].as_str()).unwrap_or_default();
        // As upstream, nothing looks at a pod that has gates.
        let seen = said.is_some_and(|one| one["observedGeneration"] == 1);
        let seen = seen || reason == "SchedulingGated";
        let is_said = seen && text("reason") == reason && is_right(text("message"));
        if is_said { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

fn node_of(cluster: &Cluster, name: &str) -> String {
    eventually(SOON, &format!("{name} is placed"), || {
        let pod = cluster.json(&["pod", name]);
        pod["spec"]["nodeName"]
            .as_str()
            .map(ToOwned::to_owned)
            .ok_or_else(|| pod["status"].to_string())
    })
}

fn refusals(cluster: &Cluster) {
    cluster.kubectl(&["cordon", "node-1"]).ok();
    cluster.kubectl(&["taint", "node", "node-2", "reserved=yes:NoSchedule"]).ok();
    const HOPELESS: &str =
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    let cases = [
        (
            "large",
            requests("64"),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
        ),
        (
            "picky",
            json!({ "nodeSelector": { "disk": "ssd" } }),
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
        ),
        (
            "lonely",
            affinity("podAffinity", "friend"),
            "0/3 nodes are available: 1 node(s) didn't match pod affinity rules, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
        ),
    ];
    for (name, spec, reasons) in cases {
        apply(cluster, &pod(name, &spec));
        let expected = format!("{reasons} {HOPELESS}");
        waits_because(cluster, name, "Unschedulable", |said| said == expected);
        eventually(SOON, "an event says it too", || {
            let selector =
                format!("--field-selector=reason=FailedScheduling,involvedObject.name={name}");
            let events = cluster
                .kubectl(&["get", "events", &selector, "-o", "jsonpath={.items[*].message}"])
                .ok();
            if events.contains(&expected) { Ok(()) } else { Err(events) }
        });
        let said = cluster.atoll(&["why", &format!("pod/{name}")]).ok();
        assert!(said.contains("Pending") && said.lines().count() == 2, "{said}");
    }
    // What another pod takes could be freed, but there is nobody less important.
    let port = json!({ "containers": [{ "name": "c", "image": "atoll.local/hello",
        "ports": [{ "containerPort": 8080, "hostPort": 18080 }] }] });
    apply(cluster, &pod("first", &port));
    assert_eq!(node_of(cluster, "first"), "node-3");
    apply(cluster, &pod("second", &port));
    waits_because(cluster, "second", "Unschedulable", |said| {
        said.contains("1 node(s) didn't have free ports for the requested pod ports")
            && said.ends_with("1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.")
    });
    apply(cluster, &pod("gated", &json!({ "schedulingGates": [{ "name": "example.com/wait" }] })));
    let gated = "Scheduling is blocked due to non-empty scheduling gates";
    waits_because(cluster, "gated", "SchedulingGated", |said| said == gated);
}

/// Each change lets in exactly whom it concerns.
fn wake_ups(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pod", "first"]).ok();
    assert_eq!(node_of(cluster, "second"), "node-3");
    cluster.kubectl(&["label", "node", "node-2", "disk=ssd"]).ok();
    cluster.kubectl(&["taint", "node", "node-2", "reserved-"]).ok();
    assert_eq!(node_of(cluster, "picky"), "node-2");
    cluster.kubectl(&["uncordon", "node-1"]).ok();
    let gates = r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#;
    cluster.kubectl(&["patch", "pod", "gated", "--type=json", "-p", gates]).ok();
    node_of(cluster, "gated");
    apply(cluster, &pod("friend", &json!({})));
    assert_eq!(node_of(cluster, "lonely"), node_of(cluster, "friend"));
    apply(cluster, &pod("hermit", &affinity("podAntiAffinity", "friend")));
    assert_ne!(node_of(cluster, "hermit"), node_of(cluster, "friend"));
    let pods = ["large", "picky", "lonely", "second", "gated", "friend", "hermit"];
    let mut delete = vec!["delete", "pod"];
    delete.extend(pods);
    cluster.kubectl(&delete).ok();
}

fn even_spread(cluster: &Cluster) {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "even" },
        "spec": { "replicas": 5, "selector": { "matchLabels": { "app": "even" } },
            "template": { "metadata": { "labels": { "app": "even" } },
                "spec": pod("x", &json!({}))["spec"].clone() } },
    });
    for round in 0..3 {
        object["spec"]["template"]["metadata"]["annotations"] =
            json!({ "round": round.to_string() });
        apply(cluster, &object);
        cluster.kubectl(&["rollout", "status", "deployment/even", "--timeout=60s"]).ok();
        let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
        for pod in cluster.pods_ready("app=even", 5, SOON) {
            *nodes.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        let mut counts: Vec<usize> = nodes.values().copied().collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2, 2], "round {round}: {nodes:?}");
    }
    cluster.kubectl(&["delete", "deployment", "even"]).ok();
}

/// On nodes that only exist in the API, so that nothing but the scheduler is measured.
fn three_hundred(cluster: &Cluster) {
    for index in 0..3 {
        let name = format!("paper-{index}");
        apply(
            cluster,
            &json!({ "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name, "labels": { "made-of": "paper" } } }),
        );
        let status = json!({ "status": { "allocatable": { "cpu": "100", "memory": "100Gi", "pods": "110" } } });
        cluster
            .kubectl(&["patch", "node", &name, "--subresource=status", "-p", &status.to_string()])
            .ok();
    }
    let spec = json!({ "nodeSelector": { "made-of": "paper" }, "tolerations": [{ "operator": "Exists" }] });
    let manifests = (0..300).map(|index| {
        let mut object = pod(&format!("p-{index}"), &spec);
        object["metadata"]["labels"]["app"] = json!("many");
        object.to_string()
    });
    // The remark makes it YAML, which may hold several documents.
    let manifests = format!("# pods\n{}", manifests.collect::<Vec<_>>().join("\n---\n"));
    cluster.kubectl_with(&["create", "-f", "-"], &manifests).ok();
    eventually(MANY, "all are placed", || {
        let waiting = cluster
            .kubectl(&[
                "get",
                "pods",
                "-l",
                "app=many",
                "--field-selector=spec.nodeName=",
                "-o",
                "name",
            ])
            .ok();
        match waiting.lines().count() {
            0 => Ok(()),
            count => Err(format!("{count} wait")),
        }
    });
    cluster
        .kubectl(&[
            "delete",
            "pods",
            "-l",
            "app=many",
            "--force",
            "--grace-period=0",
            "--wait=false",
        ])
        .ok();
    cluster.kubectl(&["delete", "node", "-l", "made-of=paper"]).ok();
}
