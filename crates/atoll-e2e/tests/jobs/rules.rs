//! Jobs whose failures and successes mean what their policies say. All run at once and are
//! looked at in turn.

use super::{SOON, apply, job, reason, wait};
use atoll_e2e::{Cluster, eventually};
use serde_json::{Value, json};
use std::path::Path;

const EVEN: &str = "exit $((JOB_COMPLETION_INDEX % 2))";

fn indexed(completions: u32, more: &Value) -> Value {
    let mut spec = json!({ "completions": completions, "parallelism": completions,
        "completionMode": "Indexed" });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

pub(super) fn apply_all(cluster: &Cluster, folder: &Path) {
    let limited = |more: Value| indexed(4, &more);
    apply(cluster, &job("retried", EVEN, &limited(json!({ "backoffLimitPerIndex": 1 }))));
    let few = json!({ "backoffLimitPerIndex": 0, "maxFailedIndexes": 1 });
    apply(cluster, &job("too-many", "exit 1", &limited(few)));
    let given_up = json!({ "backoffLimitPerIndex": 1, "podFailurePolicy": { "rules": [
        { "action": "FailIndex",
          "onExitCodes": { "operator": "In", "values": [42] } }] } });
    let script = "[ $JOB_COMPLETION_INDEX = 2 ] && exit 42; exit 0";
    apply(cluster, &job("given-up", script, &limited(given_up)));

    let first_only = "[ $JOB_COMPLETION_INDEX = 0 ] || sleep 600";
    for (name, script, rule) in [
        ("all-met", "true", json!({ "succeededIndexes": "0-2" })),
        ("index-met", first_only, json!({ "succeededIndexes": "0" })),
        ("count-met", first_only, json!({ "succeededCount": 1 })),
    ] {
        let spec = indexed(3, &json!({ "successPolicy": { "rules": [rule] } }));
        apply(cluster, &job(name, script, &spec));
    }
    apply(cluster, &restarted());
    apply(cluster, &disrupted(folder));
    for name in ["held", "cut-short"] {
        apply(cluster, &job(name, "sleep 600", &json!({ "parallelism": 2 })));
    }
}

/// Fails once in each of its pods, which goes on.
fn restarted() -> Value {
    let script = "[ -e /mark/once ] || { touch /mark/once; exit 1; }";
    let mut object = job("restarted", script, &json!({ "completions": 2, "parallelism": 2 }));
    let pod = &mut object["spec"]["template"]["spec"];
    pod["restartPolicy"] = json!("OnFailure");
    pod["volumes"] = json!([{ "name": "mark", "emptyDir": {} }]);
    pod["containers"][0]["volumeMounts"] = json!([{ "name": "mark", "mountPath": "/mark" }]);
    object
}

/// May not fail at all, unless it is evicted.
fn disrupted(folder: &Path) -> Value {
    let script = "[ -e /mark/evicted ] && exit 0; trap 'exit 1' TERM; touch /mark/evicted; \
                  sleep 600 & wait";
    let rules =
        json!([{ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] }]);
    let spec = json!({ "backoffLimit": 0, "podFailurePolicy": { "rules": rules } });
    let mut object = job("disrupted", script, &spec);
    let pod = &mut object["spec"]["template"]["spec"];
    pod["volumes"] = json!([{ "name": "mark", "hostPath": { "path": folder } }]);
    pod["containers"][0]["volumeMounts"] = json!([{ "name": "mark", "mountPath": "/mark" }]);
    object
}

pub(super) fn check(cluster: &Cluster, folder: &Path) {
    evicted(cluster, folder);
    adopted_and_released(cluster);
    deleted_while_it_runs(cluster);
    successes(cluster);
    failures(cluster);
    wait(cluster, "restarted", "complete");
    let status = cluster.json(&["job", "restarted"])["status"].clone();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &Value::Null), "{status}");
}

