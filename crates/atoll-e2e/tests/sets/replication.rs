//! ReplicationControllers, and ReplicaSets that no Deployment has: scaled, adopting and letting
//! go, looked at, and what they say when pods are refused.

use super::*;
use atoll_e2e::http;
use std::net::SocketAddr;

pub(super) fn replication_controller(cluster: &Cluster) {
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
    seen_by_kubectl(cluster);
    cluster.kubectl(&["scale", "rc/rc", "--replicas=1", "--current-replicas=3"]).ok();
    cluster.pods_ready("app=rc", 1, SOON);
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
    a_quota_in_the_way(cluster);
}

/// Described, exposed, annotated; and each of its pods answers.
fn seen_by_kubectl(cluster: &Cluster) {
    let pods = cluster.pods_ready("app=rc", 3, SOON);
    let text = |pod: &Value, path: &str| pod.pointer(path).unwrap().as_str().unwrap().to_owned();
    for pod in &pods {
        let address = SocketAddr::new(text(pod, "/status/podIP").parse().unwrap(), 8080);
        let (name, answer) = (text(pod, "/metadata/name"), http::get(address, "/").unwrap());
        assert!(answer.starts_with(&format!("hello from {name} on ")), "{answer}");
        let patch = r#"{"metadata":{"annotations":{"x":"y"}}}"#;
        cluster.kubectl(&["patch", "pod", &name, "-p", patch]).ok();
        assert_eq!(cluster.json(&["pod", &name])["metadata"]["annotations"]["x"], "y");
    }
    let (pod, node) = (text(&pods[0], "/metadata/name"), text(&pods[0], "/spec/nodeName"));
    for (what, words) in [
        (
            "rc rc".to_owned(),
            vec![
                "Selector:     app=rc",
                "Replicas:     3 current / 3 desired",
                "Pods Status:  3 Running / 0 Waiting / 0 Succeeded / 0 Failed",
                "atoll.local/hello",
                "SuccessfulCreate",
            ],
        ),
        (
            format!("pod {pod}"),
            vec!["Running", "Controlled By:  ReplicationController/rc", "x: y", "Image ID:"],
        ),
        (
            format!("node {node}"),
            vec!["MemoryPressure", "Addresses:", "Capacity:", "Kubelet Version:", &pod],
        ),
        ("namespace default".to_owned(), vec!["Status:       Active"]),
    ] {
        let words_of: Vec<&str> = "describe".split(' ').chain(what.split(' ')).collect();
        let said = cluster.kubectl(&words_of).ok();
        for word in words {
            assert!(said.contains(word), "{what} without {word:?}:\n{said}");
        }
    }
    for (what, name, port) in [("rc/rc", "rm2", "1234"), ("service/rm2", "rm3", "2345")] {
        let port_flag = format!("--port={port}");
        let name_flag = format!("--name={name}");
        cluster.kubectl(&["expose", what, &name_flag, &port_flag, "--target-port=8080"]).ok();
        let address = SocketAddr::new(cluster.service_ip(name), port.parse().unwrap());
        eventually(SOON, &format!("{name} answers"), || http::get(address, "/"));
        let described = cluster.kubectl(&["describe", "service", name]).ok();
        assert!(described.contains(&format!("{port}/TCP")), "{described}");
    }
    cluster.kubectl(&["delete", "service", "rm2", "rm3"]).ok();
}

/// The condition comes with the quota and goes when there is enough.
fn a_quota_in_the_way(cluster: &Cluster) {
    let own = |words: &[&str]| cluster.kubectl(&[&["-n", "tight"], words].concat());
    cluster.kubectl(&["create", "namespace", "tight"]).ok();
    own(&["create", "quota", "two", "--hard=pods=2"]).ok();
    eventually(SOON, "the quota counts", || {
        let quota = cluster.json(&["-n", "tight", "quota", "two"]);
        if quota["status"]["used"]["pods"] == "0" { Ok(()) } else { Err(quota.to_string()) }
    });
    for (kind, version) in [("ReplicationController", "v1"), ("ReplicaSet", "apps/v1")] {
        let name = kind.to_lowercase();
        let mut object = json!({ "apiVersion": version, "kind": kind,
            "metadata": { "name": name, "namespace": "tight" },
            "spec": { "replicas": 3, "template": template("tight", "1") } });
        if version == "apps/v1" {
            object["spec"]["selector"] = json!({ "matchLabels": { "app": "tight" } });
        }
        apply(cluster, &object);
        let failure = || {
            let stored = cluster.json(&["-n", "tight", &name, &name]);
            let conditions = stored["status"]["conditions"].as_array().cloned();
            let of = |one: &Value| one["type"] == "ReplicaFailure";
            (conditions.unwrap_or_default().into_iter().find(of), stored["status"].to_string())
        };
        eventually(SOON, &format!("{kind} is told of the quota"), || match failure() {
            (Some(told), _) if told["message"].to_string().contains("exceeded quota: two") => {
                Ok(())
            }
            (_, status) => Err(status),
        });
        own(&["scale", &name, &name, "--replicas=2"]).ok();
        eventually(SOON, &format!("{kind} has what it wants"), || match failure() {
            (None, _) => Ok(()),
            (_, status) => Err(status),
        });
        own(&["delete", &name, &name, "--timeout=60s"]).ok();
        eventually(SOON, "nothing is used", || {
            let quota = cluster.json(&["-n", "tight", "quota", "two"]);
            if quota["status"]["used"]["pods"] == "0" { Ok(()) } else { Err(quota.to_string()) }
        });
    }
    cluster.kubectl(&["delete", "namespace", "tight", "--wait=false"]).ok();
}

