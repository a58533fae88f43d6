//! Work that ends, evictions that wait, pods that make room: by kubectl against `atoll dev`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

#[path = "jobs/clock.rs"]
mod clock;
#[path = "jobs/guestbook.rs"]
mod guestbook;
#[path = "jobs/rules.rs"]
mod rules;

use atoll_e2e::{Cluster, Output, cluster::is_ready, eventually, image, is_root};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// A start every minute, and a debug build.
const MINUTES: Duration = Duration::from_secs(150);
const IMAGE: &str = "test.local/busybox:1";

#[test]
fn work_that_ends() {
    if !is_root("jobs") {
        return;
    }
    let cluster = Cluster::start(2);
    image::import_busybox(&cluster, IMAGE, json!({ "Cmd": ["sh"] }));
    clock::begins(&cluster);
    let folder = tempfile::tempdir().unwrap();
    rules::apply_all(&cluster, folder.path());
    a_job_completes(&cluster);
    indexes_know_themselves(&cluster);
    failures_end_it(&cluster);
    a_policy_ends_it_at_once(&cluster);
    suspended_and_resumed(&cluster);
    rules::check(&cluster, folder.path());
    clock::ends(&cluster);
}

#[test]
fn pods_that_go_for_others() {
    if !is_root("disruptions") {
        return;
    }
    let cluster = Cluster::start(2);
    image::import_busybox(&cluster, IMAGE, json!({ "Cmd": ["sh"] }));
    a_drain_waits_for_its_budget(&cluster);
    the_urgent_push_others_off(&cluster);
    what_others_announce_is_shared_out(&cluster);
    each_urgency_makes_room_for_the_next(&cluster);
    custom_endpoints_are_mirrored(&cluster);
    guestbook::guestbook(&cluster);
    guestbook::a_pod_of_kubectl(&cluster);
}

fn apply(cluster: &Cluster, object: &Value) {
    cluster.kubectl_with(&["apply", "-f", "-"], &object.to_string()).ok();
}

fn job(name: &str, script: &str, more: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": { "template": { "spec": { "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1, "containers": [
            { "name": "c", "image": IMAGE, "command": ["sh", "-c", script] }] } } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn wait(cluster: &Cluster, job: &str, condition: &str) {
    let condition = format!("--for=condition={condition}");
    cluster.kubectl(&["wait", &condition, &format!("job/{job}"), "--timeout=90s"]).ok();
}

