//! What else pods can ask for: commands over an image's own, last words, hooks by HTTP, late
//! readiness, variables of every name.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use serde_json::{Value, json};
use std::{fs::read_to_string, path::Path, time::Duration};

pub(crate) fn apply(cluster: &Cluster, host: &Path) {
    let manifest = include_str!("features.yaml").replace("FOLDER", host.to_str().unwrap());
    cluster.apply(&manifest);
}

pub(crate) fn check(cluster: &Cluster, host: &Path) {
    commands(cluster);
    last_words(cluster);
    web_hooks(cluster, host);
    late_ready(cluster);
    cut_short(cluster);
    variables(cluster);
    classes(cluster);
    init_loop(cluster);
}

fn succeeded(cluster: &Cluster, name: &str) -> Value {
    cluster.pod_becomes(name, HOUR_GLASS, |pod| {
        (pod["status"]["phase"] == "Succeeded").then(|| pod.clone())
    })
}

fn log(cluster: &Cluster, pod: &str, container: &str) -> String {
    cluster.kubectl(&["logs", pod, "-c", container]).ok()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap()
}

fn commands(cluster: &Cluster) {
    let pod = succeeded(cluster, "commands");
    for (container, said) in [
        ("image", "entry cmd\n"),
        ("args", "entry own a\n"),
        ("command", "own\n"),
        ("both", "own args\n"),
    ] {
        assert_eq!(log(cluster, "commands", container), said, "{container}");
    }
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    for init in pod["status"]["initContainerStatuses"].as_array().unwrap() {
        assert_eq!(init["state"]["terminated"]["exitCode"], 0, "{init:#}");
        assert_eq!(init["ready"], true);
    }
}

fn last_words(cluster: &Cluster) {
    let pod = succeeded(cluster, "last-words");
    let said = |container: &str| {
        let all = pod["status"]["containerStatuses"].as_array().unwrap();
        let one = all.iter().find(|one| one["name"] == container).unwrap();
        one["state"]["terminated"]["message"].clone()
    };
    assert_eq!(said("none"), Value::Null, "a log is no last word of who succeeded");
    assert_eq!((said("file"), said("elsewhere")), (json!("OK"), json!("DONE")));
}

fn web_hooks(cluster: &Cluster, host: &Path) {
    cluster.pod_becomes("web-hooks", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    let told = || read_to_string(host.join("web-hooks/log")).unwrap_or_default();
    assert_eq!(told(), "post\n");
    cluster.kubectl(&["delete", "pod", "web-hooks", "--timeout=30s"]).ok();
    assert_eq!(told(), "post\npre\n");
}

fn late_ready(cluster: &Cluster) {
    let pod =
        cluster.pod_becomes("late-ready", HOUR_GLASS, |pod| is_ready(pod).then(|| pod.clone()));
    let container = &pod["status"]["containerStatuses"][0];
    let at = |time: &Value| time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let started = at(&container["state"]["running"]["startedAt"]);
    let waited = at(&condition(&pod, "Ready")["lastTransitionTime"]).duration_since(started);
    assert!(waited.as_secs() >= 5, "{waited}");
    assert_eq!(container["restartCount"], 0);
}

/// A deadline that is set while the pod runs.
fn cut_short(cluster: &Cluster) {
    cluster.pod_becomes("cut-short", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    cluster
        .kubectl(&["patch", "pod", "cut-short", "-p", r#"{"spec":{"activeDeadlineSeconds":1}}"#])
        .ok();
    cluster.pod_becomes("cut-short", Duration::from_secs(10), |pod| {
        (pod["status"]["reason"] == "DeadlineExceeded").then_some(())
    });
}

fn variables(cluster: &Cluster) {
    let pod = succeeded(cluster, "prefixes");
    let said = log(cluster, "prefixes", "c");
    let lines: Vec<&str> = said.lines().collect();
    for prefix in ["", "1-", "$_-", "ABC_", "#@!"] {
        let line = format!("{prefix}data-1=v1");
        assert!(lines.contains(&line.as_str()), "{line} is not in {said}");
    }
    for prefix in ["S_", "1-S-", "$_-S-", "#@!S"] {
        let line = format!("{prefix}data-1=s1");
        assert!(lines.contains(&line.as_str()), "{line} is not in {said}");
    }
    assert!(log(cluster, "prefixes", "whole").lines().any(|line| line == "data-1=s1"));
    let node = cluster.json(&["node", pod["spec"]["nodeName"].as_str().unwrap()]);
    let allocatable = |name: &str| {
        let amount = node["status"]["allocatable"][name].as_str().unwrap().trim_end_matches("Ki");
        amount.parse::<u64>().unwrap()
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (name, value) in [
        ("NAMESPACE", "default".to_owned()),
        ("UID", text(&pod["metadata"]["uid"])),
        ("HOST_IP", text(&pod["status"]["hostIP"])),
        ("HOST_IPS", text(&pod["status"]["hostIPs"][0]["ip"])),
        ("CPU_MAX", (allocatable("cpu") * 1000).to_string()),
        ("MEMORY_MAX", (allocatable("memory") * 1024).to_string()),
    ] {
        let line = format!("{name}={value}");
        assert!(lines.contains(&line.as_str()), "{line} is not in {said}");
    }
}

/// Pods of a class are scheduled, with what the class adds; a node that has no other runtime
/// says so.
fn classes(cluster: &Cluster) {
    for (name, overhead) in
        [("of-plain", Value::Null), ("of-heavy", json!({"cpu": "10m", "memory": "1Mi"}))]
    {
        let pod = cluster.pod_becomes(name, HOUR_GLASS, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        });
        assert!(pod["spec"]["nodeName"].is_string(), "{pod:#}");
        assert_eq!(pod["spec"]["overhead"], overhead);
        assert_eq!(pod["status"]["reason"], "UnsupportedPodSpec");
    }
}

/// An init container that goes on failing is tried again, and nothing after it begins.
fn init_loop(cluster: &Cluster) {
    let pod = cluster.pod_becomes("init-loop", HOUR_GLASS, |pod| {
        let restarts = pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64()?;
        (restarts >= 3).then(|| pod.clone())
    });
    assert_eq!(pod["status"]["phase"], "Pending");
    let initialized = condition(&pod, "Initialized");
    assert_eq!(
        (&initialized["status"], &initialized["reason"]),
        (&json!("False"), &json!("ContainersNotInitialized"))
    );
    assert_eq!(initialized["message"], "containers with incomplete status: [fails waits]");
    for status in
        [&pod["status"]["containerStatuses"][0], &pod["status"]["initContainerStatuses"][1]]
    {
        assert_eq!(status["state"]["waiting"]["reason"], "PodInitializing", "{status:#}");
        assert_eq!(status["restartCount"], 0);
    }
    // Who fails all the time can go at any time.
    cluster.kubectl(&["delete", "pod", "init-loop", "crash", "--wait=false"]).ok();
    for pod in ["init-loop", "crash"] {
        eventually(Duration::from_secs(10), &format!("{pod} is gone"), || {
            let output = cluster.kubectl(&["get", "pod", pod]);
            if output.stderr.contains("NotFound") { Ok(()) } else { Err(output.stdout) }
        });
    }
}
