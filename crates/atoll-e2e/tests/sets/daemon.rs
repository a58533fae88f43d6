//! DaemonSets: a pod on every node that they are meant for.

use super::*;
use atoll_e2e::cluster::is_ready;
use std::{collections::BTreeSet, time::Instant};

fn nodes_of(cluster: &Cluster, app: &str) -> Vec<String> {
    let pods = pods(cluster, app);
    let ready = pods.values().filter(|pod| is_ready(pod));
    let mut nodes: Vec<String> =
        ready.map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect();
    nodes.sort();
    nodes
}

fn runs_on(cluster: &Cluster, app: &str, nodes: &[&str]) {
    eventually(SOON, &format!("{app} on {nodes:?}"), || {
        let found = nodes_of(cluster, app);
        let all = pods(cluster, app).len();
        if found == nodes && all == nodes.len() {
            Ok(())
        } else {
            Err(format!("{found:?} of {all}"))
        }
    });
}

const ALL_NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

pub(super) fn daemon_set_on_every_node(cluster: &Cluster) {
    let before = Instant::now();
    apply(cluster, &set("DaemonSet", "ds", "1", &json!({})));
    rolled_out(cluster, "daemonset/ds");
    println!("a pod on each of three nodes after {:?}", before.elapsed());
    runs_on(cluster, "ds", &ALL_NODES);
    let shown = cluster.kubectl(&["get", "daemonset", "ds"]).ok();
    let cells: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(&cells[..7], ["ds", "3", "3", "3", "3", "3", "<none>"], "{shown}");
    for pod in pods(cluster, "ds").values() {
        assert_eq!(pod["metadata"]["labels"]["pod-template-generation"], "1");
        let node = &pod["spec"]["affinity"]["nodeAffinity"];
        let terms = &node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchFields"][0]["values"][0], pod["spec"]["nodeName"]);
    }
    let described = cluster.kubectl(&["describe", "daemonset", "ds"]).ok();
    assert!(described.contains("Desired Number of Nodes Scheduled: 3"), "{described}");
    assert!(described.contains("SuccessfulCreate"), "{described}");
}

fn uids(cluster: &Cluster, app: &str) -> BTreeSet<String> {
    pods(cluster, app).values().map(|pod| pod["metadata"]["uid"].to_string()).collect()
}

/// One that is deleted, and one that has failed: both are made anew, the others stay.
pub(super) fn lost_pods_come_back(cluster: &Cluster) {
    for failed in [false, true] {
        let before = uids(cluster, "ds");
        let pods = pods(cluster, "ds");
        let name = names(&pods)[0];
        if failed {
            let patch = r#"{"status":{"phase":"Failed"}}"#;
            let status = ["--subresource=status", "--type=merge", "-p", patch];
            cluster.kubectl(&[&["patch", "pod", name][..], &status].concat()).ok();
        } else {
            cluster.kubectl(&["delete", "pod", name]).ok();
        }
        eventually(SOON, &format!("another for {name}"), || {
            let now = uids(cluster, "ds");
            let kept = now.intersection(&before).count();
            if kept == 2 && now.len() == 3 { Ok(()) } else { Err(format!("{kept} were kept")) }
        });
        runs_on(cluster, "ds", &ALL_NODES);
    }
}

/// An update that does not come up is taken back: pods that it did not reach stay as they are.
pub(super) fn rolled_back_on_the_way(cluster: &Cluster) {
    let before = uids(cluster, "ds");
    let bad = r#"{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"test.local/none:1","imagePullPolicy":"Never"}]}}}}"#;
    cluster.kubectl(&["patch", "daemonset/ds", "-p", bad]).ok();
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].clone();
    let left = eventually(SOON, "a pod of the update", || {
        let pods = pods(cluster, "ds");
        if !pods.values().any(|pod| image(pod) == "test.local/none:1") {
            return Err(format!("{:?}", names(&pods)));
        }
        // The one that makes place may be there still: it has ended, and goes.
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let old = pods.values().filter(stays).filter(|pod| image(pod) != "test.local/none:1");
        Ok(old.map(|pod| pod["metadata"]["uid"].to_string()).collect::<BTreeSet<_>>())
    });
    assert_eq!((left.len(), left.is_subset(&before)), (2, true), "{left:?} of {before:?}");
    cluster.kubectl(&["rollout", "undo", "daemonset/ds"]).ok();
    rolled_out(cluster, "daemonset/ds");
    runs_on(cluster, "ds", &ALL_NODES);
    assert!(left.is_subset(&uids(cluster, "ds")), "{left:?} were to stay");
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    assert!(pods(cluster, "ds").values().all(|pod| restarts(pod) == 0));
    cluster.kubectl(&["delete", "daemonset/ds", "--timeout=60s"]).ok();
    cluster.pods_ready("app=ds", 0, SOON);
    // The next step begins with a history of its own.
    apply(cluster, &set("DaemonSet", "ds", "1", &json!({})));
    rolled_out(cluster, "daemonset/ds");
}