/// Reasons of the conditions that hold, by type.
fn reason(cluster: &Cluster, job: &str, condition: &str) -> String {
    let job = cluster.json(&["job", job]);
    let all = job["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["type"] == condition && one["status"] == "True");
    found.map(|one| one["reason"].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn events(cluster: &Cluster, name: &str) -> String {
    let of = format!("--field-selector=involvedObject.name={name}");
    let shape = "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}";
    cluster.kubectl(&["get", "events", &of, "-o", shape]).ok()
}

fn says(cluster: &Cluster, name: &str, wanted: &str) {
    eventually(SOON, &format!("{name} says {wanted}"), || {
        let said = events(cluster, name);
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
}

fn a_job_completes(cluster: &Cluster) {
    apply(cluster, &job("three", "true", &json!({ "completions": 3, "parallelism": 2 })));
    wait(cluster, "three", "complete");
    let done = cluster.json(&["job", "three"]);
    assert_eq!(done["status"]["succeeded"], 3, "{}", done["status"]);
    assert_eq!(done["status"]["uncountedTerminatedPods"], json!({}));
    assert!(
        done["status"]["completionTime"].is_string() && done["status"]["startTime"].is_string()
    );
    assert_eq!(reason(cluster, "three", "Complete"), "CompletionsReached");
    let row = cluster.kubectl(&["get", "job", "three", "--no-headers"]).ok();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..3], ["three", "Complete", "3/3"], "{row}");
    let pods = cluster.json(&["pods", "-l", "job-name=three"]);
    assert_eq!(pods["items"].as_array().unwrap().len(), 3);
    assert!(!pods.to_string().contains("job-tracking"), "a finalizer was left");
    says(cluster, "three", "Completed: Job completed");
    let described = cluster.kubectl(&["describe", "job", "three"]).ok();
    assert!(described.contains("3 Succeeded"), "{described}");
    cluster.kubectl(&["delete", "job", "three"]).ok();
    eventually(SOON, "its pods go with it", || {
        let pods = cluster.json(&["pods", "-l", "job-name=three"]);
        if pods["items"].as_array().unwrap().is_empty() { Ok(()) } else { Err("there".to_owned()) }
    });
}

fn indexes_know_themselves(cluster: &Cluster) {
    let spec = json!({ "completions": 3, "parallelism": 3, "completionMode": "Indexed" });
    apply(cluster, &job("indexed", "echo $JOB_COMPLETION_INDEX-$(hostname)", &spec));
    wait(cluster, "indexed", "complete");
    let done = cluster.json(&["job", "indexed"]);
    assert_eq!(done["status"]["completedIndexes"], "0-2");
    for index in 0..3 {
        let label = format!("job-name=indexed,batch.kubernetes.io/job-completion-index={index}");
        let said = cluster.kubectl(&["logs", "-l", &label]).ok();
        assert_eq!(said.trim(), format!("{index}-indexed-{index}"));
    }
}

fn failures_end_it(cluster: &Cluster) {
    apply(cluster, &job("hopeless", "exit 3", &json!({ "backoffLimit": 1 })));
    wait(cluster, "hopeless", "failed");
    assert_eq!(reason(cluster, "hopeless", "Failed"), "BackoffLimitExceeded");
    assert_eq!(cluster.json(&["job", "hopeless"])["status"]["failed"], 2);
    says(cluster, "hopeless", "Job has reached the specified backoff limit");
    let slow = json!({ "activeDeadlineSeconds": 2 });
    apply(cluster, &job("slow", "sleep 600", &slow));
    wait(cluster, "slow", "failed");
    assert_eq!(reason(cluster, "slow", "Failed"), "DeadlineExceeded");
    let limited = json!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimitPerIndex": 0, "ttlSecondsAfterFinished": 1 });
    apply(cluster, &job("halves", "exit $JOB_COMPLETION_INDEX", &limited));
    eventually(SOON, "it fails by its index, and goes after its time", || {
        let names = cluster.kubectl(&["get", "jobs", "-o", "name"]).ok();
        if names.contains("halves") { Err(names) } else { Ok(()) }
    });
    says(cluster, "halves", "FailedIndexes: Job has failed indexes");
}

fn a_policy_ends_it_at_once(cluster: &Cluster) {
    let rules = json!([{ "action": "FailJob",
        "onExitCodes": { "containerName": "c", "operator": "In", "values": [42] } }]);
    apply(cluster, &job("policy", "exit 42", &json!({ "podFailurePolicy": { "rules": rules } })));
    wait(cluster, "policy", "failed");
    assert_eq!(reason(cluster, "policy", "Failed"), "PodFailurePolicy");
    assert_eq!(cluster.json(&["job", "policy"])["status"]["failed"], 1);
    says(cluster, "policy", "failed with exit code 42 matching FailJob rule at index 0");
}

fn suspended_and_resumed(cluster: &Cluster) {
    apply(cluster, &job("patient", "true", &json!({ "suspend": true })));
    wait(cluster, "patient", "suspended");
    let pods = cluster.json(&["pods", "-l", "job-name=patient"]);
    assert_eq!(pods["items"], json!([]));
    let patch = r#"{"spec":{"suspend":false}}"#;
    cluster.kubectl(&["patch", "job", "patient", "--type=merge", "-p", patch]).ok();
    wait(cluster, "patient", "complete");
    says(cluster, "patient", "Resumed: Job resumed");
    let fixed = r#"{"spec":{"completions":2}}"#;
    let refused =
        cluster.kubectl(&["patch", "job", "patient", "--type=merge", "-p", fixed]).fails();
    assert!(
        refused.contains("spec.completions: Invalid value: 2: field is immutable"),
        "{refused}"
    );
}

fn deployment(name: &str, replicas: u32, more: &Value) -> Value {
    let mut spec = json!({ "terminationGracePeriodSeconds": 1,
        "containers": [{ "name": "c", "image": "atoll.local/hello" }] });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": spec } },
    })
}

fn a_drain_waits_for_its_budget(cluster: &Cluster) {
    apply(cluster, &deployment("web", 2, &json!({})));
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=90s"]).ok();
    cluster.kubectl(&["create", "pdb", "web", "--selector=app=web", "--min-available=2"]).ok();
    eventually(SOON, "the budget is counted", || {
        let budget = cluster.json(&["pdb", "web"]);
        let counted = budget["status"]["currentHealthy"] == 2;
        if counted { Ok(()) } else { Err(budget["status"].to_string()) }
    });
    // One pod is on the node, and none may go.
    let drain = ["drain", "node-2", "--ignore-daemonsets", "--delete-emptydir-data", "--force"];
    let refused = cluster.kubectl(&[&drain[..], &["--timeout=8s"]].concat()).fails();
    assert!(
        refused.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    assert_eq!(cluster.pods_ready("app=web", 2, SOON).len(), 2);
    // With a third elsewhere one may, and the drain that waits goes on.
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).ok();
    cluster.kubectl(&[&drain[..], &["--timeout=90s"]].concat()).ok();
    eventually(SOON, "everything is on the other node", || {
        let pods = cluster.pods_ready("app=web", 3, SOON);
        let there = pods.iter().all(|pod| pod["spec"]["nodeName"] == "node-1");
        if there { Ok(()) } else { Err(json!(pods).to_string()) }
    });
    let allowed = cluster.kubectl(&["get", "pdb", "web", "--no-headers"]).ok();
    let cells: Vec<&str> = allowed.split_whitespace().collect();
    assert_eq!(cells[..4], ["web", "2", "N/A", "1"], "{allowed}");
    a_budget_that_changes(cluster);
    one_of_three_evictions_at_once(cluster);
    cluster.kubectl(&["uncordon", "node-2"]).ok();
    cluster.kubectl(&["delete", "deployment,pdb", "web"]).ok();
}

fn evict(cluster: &Cluster, pod: &str) -> Output {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    let eviction =
        json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod } });
    cluster.kubectl_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())
}

