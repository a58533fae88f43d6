//! Which volume a claim gets, and what becomes of both.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{binding, matching};

fn volume(name: &str, size: &str, more: Value) -> Arc<PersistentVolume> {
    let mut object = json!({
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
                 "hostPath": {"path": "/x"}, "storageClassName": "slow"},
        "status": {"phase": "Available"},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
    let mut object = json!({
        "metadata": {"name": "c", "namespace": "n", "uid": "u"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "slow",
                 "resources": {"requests": {"storage": size}}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn best(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
    matching::best(claim, volumes, false).map(|volume| volume.name_any())
}

#[test]
fn the_smallest_that_is_large_enough_is_taken() {
    let all = [
        volume("large", "10Gi", json!({})),
        volume("small", "1Gi", json!({})),
        volume("middle", "5Gi", json!({})),
    ];
    assert_eq!(best(&claim("2Gi", json!({})), &all).as_deref(), Some("middle"));
    assert_eq!(best(&claim("20Gi", json!({})), &all), None);
}

#[test]
fn class_modes_and_selector_must_agree() {
    let mut labelled = (*volume("blue", "5Gi", json!({}))).clone();
    labelled.metadata.labels = Some([("color".to_owned(), "blue".to_owned())].into());
    let all = [
        volume("other-class", "5Gi", json!({"storageClassName": "fast"})),
        volume("block", "5Gi", json!({"volumeMode": "Block"})),
        volume("many", "6Gi", json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]})),
        Arc::new(labelled),
    ];
    let many = claim("1Gi", json!({"accessModes": ["ReadWriteMany"]}));
    assert_eq!(best(&many, &all).as_deref(), Some("many"));
    let blue = claim("1Gi", json!({"selector": {"matchLabels": {"color": "blue"}}}));
    assert_eq!(best(&blue, &all).as_deref(), Some("blue"));
    let block = claim("1Gi", json!({"volumeMode": "Block"}));
    assert_eq!(best(&block, &all).as_deref(), Some("block"));
    assert_eq!(best(&claim("1Gi", json!({"storageClassName": "none"})), &all), None);
}

#[test]
fn a_volume_that_names_the_claim_is_its_own() {
    let reserved = json!({"claimRef": {"namespace": "n", "name": "c"}});
    let foreign = json!({"claimRef": {"namespace": "n", "name": "other"}});
    let all = [
        volume("free", "1Gi", json!({})),
        volume("reserved", "9Gi", reserved),
        volume("foreign", "1Gi", foreign),
    ];
    assert_eq!(best(&claim("1Gi", json!({})), &all).as_deref(), Some("reserved"));
    let waits = matching::best(&claim("1Gi", json!({})), &all[..1], true);
    assert!(waits.is_none(), "free volumes are left to claims that need no pod first");
}

#[test]
fn a_volume_is_promised_to_one_claim_only() {
    let promises = matching::Promises::default();
    let all = |version: &str| {
        let mut volume = (*volume("only", "1Gi", json!({}))).clone();
        volume.metadata.resource_version = Some(version.to_owned());
        vec![Arc::new(volume)]
    };
    let choose = |uid: &str, version: &str| {
        promises.choose(uid, all(version), |open| open.first().cloned()).map(|one| one.name_any())
    };
    assert_eq!(choose("first", "7").as_deref(), Some("only"));
    assert_eq!(choose("second", "7"), None);
    assert_eq!(choose("first", "7").as_deref(), Some("only"));
    // It was bound and given back, and nobody chose meanwhile.
    assert_eq!(choose("second", "9").as_deref(), Some("only"));
}

#[test]
fn the_newest_default_class_counts() {
    let class = |name: &str, created: &str, default: &str| -> Arc<StorageClass> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "creationTimestamp": created, "annotations":
                    {"storageclass.kubernetes.io/is-default-class": default}},
                "provisioner": "p",
            }))
            .unwrap(),
        )
    };
    let all = [
        class("old", "2026-01-01T00:00:00Z", "true"),
        class("b", "2026-01-02T00:00:00Z", "true"),
        class("a", "2026-01-02T00:00:00Z", "true"),
        class("newest", "2026-01-03T00:00:00Z", "false"),
    ];
    assert_eq!(matching::default_class(&all).as_deref(), Some("a"));
}

#[test]
fn local_volumes_name_their_node() {
    let affinity = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-2"]}]}]}}});
    assert_eq!(binding::only_node(&volume("v", "1Gi", affinity)), Some("node-2"));
    assert_eq!(binding::only_node(&volume("v", "1Gi", json!({}))), None);
}

#[test]
fn claims_of_a_pods_own_volumes_are_named_after_both() {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
            {"name": "c", "emptyDir": {}},
        ]},
    }))
    .unwrap();
    assert_eq!(binding::claims_of(&pod), ["data", "p-b"]);
}
