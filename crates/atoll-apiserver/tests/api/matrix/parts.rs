//! The parts of an object that have a URL of their own: its status, and its scale.

use atoll_api::kinds::ResourceInfo;
use serde_json::{Value, json};

use crate::client::{Answer, Api, MERGE, STRATEGIC};

const APPLY: &str = "application/apply-patch+yaml";
/// Kinds whose metadata a write to the status leaves alone, as upstream's.
const METADATA_STAYS: [&str; 7] = [
    "APIService",
    "FlowSchema",
    "PriorityLevelConfiguration",
    "ResourceClaim",
    "ServiceCIDR",
    "ValidatingAdmissionPolicy",
    "VolumeAttachment",
];
/// Kinds whose status the server writes too: whoever changes it may have to read again.
const WRITTEN_BY_THE_SERVER: [&str; 4] =
    ["APIService", "FlowSchema", "ServiceCIDR", "ValidatingAdmissionPolicy"];

/// The status is replaced, patched in every form and applied; it keeps what it was told, and
/// nothing else of the object moves.
pub(crate) async fn status(api: &Api, row: &ResourceInfo, one: &str) {
    if row.subresource("status").is_none() {
        return;
    }
    let kind = &row.kind;
    let part = format!("{one}/status");
    let before = api.get(one).await.ok();
    let mut wanted = before.clone();
    wanted["status"] = sample(kind, 0);
    wanted["metadata"]["annotations"]["replaced"] = json!("1");
    spoil(&mut wanted);
    let replaced = replace(api, row, one, &part, &wanted).await;
    assert_eq!(replaced.code, 200, "{kind}: put of the status: {}", replaced.body);
    kept(row, &before, &replaced.body, &wanted["status"], "replaced");
    assert_eq!(api.get(&part).await.ok(), api.get(one).await.ok(), "{kind}: the part is the whole");

    let patch = json!({"metadata": {"annotations": {"patched": "1"}}, "status": sample(kind, 1)});
    for format in [MERGE, STRATEGIC] {
        let dry = api.patch(&format!("{part}?dryRun=All"), format, &patch).await.ok();
        assert!(covers(&dry["status"], &patch["status"]), "{kind} {format}: {dry}");
    }
    let patched = api.patch(&part, MERGE, &patch).await.ok();
    kept(row, &before, &patched, &patch["status"], "patched");
    let stored = api.get(one).await.ok();
    assert!(covers(&stored["status"], &patch["status"]), "{kind}: not kept: {stored}");
    let whole = json!([{"op": "replace", "path": "/status", "value": sample(kind, 0)}]);
    let dry = format!("{part}?dryRun=All");
    let by_path = api.patch(&dry, "application/json-patch+json", &whole).await.ok();
    assert!(covers(&by_path["status"], &sample(kind, 0)), "{kind}: {by_path}");
    applied(api, row, &part, &dry).await;

    // An update of the object itself does not reach it.
    let mut main = stored.clone();
    main["status"] = sample(kind, 0);
    main["metadata"]["annotations"] = json!({"main": "1"});
    let main = replace(api, row, one, one, &main).await.ok();
    assert!(covers(&main["status"], &patch["status"]), "{kind}: the object's update wrote: {main}");
}

/// Who applies a status owns it, and can force it upon others.
async fn applied(api: &Api, row: &ResourceInfo, part: &str, dry: &str) {
    let kind = &row.kind;
    let config = json!({"apiVersion": row.api_version(), "kind": kind, "status": sample(kind, 0)});
    let url = format!("{dry}&fieldManager=statuses&force=true");
    let applied = api.patch(&url, APPLY, &config).await;
    assert_eq!(applied.code, 200, "{kind}: apply of the status: {}", applied.body);
    let owners = applied.body["metadata"]["managedFields"].as_array().unwrap();
    let own = owners.iter().find(|entry| entry["manager"] == "statuses").unwrap();
    assert_eq!(own["subresource"], "status", "{kind} {part}: {own}");
    assert!(own["fieldsV1"].get("f:status").is_some(), "{kind}: {own}");
}

/// Sends the object; where the server writes as well, again until nobody was faster.
async fn replace(api: &Api, row: &ResourceInfo, one: &str, place: &str, wanted: &Value) -> Answer {
    let mut wanted = wanted.clone();
    loop {
        let answer = api.put(place, &wanted).await;
        if answer.code != 409 || !WRITTEN_BY_THE_SERVER.contains(&&*row.kind) {
            return answer;
        }
        let now = api.get(one).await.ok();
        wanted["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
    }
}

/// What a writer of the status must not be able to change.
fn spoil(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.clear();
    }
}

fn kept(row: &ResourceInfo, before: &Value, after: &Value, status: &Value, note: &str) {
    let kind = &row.kind;
    assert!(covers(&after["status"], status), "{kind}: {status} is not in {}", after["status"]);
    assert_eq!(after.get("spec"), before.get("spec"), "{kind}: the spec moved");
    for field in ["uid", "generation", "creationTimestamp", "labels"] {
        assert_eq!(after["metadata"][field], before["metadata"][field], "{kind}: {field} moved");
    }
    let noted = after["metadata"]["annotations"].get(note).is_some();
    assert_eq!(noted, !METADATA_STAYS.contains(&&**kind), "{kind}: {}", after["metadata"]);
}

