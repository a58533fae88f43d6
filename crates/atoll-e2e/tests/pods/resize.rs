//! Resources of pods that run, changed by way of the subresource `resize`: what is said of it, and
//! what the control groups have in the end. The steps are those of upstream's conformance tests.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use serde_json::{Value, json};

/// Guaranteed; nothing of it ever restarts.
const POD: &str = "resize";
/// Burstable.
const STRETCH: &str = "stretch";

pub(crate) fn apply(cluster: &Cluster) {
    cluster.apply(include_str!("resize.yaml"));
}

pub(crate) fn check(cluster: &Cluster) {
    let before = settled(cluster, POD);
    assert_eq!(before["metadata"]["generation"], 1);
    several_at_once(cluster);
    replaced(cluster);
    stretched(cluster);
    refusals(cluster);
    below_what_is_used(cluster);
    deferred(cluster);
}

/// The agents were killed and have come back: nothing happened to the pod.
pub(crate) fn stays(cluster: &Cluster) {
    let pod = settled(cluster, POD);
    assert_eq!(restarts(&pod), [0, 0, 0]);
    assert_eq!(cpu(&pod, "a.0"), (600, "600m".to_owned()));
}

fn both(cpu: &str, memory: &str) -> Value {
    let amounts = json!({ "cpu": cpu, "memory": memory });
    json!({ "requests": amounts, "limits": amounts })
}

fn patch(containers: &[(&str, Value)]) -> String {
    let one = |(name, resources): &(&str, Value)| json!({ "name": name, "resources": resources });
    let containers: Vec<Value> = containers.iter().map(one).collect();
    json!({ "spec": { "containers": containers } }).to_string()
}