/// Refused as long as all are wanted, and let through once the budget is another.
fn a_budget_that_changes(cluster: &Cluster) {
    let pods = cluster.pods_ready("app=web", 3, SOON);
    let pod = pods[0]["metadata"]["name"].as_str().unwrap();
    let wants = |count: u32| {
        let patch = json!({ "spec": { "minAvailable": count } }).to_string();
        cluster.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", &patch]).ok();
        eventually(SOON, &format!("{count} are wanted"), || {
            let budget = cluster.json(&["pdb", "web"]);
            let status = &budget["status"];
            let seen = status["desiredHealthy"] == count && status["currentHealthy"] == 3;
            if seen { Ok(()) } else { Err(status.to_string()) }
        });
    };
    wants(3);
    let refused = evict(cluster, pod).fails();
    let words = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(refused.contains(words), "{refused}");
    wants(2);
    evict(cluster, pod).ok();
    cluster.pods_ready("app=web", 3, SOON);
}

/// The budget allows one: however close together they ask, one gets through.
fn one_of_three_evictions_at_once(cluster: &Cluster) {
    let pods = cluster.pods_ready("app=web", 3, SOON);
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let all: Vec<_> =
            names.iter().map(|name| scope.spawn(|| evict(cluster, name).code)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
}

/// Half of a node's processors and a little more, so that two do not fit.
fn most_of_a_node(cluster: &Cluster) -> Value {
    let node = cluster.json(&["node", "node-1"]);
    let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap().to_owned();
    let milli: u64 = match cpu.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap(),
        None => cpu.parse::<u64>().unwrap() * 1_000,
    };
    json!({ "containers": [{ "name": "c", "image": "atoll.local/hello",
        "resources": { "requests": { "cpu": format!("{}m", milli * 6 / 10) } } }] })
}

