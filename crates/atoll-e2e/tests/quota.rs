//! Quotas, limit ranges and sealed Secrets by kubectl and the command line.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, cluster::is_ready, eventually, image::import_busybox, is_root};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const WITHIN: Duration = Duration::from_secs(60);
/// What goes is given back this soon.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn quotas_hold_under_parallel_creates() {
    if !is_root("quota") {
        return;
    }
    let cluster = Cluster::start(2);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    bounds(&cluster);
    parallel(&cluster);
    gives_back(&cluster);
    lives(&cluster);
    scopes(&cluster);
    sealed(&cluster);
}

fn wait<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually(within, what, || look().ok_or_else(|| "not yet".to_owned()))
}

fn pod(namespace: &str, name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c",
            "image": "test.local/busybox:1", "command": ["sleep", "3600"]}]}})
    .to_string()
}

fn bounds(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "team"]).ok();
    let range = json!({"apiVersion": "v1", "kind": "LimitRange",
        "metadata": {"name": "bounds", "namespace": "team"}, "spec": {"limits": [
            {"type": "Container", "default": {"cpu": "100m", "memory": "64Mi"},
             "defaultRequest": {"cpu": "10m"}, "max": {"memory": "128Mi"}}]}});
    cluster.apply(&range.to_string());
    let described = cluster.kubectl(&["describe", "limitrange", "bounds", "-n", "team"]).ok();
    assert!(described.contains("Container"), "{described}");
    let large = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "large", "namespace": "team"}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"limits": {"memory": "1Gi"}}}]}});
    let refused = cluster.kubectl_with(&["create", "-f", "-"], &large.to_string()).fails();
    assert!(
        refused.contains("maximum memory usage per Container is 128Mi, but limit is 1Gi"),
        "{refused}"
    );
    // Another range counts for what comes after it.
    let patch = json!([{"op": "replace", "path": "/spec/limits/0/max/memory", "value": "1Gi"},
        {"op": "replace", "path": "/spec/limits/0/default/cpu", "value": "200m"}]);
    let path = ["patch", "limitrange", "bounds", "-n", "team", "--type=json", "-p"];
    cluster.kubectl(&[&path[..], &[&patch.to_string()]].concat()).ok();
    let dry = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    wait(SOON, "the new bounds", || {
        let made = cluster.kubectl_with(&dry, &large.to_string());
        let made: Value = serde_json::from_str(&made.stdout).ok()?;
        let found = &made["spec"]["containers"][0]["resources"];
        let wanted = json!({"limits": {"cpu": "200m", "memory": "1Gi"},
            "requests": {"cpu": "10m", "memory": "1Gi"}});
        (*found == wanted).then_some(())
    });
    let back = json!([{"op": "replace", "path": "/spec/limits/0/max/memory", "value": "128Mi"},
        {"op": "replace", "path": "/spec/limits/0/default/cpu", "value": "100m"}]);
    cluster.kubectl(&[&path[..], &[&back.to_string()]].concat()).ok();
}

fn parallel(cluster: &Cluster) {
    cluster.kubectl(&["create", "quota", "few", "-n", "team", "--hard=pods=5,requests.cpu=1"]).ok();
    counted(cluster, "pods", "0");
    let outcomes: Vec<(bool, String)> = std::thread::scope(|scope| {
        let creates: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    let create = |number: usize| {
                        let manifest = pod("team", &format!("p-{worker}-{number}"));
                        let output = cluster.kubectl_with(&["create", "-f", "-"], &manifest);
                        (output.code == 0, output.stderr)
                    };
                    (0..5).map(create).collect::<Vec<_>>()
                })
            })
            .collect();
        creates.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    let refused: Vec<&String> =
        outcomes.iter().filter(|(made, _)| !made).map(|(_, text)| text).collect();
    assert_eq!(refused.len(), 15, "{refused:?}");
    for text in refused {
        assert!(
            text.contains("exceeded quota: few, requested: pods=1, used: pods=5, limited: pods=5"),
            "{text}"
        );
    }
    counted(cluster, "pods", "5");
    counted(cluster, "requests.cpu", "50m");
    let table = cluster.kubectl(&["get", "quota", "few", "-n", "team"]).ok();
    assert!(table.contains("pods: 5/5, requests.cpu: 50m/1"), "{table}");
}

fn quota(cluster: &Cluster) -> Value {
    cluster.json(&["quota", "few", "-n", "team"])
}

fn counted(cluster: &Cluster, resource: &str, amount: &str) {
    wait(SOON, &format!("{resource} is {amount}"), || {
        let used = quota(cluster)["status"]["used"][resource].clone();
        (used == amount).then_some(())
    });
}

fn gives_back(cluster: &Cluster) {
    let pods = cluster.json(&["pods", "-n", "team"]);
    let name = pods["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    wait(WITHIN, "a pod runs", || {
        is_ready(&cluster.json(&["pod", &name, "-n", "team"])).then_some(())
    });
    cluster.kubectl(&["delete", "pod", &name, "-n", "team", "--now"]).ok();
    counted(cluster, "pods", "4");
    cluster.kubectl_with(&["create", "-f", "-"], &pod("team", "again")).ok();
    counted(cluster, "pods", "5");
}

/// What of a quota in the namespace `lives` is used.
fn used(cluster: &Cluster, quota: &str, resource: &str, amount: &str) {
    wait(SOON, &format!("{resource} of {quota} is {amount}"), || {
        let quota = cluster.json(&["resourcequota", quota, "-n", "lives"]);
        (quota["status"]["used"][resource] == amount).then_some(())
    });
}