/// A pod that was there before is taken over; one whose label changes is let go and replaced.
/// The scale is read, replaced and patched.
pub(super) fn adopts_and_lets_go(cluster: &Cluster) {
    for (kind, version) in [("ReplicationController", "v1"), ("ReplicaSet", "apps/v1")] {
        let name = format!("keen-{}", kind.to_lowercase());
        let mut orphan = template(&name, "1");
        (orphan["apiVersion"], orphan["kind"]) = (json!("v1"), json!("Pod"));
        orphan["metadata"]["name"] = json!(format!("{name}-orphan"));
        let orphan_name = format!("{name}-orphan");
        apply(cluster, &orphan);
        let mut object = json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name },
            "spec": { "replicas": 1, "template": template(&name, "1") } });
        if version == "apps/v1" {
            object["spec"]["selector"] = json!({ "matchLabels": { "app": name } });
        }
        apply(cluster, &object);
        let owner = |pod: &Value| pod["metadata"]["ownerReferences"][0]["kind"].clone();
        cluster.pod_becomes(&orphan_name, SOON, |pod| (owner(pod) == kind).then_some(()));
        let selector = format!("app={name}");
        assert_eq!(cluster.pods_ready(&selector, 1, SOON).len(), 1);
        cluster.kubectl(&["label", "pod", &orphan_name, "app=free", "--overwrite"]).ok();
        cluster.pod_becomes(&orphan_name, SOON, |pod| owner(pod).is_null().then_some(()));
        cluster.pods_ready(&selector, 1, SOON);
        cluster.kubectl(&["delete", "pod", &orphan_name, "--wait=false"]).ok();
        scaled(cluster, kind, version, &name);
        cluster.kubectl(&["delete", kind, &name, "--timeout=60s"]).ok();
    }
}

fn scaled(cluster: &Cluster, kind: &str, version: &str, name: &str) {
    let root = if version == "v1" { "/api/v1" } else { "/apis/apps/v1" };
    let kinds = format!("{}s", kind.to_lowercase());
    scale_by_hand(cluster, &format!("{root}/namespaces/default/{kinds}/{name}"), 2);
    let selector = format!("app={name}");
    cluster.pods_ready(&selector, 2, SOON);
    let patch = r#"{"spec":{"replicas":3}}"#;
    cluster
        .kubectl(&["patch", kind, name, "--subresource=scale", "--type=merge", "-p", patch])
        .ok();
    cluster.pods_ready(&selector, 3, SOON);
    // A whole object by another, and a patch of its template: new pods have it.
    let patch = json!({ "metadata": { "labels": { "patched": "yes" } }, "spec": { "replicas": 4,
        "template": { "spec": { "containers": [{ "name": "c",
            "env": [{ "name": "VERSION", "value": "2" }] }] } } } });
    cluster.kubectl(&["patch", kind, name, "-p", &patch.to_string()]).ok();
    cluster.pods_ready(&selector, 4, SOON);
    let found = versions(cluster, name);
    assert_eq!(found.iter().filter(|one| *one == "2").count(), 1, "{found:?}");
    let mut object = cluster.json(&[kind, name]);
    assert_eq!(object["metadata"]["labels"]["patched"], "yes");
    object["spec"]["replicas"] = json!(1);
    cluster.kubectl_with(&["replace", "-f", "-"], &object.to_string()).ok();
    cluster.pods_ready(&selector, 1, SOON);
}