fn the_urgent_push_others_off(cluster: &Cluster) {
    for (name, value) in [("low", "1"), ("urgent", "1000")] {
        cluster.kubectl(&["create", "priorityclass", name, &format!("--value={value}")]).ok();
    }
    let other = ["patch", "priorityclass", "low", "-p", "{\"value\":2}"];
    let refused = cluster.kubectl(&other).fails();
    assert!(refused.contains("value: Forbidden: may not be changed in an update."), "{refused}");
    let mut spec = most_of_a_node(cluster);
    spec["priorityClassName"] = json!("low");
    apply(cluster, &deployment("batch", 2, &spec));
    let before = cluster.pods_ready("app=batch", 2, SOON);
    spec["priorityClassName"] = json!("urgent");
    spec["preemptionPolicy"] = json!("Never");
    apply(cluster, &deployment("modest", 1, &spec));
    eventually(SOON, "one that preempts nobody waits", || {
        let pods = cluster.json(&["pods", "-l", "app=modest"]);
        let said = pods["items"][0]["status"].to_string();
        if said.contains("not eligible due to preemptionPolicy=Never.") {
            Ok(())
        } else {
            Err(said)
        }
    });
    cluster.kubectl(&["delete", "deployment", "modest"]).ok();
    spec.as_object_mut().unwrap().remove("preemptionPolicy");
    apply(cluster, &deployment("serving", 1, &spec));
    cluster.pods_ready("app=serving", 1, SOON);
    let victims: Vec<String> = before
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .filter(|name| events(cluster, name).contains("Preempted: Preempted by pod "))
        .map(str::to_owned)
        .collect();
    assert_eq!(victims.len(), 1, "one pod is enough");
    eventually(SOON, "who was pushed off waits", || {
        let pods = cluster.json(&["pods", "-l", "app=batch"]);
        let said = pods["items"].to_string();
        let waits = said.contains("No preemption victims found for incoming pod");
        if waits { Ok(()) } else { Err(said) }
    });
    cluster.kubectl(&["delete", "deployment", "batch", "serving"]).ok();
}

/// A resource that nobody but the one who announces it knows, as upstream's own tests fill nodes.
const FOO: &str = "scheduling.k8s.io/thing";

fn announce(cluster: &Cluster, node: &str, amount: &Value) {
    let patch = json!({ "status": { "capacity": { FOO: amount } } }).to_string();
    let arguments = ["patch", "node", node, "--subresource", "status", "--type", "merge", "-p"];
    cluster.kubectl(&[&arguments[..], &[&patch]].concat()).ok();
    eventually(SOON, "the node offers what was announced", || {
        let node = cluster.json(&["node", node]);
        let offered = node["status"]["allocatable"][FOO].clone();
        if offered == *amount { Ok(()) } else { Err(node["status"].to_string()) }
    });
}

fn with_foo(name: &str, class: &str, more: &Value) -> Value {
    let thing = json!({ FOO: "2" });
    let mut pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "priorityClassName": class, "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": "atoll.local/hello",
                "resources": { "requests": thing, "limits": thing } }] } });
    for (key, value) in more.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn what_others_announce_is_shared_out(cluster: &Cluster) {
    cluster.kubectl(&["create", "priorityclass", "medium", "--value=100"]).ok();
    for (name, class, node) in [("first", "low", "node-1"), ("second", "medium", "node-2")] {
        announce(cluster, node, &json!("3"));
        let place = json!({ "nodeSelector": { "kubernetes.io/hostname": node } });
        let mut pod = with_foo(name, class, &place);
        pod["metadata"]["finalizers"] = json!(["example.com/looks"]);
        apply(cluster, &pod);
        cluster.pod_becomes(name, SOON, |pod| is_ready(pod).then_some(()));
    }
    // Past the scheduler, the node itself says no.
    apply(cluster, &with_foo("barges", "low", &json!({ "nodeName": "node-2" })));
    let refused = cluster.pod_becomes("barges", SOON, |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
    });
    assert_eq!(refused["reason"], format!("OutOf{FOO}"));
    assert_eq!(
        refused["message"],
        format!(
            "Pod was rejected: Node didn't have enough resource: {FOO}, requested: 2, used: 2, \
             capacity: 3"
        )
    );
    apply(cluster, &with_foo("third", "urgent", &json!({})));
    let third = cluster.pod_becomes("third", SOON, |pod| is_ready(pod).then(|| pod.clone()));
    assert_eq!(third["spec"]["nodeName"], "node-1", "where the least important is");
    let first = cluster.json(&["pod", "first"]);
    let target =
        first["status"]["conditions"].as_array().unwrap().iter().find(|one| {
            one["type"] == "DisruptionTarget" && one["reason"] == "PreemptionByScheduler"
        });
    assert!(target.is_some() && first["metadata"]["deletionTimestamp"].is_string(), "{first:#}");
    assert!(cluster.json(&["pod", "second"])["metadata"]["deletionTimestamp"].is_null());
    for name in ["first", "second"] {
        let none = json!({ "metadata": { "finalizers": null } }).to_string();
        cluster.kubectl(&["patch", "pod", name, "--type", "merge", "-p", &none]).ok();
    }
    cluster.kubectl(&["delete", "pod", "second", "third", "barges", "--wait=false"]).ok();
    for node in ["node-1", "node-2"] {
        announce(cluster, node, &Value::Null);
    }
}

