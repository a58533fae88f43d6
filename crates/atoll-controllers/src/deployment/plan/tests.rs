//! `plan` against small hand-made rollouts.

use super::*;

fn deployment(replicas: i32, image: &str, more: Value) -> Deployment {
    let mut object = json!({
        "metadata": { "name": "web", "uid": "d-1", "namespace": "default" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image }] } },
            "strategy": { "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

/// A ReplicaSet as the controller itself would make it, with a status.
fn set(owner: &Deployment, revision: i64, size: i32, available: i32) -> Arc<ReplicaSet> {
    let rollout = Rollout { deployment: owner, new: None, old: Vec::new(), is_begun: false };
    let Step::Create(mut set) = create(&rollout, size) else { unreachable!() };
    set.metadata.uid = Some(format!("rs-{revision}"));
    set.annotations_mut().insert(REVISION.into(), revision.to_string());
    let created = format!("2026-01-01T00:00:{revision:02}Z");
    set.metadata.creation_timestamp = Some(serde_json::from_value(json!(created)).unwrap());
    set.status = serde_json::from_value(json!({
        "replicas": size, "readyReplicas": available, "availableReplicas": available,
    }))
    .unwrap();
    Arc::new(*set)
}

fn steps(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>, live: bool) -> Vec<String> {
    let rollout = Rollout::new(deployment, sets);
    plan(&rollout, &|_| live)
        .iter()
        .map(|step| match step {
            Step::Create(set) => format!("create {}", wanted(set)),
            Step::Update { uid, from, to, .. } => format!("{uid}: {from} to {to}"),
            Step::Delete { .. } => "delete".into(),
            Step::Annotate { revision } => format!("revision {revision}"),
        })
        .collect()
}

#[test]
fn the_first_set_is_created_at_full_size() {
    let web = deployment(5, "a", json!({}));
    assert_eq!(steps(&web, vec![], false), ["create 5"]);
}

#[test]
fn a_new_template_begins_with_the_surge() {
    let (v1, v2) = (deployment(5, "a", json!({})), deployment(5, "b", json!({})));
    assert_eq!(steps(&v2, vec![set(&v1, 1, 5, 5)], true), ["create 1"]);
}

#[test]
fn an_available_new_pod_retires_an_old_one() {
    let (v1, v2) = (deployment(5, "a", json!({})), deployment(5, "b", json!({})));
    let sets = vec![set(&v1, 1, 5, 5), set(&v2, 2, 1, 1)];
    assert_eq!(steps(&v2, sets, true), ["rs-1: 5 to 4", "revision 2"]);
}

#[test]
fn going_back_reuses_the_old_set_under_a_new_revision() {
    let (v1, v2) = (deployment(1, "a", json!({})), deployment(1, "b", json!({})));
    let sets = vec![set(&v1, 1, 0, 0), set(&v2, 2, 1, 1)];
    assert_eq!(steps(&v1, sets, true), ["rs-1: 0 to 1", "revision 3"]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let recreate = json!({ "strategy": { "type": "Recreate" } });
    let (v1, v2) = (deployment(2, "a", recreate.clone()), deployment(2, "b", recreate));
    assert_eq!(steps(&v2, vec![set(&v1, 1, 2, 2)], true), ["rs-1: 2 to 0"]);
    assert!(steps(&v2, vec![set(&v1, 1, 0, 0)], true).is_empty());
    assert_eq!(steps(&v2, vec![set(&v1, 1, 0, 0)], false), ["create 2"]);
}

#[test]
fn a_paused_rollout_only_scales() {
    let paused = json!({ "paused": true });
    let (v1, v2) = (deployment(2, "a", json!({})), deployment(4, "b", paused));
    assert_eq!(steps(&v2, vec![set(&v1, 1, 2, 2)], true), ["rs-1: 2 to 4"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let bounds = json!({ "strategy": { "type": "RollingUpdate",
        "rollingUpdate": { "maxSurge": 3, "maxUnavailable": 2 } } });
    let (v1, v2) = (deployment(10, "a", bounds.clone()), deployment(10, "b", bounds.clone()));
    let larger = deployment(15, "b", bounds);
    let sets = vec![set(&v1, 1, 8, 8), set(&v2, 2, 5, 0)];
    assert_eq!(steps(&larger, sets, true), ["rs-1: 8 to 11", "rs-2: 5 to 7"]);
}

#[test]
fn scaling_with_a_complete_new_set_empties_the_old_ones() {
    let (v1, v2) = (deployment(4, "a", json!({})), deployment(4, "b", json!({})));
    let mut old = Arc::unwrap_or_clone(set(&v1, 1, 1, 1));
    old.annotations_mut().insert(DESIRED.into(), "3".into());
    let sets = vec![Arc::new(old), set(&v2, 2, 4, 4)];
    assert_eq!(steps(&v2, sets, true), ["rs-1: 1 to 0"]);
}

#[test]
fn a_complete_rollout_forgets_old_revisions() {
    let limit = json!({ "revisionHistoryLimit": 1 });
    let versions: Vec<Deployment> =
        ["a", "b", "c"].iter().map(|image| deployment(1, image, limit.clone())).collect();
    let sets =
        vec![set(&versions[0], 1, 0, 0), set(&versions[1], 2, 0, 0), set(&versions[2], 3, 1, 1)];
    assert_eq!(steps(&versions[2], sets, false), ["revision 3", "delete"]);
}
