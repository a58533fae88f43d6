//! Which step a StatefulSet takes next.

use super::*;
use serde_json::json;

const NOW: &str = "2026-01-01T01:00:00Z";

fn set(more: &Value) -> StatefulSet {
    let mut set = json!({
        "metadata": { "name": "db", "namespace": "ns", "uid": "set", "generation": 2 },
        "spec": {
            "replicas": 3, "serviceName": "db", "selector": { "matchLabels": { "app": "db" } },
            "template": { "metadata": { "labels": { "app": "db" } } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        set["spec"][field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// `kind` is `ready`, `fresh` (ready for a minute), `pending`, `failed` or `going`.
fn pod(ordinal: i32, kind: &str, revision: &str) -> (i32, Arc<Pod>) {
    let since = if kind == "fresh" { "2026-01-01T00:59:00Z" } else { "2026-01-01T00:00:00Z" };
    let phase = match kind {
        "pending" => "Pending",
        "failed" => "Failed",
        _ => "Running",
    };
    let ready = if matches!(kind, "ready" | "fresh" | "going") { "True" } else { "False" };
    let mut pod = json!({
        "metadata": { "name": format!("db-{ordinal}"), "uid": format!("pod-{ordinal}"), "labels": {
            "app": "db", "controller-revision-hash": revision,
            "statefulset.kubernetes.io/pod-name": format!("db-{ordinal}"),
            "apps.kubernetes.io/pod-index": ordinal.to_string(),
        } },
        "status": { "phase": phase, "conditions": [
            { "type": "Ready", "status": ready, "lastTransitionTime": since } ] },
    });
    if kind == "going" {
        pod["metadata"]["deletionTimestamp"] = json!(NOW);
    }
    (ordinal, Arc::new(serde_json::from_value(pod).unwrap()))
}

fn no_claim(_: &str) -> Option<Arc<PersistentVolumeClaim>> {
    None
}

fn scene<'a>(set: &'a StatefulSet, pods: &[(i32, Arc<Pod>)]) -> Scene<'a> {
    Scene {
        set,
        pods: pods.iter().cloned().collect(),
        current: "old",
        update: "new",
        claim: &no_claim,
        held: &|_| None,
        now: NOW.parse().unwrap(),
    }
}

/// The plan in short: `+3` creates (`+3c` from the current revision), `-1` deletes.
fn steps(set: &StatefulSet, pods: &[(i32, Arc<Pod>)]) -> Vec<String> {
    let plan = plan(&scene(set, pods));
    let steps = plan.phases.iter().flatten().flatten().map(|step| match step {
        Step::Create { ordinal, at: At::Update } => format!("+{ordinal}"),
        Step::Create { ordinal, at: At::Current } => format!("+{ordinal}c"),
        Step::Delete { pod, .. } | Step::Clear { pod, .. } => pod.replace("db", ""),
        Step::Claim { claim, .. } => format!("claim {}", claim.name_any()),
        Step::Own { claim, .. } => format!("own {claim}"),
        Step::Label { pod, .. } => format!("label {pod}"),
        Step::Refuse { why, .. } => why.clone(),
    });
    steps.collect()
}

#[test]
fn replicas_come_one_after_the_other() {
    let set = set(&json!({}));
    assert_eq!(steps(&set, &[]), ["+0"]);
    assert_eq!(steps(&set, &[pod(0, "pending", "new")]), Vec::<String>::new());
    assert_eq!(steps(&set, &[pod(0, "ready", "new")]), ["+1"]);
    assert_eq!(steps(&set, &[pod(0, "ready", "new"), pod(2, "ready", "new")]), ["+1"]);
}

#[test]
fn a_replica_is_well_after_min_ready_seconds() {
    let patient = set(&json!({ "minReadySeconds": 120 }));
    assert_eq!(steps(&patient, &[pod(0, "fresh", "new")]), Vec::<String>::new());
    assert_eq!(steps(&patient, &[pod(0, "ready", "new")]), ["+1"]);
}

#[test]
fn in_parallel_nobody_waits() {
    let set = set(&json!({ "podManagementPolicy": "Parallel" }));
    assert_eq!(steps(&set, &[pod(1, "pending", "new")]), ["+0", "+2"]);
    let many = [pod(0, "pending", "new"), pod(3, "ready", "new"), pod(4, "pending", "new")];
    assert_eq!(steps(&set, &many), ["+1", "+2", "-4", "-3"]);
}

#[test]
fn ordinals_may_begin_elsewhere() {
    let set = set(&json!({ "ordinals": { "start": 5 }, "replicas": 2 }));
    assert_eq!(steps(&set, &[pod(5, "ready", "new")]), ["+6"]);
    let moved = [pod(0, "ready", "new"), pod(5, "ready", "new"), pod(6, "ready", "new")];
    assert_eq!(steps(&set, &moved), ["-0"]);
}

#[test]
fn the_highest_goes_first_and_alone() {
    let set = set(&json!({ "replicas": 1 }));
    let well = |last: &str| [pod(0, "ready", "new"), pod(1, "ready", "new"), pod(2, last, "new")];
    assert_eq!(steps(&set, &well("ready")), ["-2"]);
    assert_eq!(steps(&set, &well("going")), Vec::<String>::new());
    // The lowest that is not well may go; another has to wait for it.
    assert_eq!(steps(&set, &well("pending")), ["-2"]);
    let both = [pod(0, "ready", "new"), pod(1, "pending", "new"), pod(2, "pending", "new")];
    assert_eq!(steps(&set, &both), Vec::<String>::new());
    // Nothing is scaled away while a replica that stays is not well.
    let unwell = [pod(0, "pending", "new"), pod(1, "ready", "new")];
    assert_eq!(steps(&set, &unwell), Vec::<String>::new());
}

#[test]
fn failed_and_evicted_pods_are_replaced() {
    let set = set(&json!({}));
    let pods = [pod(0, "ready", "new"), pod(1, "failed", "new")];
    assert_eq!(steps(&set, &pods), ["-1"]);
    // Where one has just failed the next is not deleted at once.
    let held = |_: &str| Some(Duration::from_secs(4));
    let plan = plan(&Scene { held: &held, ..scene(&set, &pods) });
    assert!(plan.phases.iter().all(Vec::is_empty) && plan.retry == Some(Duration::from_secs(4)));
}

#[test]
fn an_update_begins_at_the_top_and_waits_for_each() {
    let set = set(&json!({}));
    let revisions = |two: &str, two_is: &str| {
        [pod(0, "ready", "old"), pod(1, "ready", "old"), pod(2, two_is, two)]
    };
    assert_eq!(steps(&set, &revisions("old", "ready")), ["-2"]);
    assert_eq!(plan(&scene(&set, &revisions("old", "ready"))).retired, 1);
    assert_eq!(steps(&set, &revisions("new", "pending")), Vec::<String>::new());
    assert_eq!(steps(&set, &revisions("new", "ready")), ["-1"]);
}

#[test]
fn pods_below_the_partition_stay_and_come_back_as_they_were() {
    let strategy = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 2 } });
    let set = set(&json!({ "updateStrategy": strategy }));
    let done = [pod(0, "ready", "old"), pod(1, "ready", "old"), pod(2, "ready", "new")];
    assert_eq!(steps(&set, &done), Vec::<String>::new());
    assert_eq!(steps(&set, &[pod(0, "ready", "old"), pod(2, "ready", "new")]), ["+1c"]);
    assert_eq!(steps(&set, &[pod(0, "ready", "old"), pod(1, "ready", "old")]), ["+2"]);
}

#[test]
fn on_delete_nothing_is_replaced() {
    let set = set(&json!({ "updateStrategy": { "type": "OnDelete" } }));
    let old = [pod(0, "ready", "old"), pod(1, "ready", "old"), pod(2, "ready", "old")];
    assert_eq!(steps(&set, &old), Vec::<String>::new());
    assert_eq!(steps(&set, &old[..2]), ["+2"]);
}

#[test]
fn several_are_replaced_at_once_where_that_is_allowed() {
    let strategy = json!({ "type": "RollingUpdate",
                           "rollingUpdate": { "partition": 0, "maxUnavailable": 2 } });
    let set = set(&json!({ "updateStrategy": strategy, "podManagementPolicy": "Parallel" }));
    let pods = |two: &str| [pod(0, "ready", "old"), pod(1, "ready", "old"), pod(2, two, "old")];
    assert_eq!(steps(&set, &pods("ready")), ["-2", "-1"]);
    assert_eq!(steps(&set, &pods("going")), ["-1"]);
    assert_eq!(steps(&set, &pods("pending")), ["-2", "-1"]);
    assert_eq!(bound(&IntOrString::String("50%".into()), 3), 1);
    assert_eq!(bound(&IntOrString::String("10%".into()), 3), 1);
}

#[test]
fn claims_come_before_their_pod() {
    let template = json!([{ "metadata": { "name": "data" }, "spec": {} }]);
    let set = set(&json!({ "volumeClaimTemplates": template }));
    assert_eq!(steps(&set, &[]), ["claim data-db-0", "+0"]);
    // A pending pod may have lost its own.
    assert_eq!(steps(&set, &[pod(0, "pending", "new")]), ["claim data-db-0"]);
    let going = |name: &str| {
        let claim = json!({ "metadata": { "name": name, "deletionTimestamp": NOW } });
        Some(Arc::new(serde_json::from_value(claim).unwrap()))
    };
    let scene = Scene { claim: &going, ..scene(&set, &[]) };
    let plan = plan(&scene);
    let why = "pvc data-db-0 is being deleted".to_owned();
    assert_eq!(plan.phases[0], [vec![Step::Refuse { pod: "db-0".into(), why }]]);
}

#[test]
fn a_pod_gets_the_labels_back_by_which_it_is_known() {
    let set = set(&json!({ "replicas": 1 }));
    let (ordinal, known) = pod(0, "ready", "new");
    let mut bare = Arc::unwrap_or_clone(known);
    bare.labels_mut().remove("apps.kubernetes.io/pod-index");
    assert_eq!(steps(&set, &[(ordinal, Arc::new(bare))]), ["label db-0"]);
}

#[test]
fn one_pass_is_bounded() {
    let set = set(&json!({ "podManagementPolicy": "Parallel", "replicas": i32::MAX }));
    assert_eq!(steps(&set, &[]).len(), BURST_MAX);
}

#[test]
fn a_finished_update_is_the_current_revision() {
    let set = set(&json!({}));
    let pods = |kind: &str| [pod(0, "ready", "new"), pod(1, "ready", "new"), pod(2, kind, "new")];
    let derive = |kind: &str| super::super::status::derive(&scene(&set, &pods(kind)), 0, 0);
    let (done, not) = (derive("ready"), derive("pending"));
    assert_eq!(done.current_revision.as_deref(), Some("new"));
    assert_eq!((done.current_replicas, done.updated_replicas), (Some(3), Some(3)));
    assert_eq!(not.current_revision.as_deref(), Some("old"));
    assert_eq!((not.ready_replicas, not.current_replicas), (Some(2), None));
}
