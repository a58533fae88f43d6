//! Claims by kubectl: volumes that are folders of nodes, and those that were there before.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::{Output, is_ready},
    eventually,
    image::import_busybox,
    is_root,
};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn claims_outlive_their_pods() {
    if !is_root("claims") {
        return;
    }
    let cluster = Cluster::start(2);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    cluster.apply(include_str!("claims/objects.yaml"));
    default_class(&cluster);
    data_survives_its_pod(&cluster);
    bound_without_a_pod(&cluster);
    reasons_to_wait(&cluster);
    owners_and_read_only(&cluster);
    a_pods_own(&cluster);
    made_by_hand(&cluster);
    all_goes(&cluster);
    its_node_is_deleted(&cluster);
}

fn inside(cluster: &Cluster, pod: &str, script: &str) -> Output {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", script])
}

fn wait<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    eventually(within, what, || look().ok_or_else(|| "not yet".to_owned()))
}

fn pod(name: &str, more: Value) -> String {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test.local/busybox:1", "command": ["sleep", "3600"],
            "volumeMounts": [{"name": "v", "mountPath": "/data"}]}]}});
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod.to_string()
}

fn claimed(name: &str) -> Value {
    json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]})
}

fn ready(cluster: &Cluster, name: &str) -> Value {
    cluster.pod_becomes(name, WITHIN, |pod| is_ready(pod).then(|| pod.clone()))
}

fn claim(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["pvc", name])
}

fn bound(cluster: &Cluster, name: &str) -> Value {
    wait(WITHIN, &format!("claim {name} is bound"), || {
        let claim = claim(cluster, name);
        (claim["status"]["phase"] == "Bound").then_some(claim)
    })
}

/// The folder of a volume on its node.
fn folder(cluster: &Cluster, volume: &str) -> PathBuf {
    let volume = cluster.json(&["pv", volume]);
    let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    let node = term["matchExpressions"][0]["values"][0].as_str().unwrap();
    cluster.dir.join(node).join("volumes").join(volume["metadata"]["name"].as_str().unwrap())
}

fn default_class(cluster: &Cluster) {
    let shown = cluster.kubectl(&["get", "storageclass", "local"]).ok();
    for word in ["local (default)", "atoll.dev/local", "Delete", "WaitForFirstConsumer"] {
        assert!(shown.contains(word), "{shown}");
    }
}

fn data_survives_its_pod(cluster: &Cluster) {
    let waits = wait(WITHIN, "the claim says what it waits for", || {
        let text = cluster.kubectl(&["describe", "pvc", "data"]).stdout;
        text.contains("waiting for first consumer to be created before binding").then_some(text)
    });
    assert!(waits.contains("WaitForFirstConsumer"), "{waits}");
    assert_eq!(claim(cluster, "data")["spec"]["storageClassName"], "local");
    cluster.apply(&pod("writer", claimed("data")));
    let first = ready(cluster, "writer");
    inside(cluster, "writer", "echo kept > /data/file && mkdir /data/deep").ok();
    let claim = bound(cluster, "data");
    let volume = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
    let table = cluster.kubectl(&["get", "pvc", "data"]).ok();
    assert!(table.contains("Bound") && table.contains("1Gi") && table.contains("RWO"), "{table}");
    assert_eq!(std::fs::read_to_string(folder(cluster, &volume).join("file")).unwrap(), "kept\n");
    cluster.kubectl(&["delete", "pod", "writer", "--now"]).ok();
    cluster.apply(&pod("reader", claimed("data")));
    let second = ready(cluster, "reader");
    assert_eq!(second["spec"]["nodeName"], first["spec"]["nodeName"], "where its volume is");
    assert_eq!(inside(cluster, "reader", "cat /data/file").ok(), "kept\n");
}

fn bound_without_a_pod(cluster: &Cluster) {
    let claim = bound(cluster, "now");
    let volume = cluster.json(&["pv", claim["spec"]["volumeName"].as_str().unwrap()]);
    assert_eq!(volume["spec"]["claimRef"]["name"], "now");
    let term = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
    cluster.apply(&pod("now", claimed("now")));
    let pod = ready(cluster, "now");
    assert_eq!(pod["spec"]["nodeName"], term["matchExpressions"][0]["values"][0]);
}

fn reasons_to_wait(cluster: &Cluster) {
    cluster.apply(&pod("nowhere", claimed("nobodys")));
    let said = |pod: &str, words: &str| {
        cluster.pod_becomes(pod, WITHIN, |pod| {
            let why = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
            why.contains(words).then_some(())
        });
    };
    said("nowhere", "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.");
    cluster.apply(&pod("missing", claimed("never-made")));
    said("missing", "persistentvolumeclaim \"never-made\" not found");
    let refused = wait(WITHIN, "the provisioner says what it cannot", || {
        let text = cluster.kubectl(&["describe", "pvc", "shared"]).stdout;
        text.contains("ProvisioningFailed").then_some(text)
    });
    assert!(refused.contains("accessModes has ReadWriteMany"), "{refused}");
    cluster.kubectl(&["delete", "pod", "nowhere", "missing", "--now"]).ok();
}

