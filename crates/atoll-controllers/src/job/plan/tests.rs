//! Passes over Jobs, one after the other, as a cluster would answer them.

use super::*;
use kube::ResourceExt;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T01:00:00Z";

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut object = json!({
        "metadata": { "name": "j", "namespace": "n", "uid": "j-1" },
        "spec": { "parallelism": 2, "completions": 3, "backoffLimit": 6,
            "completionMode": "NonIndexed", "template": { "spec": { "restartPolicy": "Never",
                "containers": [] } } },
        "status": { "startTime": "2026-01-01T00:59:00Z" },
    });
    for (part, more) in [("spec", spec), ("status", status)] {
        for (key, value) in more.as_object().into_iter().flatten() {
            object[part][key] = value.clone();
        }
    }
    serde_json::from_value(object).unwrap()
}

/// A tracked pod that ended, if it has, ten minutes ago.
fn pod(name: &str, phase: &str, annotations: Value) -> Arc<Pod> {
    let terminated = json!([{ "name": "c", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0,
        "state": { "terminated": { "exitCode": 1, "finishedAt": "2026-01-01T00:50:00Z" } } }]);
    let ended = matches!(phase, "Succeeded" | "Failed");
    let pod = json!({
        "metadata": { "name": name, "uid": name, "namespace": "n", "annotations": annotations,
            "finalizers": [facts::TRACKING], "creationTimestamp": "2026-01-01T00:40:00Z" },
        "status": { "phase": phase, "containerStatuses": if ended { terminated } else { json!([]) } },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn indexed(name: &str, phase: &str, index: i32, failures: i32) -> Arc<Pod> {
    let annotations = json!({ facts::COMPLETION_INDEX: index.to_string(),
        facts::INDEX_FAILURES: failures.to_string() });
    pod(name, phase, annotations)
}

fn without_finalizer(pod: &Arc<Pod>) -> Arc<Pod> {
    let mut pod = pod.as_ref().clone();
    pod.metadata.finalizers = None;
    Arc::new(pod)
}

fn look(job: &Job, pods: &[Arc<Pod>]) -> Plan {
    plan(job, pods, true, at(NOW))
}

fn after(job: &Job, plan: &Plan) -> Job {
    Job { status: Some(plan.status.clone()), ..job.clone() }
}

fn conditions(plan: &Plan) -> Vec<(String, String)> {
    let all = plan.status.conditions.iter().flatten();
    all.filter(|one| one.status == "True")
        .map(|one| (one.type_.clone(), one.reason.clone().unwrap_or_default()))
        .collect()
}

fn condition(kind: &str, reason: &str) -> (String, String) {
    (kind.to_owned(), reason.to_owned())
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    let mut names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
    names.sort();
    names
}

#[test]
fn runs_as_many_at_once_as_wanted_and_no_more_than_are_left() {
    let job = job(json!({}), json!({}));
    assert_eq!(look(&job, &[]).creates.len(), 2);
    let one = [pod("a", "Running", json!({}))];
    assert_eq!(look(&job, &one).creates.len(), 1);
    let nearly = [pod("a", "Succeeded", json!({})), pod("b", "Succeeded", json!({}))];
    assert_eq!(look(&job, &nearly).creates.len(), 1);
    assert!(plan(&job, &one, false, at(NOW)).creates.is_empty(), "the cache is behind");
}

#[test]
fn a_pod_is_counted_once_over_every_step() {
    let job = job(json!({}), json!({}));
    let done = pod("a", "Succeeded", json!({}));
    let first = look(&job, std::slice::from_ref(&done));
    assert_eq!(first.status.succeeded, None);
    let uncounted = first.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded.unwrap(), ["a"]);
    assert_eq!(names(&first.release), ["a"]);
    let job = after(&job, &first);
    // Whether the finalizer was not removed or the cache does not show it yet.
    let again = look(&job, std::slice::from_ref(&done));
    assert_eq!(again.status.uncounted_terminated_pods, first.status.uncounted_terminated_pods);
    assert_eq!(names(&again.release), ["a"]);
    let released = without_finalizer(&done);
    let counted = look(&job, std::slice::from_ref(&released));
    assert_eq!(counted.status.succeeded, Some(1));
    assert_eq!(counted.status.uncounted_terminated_pods.clone().unwrap().succeeded, None);
    let job = after(&job, &counted);
    assert_eq!(look(&job, &[released]).status.succeeded, Some(1));
    assert_eq!(look(&job, &[]).status.succeeded, Some(1), "the pod was deleted");
}

#[test]
fn completes_when_the_last_pod_is_counted() {
    let job = job(json!({ "completions": 1, "parallelism": 1 }), json!({}));
    let done = pod("a", "Succeeded", json!({}));
    let met = look(&job, std::slice::from_ref(&done));
    assert_eq!(conditions(&met), [condition("SuccessCriteriaMet", "CompletionsReached")]);
    assert_eq!(met.status.completion_time, None);
    let job = after(&job, &met);
    let complete = look(&job, &[without_finalizer(&done)]);
    assert_eq!(conditions(&complete)[1], condition("Complete", "CompletionsReached"));
    assert_eq!(complete.status.completion_time.as_ref().unwrap().0, at(NOW));
    assert_eq!(complete.remarks[0].reason, "Completed");
}

#[test]
fn fails_at_the_limit_and_takes_the_others_down_first() {
    let job = job(json!({ "backoffLimit": 1 }), json!({ "failed": 1 }));
    let pods = [pod("a", "Failed", json!({})), pod("b", "Running", json!({}))];
    let failing = look(&job, &pods);
    assert_eq!(conditions(&failing), [condition("FailureTarget", "BackoffLimitExceeded")]);
    assert_eq!((names(&failing.deletes), failing.creates.len()), (names(&pods[1..]), 0));
    let job = after(&job, &failing);
    let mut leaving = pods[1].as_ref().clone();
    leaving.metadata.deletion_timestamp = Some(Time(at(NOW)));
    let leaving = Arc::new(leaving);
    let waiting = look(&job, &[without_finalizer(&pods[0]), leaving.clone()]);
    assert_eq!(conditions(&waiting).len(), 1, "a pod is still terminating");
    assert_eq!(waiting.status.terminating, Some(1));
    let job = after(&job, &waiting);
    let failed = look(&job, &[]);
    assert_eq!(conditions(&failed)[1], condition("Failed", "BackoffLimitExceeded"));
    assert_eq!(failed.status.failed, Some(3));
    assert_eq!(failed.remarks[0].message, "Job has reached the specified backoff limit");
}

#[test]
fn failures_are_followed_by_longer_and_longer_waits() {
    let job = job(json!({}), json!({}));
    let failed = [pod("a", "Failed", json!({})), pod("b", "Failed", json!({}))];
    let soon = plan(&job, &failed, true, at("2026-01-01T00:50:05Z"));
    assert_eq!((soon.creates.len(), soon.look_again), (0, Some(Duration::from_secs(15))));
    let later = plan(&job, &failed, true, at("2026-01-01T00:50:20Z"));
    assert_eq!(later.creates.len(), 2);
}

#[test]
fn a_deadline_ends_it() {
    let job = job(json!({ "activeDeadlineSeconds": 60 }), json!({}));
    let pods = [pod("a", "Running", json!({}))];
    let early = plan(&job, &pods, true, at("2026-01-01T00:59:50Z"));
    assert_eq!((conditions(&early), early.look_again), (vec![], Some(Duration::from_secs(10))));
    let late = look(&job, &pods);
    assert_eq!(conditions(&late), [condition("FailureTarget", "DeadlineExceeded")]);
}

#[test]
fn a_suspended_job_has_no_pods_and_no_start() {
    let running = job(json!({ "suspend": true }), json!({}));
    let suspended = look(&running, &[pod("a", "Running", json!({}))]);
    assert_eq!(conditions(&suspended), [condition("Suspended", "JobSuspended")]);
    assert_eq!(
        (names(&suspended.deletes), suspended.status.start_time.clone()),
        (names(&[pod("a", "", json!({}))]), None)
    );
    let mut resumed = after(&running, &suspended);
    resumed.spec.as_mut().unwrap().suspend = Some(false);
    let resumed = look(&resumed, &[]);
    assert_eq!((conditions(&resumed), resumed.creates.len()), (vec![], 2));
    assert_eq!(resumed.status.start_time.unwrap().0, at(NOW));
    assert_eq!(resumed.remarks[0].reason, "Resumed");
}

#[test]
fn a_work_queue_starts_nobody_after_the_first_success() {
    let mut job = job(json!({ "parallelism": 3 }), json!({}));
    job.spec.as_mut().unwrap().completions = None;
    assert_eq!(look(&job, &[]).creates.len(), 3);
    let pods = [pod("a", "Succeeded", json!({})), pod("b", "Running", json!({}))];
    let rest = look(&job, &pods);
    assert_eq!((rest.creates.len(), rest.deletes.len(), conditions(&rest).len()), (0, 0, 0));
    let over = look(&job, &pods[..1]);
    assert_eq!(conditions(&over), [condition("SuccessCriteriaMet", "CompletionsReached")]);
}

#[test]
fn every_index_runs_once() {
    let job = job(json!({ "completionMode": "Indexed", "parallelism": 3 }), json!({}));
    let pods = [
        indexed("a", "Succeeded", 1, 0),
        indexed("b", "Running", 0, 0),
        indexed("c", "Running", 0, 0),
    ];
    let plan = look(&job, &pods);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("1"));
    assert_eq!(names(&plan.deletes), ["c"], "an index has one pod");
    let plan = look(&job, &pods[..2]);
    assert_eq!(plan.creates, [Create { index: Some(2), failures: None }]);
    assert_eq!(plan.status.succeeded, Some(1));
}

#[test]
fn an_index_has_its_own_limit() {
    let spec = json!({ "completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX });
    let job = job(spec, json!({}));
    let first = [indexed("a", "Failed", 0, 0), indexed("b", "Running", 1, 0)];
    let retry = look(&job, &first);
    assert_eq!(retry.creates, [Create { index: Some(0), failures: Some((1, 0)) }]);
    assert!(retry.release.is_empty(), "it is kept for the numbers on it");
    let second = [first[0].clone(), first[1].clone(), indexed("c", "Failed", 0, 1)];
    let failed = look(&job, &second);
    assert_eq!(failed.status.failed_indexes.as_deref(), Some("0"));
    assert_eq!(
        (failed.creates.len(), names(&failed.release)),
        (0, vec!["a".to_owned(), "c".into()])
    );
    let job = after(&job, &failed);
    let done = [indexed("b", "Succeeded", 1, 0)];
    let over = look(&job, &done);
    assert_eq!(conditions(&over), [condition("FailureTarget", "FailedIndexes")]);
    assert_eq!(over.status.completed_indexes.as_deref(), Some("1"));
}

#[test]
fn a_policy_ignores_or_ends_it() {
    let rules = json!({ "rules": [
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [1] } }] });
    let job = job(json!({ "podFailurePolicy": rules }), json!({}));
    let ended = look(&job, &[pod("a", "Failed", json!({}))]);
    assert_eq!(conditions(&ended), [condition("FailureTarget", "PodFailurePolicy")]);
    let mut evicted: Value = serde_json::to_value(pod("b", "Failed", json!({})).as_ref()).unwrap();
    evicted["status"]["conditions"] = json!([{ "type": "DisruptionTarget", "status": "True" }]);
    let evicted: Arc<Pod> = Arc::new(serde_json::from_value(evicted).unwrap());
    let ignored = look(&job, &[evicted]);
    assert_eq!((names(&ignored.release), conditions(&ignored)), (vec!["b".to_owned()], vec![]));
    assert_eq!(ignored.status.uncounted_terminated_pods.unwrap().failed, None);
}

#[test]
fn enough_indexes_end_it_by_policy() {
    let job = job(
        json!({ "completionMode": "Indexed", "completions": 5, "parallelism": 5,
            "successPolicy": { "rules": [{ "succeededIndexes": "0" }] } }),
        json!({}),
    );
    let pods = [indexed("a", "Succeeded", 0, 0), indexed("b", "Running", 1, 0)];
    let met = look(&job, &pods);
    assert_eq!(conditions(&met), [condition("SuccessCriteriaMet", "SuccessPolicy")]);
    assert_eq!(names(&met.deletes), ["b"]);
}

#[test]
fn what_is_terminating_is_replaced_when_it_has_ended_where_that_is_asked() {
    let mut leaving = pod("a", "Running", json!({})).as_ref().clone();
    leaving.spec.get_or_insert_default().node_name = Some("n".into());
    leaving.metadata.deletion_timestamp = Some(Time(at("2026-01-01T00:50:00Z")));
    let pods = [Arc::new(leaving)];
    let at_once = look(&job(json!({ "parallelism": 1 }), json!({})), &pods);
    assert_eq!(at_once.creates.len(), 1);
    let later =
        look(&job(json!({ "parallelism": 1, "podReplacementPolicy": "Failed" }), json!({})), &pods);
    assert_eq!((later.creates.len(), later.release.len()), (0, 0));
}
