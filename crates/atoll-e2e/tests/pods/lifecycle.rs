//! Starts, restarts, ends and refusals, in the words in which kubectl shows them.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use serde_json::{Value, json};
use std::{
    fs::read_to_string,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) fn apply(cluster: &Cluster, host: &Path) {
    let manifest = include_str!("lifecycle.yaml").replace("HOST", host.to_str().unwrap());
    cluster.apply(&manifest);
}

pub(crate) fn check(cluster: &Cluster, host: &Path) {
    finished(cluster);
    refused(cluster);
    not_root(cluster);
    hook_fails(cluster);
    crash_loop(cluster);
    ends_in_order(cluster, host);
    gone_without_grace(cluster);
}

/// Each restart counts one more, and none less.
pub(crate) fn counts_on(cluster: &Cluster) {
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
    let mut last = count(&cluster.json(&["pod", "crash-on"])).unwrap();
    // The third comes 70 s after the start.
    cluster.pod_becomes("crash-on", 2 * HOUR_GLASS, |pod| {
        let now = count(pod)?;
        assert!(now == last || now == last + 1, "{last}, then {now}");
        last = now;
        (now >= 3).then_some(())
    });
}

/// A pod that the API has let go holds nothing of its node, not even while it still ends.
fn gone_without_grace(cluster: &Cluster) {
    let pod = |name: &str| {
        let port = json!({ "containerPort": 80, "hostPort": 18_180 });
        let container = json!({ "name": "c", "image": "test.local/busybox:1",
            "command": ["sleep", "1000"], "ports": [port] });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "nodeName": "node-1", "containers": [container] } })
    };
    cluster.apply(&pod("first").to_string());
    cluster.pod_becomes("first", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    cluster.kubectl(&["delete", "pod", "first", "--force", "--grace-period=0"]).ok();
    cluster.apply(&pod("second").to_string());
    cluster.pod_becomes("second", HOUR_GLASS, |pod| {
        assert_ne!(pod["status"]["phase"], "Failed", "{pod}");
        is_ready(pod).then_some(())
    });
}

/// The state of the pod's only (or first) container: `running`, `waiting`, `terminated`.
fn state<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0]["state"][kind]
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().unwrap();
    all.iter().find(|one| one["type"] == kind).unwrap()
}

fn phase(cluster: &Cluster, name: &str, wanted: &str) -> Value {
    cluster.pod_becomes(name, HOUR_GLASS, |pod| {
        (pod["status"]["phase"] == wanted).then(|| pod.clone())
    })
}

fn finished(cluster: &Cluster) {
    let never = phase(cluster, "never", "Failed");
    assert_eq!(state(&never, "terminated")["exitCode"], 7);
    assert_eq!(state(&never, "terminated")["message"], "bye\n");
    let words = &never["status"]["containerStatuses"][1]["state"]["terminated"]["message"];
    assert_eq!(words, "line1\nline2", "the log stands in for last words");
    let ready = condition(&never, "Ready");
    assert_eq!((&ready["reason"], &ready["message"]), (&"PodFailed".into(), &Value::Null));

    let on_failure = phase(cluster, "onfailure", "Succeeded");
    assert_eq!(on_failure["status"]["containerStatuses"][0]["restartCount"], 1);
    let init = phase(cluster, "initfails", "Failed");
    assert_eq!(state(&init, "waiting")["reason"], "PodInitializing");
    let shown = cluster.kubectl(&["get", "pod", "initfails", "--no-headers"]).ok();
    assert!(shown.contains("Init:Error"), "{shown}");

    let late = phase(cluster, "deadline", "Failed");
    assert_eq!(late["status"]["reason"], "DeadlineExceeded");
    let words = "Pod was active on the node longer than the specified deadline";
    assert_eq!(late["status"]["message"], words);
    cluster.event("deadline", &format!("DeadlineExceeded: {words}"));

    let oom = phase(cluster, "oom", "Failed");
    assert_eq!(state(&oom, "terminated")["reason"], "OOMKilled");
    assert_eq!(state(&oom, "terminated")["exitCode"], 137);
    assert_eq!(oom["status"]["qosClass"], "Guaranteed");
}

