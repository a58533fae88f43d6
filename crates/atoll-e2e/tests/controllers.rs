//! What the controllers do with Deployments, owners, namespaces and nodes, seen by kubectl.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, eventually, is_root};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn controllers_keep_what_manifests_promise() {
    if !is_root("controllers") {
        return;
    }
    let cluster = Cluster::start(4);
    revisions(&cluster);
    a_stuck_rollout(&cluster);
    one_rollout_over_another(&cluster);
    recreate(&cluster);
    orphans_are_adopted(&cluster);
    refused_pods(&cluster);
    endpoints(&cluster);
    owners(&cluster);
    owners_of_pods(&cluster);
    several_owners(&cluster);
    pods_go_first(&cluster);
    namespaces(&cluster);
    nodes(&cluster);
}

fn apply(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

/// A Deployment of the built-in image; `more` is laid over its spec.
fn deployment(name: &str, replicas: i32, version: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "c", "image": "atoll.local/hello",
                        "env": [{ "name": "VERSION", "value": version }],
                    }],
                },
            },
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn rolled_out(cluster: &Cluster, name: &str) {
    let target = format!("deployment/{name}");
    cluster.kubectl(&["rollout", "status", &target, "--timeout=60s"]).ok();
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|one| one["type"] == kind).cloned()
}

/// Size and version of each ReplicaSet of a Deployment.
fn sets(cluster: &Cluster, name: &str) -> Vec<(String, i64)> {
    let listed = cluster.json(&["replicasets", "-l", &format!("app={name}")]);
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    let mut sets: Vec<(String, i64)> = items
        .iter()
        .map(|set| {
            let container = &set["spec"]["template"]["spec"]["containers"][0];
            let version = container["env"][0]["value"].as_str().unwrap_or_default();
            (version.to_owned(), set["spec"]["replicas"].as_i64().unwrap())
        })
        .collect();
    sets.sort();
    sets
}

fn version(cluster: &Cluster, name: &str) -> String {
    let object = cluster.json(&["deployment", name]);
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    container["env"][0]["value"].as_str().unwrap_or_default().to_owned()
}

fn delete(cluster: &Cluster, what: &str) {
    cluster.kubectl(&["delete", what, "--timeout=60s"]).ok();
}