fn resize(cluster: &Cluster, pod: &str, containers: &[(&str, Value)]) {
    let patch = patch(containers);
    cluster.kubectl(&["patch", "pod", pod, "--subresource", "resize", "-p", &patch]).ok();
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

fn restarts(pod: &Value) -> Vec<i64> {
    let all = pod["status"]["containerStatuses"].as_array().unwrap();
    all.iter().map(|one| one["restartCount"].as_i64().unwrap()).collect()
}

/// What the spec asks for is what the containers have, and nothing more is said of it.
fn settled(cluster: &Cluster, name: &str) -> Value {
    cluster.pod_becomes(name, HOUR_GLASS, |pod| {
        let wanted = pod["spec"]["containers"].as_array()?;
        let has = pod["status"]["containerStatuses"].as_array()?;
        let done = wanted.iter().zip(has).all(|(wanted, has)| {
            has["resources"] == wanted["resources"]
                && has["allocatedResources"] == wanted["resources"]["requests"]
        });
        let quiet = condition(pod, "PodResizePending").is_none()
            && condition(pod, "PodResizeInProgress").is_none();
        let seen = pod["status"]["observedGeneration"] == pod["metadata"]["generation"];
        (done && quiet && seen && is_ready(pod)).then(|| pod.clone())
    })
}

/// The first of these files of the pod's group, or of one within it, as the node has them.
fn group(pod: &Value, within: &str, files: &[&str]) -> String {
    let name = format!("pod{}", pod["metadata"]["uid"].as_str().unwrap());
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", &name])
        .output()
        .unwrap();
    let folders = String::from_utf8(found.stdout).unwrap();
    let paths = folders
        .lines()
        .flat_map(|folder| files.iter().map(move |file| format!("{folder}/{within}/{file}")));
    let text = paths.into_iter().find_map(|path| std::fs::read_to_string(path).ok());
    text.unwrap_or_else(|| panic!("no {files:?} in {within} of {folders}")).trim().to_owned()
}

/// In MiB; none where there is no limit.
fn memory(pod: &Value, within: &str) -> Option<u64> {
    let bytes = group(pod, within, &["memory.max", "memory.limit_in_bytes"]);
    bytes.parse::<u64>().ok().filter(|bytes| *bytes < 1 << 40).map(|bytes| bytes >> 20)
}

/// The share of a processor that it gets under pressure in thousandths, rounded, and its limit.
fn cpu(pod: &Value, within: &str) -> (u64, String) {
    let quota = group(pod, within, &["cpu.max", "cpu.cfs_quota_us"]);
    let quota = quota.split(' ').next().unwrap_or_default();
    let limit = quota.parse::<i64>().ok().filter(|quota| *quota > 0);
    let limit = limit.map_or("none".to_owned(), |quota| format!("{}m", quota / 100));
    let weight: u64 = group(pod, within, &["cpu.weight", "cpu.shares"]).parse().unwrap();
    // The curve of v2 is coarse down here: there the weight is only known to be there.
    let is_v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let milli = if is_v2 { requested(pod, within) } else { (weight * 1000).div_ceil(1024) };
    (milli, limit)
}

fn requested(pod: &Value, within: &str) -> u64 {
    let name = within.split('.').next().unwrap();
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let own = containers.iter().find(|one| one["name"] == name).unwrap();
    let text = own["resources"]["requests"]["cpu"].as_str().unwrap_or("2m");
    text.strip_suffix('m').unwrap().parse().unwrap()
}

fn several_at_once(cluster: &Cluster) {
    let steps = [
        // More altogether, less altogether, each another way, and back.
        [("25m", 40), ("27m", 42), ("19m", 34)],
        [("25m", 40), ("17m", 32), ("19m", 34)],
        [("25m", 35), ("17m", 42), ("29m", 44)],
        [("20m", 35), ("22m", 37), ("24m", 39)],
    ];
    for (number, step) in steps.iter().enumerate() {
        let resources = |at: usize| both(step[at].0, &format!("{}Mi", step[at].1));
        let names = ["a", "b", "c"];
        let patches: Vec<_> = (0..3).map(|at| (names[at], resources(at))).collect();
        resize(cluster, POD, &patches);
        let pod = settled(cluster, POD);
        assert_eq!(
            (&pod["metadata"]["generation"], restarts(&pod)),
            (&json!(number + 2), vec![0; 3])
        );
        for (name, (milli, mib)) in names.iter().zip(step) {
            let within = format!("{name}.0");
            assert_eq!(memory(&pod, &within), Some(*mib), "{name} in step {number}");
            let (share, limit) = cpu(&pod, &within);
            assert_eq!((format!("{share}m"), limit), ((*milli).to_owned(), (*milli).to_owned()));
        }
        assert_eq!(memory(&pod, ""), Some(step.iter().map(|(_, mib)| mib).sum()));
    }
    let events = cluster.events(POD);
    for wanted in
        ["ResizeStarted: Pod resize started: {", "ResizeCompleted: Pod resize completed: {"]
    {
        assert!(events.iter().any(|event| event.starts_with(wanted)), "{wanted}: {events:#?}");
    }
}

/// By GET and PUT of the subresource, where the rest of the object does not count.
fn replaced(cluster: &Cluster) {
    let path = format!("/api/v1/namespaces/default/pods/{POD}/resize");
    let mut object: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "--raw", &path]).ok()).unwrap();
    // kubectl keeps these to itself.
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    assert_eq!(object["metadata"], cluster.json(&["pod", POD])["metadata"]);
    object["spec"]["containers"][0]["resources"] = both("20m", "30Mi");
    object["spec"]["containers"][0]["image"] = json!("not/a/resize");
    let arguments = ["replace", "--raw", &path, "-f", "-"];
    cluster.kubectl_with(&arguments, &object.to_string()).ok();
    let pod = settled(cluster, POD);
    assert_eq!(pod["spec"]["containers"][0]["image"], "test.local/busybox:1");
    assert_eq!(memory(&pod, "a.0"), Some(30));
    let inside =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes || true";
    let seen = cluster.kubectl(&["exec", POD, "-c", "a", "--", "sh", "-c", inside]).ok();
    assert_eq!(seen.trim(), (30 << 20).to_string(), "as the container finds it");
}

fn stretched(cluster: &Cluster) {
    settled(cluster, STRETCH);
    let requests = |requests: Value| json!({ "requests": requests });
    resize(
        cluster,
        STRETCH,
        &[
            ("a", json!({ "requests": { "cpu": "25m" }, "limits": { "cpu": "35m" } })),
            ("b", json!({ "requests": { "memory": "30Mi" }, "limits": { "memory": "50Mi" } })),
            ("c", requests(json!({ "memory": "30Mi" }))),
            ("d", requests(json!({ "cpu": "15m", "memory": "35Mi" }))),
            ("e", requests(json!({ "cpu": "20m", "memory": "40Mi" }))),
            ("tiny", json!({ "requests": { "cpu": "1m" }, "limits": { "cpu": "5m" } })),
        ],
    );
    let pod = settled(cluster, STRETCH);
    assert_eq!(restarts(&pod), [0; 7]);
    assert_eq!(cpu(&pod, "a.0"), (25, "35m".to_owned()));
    assert_eq!(memory(&pod, "b.0"), Some(50));
    assert_eq!(cpu(&pod, "d.0"), (15, "none".to_owned()));
    assert_eq!(cpu(&pod, "e.0"), (20, "none".to_owned()));
    assert_eq!(memory(&pod, "e.0"), None);
    // The least that the kernel takes is more than was asked for; the status has what was asked.
    assert_eq!(cpu(&pod, "tiny.0").1, "10m".to_owned());
    // Only its memory asks for a restart.
    let again = |cpu: &str, memory: &str| json!({ "requests": { "cpu": cpu, "memory": memory } });
    resize(cluster, STRETCH, &[("again", again("25m", "35Mi"))]);
    assert_eq!(restarts(&settled(cluster, STRETCH)), [0; 7]);
    resize(cluster, STRETCH, &[("again", again("25m", "40Mi"))]);
    assert_eq!(restarts(&settled(cluster, STRETCH)), [0, 0, 0, 0, 0, 0, 1]);
    let killed = "Killing: Container again resize requires restart";
    cluster.event(STRETCH, killed);
    cluster.kubectl(&["delete", "pod", STRETCH, "--wait=false"]).ok();
}