fn owners_and_read_only(cluster: &Cluster) {
    let mut spec = claimed("data");
    spec["securityContext"] = json!({"fsGroup": 2000, "runAsUser": 1000});
    cluster.kubectl(&["delete", "pod", "reader", "--now"]).ok();
    cluster.apply(&pod("grouped", spec));
    ready(cluster, "grouped");
    assert_eq!(inside(cluster, "grouped", "stat -c '%g' /data /data/file").ok(), "2000\n2000\n");
    inside(cluster, "grouped", "echo more >> /data/file").ok();
    cluster.kubectl(&["delete", "pod", "grouped", "--now"]).ok();
    let mut spec = claimed("data");
    spec["volumes"][0]["persistentVolumeClaim"]["readOnly"] = json!(true);
    cluster.apply(&pod("looks", spec));
    ready(cluster, "looks");
    assert_eq!(inside(cluster, "looks", "cat /data/file").ok(), "kept\nmore\n");
    let failed = inside(cluster, "looks", "touch /data/x").fails();
    assert!(failed.contains("Read-only file system"), "{failed}");
}

fn a_pods_own(cluster: &Cluster) {
    let template = json!({"spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "10Mi"}}}});
    let volumes =
        json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]});
    cluster.apply(&pod("scratch", volumes));
    ready(cluster, "scratch");
    inside(cluster, "scratch", "echo x > /data/f").ok();
    let claim = claim(cluster, "scratch-v");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["kind"], "Pod");
    let path = folder(cluster, claim["spec"]["volumeName"].as_str().unwrap());
    assert!(path.join("f").exists());
    cluster.kubectl(&["delete", "pod", "scratch", "--now"]).ok();
    wait(WITHIN, "the pod's own volume goes with it", || {
        let gone = cluster.kubectl(&["get", "pvc", "scratch-v"]).code != 0;
        (gone && !path.exists()).then_some(())
    });
}

fn made_by_hand(cluster: &Cluster) {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("there"), "before").unwrap();
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "by-hand"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "hostPath": {"path": host.path()}}});
    cluster.apply(&volume.to_string());
    assert_eq!(bound(cluster, "by-hand")["spec"]["volumeName"], "by-hand");
    cluster.apply(&pod("by-hand", claimed("by-hand")));
    ready(cluster, "by-hand");
    assert_eq!(inside(cluster, "by-hand", "cat /data/there").ok(), "before");
    cluster.kubectl(&["delete", "pod", "by-hand", "--now"]).ok();
    cluster.kubectl(&["delete", "pvc", "by-hand"]).ok();
    wait(WITHIN, "it is released, and kept", || {
        let phase = cluster.json(&["pv", "by-hand"])["status"]["phase"].clone();
        (phase == "Released").then_some(())
    });
    assert!(host.path().join("there").exists());
    cluster.kubectl(&["delete", "pv", "by-hand"]).ok();
}

/// A claim in use is held until its pod is gone; then volume and folder go.
fn all_goes(cluster: &Cluster) {
    let volume = claim(cluster, "data")["spec"]["volumeName"].as_str().unwrap().to_owned();
    let path = folder(cluster, &volume);
    cluster.kubectl(&["delete", "pvc", "data", "--wait=false"]).ok();
    let table = cluster.kubectl(&["get", "pvc", "data"]).ok();
    assert!(table.contains("Terminating"), "{table}");
    assert_eq!(inside(cluster, "looks", "cat /data/file").ok(), "kept\nmore\n");
    cluster.kubectl(&["delete", "pod", "looks", "--now"]).ok();
    wait(WITHIN, "claim, volume and folder go", || {
        let gone = |what: &str, name: &str| cluster.kubectl(&["get", what, name]).code != 0;
        (gone("pvc", "data") && gone("pv", &volume) && !path.exists()).then_some(())
    });
}

/// The claim says what has happened and what to do; given up, it goes, and a new one works.
fn its_node_is_deleted(cluster: &Cluster) {
    let new = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "doomed"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "10Mi"}}}});
    cluster.apply(&new.to_string());
    let mut spec = claimed("doomed");
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": "node-2"});
    cluster.apply(&pod("doomed", spec));
    ready(cluster, "doomed");
    let volume = bound(cluster, "doomed")["spec"]["volumeName"].as_str().unwrap().to_owned();
    cluster.chaos("kill", "node-2");
    cluster.kubectl(&["delete", "node", "node-2"]).ok();
    let said = wait(WITHIN, "the claim says that its node is gone", || {
        let text = cluster.kubectl(&["describe", "pvc", "doomed"]).stdout;
        text.contains("VolumeNodeDeleted").then_some(text)
    });
    assert!(said.contains(&format!("volume {volume} is a folder of node node-2")), "{said}");
    // It would go by itself half a minute after its node.
    cluster.kubectl(&["delete", "pod", "doomed", "--force", "--grace-period=0"]).ok();
    cluster.apply(&pod("doomed", claimed("doomed")));
    cluster.pod_becomes("doomed", WITHIN, |pod| {
        let why = pod["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
        why.contains("0/1 nodes are available").then_some(())
    });
    cluster.kubectl(&["delete", "pod,pvc", "doomed", "--now"]).ok();
    wait(WITHIN, "its volume goes", || {
        (cluster.kubectl(&["get", "pv", &volume]).code != 0).then_some(())
    });
    cluster.apply(&new.to_string());
    cluster.apply(&pod("doomed", claimed("doomed")));
    assert_eq!(ready(cluster, "doomed")["spec"]["nodeName"], "node-1");
}