fn revisions(cluster: &Cluster) {
    let target = "deployment/revised";
    for number in ["1", "2", "3"] {
        let mut object = deployment("revised", 2, number, &json!({ "revisionHistoryLimit": 1 }));
        object["metadata"]["annotations"] =
            json!({ "kubernetes.io/change-cause": format!("to {number}") });
        apply(cluster, &object);
        rolled_out(cluster, "revised");
    }
    eventually(SOON, "one old revision is kept", || {
        let history = cluster.kubectl(&["rollout", "history", target]).ok();
        let wanted =
            "deployment.apps/revised \nREVISION  CHANGE-CAUSE\n2         to 2\n3         to 3\n\n";
        if history == wanted { Ok(()) } else { Err(history) }
    });
    cluster.kubectl(&["rollout", "undo", target]).ok();
    rolled_out(cluster, "revised");
    assert_eq!(version(cluster, "revised"), "2");
    let undone = cluster.json(&["deployment", "revised"]);
    assert_eq!(undone["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "4");
    cluster.kubectl(&["rollout", "undo", target, "--to-revision=3"]).ok();
    rolled_out(cluster, "revised");
    assert_eq!(version(cluster, "revised"), "3");

    cluster.kubectl(&["rollout", "pause", target]).ok();
    cluster.kubectl(&["set", "env", target, "VERSION=paused"]).ok();
    cluster.kubectl(&["scale", target, "--replicas=3"]).ok();
    eventually(SOON, "a paused rollout scales and does not roll", || {
        let object = cluster.json(&["deployment", "revised"]);
        let paused = condition(&object, "Progressing")
            .is_some_and(|one| one["reason"] == "DeploymentPaused" && one["status"] == "Unknown");
        let sets = sets(cluster, "revised");
        let sized =
            sets.contains(&("3".into(), 3)) && sets.iter().all(|(name, _)| name != "paused");
        if paused && sized { Ok(()) } else { Err(format!("{sets:?} {object}")) }
    });
    cluster.kubectl(&["rollout", "resume", target]).ok();
    rolled_out(cluster, "revised");
    assert!(sets(cluster, "revised").contains(&("paused".into(), 3)));
    let object = cluster.json(&["deployment", "revised"]);
    let said = condition(&object, "Progressing").unwrap();
    assert_eq!(said["reason"], "NewReplicaSetAvailable");
    assert!(said["message"].as_str().unwrap().ends_with("has successfully progressed."), "{said}");
    delete(cluster, target);
}

/// A version that never becomes ready: bounds are kept, the deadline is told of, and a
/// change of size is shared out.
fn a_stuck_rollout(cluster: &Cluster) {
    let bounds = json!({
        "progressDeadlineSeconds": 2,
        "strategy": { "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 0 } },
    });
    apply(cluster, &deployment("stuck", 4, "1", &bounds));
    rolled_out(cluster, "stuck");
    let mut broken = deployment("stuck", 4, "2", &bounds);
    let container = &mut broken["spec"]["template"]["spec"]["containers"][0];
    container["readinessProbe"] = json!({ "tcpSocket": { "port": 1 }, "periodSeconds": 1 });
    apply(cluster, &broken);
    let status = cluster.kubectl(&["rollout", "status", "deployment/stuck", "--timeout=60s"]);
    assert_eq!(status.code, 1);
    assert!(
        status.stderr.contains("error: deployment \"stuck\" exceeded its progress deadline"),
        "{status:?}"
    );
    let object = cluster.json(&["deployment", "stuck"]);
    let said = condition(&object, "Progressing").unwrap();
    assert_eq!(
        (&said["status"], &said["reason"]),
        (&json!("False"), &json!("ProgressDeadlineExceeded"))
    );
    let message = said["message"].as_str().unwrap();
    assert!(
        message.starts_with("ReplicaSet \"stuck-")
            && message.ends_with("\" has timed out progressing."),
        "{message}"
    );
    assert_eq!(condition(&object, "Available").unwrap()["reason"], "MinimumReplicasAvailable");
    assert_eq!(sets(cluster, "stuck"), [("1".into(), 4), ("2".into(), 2)]);
    let why = cluster.atoll(&["why", "deployment/stuck"]).ok();
    assert!(why.contains("probe"), "{why}");

    cluster.kubectl(&["scale", "deployment/stuck", "--replicas=8"]).ok();
    eventually(SOON, "both versions grow in proportion", || {
        let sets = sets(cluster, "stuck");
        if sets == [("1".into(), 7), ("2".into(), 3)] { Ok(()) } else { Err(format!("{sets:?}")) }
    });
    delete(cluster, "deployment/stuck");
}

/// A third version while the second is not up: it takes over, and both others go. Its scale is
/// replaced, and everything goes with it.
fn one_rollout_over_another(cluster: &Cluster) {
    let bounds = json!({ "minReadySeconds": 1 });
    apply(cluster, &deployment("over", 2, "1", &bounds));
    rolled_out(cluster, "over");
    let mut broken = deployment("over", 2, "2", &bounds);
    let container = &mut broken["spec"]["template"]["spec"]["containers"][0];
    container["readinessProbe"] = json!({ "tcpSocket": { "port": 1 }, "periodSeconds": 1 });
    apply(cluster, &broken);
    eventually(SOON, "the second version has a pod", || {
        let sets = sets(cluster, "over");
        if sets.contains(&("2".into(), 1)) { Ok(()) } else { Err(format!("{sets:?}")) }
    });
    apply(cluster, &deployment("over", 2, "3", &bounds));
    rolled_out(cluster, "over");
    assert_eq!(sets(cluster, "over"), [("1".into(), 0), ("2".into(), 0), ("3".into(), 2)]);

    let path = "/apis/apps/v1/namespaces/default/deployments/over/scale";
    let scale = cluster.kubectl(&["get", "--raw", path]).ok();
    let mut scale: Value = serde_json::from_str(&scale).unwrap();
    scale["spec"]["replicas"] = json!(1);
    cluster.kubectl_with(&["replace", "--raw", path, "-f", "-"], &scale.to_string()).ok();
    cluster.pods_ready("app=over", 1, SOON);
    delete(cluster, "deployment/over");
    eventually(SOON, "its sets and pods go with it", || {
        let left = cluster.kubectl(&["get", "replicasets,pods", "-l", "app=over", "-o", "name"]);
        if left.stdout.is_empty() { Ok(()) } else { Err(left.stdout) }
    });
}

fn recreate(cluster: &Cluster) {
    let strategy = json!({ "strategy": { "type": "Recreate" } });
    apply(cluster, &deployment("again", 3, "1", &strategy));
    rolled_out(cluster, "again");
    apply(cluster, &deployment("again", 3, "2", &strategy));
    eventually(SOON, "the second version alone", || {
        let pods = cluster.json(&["pods", "-l", "app=again"]);
        let items = pods["items"].as_array().unwrap();
        // A pod that has ended may still be listed.
        let lives =
            |pod: &&Value| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let versions: BTreeSet<&str> = items
            .iter()
            .filter(lives)
            .map(|pod| pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap())
            .collect();
        assert!(versions.len() <= 1, "two versions at once: {versions:?}");
        let ready = items.iter().filter(|pod| atoll_e2e::cluster::is_ready(pod)).count();
        if versions.contains("2") && ready == 3 { Ok(()) } else { Err(format!("{versions:?}")) }
    });
    delete(cluster, "deployment/again");
}

fn orphans_are_adopted(cluster: &Cluster) {
    let object = deployment("left", 2, "1", &json!({}));
    apply(cluster, &object);
    rolled_out(cluster, "left");
    let uids = |kind: &str| -> BTreeSet<String> {
        let listed = cluster.json(&[kind, "-l", "app=left"]);
        let items = listed["items"].as_array().unwrap();
        items.iter().map(|one| one["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    };
    let before = (uids("replicasets"), uids("pods"));
    cluster.kubectl(&["delete", "deployment/left", "--cascade=orphan"]).ok();
    let set = cluster.json(&["replicasets", "-l", "app=left"]);
    assert!(set["items"][0]["metadata"]["ownerReferences"].is_null(), "{set}");
    apply(cluster, &object);
    rolled_out(cluster, "left");
    assert_eq!((uids("replicasets"), uids("pods")), before, "adopted, not made anew");

    // A pod whose label changes is let go and replaced.
    let pods = cluster.json(&["pods", "-l", "app=left"]);
    let pod = pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.kubectl(&["label", "pod", &pod, "app=free", "--overwrite"]).ok();
    cluster.pods_ready("app=left", 2, SOON);
    let free = cluster.json(&["pod", &pod]);
    assert!(free["metadata"]["ownerReferences"].is_null(), "{free}");
    // And taken back, when one of three has to go.
    cluster.kubectl(&["label", "pod", &pod, "app=left", "--overwrite"]).ok();
    cluster.pods_ready("app=left", 2, SOON);

    // The cheapest goes first.
    let pods = cluster.json(&["pods", "-l", "app=left"]);
    let names: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap())
        .collect();
    let cost = "controller.kubernetes.io/pod-deletion-cost=100";
    cluster.kubectl(&["annotate", "pod", names[0], cost]).ok();
    cluster.kubectl(&["scale", "deployment/left", "--replicas=1"]).ok();
    let left = cluster.pods_ready("app=left", 1, SOON);
    assert_eq!(left[0]["metadata"]["name"], names[0]);
    delete(cluster, "deployment/left");
}

fn refused_pods(cluster: &Cluster) {
    let mut object = deployment("refused", 3, "1", &json!({}));
    object["spec"]["template"]["spec"]["serviceAccountName"] = json!("absent");
    apply(cluster, &object);
    let failure = eventually(SOON, "the failure is in the condition", || {
        let object = cluster.json(&["deployment", "refused"]);
        condition(&object, "ReplicaFailure").ok_or_else(|| object["status"].to_string())
    });
    assert_eq!(failure["reason"], "FailedCreate");
    let message = failure["message"].as_str().unwrap();
    assert!(
        message.starts_with("pods \"refused-")
            && message.ends_with("is forbidden: error looking up service account default/absent: serviceaccount \"absent\" not found"),
        "{message}"
    );
    let why = cluster.atoll(&["why", "deployment/refused"]).ok();
    assert!(why.contains("serviceaccount \"absent\" not found"), "{why}");
    eventually(SOON, "an event says it too", || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector=reason=FailedCreate"]).ok();
        if events.contains("Error creating: pods \"refused-") { Ok(()) } else { Err(events) }
    });
    cluster.kubectl(&["create", "serviceaccount", "absent"]).ok();
    cluster.pods_ready("app=refused", 3, Duration::from_secs(70));
    eventually(SOON, "the condition goes", || {
        let object = cluster.json(&["deployment", "refused"]);
        if condition(&object, "ReplicaFailure").is_none() {
            Ok(())
        } else {
            Err(object.to_string())
        }
    });
    delete(cluster, "deployment/refused");
}

fn endpoints(cluster: &Cluster) {
    let mut object = deployment("waiting", 2, "1", &json!({}));
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["ports"] = json!([{ "name": "web", "containerPort": 8080 }]);
    container["readinessProbe"] = json!({ "tcpSocket": { "port": 1 }, "periodSeconds": 1 });
    apply(cluster, &object);
    for (name, publish) in [("patient", false), ("eager", true)] {
        apply(
            cluster,
            &json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "clusterIP": "None", "publishNotReadyAddresses": publish,
                    "selector": { "app": "waiting" },
                    "ports": [{ "port": 80, "targetPort": "web" }] },
            }),
        );
    }
    for (name, ready) in [("patient", false), ("eager", true)] {
        eventually(SOON, "both pods are listed", || {
            let slices = cluster.json(&[
                "endpointslices",
                "-l",
                &format!("kubernetes.io/service-name={name}"),
            ]);
            let slice = &slices["items"][0];
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            let wanted = json!({ "ready": ready, "serving": false, "terminating": false });
            let fits = endpoints.len() == 2
                && slice["ports"][0]["port"] == 8080
                && slice["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
                && endpoints.iter().all(|one| one["conditions"] == wanted);
            if fits { Ok(()) } else { Err(slices.to_string()) }
        });
    }
    let subsets = cluster.json(&["endpoints", "patient"])["subsets"].clone();
    assert!(
        subsets[0]["addresses"].is_null() && subsets[0]["notReadyAddresses"].is_array(),
        "{subsets}"
    );
    let why = cluster.atoll(&["why", "service/patient"]).ok();
    assert!(why.contains("none of the 2 pods") && why.contains("probe"), "{why}");
    for what in ["deployment/waiting", "service/patient", "service/eager"] {
        delete(cluster, what);
    }
    eventually(SOON, "the slices go with their Services", || {
        let slices = cluster.kubectl(&["get", "endpointslices", "-o", "name"]).ok();
        if slices.contains("eager") || slices.contains("patient") { Err(slices) } else { Ok(()) }
    });
}

fn config_map(name: &str, namespace: &str, owner: Option<(&str, &str)>) -> Value {
    let owners: Vec<Value> = owner
        .map(|(name, uid)| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true }))
        .into_iter()
        .collect();
    json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace, "ownerReferences": owners } })
}

