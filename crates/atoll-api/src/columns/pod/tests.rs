//! The words of `kubectl get pods`.

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn pod(status: Value) -> Value {
    json!({
        "metadata": {"name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "node-1"},
        "status": status,
    })
}

fn cells(pod: &Value) -> Vec<String> {
    row(pod, now()).iter().map(|cell| cell.as_str().unwrap().to_owned()).collect()
}

#[test]
fn counts_ready_containers() {
    let pod = pod(json!({
        "phase": "Running",
        "podIPs": [{"ip": "10.42.0.2"}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 0, "state": {"running": {}}},
        ],
    }));
    let expected = ["web", "1/2", "Running", "0", "60m", "10.42.0.2", "node-1", "<none>", "<none>"];
    assert_eq!(cells(&pod), expected);
}

#[test]
fn says_when_the_last_restart_was() {
    let pod = pod(json!({
        "phase": "Running",
        "containerStatuses": [{
            "name": "a", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:55:00Z"}},
        }],
    }));
    assert_eq!(cells(&pod)[1..4], ["0/2", "CrashLoopBackOff", "3 (5m ago)"]);
}

#[test]
fn shows_initialisation() {
    let mut pod = pod(json!({
        "phase": "Pending",
        "initContainerStatuses": [
            {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}},
            {"name": "j", "restartCount": 0, "state": {"running": {}}},
        ],
    }));
    pod["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
    assert_eq!(status_word(&pod), "Init:1/2");
    pod["status"]["initContainerStatuses"][1]["state"] =
        json!({"terminated": {"exitCode": 2, "reason": "Error"}});
    assert_eq!(status_word(&pod), "Init:Error");
}

#[test]
fn a_sidecar_counts_as_a_container() {
    let mut pod = pod(json!({
        "phase": "Running",
        "conditions": [{"type": "Initialized", "status": "True"}],
        "initContainerStatuses": [
            {"name": "s", "started": true, "ready": true, "restartCount": 1,
             "state": {"running": {}}},
        ],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "ready": true, "restartCount": 0, "state": {"running": {}}},
        ],
    }));
    pod["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}]);
    assert_eq!(cells(&pod)[1..4], ["3/3", "Running", "1"]);
}

#[test]
fn a_deleted_pod_is_terminating_until_it_has_finished() {
    let mut pod = pod(json!({"phase": "Running"}));
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    assert_eq!(status_word(&pod), "Terminating");
    pod["status"]["phase"] = json!("Succeeded");
    assert_eq!(status_word(&pod), "Succeeded");
    assert_eq!(conditions(&pod)[0]["reason"], "Succeeded");
}
