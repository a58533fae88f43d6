//! Probes by kubectl: all four ways of asking, and what follows from the answers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, cluster::is_ready, eventually, image::import_busybox, is_root};
use serde_json::{Value, json};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

const WITHIN: Duration = Duration::from_secs(40);

#[test]
fn probes_decide_over_containers() {
    if !is_root("probes") {
        return;
    }
    let cluster = Cluster::start(1);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let folder = tempfile::tempdir().unwrap();
    let _grpc = Grpc::start(&cluster, folder.path());
    let begun = Instant::now();
    let told = Told::start(&cluster, folder.path());
    cluster.apply(include_str!("probes/pods.yaml"));
    liveness(&cluster, begun);
    startup(&cluster);
    unready(&cluster);
    endpoints(&cluster);
    terminating(&cluster);
    healthy(&cluster);
    told.of_no_end();
}

/// Every status of every pod, as a client that watches is told.
struct Told(Child, PathBuf);

impl Told {
    fn start(cluster: &Cluster, folder: &Path) -> Self {
        const FIELDS: &str = "jsonpath={.metadata.name}{'|'}{.metadata.deletionTimestamp}{'|'}\
                              {.status.containerStatuses[*].state}{'\\n'}";
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(cluster.kubeconfig());
        let file = folder.join("told");
        command.args(["get", "pods", "--watch", "-o", FIELDS]).stdout(File::create(&file).unwrap());
        Self(command.spawn().unwrap(), file)
    }

    /// A container that a probe ended and that starts again is never said to have ended: it runs,
    /// or its next start is put off.
    fn of_no_end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let text = std::fs::read_to_string(&self.1).unwrap();
        assert!(text.contains("never-starts||"), "{text}");
        let going_on = text.lines().filter(|line| line.contains("||"));
        let ended: Vec<&str> = going_on.filter(|line| line.contains("terminated")).collect();
        assert!(ended.is_empty(), "{ended:#?}");
    }
}

/// Health as the gRPC project's own server for Python tells it, on the node's network.
struct Grpc(Child);

impl Grpc {
    fn start(cluster: &Cluster, folder: &Path) -> Self {
        let script = folder.join("health.py");
        std::fs::write(&script, include_str!("probes/health.py")).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", cluster.netns("node-1").display()));
        Self(command.arg("/usr/bin/python3").arg(script).spawn().unwrap())
    }
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn ip(cluster: &Cluster, pod: &str) -> String {
    cluster.pod_becomes(pod, WITHIN, |pod| pod["status"]["podIP"].as_str().map(str::to_owned))
}

fn liveness(cluster: &Cluster, begun: Instant) {
    let restarted = |pod: &str| {
        cluster.pod_becomes(pod, WITHIN, |pod| {
            (status(pod)["restartCount"].as_u64()? >= 1).then_some(())
        });
    };
    for (pod, words) in [
        ("live-exec", "cat: can't open '/tmp/gone': No such file or directory\n".to_owned()),
        ("live-http", "HTTP probe failed with statuscode: 404".to_owned()),
        (
            "live-tcp",
            format!("dial tcp {}:81: connect: connection refused", ip(cluster, "live-tcp")),
        ),
        ("live-slow", "command timed out: \"sleep 10\" timed out after 1s".to_owned()),
        ("live-grpc", "service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
    ] {
        cluster.event(pod, &format!("Unhealthy: Liveness probe failed: {words}"));
        cluster.event(pod, "Killing: Container c failed liveness probe, will be restarted");
        restarted(pod);
    }
    // The probe's own grace period wins over the pod's, which is five minutes.
    assert!(begun.elapsed() < Duration::from_secs(60));
    let path = "/api/v1/nodes/node-1/proxy/metrics/probes";
    let counted = cluster.kubectl(&["get", "--raw", path]).ok();
    let line = |line: &str| line.starts_with("prober_probe_total{") && line.contains("live-tcp");
    assert!(counted.lines().any(line), "{counted}");
    let pod = cluster.json(&["pod", "live-exec"]);
    assert_eq!(status(&pod)["lastState"]["terminated"]["exitCode"], 137);
}

fn startup(cluster: &Cluster) {
    cluster.event("never-starts", "Killing: Container c failed startup probe, will be restarted");
    cluster.event("never-starts", "Unhealthy: Startup probe failed: ");
    let pod = cluster.pod_becomes("slow-start", WITHIN, |pod| is_ready(pod).then(|| pod.clone()));
    assert_eq!(status(&pod)["started"], true);
    assert_eq!(status(&pod)["restartCount"], 0, "liveness waits for startup");
    let events = cluster.events("slow-start");
    assert!(!events.iter().any(|event| event.contains("Liveness")), "{events:#?}");
}

fn unready(cluster: &Cluster) {
    cluster.pod_becomes("ready-grpc", WITHIN, |pod| is_ready(pod).then_some(()));
    let target = format!("{}:82", ip(cluster, "unready"));
    let words = format!("Readiness probe failed: dial tcp {target}: connect: connection refused");
    cluster.event("unready", &format!("Unhealthy: {words}"));
    let pod = cluster.json(&["pod", "unready"]);
    assert!(!is_ready(&pod));
    assert_eq!((&status(&pod)["ready"], &status(&pod)["restartCount"]), (&false.into(), &0.into()));
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|one| one["type"] == "ContainersReady").unwrap();
    assert_eq!(ready["message"], "containers with unready status: [c]");
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    let endpoints = cluster.json(&["endpoints", "gate"]);
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    let all = subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    all.map(|address| address["ip"].as_str().unwrap().to_owned()).collect()
}

fn endpoints(cluster: &Cluster) {
    let own = vec![ip(cluster, "gate")];
    assert_eq!(addresses(cluster), Vec::<String>::new());
    for (command, expected) in [("touch", own), ("rm", Vec::new())] {
        cluster.kubectl(&["exec", "gate", "--", command, "/tmp/ready"]).ok();
        eventually(Duration::from_secs(10), &format!("endpoints after {command}"), || {
            let found = addresses(cluster);
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
    cluster.pod_becomes("gate", WITHIN, |pod| (!is_ready(pod)).then_some(()));
}

/// While a pod ends nothing restarts its containers, and it leaves its Services at once.
fn terminating(cluster: &Cluster) {
    cluster.kubectl(&["exec", "gate", "--", "touch", "/tmp/ready"]).ok();
    cluster.pod_becomes("gate", WITHIN, |pod| is_ready(pod).then_some(()));
    cluster.kubectl(&["delete", "pod", "gate", "--wait=false"]).ok();
    eventually(Duration::from_secs(3), "it has left its Service", || {
        let found = addresses(cluster);
        if found.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let pod = cluster.json(&["pod", "gate"]);
    assert_eq!(status(&pod)["restartCount"], 0);
}

/// Looked at last: every second since it began each of its containers was asked how it is.
fn healthy(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "stays"]);
    let containers = pod["status"]["containerStatuses"].as_array().unwrap();
    assert_eq!(containers.len(), 3);
    let now = jiff::Timestamp::now();
    for container in containers {
        assert_eq!(container["restartCount"], 0, "{container:#}");
        let started = container["state"]["running"]["startedAt"].as_str().unwrap();
        let ran = now.duration_since(started.parse().unwrap());
        assert!(ran.as_secs() >= 5, "{ran}");
    }
    let events = cluster.events("stays");
    assert!(!events.iter().any(|event| event.starts_with("Unhealthy")), "{events:#?}");
}