fn owners(cluster: &Cluster) {
    let gone = |name: &str| {
        eventually(SOON, &format!("{name} is collected"), || {
            let found = cluster.kubectl(&["get", "configmap", name]);
            if found.stderr.contains("not found") { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    let uid = |name: &str| {
        cluster.json(&["configmap", name])["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    // Foreground: the owner waits for a dependent that a finalizer holds.
    apply(cluster, &config_map("owner", "default", None));
    let mut held = config_map("held", "default", Some(("owner", &uid("owner"))));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    apply(cluster, &held);
    cluster.kubectl(&["delete", "configmap", "owner", "--cascade=foreground", "--wait=false"]).ok();
    eventually(SOON, "the dependent is being deleted", || {
        let held = cluster.json(&["configmap", "held"]);
        if held["metadata"]["deletionTimestamp"].is_null() { Err(held.to_string()) } else { Ok(()) }
    });
    assert_eq!(
        cluster.json(&["configmap", "owner"])["metadata"]["finalizers"],
        json!(["foregroundDeletion"])
    );
    // It disowns itself, and the owner is free to go.
    let disown = r#"{"metadata":{"ownerReferences":null}}"#;
    cluster.kubectl(&["patch", "configmap", "held", "--type=merge", "-p", disown]).ok();
    gone("owner");
    let release = r#"{"metadata":{"finalizers":null}}"#;
    cluster.kubectl(&["patch", "configmap", "held", "--type=merge", "-p", release]).ok();
    gone("held");

    // An owner that never was, and one in another namespace, are none.
    apply(
        cluster,
        &config_map("child", "default", Some(("nobody", "00000000-0000-0000-0000-000000000000"))),
    );
    gone("child");
    cluster.kubectl(&["create", "namespace", "far"]).ok();
    apply(cluster, &config_map("there", "far", None));
    let there = cluster.json(&["-n", "far", "configmap", "there"]);
    let there = there["metadata"]["uid"].as_str().unwrap().to_owned();
    apply(cluster, &config_map("child", "default", Some(("there", &there))));
    gone("child");
    cluster.kubectl(&["-n", "far", "get", "configmap", "there"]).ok();
    delete(cluster, "namespace/far");
}

fn is_gone(cluster: &Cluster, what: &str) {
    eventually(SOON, &format!("{what} is gone"), || {
        let found = cluster.kubectl(&["get", what]);
        if found.stderr.contains("not found") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// A ReplicationController of one pod, and that pod.
fn controller(cluster: &Cluster, name: &str) -> String {
    apply(
        cluster,
        &json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": 1, "selector": {"app": name}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "c", "image": "atoll.local/hello"}]}}}}),
    );
    first(cluster, "pods", name)
}

/// The name of the first of a kind that belongs to an app.
fn first(cluster: &Cluster, kind: &str, app: &str) -> String {
    eventually(SOON, &format!("{kind} of {app}"), || {
        let all = cluster.json(&[kind, "-l", &format!("app={app}")]);
        let name = all["items"][0]["metadata"]["name"].as_str().map(ToOwned::to_owned);
        name.ok_or_else(|| all.to_string())
    })
}

fn set_metadata(cluster: &Cluster, what: &str, metadata: &Value) {
    let patch = json!({ "metadata": metadata }).to_string();
    cluster.kubectl(&["patch", what, "--type=merge", "-p", &patch]).ok();
}

fn delete_in_foreground(cluster: &Cluster, what: &str) {
    cluster.kubectl(&["delete", what, "--cascade=foreground", "--wait=false"]).ok();
}

/// Owners with pods: what stays, what goes, and what waits for it.
fn owners_of_pods(cluster: &Cluster) {
    // A Deployment's ReplicaSet goes with it.
    apply(cluster, &deployment("owning", 1, "1", &json!({})));
    let set = first(cluster, "replicasets", "owning");
    delete(cluster, "deployment/owning");
    is_gone(cluster, &format!("replicaset/{set}"));

    // In the foreground the controller waits for its pods.
    let held = format!("pod/{}", controller(cluster, "waits"));
    set_metadata(cluster, &held, &json!({"finalizers": ["example.com/hold"]}));
    delete_in_foreground(cluster, "rc/waits");
    eventually(SOON, "the pod is being deleted", || {
        let pod = cluster.json(&[&held]);
        if pod["metadata"]["deletionTimestamp"].is_null() { Err(pod.to_string()) } else { Ok(()) }
    });
    let waiting = cluster.json(&["rc", "waits"]);
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    set_metadata(cluster, &held, &json!({"finalizers": null}));
    is_gone(cluster, "rc/waits");

    // Orphans stay, and belong to nobody.
    let orphan = format!("pod/{}", controller(cluster, "orphans"));
    cluster.kubectl(&["delete", "rc", "orphans", "--cascade=orphan"]).ok();
    eventually(SOON, "the pod has no owner", || {
        let pod = cluster.json(&[&orphan]);
        if pod["metadata"]["ownerReferences"].is_null() { Ok(()) } else { Err(pod.to_string()) }
    });
    is_gone(cluster, "rc/orphans");
    delete(cluster, &orphan);
}

/// Who has another owner stays with that one; owners in a circle hold nobody.
fn several_owners(cluster: &Cluster) {
    let shared = format!("pod/{}", controller(cluster, "shares"));
    apply(cluster, &config_map("other-owner", "default", None));
    let owner = |name: &str| {
        let uid = cluster.json(&["configmap", name])["metadata"]["uid"].clone();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
    };
    let other = owner("other-owner");
    let mut all = cluster.json(&[&shared])["metadata"]["ownerReferences"].clone();
    all.as_array_mut().unwrap().push(other.clone());
    set_metadata(cluster, &shared, &json!({"ownerReferences": all}));
    delete_in_foreground(cluster, "rc/shares");
    is_gone(cluster, "rc/shares");
    let pod = cluster.json(&[&shared]);
    assert_eq!(pod["metadata"]["ownerReferences"], json!([other]));
    assert!(pod["metadata"]["deletionTimestamp"].is_null());
    delete(cluster, "configmap/other-owner");
    is_gone(cluster, &shared);

    let names = ["circle-1", "circle-2", "circle-3"];
    for name in names {
        apply(cluster, &config_map(name, "default", None));
    }
    for (at, name) in names.iter().enumerate() {
        let mut next = owner(names[(at + 1) % names.len()]);
        next["blockOwnerDeletion"] = json!(true);
        set_metadata(cluster, &format!("configmap/{name}"), &json!({"ownerReferences": [next]}));
    }
    delete_in_foreground(cluster, "configmap/circle-1");
    for name in names {
        is_gone(cluster, &format!("configmap/{name}"));
    }
}

/// Pods go before anything that they may need.
fn pods_go_first(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "ordered"]).ok();
    let finalizers = json!(["example.com/hold"]);
    let mut needed = config_map("needed", "ordered", None);
    needed["metadata"]["finalizers"] = finalizers.clone();
    apply(cluster, &needed);
    apply(
        cluster,
        &json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "first", "namespace": "ordered", "finalizers": finalizers},
            "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "atoll.local/hello"}]}}),
    );
    cluster.kubectl(&["delete", "namespace", "ordered", "--wait=false"]).ok();
    let marked = |what: &[&str]| {
        let object = cluster.json(&[&["-n", "ordered"], what].concat());
        !object["metadata"]["deletionTimestamp"].is_null()
    };
    eventually(SOON, "the pod is being deleted", || {
        if marked(&["pod", "first"]) { Ok(()) } else { Err("not marked".to_owned()) }
    });
    eventually(SOON, "the namespace says what it waits for", || {
        let namespace = cluster.json(&["namespace", "ordered"]);
        let said = namespace["status"]["conditions"].to_string();
        if said.contains("pods. has 1 resource instances") { Ok(()) } else { Err(said) }
    });
    assert!(!marked(&["configmap", "needed"]), "the pod may still need it");
    for what in ["pod/first", "configmap/needed"] {
        let free = r#"{"metadata":{"finalizers":null}}"#;
        cluster.kubectl(&["-n", "ordered", "patch", what, "--type=merge", "-p", free]).ok();
    }
    eventually(SOON, "the namespace is gone", || {
        let found = cluster.kubectl(&["get", "namespace", "ordered"]);
        if found.stderr.contains("not found") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

fn namespaces(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "full"]).ok();
    let mut held = config_map("held", "full", None);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    apply(cluster, &held);
    let mut object = deployment("inside", 2, "1", &json!({}));
    object["metadata"]["namespace"] = json!("full");
    apply(cluster, &object);
    cluster
        .kubectl(&["-n", "full", "rollout", "status", "deployment/inside", "--timeout=60s"])
        .ok();
    let expose = ["-n", "full", "expose", "deployment", "inside", "--port=80", "--name"];
    for name in ["one", "other"] {
        cluster.kubectl(&[&expose[..], &[name]].concat()).ok();
    }
    cluster.kubectl(&["delete", "namespace", "full", "--wait=false"]).ok();
    let held = eventually(SOON, "the conditions name what remains", || {
        let namespace = cluster.json(&["namespace", "full"]);
        let message = |kind: &str| {
            condition(&namespace, kind).and_then(|one| Some(one["message"].as_str()?.to_owned()))
        };
        let left = message("NamespaceContentRemaining");
        let only = "Some resources are remaining: configmaps. has 1 resource instances";
        if left.as_deref() != Some(only) {
            return Err(namespace["status"].to_string());
        }
        message("NamespaceFinalizersRemaining").ok_or_else(|| namespace.to_string())
    });
    assert_eq!(
        held,
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    );
    let refused = cluster.kubectl(&["-n", "full", "create", "configmap", "late"]).fails();
    assert!(refused.contains("because it is being terminated"), "{refused}");
    let release = r#"{"metadata":{"finalizers":null}}"#;
    cluster
        .kubectl(&["-n", "full", "patch", "configmap", "held", "--type=merge", "-p", release])
        .ok();
    cluster.kubectl(&["wait", "--for=delete", "namespace/full", "--timeout=30s"]).ok();
    cluster.kubectl(&["create", "namespace", "full"]).ok();
    let left = ["get", "deployments,replicasets,pods,services,endpointslices", "-n", "full"];
    assert_eq!(cluster.kubectl(&[&left[..], &["-o", "name"]].concat()).ok(), "");
    let has_both = || {
        eventually(SOON, "the namespace has what pods need", || {
            let found =
                cluster.kubectl(&["-n", "full", "get", "sa/default", "cm/kube-root-ca.crt"]);
            if found.code == 0 { Ok(()) } else { Err(found.stderr) }
        });
    };
    has_both();
    cluster.kubectl(&["-n", "full", "delete", "sa/default", "cm/kube-root-ca.crt"]).ok();
    has_both();
    let published =
        || cluster.json(&["-n", "full", "configmap", "kube-root-ca.crt"])["data"]["ca.crt"].clone();
    let right = published();
    let wrong = r#"{"data":{"ca.crt":"nobody's"}}"#;
    cluster.kubectl(&["-n", "full", "patch", "cm/kube-root-ca.crt", "-p", wrong]).ok();
    eventually(SOON, "the published authority is the cluster's again", || {
        if published() == right { Ok(()) } else { Err(published().to_string()) }
    });
    delete(cluster, "namespace/full");
}

fn nodes(cluster: &Cluster) {
    apply(cluster, &deployment("moved", 3, "1", &json!({})));
    rolled_out(cluster, "moved");
    let nodes_of = || -> Vec<String> {
        let pods = cluster.pods_ready("app=moved", 3, SOON);
        pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_owned()).collect()
    };
    cluster.kubectl(&["drain", "node-2", "--ignore-daemonsets", "--force", "--timeout=60s"]).ok();
    assert!(!nodes_of().contains(&"node-2".to_owned()));
    let node = cluster.kubectl(&["get", "node", "node-2", "--no-headers"]).ok();
    assert!(node.contains("Ready,SchedulingDisabled"), "{node}");
    cluster.kubectl(&["uncordon", "node-2"]).ok();
    for (name, seconds) in TOLERANT {
        tolerant(cluster, name, seconds);
    }
    cluster.pods_ready("app=tolerant", TOLERANT.len(), SOON);
    let tainted = Instant::now();
    cluster.kubectl(&["taint", "node", "node-1", "gone=yes:NoExecute"]).ok();
    tolerated(cluster, tainted);
    comes_late(cluster);
    eventually(SOON, "the taint clears node-1", || {
        let nodes = nodes_of();
        if nodes.contains(&"node-1".to_owned()) { Err(format!("{nodes:?}")) } else { Ok(()) }
    });
    cluster.kubectl(&["taint", "node", "node-1", "gone-"]).ok();
    vanished_together(cluster);
    spared(cluster, tainted);
    // A dead node that is deleted takes its pods with it.
    cluster.chaos("kill", "node-3");
    cluster.kubectl(&["delete", "node", "node-3"]).ok();
    eventually(SOON, "no pod is left of node-3", || {
        let pods = cluster
            .kubectl(&["get", "pods", "-A", "--field-selector=spec.nodeName=node-3", "-o", "name"])
            .ok();
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    cluster.pods_ready("app=moved", 3, SOON);
}

/// Pods of node-1, and how many seconds each bears its taint. The last is to see it go first.
const TOLERANT: [(&str, u64); 3] = [("briefly", 1), ("longer", 4), ("spared", 20)];

fn tolerant(cluster: &Cluster, name: &str, seconds: u64) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "tolerant"}},
        "spec": {
            "nodeName": "node-1", "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "gone", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}],
            "containers": [{"name": "c", "image": "atoll.local/hello"}],
        },
    });
    apply(cluster, &pod);
}

/// Each goes when its own time is over.
fn tolerated(cluster: &Cluster, tainted: Instant) {
    for (name, seconds) in &TOLERANT[..2] {
        eventually(SOON, &format!("{name} goes"), || {
            let found = cluster.kubectl(&["get", "pod", name]);
            if found.stderr.contains("NotFound") { Ok(()) } else { Err(found.stdout) }
        });
        assert!(tainted.elapsed() >= Duration::from_secs(*seconds), "{:?}", tainted.elapsed());
        // Whoever bears it longer is there still.
        assert!(cluster.json(&["pod", "spared"])["metadata"]["deletionTimestamp"].is_null());
    }
}

/// A pod that comes to a taint that is old already has all its time.
fn comes_late(cluster: &Cluster) {
    let (came, seconds) = (Instant::now(), 3);
    tolerant(cluster, "late", seconds);
    cluster.kubectl(&["wait", "--for=delete", "pod/late", "--timeout=30s"]).ok();
    assert!(came.elapsed() >= Duration::from_secs(seconds), "{:?}", came.elapsed());
}

/// The taint was taken away in time.
fn spared(cluster: &Cluster, tainted: Instant) {
    let (name, seconds) = TOLERANT[2];
    eventually(SOON, "its time is over", || {
        let left = Duration::from_secs(seconds + 1).saturating_sub(tainted.elapsed());
        if left.is_zero() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    let pod = cluster.json(&["pod", name]);
    assert!(pod["metadata"]["deletionTimestamp"].is_null(), "{pod:#}");
    cluster.kubectl(&["delete", "pod", name]).ok();
}

/// When most nodes fall silent at once nothing is moved, and all go on when they are back.
fn vanished_together(cluster: &Cluster) {
    let uids = || -> BTreeSet<String> {
        let pods = cluster.json(&["pods", "-l", "app=moved"]);
        let items = pods["items"].as_array().unwrap();
        let alive = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        alive.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    };
    let before = uids();
    let most = ["node-2", "node-3", "node-4"];
    for node in most {
        cluster.chaos("isolate", node);
    }
    eventually(SOON, "three nodes are lost", || {
        let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
        if nodes.matches("NotReady").count() == 3 { Ok(()) } else { Err(nodes) }
    });
    // Longer than pods tolerate a lost node.
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(uids(), before, "nothing is evicted");
    for node in most {
        cluster.chaos("heal", node);
    }
    cluster.pods_ready("app=moved", 3, SOON);
    assert_eq!(uids(), before, "the same pods go on");
}