/// What a node announces, for ReplicaSets of four priorities, one after the other; then for a pod
/// of the system.
fn each_urgency_makes_room_for_the_next(cluster: &Cluster) {
    announce(cluster, "node-1", &json!("10"));
    let set = |name: &str, class: &str, amount: &str| {
        let mut pod = with_foo(name, class, &json!({}));
        let thing = json!({ FOO: amount });
        pod["spec"]["containers"][0]["resources"] = json!({ "requests": thing, "limits": thing });
        let labels = json!({ "path": name });
        apply(
            cluster,
            &json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": name },
                "spec": { "replicas": 1, "selector": { "matchLabels": labels },
                    "template": { "metadata": { "labels": labels }, "spec": pod["spec"] } } }),
        );
    };
    let of = |name: &str| cluster.json(&["pods", "-l", &format!("path={name}")])["items"].clone();
    let mut before = Vec::new();
    for (number, amount) in [(1, "2"), (2, "3"), (3, "4")] {
        let (name, class) = (format!("path-{number}"), format!("urgency-{number}"));
        cluster.kubectl(&["create", "priorityclass", &class, &format!("--value={number}")]).ok();
        set(&name, &class, amount);
        before.extend(cluster.pods_ready(&format!("path={name}"), 1, SOON));
    }
    cluster.kubectl(&["create", "priorityclass", "urgency-4", "--value=4"]).ok();
    set("path-4", "urgency-4", "5");
    cluster.pods_ready("path=path-4", 1, SOON);
    // One was free, and the two least urgent give up two and three.
    for pod in &before {
        let name = pod["metadata"]["labels"]["path"].as_str().unwrap();
        let stays = name == "path-3";
        eventually(SOON, "only who had to go is replaced, by one that waits", || {
            let now = of(name);
            let is_same = now[0]["metadata"]["uid"] == pod["metadata"]["uid"];
            let phase = now[0]["status"]["phase"].as_str();
            let right = (is_same, phase, now[1].is_null());
            let wanted = (stays, Some(if stays { "Running" } else { "Pending" }), true);
            if right == wanted { Ok(()) } else { Err(now.to_string()) }
        });
    }
    let mut critical = with_foo("critical", "system-cluster-critical", &json!({}));
    critical["metadata"]["namespace"] = json!("kube-system");
    apply(cluster, &critical);
    let ready = ["-n", "kube-system", "wait", "--for=condition=Ready", "pod/critical"];
    cluster.kubectl(&[&ready[..], &["--timeout=60s"]].concat()).ok();
    assert_eq!(of("path-3")[0]["status"]["phase"], "Pending", "the least urgent that was there");
    assert_eq!(of("path-4")[0]["status"]["phase"], "Running");
    cluster.kubectl(&["-n", "kube-system", "delete", "pod", "critical", "--wait=false"]).ok();
    cluster.kubectl(&["delete", "rs", "path-1", "path-2", "path-3", "path-4"]).ok();
    announce(cluster, "node-1", &Value::Null);
}

fn custom_endpoints_are_mirrored(cluster: &Cluster) {
    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "outside" },
            "spec": { "ports": [{ "port": 80 }] } }),
    );
    let endpoints = |address: &str| {
        json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "outside" },
            "subsets": [{ "addresses": [{ "ip": address }], "ports": [{ "port": 8080 }] }] })
    };
    let slices = || {
        let slices = cluster.json(&["endpointslices", "-l", "kubernetes.io/service-name=outside"]);
        slices["items"].clone()
    };
    for address in ["192.0.2.7", "192.0.2.8"] {
        apply(cluster, &endpoints(address));
        eventually(SOON, "a slice says the same", || {
            let found = slices();
            let endpoint = &found[0]["endpoints"][0]["addresses"][0];
            let by = &found[0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
            let mirrored = endpoint == address && by == "endpointslicemirroring-controller.k8s.io";
            if mirrored && found[1].is_null() { Ok(()) } else { Err(found.to_string()) }
        });
    }
    cluster.kubectl(&["delete", "endpoints", "outside"]).ok();
    eventually(SOON, "the slice goes with them", || {
        if slices() == json!([]) { Ok(()) } else { Err(slices().to_string()) }
    });
}