fn refusals(cluster: &Cluster) {
    let names: Vec<Value> = ["b", "a", "c"].iter().map(|name| json!({ "name": name })).collect();
    let swapped = json!({ "spec": { "$setElementOrder/containers": names, "containers": names } });
    let cases = [
        (patch(&[("a", json!({ "limits": null }))]), "resource limits cannot be removed"),
        (
            patch(&[("a", json!({ "requests": { "cpu": "5m" } }))]),
            "Pod QOS Class may not change as a result of resizing",
        ),
        (
            patch(&[("a", json!({ "requests": { "ephemeral-storage": "1Gi" } }))]),
            "only cpu and memory resources are mutable",
        ),
        (swapped.to_string(), "containers may not be renamed or reordered on resize"),
        (
            patch(&[("a", both("640", "30Mi"))]),
            "Node didn't have enough allocatable resources: cpu, requested: 640046, allocatable: ",
        ),
    ];
    for (patch, wanted) in cases {
        let arguments = ["patch", "pod", POD, "--subresource", "resize", "-p", &patch];
        let said = cluster.kubectl(&arguments).fails();
        assert!(said.contains(wanted), "{patch}: {said}");
    }
    let plain = patch(&[("a", both("21m", "30Mi"))]);
    let said = cluster.kubectl(&["patch", "pod", POD, "-p", &plain]).fails();
    assert!(said.contains("pod updates may not change fields other than"), "{said}");
}

fn below_what_is_used(cluster: &Cluster) {
    resize(cluster, POD, &[("a", both("20m", "10Ki"))]);
    let pod = cluster.pod_becomes(POD, HOUR_GLASS, |pod| {
        let failed = condition(pod, "PodResizeInProgress").is_some_and(|one| {
            let said = one["message"].as_str().unwrap_or_default();
            one["reason"] == "Error"
                && said.starts_with("cannot decrease memory limits: ")
                && said.contains("attempting to set container \"a\" memory limit (10240) below")
        });
        failed.then(|| pod.clone())
    });
    let has = &pod["status"]["containerStatuses"][0];
    assert_eq!(has["resources"]["limits"]["memory"], "30Mi");
    assert_eq!(has["allocatedResources"]["memory"], "10Ki");
    assert_eq!(memory(&pod, "a.0"), Some(30));
    resize(cluster, POD, &[("a", both("20m", "30Mi"))]);
    settled(cluster, POD);
}

fn deferred(cluster: &Cluster) {
    let node = cluster.json(&["node", "node-1"]);
    let cpus: i64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    let pods = ["get", "pods", "--field-selector=spec.nodeName=node-1", "-o", "name"];
    let others = cluster.kubectl(&pods).ok();
    // Past the scheduler; what else asks for processors there is at most half of one.
    let hog = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "hog" },
        "spec": { "nodeName": "node-1", "terminationGracePeriodSeconds": 0, "containers": [{
            "name": "c", "image": "test.local/busybox:1", "command": ["sleep", "1000"],
            "resources": { "requests": { "cpu": format!("{}m", cpus * 1000 - 500) } } }] } });
    cluster.apply(&hog.to_string());
    cluster.pod_becomes("hog", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    resize(cluster, POD, &[("a", both("600m", "30Mi"))]);
    let pending = eventually(HOUR_GLASS, "the resize waits", || {
        let pod = cluster.json(&["pod", POD]);
        condition(&pod, "PodResizePending").cloned().ok_or_else(|| pod["status"].to_string())
    });
    assert_eq!(pending["reason"], "Deferred");
    let said = pending["message"].as_str().unwrap();
    let start = "Node didn't have enough resource: cpu, requested: 646, used: ";
    assert!(said.starts_with(start), "{said}, beside {others}");
    let waits = cluster.json(&["pod", POD]);
    assert_eq!(waits["status"]["containerStatuses"][0]["resources"], both("20m", "30Mi"));
    cluster.kubectl(&["delete", "pod", "hog"]).ok();
    let pod = settled(cluster, POD);
    assert_eq!(cpu(&pod, "a.0"), (600, "600m".to_owned()));
}