/// Each kind is charged when it comes and given back when it goes.
fn lives(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "lives"]).ok();
    let hard = "--hard=configmaps=5,secrets=5,services=5,replicationcontrollers=5,\
                persistentvolumeclaims=5,count/replicasets.apps=5,services.nodeports=5,\
                requests.storage=5Gi,requests.example.com/dongle=5,pods=5,requests.ephemeral-storage=5Gi";
    cluster.kubectl(&["create", "quota", "every", "-n", "lives", hard]).ok();
    // The authority's ConfigMap is there from the start.
    used(cluster, "every", "configmaps", "1");
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
        {"name": "c", "image": "i"}]}});
    let pod = json!({"containers": [{"name": "c", "image": "i", "resources": {
        "requests": {"ephemeral-storage": "1Gi", "example.com/dongle": "2"},
        "limits": {"example.com/dongle": "2"}}}]});
    let kinds = [
        ("v1", "ConfigMap", json!({}), &[("configmaps", "2", "1")][..]),
        ("v1", "Secret", json!({}), &[("secrets", "1", "0")]),
        (
            "v1",
            "Service",
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            &[("services", "1", "0"), ("services.nodeports", "1", "0")],
        ),
        (
            "v1",
            "ReplicationController",
            json!({"replicas": 0, "selector": {"a": "b"}, "template": template}),
            &[("replicationcontrollers", "1", "0")],
        ),
        (
            "apps/v1",
            "ReplicaSet",
            json!({"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}),
            &[("count/replicasets.apps", "1", "0")],
        ),
        (
            "v1",
            "PersistentVolumeClaim",
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
            &[("persistentvolumeclaims", "1", "0"), ("requests.storage", "1Gi", "0")],
        ),
        (
            "v1",
            "Pod",
            pod,
            &[
                ("pods", "1", "0"),
                ("requests.example.com/dongle", "2", "0"),
                ("requests.ephemeral-storage", "1Gi", "0"),
            ],
        ),
    ];
    for (version, kind, spec, _) in &kinds {
        let object = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": "one", "namespace": "lives"}, "spec": spec});
        let mut object = object;
        if spec.as_object().unwrap().is_empty() {
            object.as_object_mut().unwrap().remove("spec");
        }
        cluster.kubectl_with(&["create", "-f", "-"], &object.to_string()).ok();
    }
    for (resource, there, _) in kinds.iter().flat_map(|(.., charges)| *charges) {
        used(cluster, "every", resource, there);
    }
    for (_, kind, ..) in &kinds {
        cluster.kubectl(&["delete", kind, "one", "-n", "lives", "--now"]).ok();
    }
    for (resource, _, gone) in kinds.iter().flat_map(|(.., charges)| *charges) {
        used(cluster, "every", resource, gone);
    }
    cluster.kubectl(&["delete", "quota", "every", "-n", "lives"]).ok();
}

/// A quota with scopes counts the pods that are in all of them, and no others.
fn scopes(cluster: &Cluster) {
    for (name, scope) in [
        ("best", "BestEffort"),
        ("not-best", "NotBestEffort"),
        ("ending", "Terminating"),
        ("lasting", "NotTerminating"),
    ] {
        let scope = format!("--scopes={scope}");
        cluster.kubectl(&["create", "quota", name, "-n", "lives", "--hard=pods=5", &scope]).ok();
    }
    let counts = |best: &str, not_best: &str, ending: &str, lasting: &str| {
        used(cluster, "best", "pods", best);
        used(cluster, "not-best", "pods", not_best);
        used(cluster, "ending", "pods", ending);
        used(cluster, "lasting", "pods", lasting);
    };
    counts("0", "0", "0", "0");
    let create = |name: &str, resources: &Value, deadline: Option<i64>| {
        let object = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "lives"}, "spec": {
                "activeDeadlineSeconds": deadline,
                "containers": [{"name": "c", "image": "i", "resources": resources}]}});
        cluster.kubectl_with(&["create", "-f", "-"], &object.to_string()).ok();
    };
    let some = json!({"requests": {"cpu": "1m", "memory": "1Mi"}});
    create("free", &json!({}), None);
    counts("1", "0", "0", "1");
    create("bound", &some, Some(3600));
    counts("1", "1", "1", "1");
    cluster.kubectl(&["delete", "pod", "free", "bound", "-n", "lives", "--now"]).ok();
    counts("0", "0", "0", "0");
    cluster.kubectl(&["delete", "namespace", "lives", "--wait=false"]).ok();
}

fn holds(dir: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        std::fs::read(&path).unwrap().windows(needle.len()).any(|part| part == needle)
    })
}

fn sealed(cluster: &Cluster) {
    let literal = "--from-literal=password=correct-horse-battery";
    cluster.kubectl(&["create", "secret", "generic", "s", literal]).ok();
    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=in-the-open-for-all"]).ok();
    let store = cluster.dir.join("server/store");
    assert!(holds(&store, b"in-the-open-for-all"), "the search finds what is not sealed");
    let encoded = b"Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";
    assert!(!holds(&store, encoded) && !holds(&store, b"correct-horse-battery"));
    let before = cluster.atoll(&["secrets", "status"]).ok();
    assert!(before.starts_with("sealed: secrets; key: "), "{before}");
    let rotated = cluster.atoll(&["secrets", "rotate-key"]).ok();
    assert!(rotated.contains("is in use, the former ones are dropped"), "{rotated}");
    assert_ne!(cluster.atoll(&["secrets", "status"]).ok(), before);
    let read = cluster.json(&["secret", "s"]);
    assert_eq!(read["data"]["password"], "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5");
    assert!(!holds(&store, encoded));
}