fn failures(cluster: &Cluster) {
    for (name, why, status) in [
        ("too-many", "MaxFailedIndexesExceeded", json!({ "failed": 4, "failedIndexes": "0-3" })),
        (
            "given-up",
            "FailedIndexes",
            json!({ "failed": 1, "failedIndexes": "2", "completedIndexes": "0,1,3" }),
        ),
        (
            "retried",
            "FailedIndexes",
            json!({ "failed": 4, "failedIndexes": "1,3", "completedIndexes": "0,2" }),
        ),
    ] {
        wait(cluster, name, "failed");
        assert_eq!(reason(cluster, name, "Failed"), why, "{name}");
        let found = cluster.json(&["job", name])["status"].clone();
        for (key, wanted) in status.as_object().unwrap() {
            // How many were still to fail when it ended is chance.
            if name != "too-many" {
                assert_eq!(found[key], *wanted, "{name}: {found}");
            }
        }
    }
}

fn successes(cluster: &Cluster) {
    for (name, why, indexes) in [
        ("all-met", "SuccessPolicy", "0-2"),
        ("index-met", "SuccessPolicy", "0"),
        ("count-met", "SuccessPolicy", "0"),
    ] {
        wait(cluster, name, "complete");
        assert_eq!(reason(cluster, name, "SuccessCriteriaMet"), why, "{name}");
        let status = cluster.json(&["job", name])["status"].clone();
        assert_eq!(status["completedIndexes"], indexes, "{name}: {status}");
        assert_eq!(
            (&status["terminating"], &status["active"]),
            (&json!(0), &Value::Null),
            "{status}"
        );
    }
}

fn pods(cluster: &Cluster, job: &str) -> Vec<Value> {
    let pods = cluster.json(&["pods", "-l", &format!("job-name={job}")]);
    pods["items"].as_array().cloned().unwrap_or_default()
}

fn name_of(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

/// An eviction is no failure of its own.
fn evicted(cluster: &Cluster, folder: &Path) {
    eventually(SOON, "it runs", || {
        if folder.join("evicted").exists() {
            Ok(())
        } else {
            Err(format!("{:?}", pods(cluster, "disrupted")))
        }
    });
    let pod = name_of(&pods(cluster, "disrupted")[0]).to_owned();
    super::evict(cluster, &pod).ok();
    wait(cluster, "disrupted", "complete");
    let status = cluster.json(&["job", "disrupted"])["status"].clone();
    assert_eq!((&status["succeeded"], &status["failed"]), (&json!(1), &Value::Null), "{status}");
}

/// A pod that lost its owner gets it back; one that lost its labels loses it.
fn adopted_and_released(cluster: &Cluster) {
    let running = || {
        let pods = pods(cluster, "held");
        let all = pods.len() == 2 && pods.iter().all(|pod| pod["status"]["phase"] == "Running");
        if all { Ok(pods) } else { Err(json!(pods).to_string()) }
    };
    let pods = eventually(SOON, "two pods", running);
    let pod = name_of(&pods[0]);
    let owner = |pod: &Value| pod["metadata"]["ownerReferences"][0]["name"].clone();
    let orphan = r#"{"metadata":{"ownerReferences":null}}"#;
    cluster.kubectl(&["patch", "pod", pod, "--type=merge", "-p", orphan]).ok();
    cluster.pod_becomes(pod, SOON, |pod| (owner(pod) == "held").then_some(()));
    let labels = r#"{"metadata":{"labels":null}}"#;
    cluster.kubectl(&["patch", "pod", pod, "--type=merge", "-p", labels]).ok();
    cluster.pod_becomes(pod, SOON, |pod| owner(pod).is_null().then_some(()));
    eventually(SOON, "another takes its place", running);
    cluster.kubectl(&["delete", "pod", pod, "--wait=false"]).ok();
    cluster.kubectl(&["delete", "job", "held", "--wait=false"]).ok();
}

fn deleted_while_it_runs(cluster: &Cluster) {
    cluster.kubectl(&["delete", "job", "cut-short", "--timeout=60s"]).ok();
    eventually(SOON, "its pods go with it", || match pods(cluster, "cut-short").len() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
}
