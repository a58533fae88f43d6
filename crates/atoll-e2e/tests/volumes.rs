//! Volumes by kubectl: what containers find in them, who may write, how changes arrive.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

#[path = "volumes/wide.rs"]
mod wide;

use atoll_e2e::{
    Cluster,
    cluster::{Output, is_ready},
    eventually,
    image::import_busybox,
    is_root,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

const WITHIN: Duration = Duration::from_secs(40);
/// A changed object is in its volumes after this time, where upstream takes up to a minute
/// and a half.
const UPDATE_MAX: Duration = Duration::from_secs(5);

#[test]
fn volumes_hold_what_pods_ask_for() {
    if !is_root("volumes") {
        return;
    }
    let cluster = Cluster::start(1);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("hostile")).unwrap();
    symlink("/etc", host.path().join("hostile/out")).unwrap();
    let manifest = include_str!("volumes/pods.yaml");
    cluster.apply(&manifest.replace("HOST", host.path().to_str().unwrap()));
    wide::apply(&cluster);
    for pod in ["owner", "plain", "optional"] {
        cluster.pod_becomes(pod, WITHIN, |pod| is_ready(pod).then_some(()));
    }
    contents(&cluster);
    owners(&cluster);
    sub_paths(&cluster);
    read_only(&cluster);
    host_paths(&cluster, host.path());
    updates(&cluster);
    tokens(&cluster);
    missing(&cluster);
    wide::check(&cluster);
    kept_over_restarts(&cluster);
}

fn inside(cluster: &Cluster, pod: &str, script: &str) -> Output {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", script])
}

#[track_caller]
fn prints(cluster: &Cluster, pod: &str, script: &str, expected: &str) {
    assert_eq!(inside(cluster, pod, script).ok(), expected, "{script}");
}

fn contents(cluster: &Cluster) {
    prints(cluster, "owner", "cat /config/a/b", "v");
    prints(cluster, "owner", "ls /config", "a\n");
    prints(cluster, "owner", "cat /secret/s", "hidden");
    prints(
        cluster,
        "owner",
        "cat /down/labels; echo; cat /down/note",
        "app=\"owner\"\ntwo \"words\"",
    );
    prints(cluster, "owner", "cat /down/cpu /down/name", "250owner");
    prints(cluster, "owner", "ls /projected", "UP\ncm-k\nname\ntoken\n");
    prints(cluster, "owner", "readlink /config/a", "..data/a\n");
    prints(cluster, "optional", "ls /none /some", "/none:\n\n/some:\nk\n");
    let size = inside(cluster, "owner", "df -k /memory | tail -1 | awk '{print $2}'").ok();
    assert_eq!(size, "1024\n");
    let full = inside(cluster, "owner", "dd if=/dev/zero of=/memory/f bs=1M count=2").fails();
    assert!(full.contains("No space left on device"), "{full}");
    prints(
        cluster,
        "owner",
        "grep -E ' /(memory|secret|projected) ' /proc/mounts | grep -c ^tmpfs",
        "3\n",
    );
}

fn owners(cluster: &Cluster) {
    prints(cluster, "owner", "id", "uid=1000(app) gid=1001 groups=1001,2000(extra),3000,4000\n");
    let modes = "stat -c '%a %u:%g' /empty /config/a/b /config/. /secret/s /projected/token";
    let expected = "2777 0:3000\n440 0:3000\n2777 0:3000\n644 0:3000\n640 1000:3000\n";
    prints(cluster, "owner", &modes.replace("stat ", "stat -L "), expected);
    prints(cluster, "owner", "touch /empty/x && stat -c '%u:%g' /empty/x", "1000:3000\n");
    let plain = "stat -L -c '%a %u:%g' /empty /config/k /projected/token";
    prints(cluster, "plain", plain, "777 0:0\n444 0:0\n600 1000:0\n");
}

fn sub_paths(cluster: &Cluster) {
    prints(
        cluster,
        "plain",
        "touch /sub/x /expr/y && ls /empty/s/t /empty/d-xx",
        "/empty/d-xx:\ny\n\n/empty/s/t:\nx\n",
    );
    prints(cluster, "plain", "cat /one-file", "v");
    let words = "failed to prepare subPath for volumeMount \"v\" of container \"c\": \"out\" leads out \
                 of the volume";
    let waiting = cluster.pod_becomes("escapes", WITHIN, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "CreateContainerConfigError").then(|| waiting.clone())
    });
    assert_eq!(waiting["message"], words);
    cluster.event("escapes", &format!("Failed: Error: {words}"));
}

fn read_only(cluster: &Cluster) {
    for path in ["/read-only/x", "/config/x", "/secret/x", "/down/x", "/projected/x"] {
        let failed = inside(cluster, "owner", &format!("touch {path}")).fails();
        assert!(failed.contains("Read-only file system"), "{path}: {failed}");
    }
}

fn host_paths(cluster: &Cluster, host: &Path) {
    prints(
        cluster,
        "optional",
        "echo text > /host/f; cat /host-file | wc -c; ls -l /null | cut -c1",
        "0\nc\n",
    );
    assert_eq!(fs::read_to_string(host.join("made/f")).unwrap(), "text\n");
    assert!(host.join("file").is_file());
    let event = format!(
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} is \
         not a directory",
        host.join("absent").display()
    );
    cluster.event("absent", &event);
}

fn updates(cluster: &Cluster) {
    cluster.kubectl(&["patch", "configmap", "live", "-p", r#"{"data":{"f":"two"}}"#]).ok();
    cluster.kubectl(&["patch", "secret", "secret", "-p", r#"{"stringData":{"s":"new"}}"#]).ok();
    cluster.kubectl(&["label", "pod", "owner", "more=1"]).ok();
    eventually(UPDATE_MAX, "the change arrives", || {
        let text =
            inside(cluster, "owner", "cat /live/f /secret/s; grep -c more /down/labels").stdout;
        if text == "twonew1\n" { Ok(()) } else { Err(text) }
    });
    prints(cluster, "owner", "cat /live-sub", "one");
}

fn tokens(cluster: &Cluster) {
    let token = inside(cluster, "plain", "cat /projected/token").ok();
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": token, "audiences": ["aud"]}});
    let answer = cluster
        .kubectl_with(&["create", "--validate=false", "-f", "-", "-o", "json"], &review.to_string())
        .ok();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["status"]["authenticated"], true, "{answer:#}");
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:default");
    let pod = &answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(*pod, json!(["plain"]));
}

fn missing(cluster: &Cluster) {
    let event =
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found";
    cluster.event("waits", event);
    let pod = cluster.json(&["pod", "waits"]);
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(waiting["reason"], "ContainerCreating");
    cluster.kubectl(&["create", "configmap", "late", "--from-literal=k=v"]).ok();
    cluster.pod_becomes("waits", WITHIN, |pod| is_ready(pod).then_some(()));
    prints(cluster, "waits", "cat /v/k", "v");
}

/// An emptyDir lives as long as its pod; a subPath of a ConfigMap is new with every run.
fn kept_over_restarts(cluster: &Cluster) {
    prints(cluster, "owner", "echo kept > /empty/kept; cat /live-sub", "one");
    cluster.kubectl(&["exec", "owner", "--", "sh", "-c", "kill -TERM 1"]);
    cluster.pod_becomes("owner", WITHIN, |pod| {
        let restarted = pod["status"]["containerStatuses"][0]["restartCount"] == 1;
        (restarted && is_ready(pod)).then_some(())
    });
    prints(cluster, "owner", "cat /empty/kept /live-sub", "kept\ntwo");
}