pub(super) fn daemon_set_is_updated(cluster: &Cluster) {
    apply(cluster, &set("DaemonSet", "ds", "2", &json!({})));
    eventually(Duration::from_secs(60), "one node after the other is updated", || {
        let pods = pods(cluster, "ds");
        let ready = pods.values().filter(|pod| is_ready(pod)).count();
        assert!(ready >= 2, "{ready} ready: {:?}", names(&pods));
        let new = pods.values().filter(|pod| version(pod) == "2" && is_ready(pod)).count();
        if new == 3 { Ok(()) } else { Err(format!("{new} are new")) }
    });
    rolled_out(cluster, "daemonset/ds");
    let history = cluster.kubectl(&["rollout", "history", "daemonset/ds"]).ok();
    let shown =
        "daemonset.apps/ds \nREVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n\n";
    assert_eq!(history, shown);
    let undone = cluster.atoll(&["rollout", "undo", "daemonset/ds"]).ok();
    assert_eq!(undone, "daemonset.apps/ds rolled back\n");
    rolled_out(cluster, "daemonset/ds");
    assert_eq!(versions(cluster, "ds"), ["1", "1", "1"]);
    rollouts_by_our_own_command(cluster, "daemonset/ds");
    cluster.kubectl(&["rollout", "restart", "daemonset/ds"]).ok();
    rolled_out(cluster, "daemonset/ds");
    // New pods first, old ones after them.
    let surge = json!({ "updateStrategy": { "type": "RollingUpdate",
        "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "100%" } } });
    apply(cluster, &set("DaemonSet", "ds", "3", &surge));
    eventually(Duration::from_secs(60), "all are replaced, and none was missed", || {
        let pods = pods(cluster, "ds");
        let nodes: BTreeSet<&str> = pods
            .values()
            .filter(|pod| is_ready(pod))
            .filter_map(|pod| pod["spec"]["nodeName"].as_str())
            .collect();
        assert_eq!(nodes.len(), 3, "{nodes:?} of {:?}", names(&pods));
        let done = pods.len() == 3 && pods.values().all(|pod| version(pod) == "3");
        if done { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
}

pub(super) fn daemon_set_follows_nodes(cluster: &Cluster) {
    let taint = ["taint", "node", "node-2", "away=yes:NoExecute"];
    cluster.kubectl(&taint).ok();
    runs_on(cluster, "ds", &["node-1", "node-3"]);
    cluster.kubectl(&["taint", "node", "node-2", "away-"]).ok();
    runs_on(cluster, "ds", &ALL_NODES);
    let patch = r#"{"spec":{"template":{"spec":{"nodeSelector":{"disk":"fast"}}}}}"#;
    cluster.kubectl(&["patch", "daemonset/ds", "-p", patch]).ok();
    runs_on(cluster, "ds", &[]);
    cluster.kubectl(&["label", "node", "node-3", "disk=fast"]).ok();
    runs_on(cluster, "ds", &["node-3"]);
    let shown = cluster.kubectl(&["get", "daemonset", "ds"]).ok();
    let cells: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(&cells[..7], ["ds", "1", "1", "1", "1", "1", "disk=fast"], "{shown}");
    cluster.kubectl(&["label", "node", "node-3", "disk-"]).ok();
    runs_on(cluster, "ds", &[]);
    cluster.kubectl(&["delete", "daemonset/ds", "--timeout=60s"]).ok();
}

/// A template with everything that is described, on no node.
pub(super) fn templates_are_shown_as_kubectl_does(cluster: &Cluster) {
    let mut object = set("DaemonSet", "rich", "1", &json!({}));
    object["spec"]["template"] = json!({
        "metadata": { "labels": { "app": "rich", "tier": "x" },
                      "annotations": { "note": "short", "long": "x".repeat(200), "two": "a\nb" } },
        "spec": {
            "nodeSelector": { "no": "such-node" },
            "serviceAccountName": "default",
            "priorityClassName": "system-node-critical",
            "initContainers": [{ "name": "first", "image": "i", "command": ["sh", "-c", "a\nb"] }],
            "containers": [{
                "name": "c", "image": "i", "args": ["--one"],
                "ports": [{ "containerPort": 80 }, { "containerPort": 53, "protocol": "UDP" }],
                "resources": { "limits": { "cpu": "1", "memory": "1Gi" },
                               "requests": { "cpu": "100m" } },
                "livenessProbe": { "exec": { "command": ["a", "b"] } },
                "readinessProbe": { "httpGet": { "port": "web", "path": "/x", "scheme": "HTTPS" } },
                "startupProbe": { "tcpSocket": { "port": 5 }, "failureThreshold": 9 },
                "envFrom": [{ "configMapRef": { "name": "m" } },
                            { "prefix": "P_", "secretRef": { "name": "s", "optional": true } }],
                "env": [
                    { "name": "A", "value": "1\n2" },
                    { "name": "F", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                    { "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
                    { "name": "M", "valueFrom":
                        { "configMapKeyRef": { "name": "m", "key": "k", "optional": true } } },
                ],
                "volumeMounts": [
                    { "name": "map", "mountPath": "/z", "readOnly": true },
                    { "name": "host", "mountPath": "/a", "subPath": "below" },
                ],
            }],
            "volumes": [
                { "name": "map", "configMap": { "name": "m" } },
                { "name": "host", "hostPath": { "path": "/tmp" } },
                { "name": "empty", "emptyDir": { "sizeLimit": "1Mi" } },
                { "name": "secret", "secret": { "secretName": "s" } },
                { "name": "claim", "persistentVolumeClaim": { "claimName": "c" } },
            ],
            "tolerations": [{ "operator": "Exists" },
                { "key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 7 }],
        },
    });
    apply(cluster, &object);
    eventually(SOON, "its revision", || {
        let history = cluster.kubectl(&["rollout", "history", "daemonset/rich"]).ok();
        if history.contains("1   ") { Ok(()) } else { Err(history) }
    });
    alike(cluster, "rollout history daemonset/rich --revision=1");
    cluster.kubectl(&["delete", "daemonset/rich", "--timeout=60s"]).ok();
}