/// Whether all of `wanted` stands in `found`, which may have more.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| covers(found, value))),
        (Value::Array(found), Value::Array(wanted)) => {
            wanted.iter().all(|value| found.iter().any(|found| covers(found, value)))
        }
        _ => found == wanted,
    }
}

fn condition(step: usize) -> Value {
    json!([{
        "type": "Matrix", "status": if step == 0 { "True" } else { "False" }, "reason": "Matrix",
        "message": format!("step {step}"), "lastTransitionTime": "2026-01-01T00:00:00Z",
    }])
}

/// A status that the kind's rules allow; another for each of two steps.
fn sample(kind: &str, step: usize) -> Value {
    let ingress = json!({"ingress": [{"ip": format!("203.0.113.{}", step + 1)}]});
    match kind {
        "Namespace" => json!({"phase": "Active", "conditions": condition(step)}),
        "Pod" => json!({"phase": "Pending", "message": format!("step {step}")}),
        "PersistentVolume" => {
            json!({"phase": "Pending", "reason": "Matrix", "message": format!("step {step}")})
        }
        "PersistentVolumeClaim" => json!({"phase": "Pending", "conditions": condition(step)}),
        "ResourceQuota" => json!({"hard": {"services": format!("{}", step + 1)}}),
        "HorizontalPodAutoscaler" => json!({"currentReplicas": step + 1, "desiredReplicas": 3}),
        "CronJob" => json!({"lastScheduleTime": format!("2026-01-01T00:0{step}:00Z")}),
        "Job" => json!({"startTime": "2026-01-01T00:00:00Z", "conditions": condition(step)}),
        "Ingress" => json!({"loadBalancer": ingress}),
        "PodDisruptionBudget" => json!({
            "disruptionsAllowed": step + 1, "currentHealthy": 3, "desiredHealthy": 1,
            "expectedPods": 3,
        }),
        "VolumeAttachment" => json!({
            "attached": step == 0, "attachmentMetadata": {"step": format!("{step}")},
        }),
        "ResourceClaim" => json!({
            "allocation": {"devices": {}, "allocationTimestamp": "2026-01-01T00:00:00Z"},
            "reservedFor": [{"resource": "pods", "name": "p", "uid": format!("u{step}")}],
        }),
        "DaemonSet" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": step, "numberMisscheduled": 0,
            "numberReady": 0, "conditions": condition(step),
        }),
        "ReplicationController" | "ReplicaSet" | "StatefulSet" => {
            json!({"replicas": step + 1, "conditions": condition(step)})
        }
        _ => json!({"conditions": condition(step)}),
    }
}

/// The scale is read, replaced and patched; the object and its generation follow.
pub(crate) async fn scale(api: &Api, row: &ResourceInfo, one: &str) {
    if row.subresource("scale").is_none() {
        return;
    }
    let kind = &row.kind;
    let part = format!("{one}/scale");
    let before = api.get(one).await.ok();
    let mut scale = api.get(&part).await.ok();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(scale["spec"]["replicas"], before["spec"]["replicas"], "{kind}");
    assert_eq!(scale["status"]["selector"], "app=x", "{kind}");
    assert_eq!(scale["metadata"]["uid"], before["metadata"]["uid"], "{kind}");
    scale["spec"]["replicas"] = json!(4);
    let replaced = api.put(&part, &scale).await.ok();
    assert_eq!(replaced["spec"]["replicas"], 4, "{kind}");
    let stale = api.put(&part, &scale).await;
    assert_eq!(stale.code, 409, "{kind}: a stale put of the scale passed: {}", stale.body);
    let patch = json!({"spec": {"replicas": 2}});
    for format in [MERGE, STRATEGIC] {
        let patched = api.patch(&part, format, &patch).await.ok();
        assert_eq!(patched["spec"]["replicas"], 2, "{kind} {format}");
    }
    let after = api.get(one).await.ok();
    assert_eq!(after["spec"]["replicas"], 2, "{kind}");
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().unwrap();
    assert_eq!(generation(&after), generation(&before) + 2, "{kind}");
}

/// A signing request is approved by a part of its own, by which nothing else moves.
pub(crate) async fn approval(api: &Api, row: &ResourceInfo, one: &str) {
    if row.subresource("approval").is_none() {
        return;
    }
    let part = format!("{one}/approval");
    let before = api.get(&part).await.ok();
    let condition = |message: &str| json!({"type": "Approved", "status": "True", "reason": "Matrix", "message": message});
    let mut wanted = before.clone();
    wanted["status"]["conditions"] = json!([condition("replaced")]);
    spoil(&mut wanted);
    let replaced = api.put(&part, &wanted).await.ok();
    assert!(covers(&replaced["status"], &wanted["status"]), "{replaced}");
    assert_eq!(replaced["spec"], before["spec"]);
    let patch = json!({"status": {"conditions": [condition("patched")]}});
    let patched = api.merge(&part, &patch).await.ok();
    assert!(covers(&patched["status"], &patch["status"]), "{patched}");
    assert_eq!(api.get(one).await.ok(), api.get(&part).await.ok());
}
