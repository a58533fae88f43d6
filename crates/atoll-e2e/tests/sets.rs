//! StatefulSets, DaemonSets and ReplicationControllers on three nodes, seen by kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and prints what it measured"
)]

use atoll_e2e::{
    Cluster,
    cluster::{is_ready, run},
    eventually, is_root,
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(40);

#[test]
fn sets_keep_what_manifests_promise() {
    if !is_root("sets") {
        return;
    }
    let cluster = Cluster::start(3);
    stateful_set_comes_up_in_order(&cluster);
    names_resolve(&cluster);
    partition(&cluster);
    history_of_a_stateful_set(&cluster);
    what_may_not_change(&cluster);
    a_node_dies(&cluster);
    scale_down_in_order(&cluster);
    in_parallel(&cluster);
    daemon_set_on_every_node(&cluster);
    daemon_set_is_updated(&cluster);
    daemon_set_follows_nodes(&cluster);
    templates_are_shown_as_kubectl_does(&cluster);
    replication_controller(&cluster);
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

fn database(version: &str, more: &Value) -> Value {
    let mut spec = json!({ "replicas": 3, "serviceName": "db" });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    set("StatefulSet", "db", version, &spec)
}

fn rolled_out(cluster: &Cluster, target: &str) -> String {
    let output = cluster.kubectl(&["rollout", "status", target, "--timeout=90s"]);
    let pods = cluster.kubectl(&["get", "pods", "-o", "wide"]).stdout;
    assert_eq!(output.code, 0, "{output:?}\n{pods}\n{}", cluster.logs());
    output.stdout
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

/// When the pod became ready, in the API's words.
fn ready_at(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|one| one["type"] == "Ready");
    ready.next().and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or_default()
}

fn stateful_set_comes_up_in_order(cluster: &Cluster) {
    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" },
                 "spec": { "clusterIP": "None", "selector": { "app": "db" },
                           "ports": [{ "port": 80, "targetPort": 8080 }] } }),
    );
    let before = Instant::now();
    apply(cluster, &database("1", &json!({})));
    rolled_out(cluster, "statefulset/db");
    println!("three replicas in order after {:?}", before.elapsed());
    let pods = pods(cluster, "db");
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    for (index, (name, pod)) in pods.iter().enumerate() {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], name.as_str());
        assert_eq!(labels["apps.kubernetes.io/pod-index"], index.to_string());
        assert_eq!(
            (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            (&json!(name), &json!("db"))
        );
        let revision = labels["controller-revision-hash"].as_str().unwrap();
        assert!(revision.starts_with("db-"), "{revision}");
    }
    let all: Vec<&Value> = pods.values().collect();
    for pair in all.windows(2) {
        let created = pair[1]["metadata"]["creationTimestamp"].as_str().unwrap();
        assert!(ready_at(pair[0]) <= created, "{} after {created}", ready_at(pair[0]));
    }
    let shown = cluster.kubectl(&["get", "statefulset", "db"]).ok();
    assert!(shown.starts_with("NAME   READY   AGE\ndb     3/3 "), "{shown}");
    let status = cluster.json(&["statefulset", "db"])["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    for count in ["replicas", "readyReplicas", "availableReplicas", "currentReplicas"] {
        assert_eq!(status[count], 3, "{count}: {status}");
    }
    assert_eq!((&status["collisionCount"], &status["observedGeneration"]), (&json!(0), &json!(1)));
    cluster.event("db", "SuccessfulCreate: create Pod db-0 in StatefulSet db successful");
}

/// Each replica has a name of its own below its Service's.
fn names_resolve(cluster: &Cluster) {
    let IpAddr::V4(first) = cluster.service_ip("kubernetes") else { panic!("not IPv4") };
    let dns = Ipv4Addr::from(u32::from(first) + 9);
    for (name, pod) in pods(cluster, "db") {
        let address = pod["status"]["podIP"].as_str().unwrap();
        eventually(SOON, &format!("the name of {name}"), || {
            let mut dig = Command::new("dig");
            dig.args(["+short", "+time=2", "+tries=1", &format!("@{dns}")]);
            dig.arg(format!("{name}.db.default.svc.cluster.local"));
            let answer = run(dig, "").stdout;
            if answer.trim() == address { Ok(()) } else { Err(format!("{answer} not {address}")) }
        });
    }
}