fn refused(cluster: &Cluster) {
    for (pod, reason, words) in [
        ("bigcpu", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 1000000, used: "),
        (
            "bigmemory",
            "OutOfmemory",
            "Node didn't have enough resource: memory, requested: 109951162777600, used: ",
        ),
        ("sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
        (
            "elsewhere",
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        ),
        (
            "windows",
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
        (
            "unsupported",
            "UnsupportedPodSpec",
            "this node does not support spec.containers[0].resources.limits.ephemeral-storage",
        ),
    ] {
        let refused = phase(cluster, pod, "Failed");
        assert_eq!(refused["status"]["reason"], reason);
        let message = refused["status"]["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("Pod was rejected: {words}")), "{message}");
        let event = message.replace("Pod was rejected", reason);
        cluster.event(pod, &event);
    }
}

fn not_root(cluster: &Cluster) {
    let whose = |pod: &Value, container: &str| {
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        format!("(pod: \"nonroot_default({uid})\", container: {container})")
    };
    let pod = cluster.pod_becomes("nonroot", HOUR_GLASS, |pod| {
        let all = pod["status"]["containerStatuses"].as_array()?;
        let told = |one: &Value| one["state"]["waiting"]["reason"] == "CreateContainerConfigError";
        all.iter().all(told).then(|| pod.clone())
    });
    for (index, (container, words)) in [
        ("root", "container has runAsNonRoot and image will run as root"),
        (
            "named",
            "container has runAsNonRoot and image has non-numeric user (app), cannot verify user \
             is non-root",
        ),
        ("asked", "container's runAsUser breaks non-root policy"),
    ]
    .into_iter()
    .enumerate()
    {
        let message = &pod["status"]["containerStatuses"][index]["state"]["waiting"]["message"];
        assert_eq!(*message, format!("{words} {}", whose(&pod, container)));
        cluster.event("nonroot", &format!("Failed: Error: {words} {}", whose(&pod, container)));
    }
}

fn hook_fails(cluster: &Cluster) {
    cluster.event("badhook", "FailedPostStartHook: PostStartHook failed");
    cluster.event("badhook", "Killing: FailedPostStartHook");
    assert!(!is_ready(&cluster.json(&["pod", "badhook"])));
}

fn crash_loop(cluster: &Cluster) {
    let once = Instant::now();
    let pod = cluster.pod_becomes("crash", HOUR_GLASS, |pod| {
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64()?;
        (count >= 2 && state(pod, "waiting")["reason"] == "CrashLoopBackOff").then(|| pod.clone())
    });
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let whose = format!("pod=crash_default({uid})");
    let message = state(&pod, "waiting")["message"].as_str().unwrap();
    assert_eq!(message, format!("back-off 20s restarting failed container=c {whose}"));
    let whose = format!("in pod crash_default({uid})");
    cluster.event("crash", &format!("BackOff: Back-off restarting failed container c {whose}"));
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&3.into(), &"Error".into()));
    // The third run came at least ten seconds after the second.
    let created: jiff::Timestamp =
        pod["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
    let third: jiff::Timestamp = last["startedAt"].as_str().unwrap().parse().unwrap();
    let waited = third.duration_since(created).as_secs();
    assert!((10..=25).contains(&waited), "{waited} s after {:?}", once.elapsed());
}

fn log(host: &Path, pod: &str) -> Vec<String> {
    let text = read_to_string(host.join(pod).join("log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn ends_in_order(cluster: &Cluster, host: &Path) {
    for pod in ["ordered", "hooks", "signal", "stubborn"] {
        cluster.pod_becomes(pod, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    assert_eq!(log(host, "ordered"), ["first", "first", "side", "second", "app"]);
    let ordered = cluster.json(&["pod", "ordered"]);
    assert_eq!(ordered["status"]["initContainerStatuses"][0]["restartCount"], 1);
    assert_eq!(log(host, "hooks"), ["post"]);
    let begun = Instant::now();
    let names = ["pod", "ordered", "hooks", "signal", "stubborn"];
    cluster.kubectl(&[&["delete", "--wait=false"], &names[..]].concat()).ok();
    let gone = |name: &str| {
        let deadline = Duration::from_secs(20);
        eventually(deadline, &format!("{name} is gone"), || {
            let output = cluster.kubectl(&["get", "pod", name]);
            if output.stderr.contains("NotFound") {
                Ok(begun.elapsed())
            } else {
                Err(output.stdout)
            }
        })
    };
    let (signalled, hooked) = (gone("signal"), gone("hooks"));
    assert!(signalled < Duration::from_secs(3), "{signalled:?}");
    assert!(hooked > Duration::from_secs(2), "its preStop sleeps: {hooked:?}");
    let killed = gone("stubborn");
    assert!(killed > Duration::from_secs(3) && killed < Duration::from_secs(9), "{killed:?}");
    gone("ordered");
    assert_eq!(log(host, "ordered")[5..], ["app-end", "side-end"]);
    assert_eq!(log(host, "hooks"), ["post", "pre", "term"]);
    assert_eq!(log(host, "signal"), ["usr1"]);
}