fn partition(cluster: &Cluster) {
    let strategy = |partition: i32| {
        json!({ "updateStrategy":
            { "type": "RollingUpdate", "rollingUpdate": { "partition": partition } } })
    };
    apply(cluster, &database("2", &strategy(2)));
    let said = rolled_out(cluster, "statefulset/db");
    assert!(said.contains("partitioned roll out complete: 1 new pods have been updated"), "{said}");
    assert_eq!(versions(cluster, "db"), ["1", "1", "2"]);
    let status = cluster.json(&["statefulset", "db"])["status"].clone();
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    assert_eq!((&status["updatedReplicas"], &status["currentReplicas"]), (&json!(1), &json!(2)));
    // Below the partition a pod comes back as it was.
    cluster.kubectl(&["delete", "pod", "db-0"]).ok();
    cluster.pods_ready("app=db", 3, SOON);
    assert_eq!(versions(cluster, "db"), ["1", "1", "2"]);
    apply(cluster, &database("2", &strategy(0)));
    rolled_out(cluster, "statefulset/db");
    assert_eq!(versions(cluster, "db"), ["2", "2", "2"]);
    let pods = pods(cluster, "db");
    let times: Vec<&str> = pods.values().map(ready_at).collect();
    assert!(times[1] <= times[0] && times[2] <= times[1], "the highest first: {times:?}");
}

fn history_of_a_stateful_set(cluster: &Cluster) {
    let target = "statefulset/db";
    let history = cluster.kubectl(&["rollout", "history", target]).ok();
    let shown =
        "statefulset.apps/db \nREVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n\n";
    assert_eq!(history, shown);
    let first = cluster.kubectl(&["rollout", "history", target, "--revision=1"]).ok();
    assert!(first.contains("VERSION:\t1"), "{first}");
    cluster.kubectl(&["rollout", "undo", target]).ok();
    rolled_out(cluster, target);
    assert_eq!(versions(cluster, "db"), ["1", "1", "1"]);
    let history = cluster.kubectl(&["rollout", "history", target]).ok();
    assert!(history.ends_with("2         <none>\n3         <none>\n\n"), "{history}");
    let revisions = cluster.json(&["controllerrevisions", "-l", "app=db"]);
    assert_eq!(revisions["items"].as_array().unwrap().len(), 2, "{revisions}");
    rollouts_by_our_own_command(cluster, target);
    cluster.atoll(&["rollout", "restart", target]).ok();
    rolled_out(cluster, target);
    let annotated = |pod: &Value| {
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string()
    };
    assert!(pods(cluster, "db").values().all(annotated));
    // Of those that nobody uses as many are kept as the set says.
    let patch = r#"{"spec":{"revisionHistoryLimit":1}}"#;
    cluster.kubectl(&["patch", target, "-p", patch]).ok();
    eventually(SOON, "two revisions are left", || {
        let revisions = cluster.json(&["controllerrevisions", "-l", "app=db"]);
        let count = revisions["items"].as_array().unwrap().len();
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    });
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

fn what_may_not_change(cluster: &Cluster) {
    let patch = r#"{"spec":{"serviceName":"other"}}"#;
    let refused = cluster.kubectl(&["patch", "statefulset/db", "-p", patch]).fails();
    assert!(
        refused.contains(
            "The StatefulSet \"db\" is invalid: spec: Forbidden: updates to statefulset spec for \
             fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden"
        ),
        "{refused}"
    );
}

/// Nobody can say whether the containers of a dead node have ended: its replica waits until
/// an administrator does.
fn a_node_dies(cluster: &Cluster) {
    let pods_before = pods(cluster, "db");
    let victim = pods_before.values().find(|pod| pod["spec"]["nodeName"] != "node-1").unwrap();
    let (name, uid) = (victim["metadata"]["name"].as_str().unwrap(), &victim["metadata"]["uid"]);
    let node = victim["spec"]["nodeName"].as_str().unwrap();
    cluster.chaos("kill", node);
    cluster.pod_becomes(name, SOON, |pod| {
        pod["metadata"]["deletionTimestamp"].is_string().then_some(())
    });
    assert_eq!(cluster.json(&["pod", name])["metadata"]["uid"], *uid);
    let taint = "node.kubernetes.io/out-of-service=shutdown:NoExecute";
    cluster.kubectl(&["taint", "node", node, taint]).ok();
    let before = Instant::now();
    eventually(SOON, &format!("{name} is back elsewhere"), || {
        let found = pods(cluster, "db").remove(name).ok_or("gone")?;
        let back = is_ready(&found)
            && found["metadata"]["uid"] != *uid
            && found["spec"]["nodeName"] != node;
        if back { Ok(()) } else { Err(format!("{:#}", found["status"])) }
    });
    println!("{name} was back {:?} after its node was given up", before.elapsed());
    cluster.chaos("heal", node);
    cluster.node_ready(node, SOON);
    cluster.kubectl(&["taint", "node", node, &format!("{taint}-")]).ok();
    rolled_out(cluster, "statefulset/db");
}

fn scale_down_in_order(cluster: &Cluster) {
    cluster.kubectl(&["scale", "statefulset/db", "--replicas=1"]).ok();
    eventually(SOON, "one replica, and db-2 gone before db-1 went", || {
        let pods = pods(cluster, "db");
        let going = |name: &str| {
            pods.get(name).is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        };
        assert!(!going("db-1") || !pods.contains_key("db-2"), "{:?}", names(&pods));
        if names(&pods) == ["db-0"] { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    let scale = ["--raw", "/apis/apps/v1/namespaces/default/statefulsets/db/scale"];
    let scale = cluster.kubectl(&["get", scale[0], scale[1]]).ok();
    let scale: Value = serde_json::from_str(&scale).unwrap();
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(1), &json!("app=db"))
    );
    cluster.kubectl(&["delete", "statefulset/db", "--timeout=60s"]).ok();
    cluster.pods_ready("app=db", 0, SOON);
}

fn in_parallel(cluster: &Cluster) {
    let spec = json!({ "replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel",
                       "ordinals": { "start": 5 } });
    let mut object = set("StatefulSet", "many", "1", &spec);
    // They never become ready, and none waits for another.
    object["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({ "tcpSocket": { "port": 1 } });
    apply(cluster, &object);
    eventually(SOON, "all three at once", || {
        let pods = pods(cluster, "many");
        let names = names(&pods);
        if names == ["many-5", "many-6", "many-7"] { Ok(()) } else { Err(format!("{names:?}")) }
    });
    // Orphans are taken over by a set of the same name.
    let uids = || -> BTreeSet<String> {
        pods(cluster, "many").values().map(|pod| pod["metadata"]["uid"].to_string()).collect()
    };
    let before = uids();
    cluster.kubectl(&["delete", "statefulset/many", "--cascade=orphan"]).ok();
    apply(cluster, &object);
    let owner = cluster.json(&["statefulset", "many"])["metadata"]["uid"].clone();
    eventually(SOON, "the pods are adopted", || {
        let pods = pods(cluster, "many");
        let owned = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == owner;
        if pods.values().all(owned) { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    assert_eq!(uids(), before);
    cluster.kubectl(&["delete", "statefulset/many", "--timeout=60s"]).ok();
}

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

fn daemon_set_on_every_node(cluster: &Cluster) {
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

fn daemon_set_is_updated(cluster: &Cluster) {
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

fn daemon_set_follows_nodes(cluster: &Cluster) {
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
fn templates_are_shown_as_kubectl_does(cluster: &Cluster) {
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

fn replication_controller(cluster: &Cluster) {
    let object = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "rc" },
        "spec": { "replicas": 2, "template": template("rc", "1") },
    });
    apply(cluster, &object);
    cluster.pods_ready("app=rc", 2, SOON);
    let stored = cluster.json(&["rc", "rc"]);
    assert_eq!(stored["spec"]["selector"], json!({ "app": "rc" }));
    cluster.kubectl(&["scale", "rc/rc", "--replicas=3"]).ok();
    cluster.pods_ready("app=rc", 3, SOON);
    eventually(SOON, "its columns", || {
        let shown = cluster.kubectl(&["get", "rc", "rc", "-o", "wide"]).ok();
        let line = shown.lines().nth(1).unwrap_or_default();
        let cells: Vec<&str> = line.split_whitespace().collect();
        let wanted = ["rc", "3", "3", "3", "c", "atoll.local/hello", "app=rc"];
        let found: Vec<&str> = cells[..4].iter().chain(&cells[5..]).copied().collect();
        if found == wanted { Ok(()) } else { Err(shown.clone()) }
    });
    // What the API refuses is told in a condition.
    let patch = r#"{"spec":{"replicas":4,"template":{"spec":{"serviceAccountName":"nobody"}}}}"#;
    cluster.kubectl(&["patch", "rc/rc", "-p", patch]).ok();
    eventually(SOON, "the condition ReplicaFailure", || {
        let stored = cluster.json(&["rc", "rc"]);
        let condition = &stored["status"]["conditions"][0];
        let message = condition["message"].as_str().unwrap_or_default();
        let told = condition["type"] == "ReplicaFailure"
            && condition["reason"] == "FailedCreate"
            && message.contains("serviceaccount \"nobody\" not found");
        if told { Ok(()) } else { Err(stored["status"].to_string()) }
    });
    cluster.kubectl(&["delete", "rc/rc", "--timeout=60s"]).ok();
    cluster.pods_ready("app=rc", 0, SOON);
}
