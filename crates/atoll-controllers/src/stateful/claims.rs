//! The claims of a replica: which it needs, and whose they are to be.
//!
//! Who owns a claim decides when it goes: with the set, with the pod that is scaled away, or
//! never (persistentVolumeClaimRetentionPolicy).

use super::identity::{claim_name, is_in_range, pod_name};
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};

#[derive(Clone, Copy)]
struct Policy {
    goes_with_set: bool,
    goes_when_scaled: bool,
}

impl Policy {
    fn of(spec: &StatefulSetSpec) -> Self {
        let policy = spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
        Self {
            goes_with_set: deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            goes_when_scaled: deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        }
    }
}

/// Whether a claim has a name of this set's.
pub(super) fn is_of(set: &StatefulSet, claim: &str) -> bool {
    let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    templates.into_iter().any(|template| {
        let prefix = format!("{}-{}-", template.name_any(), set.name_any());
        claim.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<i32>().is_ok())
    })
}

/// The claims of one replica as they are made.
pub(super) fn wanted(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    ordinal: i32,
) -> Vec<PersistentVolumeClaim> {
    let templates = spec.volume_claim_templates.iter().flatten();
    let claims = templates.map(|template| {
        let mut claim = template.clone();
        claim.metadata.name = Some(claim_name(set, &template.name_any(), ordinal));
        claim.metadata.namespace = set.namespace();
        let selected = spec.selector.match_labels.clone().unwrap_or_default();
        claim.labels_mut().extend(selected);
        claim.status = None;
        if Policy::of(spec).goes_with_set && is_in_range(spec, ordinal) {
            claim.metadata.owner_references = owner(set).map(|owner| vec![owner]);
        }
        claim
    });
    claims.collect()
}

/// Whether a claim still belongs to a pod that is gone: it goes with it, and the next pod of
/// the name gets a new one.
pub(super) fn is_stale(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    ordinal: i32,
) -> bool {
    let name = pod_name(set, ordinal);
    Policy::of(spec).goes_when_scaled
        && claim.owner_references().iter().any(|owner| is_pod(owner, &name))
}

/// The owners that a claim is to have, when they are others than it has.
pub(super) fn owners(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    ordinal: i32,
) -> Option<Vec<OwnerReference>> {
    let (uid, pod_name) = (set.uid().unwrap_or_default(), pod.name_any());
    let pod_uid = pod.uid().unwrap_or_default();
    let known = claim.owner_references();
    let is_ours = |owner: &OwnerReference| is_set(owner, set) || is_pod(owner, &pod_name);
    let stale = |owner: &OwnerReference| {
        (is_set(owner, set) && owner.uid != uid)
            || (is_pod(owner, &pod_name) && owner.uid != pod_uid)
    };
    // A namesake of old has left it: the garbage collector decides.
    if known.iter().any(stale) {
        return None;
    }
    let policy = Policy::of(spec);
    let retains = !policy.goes_with_set && !policy.goes_when_scaled;
    let others: Vec<OwnerReference> = known.iter().filter(|one| !is_ours(one)).cloned().collect();
    let foreign = !retains && others.iter().any(|owner| owner.controller == Some(true));
    let mut wanted = others;
    if !foreign {
        let scaled_away = !is_in_range(spec, ordinal);
        if policy.goes_when_scaled && scaled_away {
            wanted.extend(owner(pod));
        } else if policy.goes_with_set && !(policy.goes_when_scaled && scaled_away) {
            wanted.extend(owner(set));
        }
    }
    let key = |owner: &OwnerReference| (owner.uid.clone(), owner.controller == Some(true));
    let same = wanted.len() == known.len()
        && wanted.iter().all(|one| known.iter().any(|other| key(one) == key(other)));
    (!same).then_some(wanted)
}

fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Option<OwnerReference> {
    let owner = object.controller_owner_ref(&())?;
    Some(OwnerReference { block_owner_deletion: Some(true), ..owner })
}

fn is_set(owner: &OwnerReference, set: &StatefulSet) -> bool {
    owner.api_version == "apps/v1" && owner.kind == "StatefulSet" && owner.name == set.name_any()
}

fn is_pod(owner: &OwnerReference, name: &str) -> bool {
    owner.api_version == "v1" && owner.kind == "Pod" && owner.name == name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": { "name": "db", "namespace": "ns", "uid": "set" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "db" } },
                "template": {}, "persistentVolumeClaimRetentionPolicy":
                    { "whenDeleted": deleted, "whenScaled": scaled },
                "volumeClaimTemplates": [{ "metadata": { "name": "data",
                    "labels": { "tier": "x" } }, "status": { "phase": "Pending" } }] },
        }))
        .unwrap()
    }

    fn pod(ordinal: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": format!("db-{ordinal}"), "uid": format!("pod-{ordinal}") },
        }))
        .unwrap()
    }

    fn owned_by(set: &StatefulSet, ordinal: i32, known: &[OwnerReference]) -> Option<Vec<String>> {
        let spec = set.spec.as_ref().unwrap();
        let mut claim = wanted(set, spec, ordinal).remove(0);
        claim.metadata.owner_references = Some(known.to_vec());
        let owners = owners(set, spec, &claim, &pod(ordinal), ordinal)?;
        Some(owners.into_iter().map(|owner| owner.uid).collect())
    }

    #[test]
    fn a_claim_has_the_labels_of_template_and_selector() {
        let set = set("Retain", "Retain");
        let claim = wanted(&set, set.spec.as_ref().unwrap(), 1).remove(0);
        assert_eq!(claim.name_any(), "data-db-1");
        assert_eq!((&claim.labels()["app"], &claim.labels()["tier"]), (&"db".into(), &"x".into()));
        assert!(claim.status.is_none() && claim.owner_references().is_empty());
        assert!(is_of(&set, "data-db-17") && !is_of(&set, "data-db-x") && !is_of(&set, "data-db"));
    }

    #[test]
    fn owners_follow_the_policy() {
        let names = |uids: &[&str]| Some(uids.iter().map(|&uid| uid.to_owned()).collect());
        assert_eq!(owned_by(&set("Retain", "Retain"), 0, &[]), None);
        assert_eq!(owned_by(&set("Delete", "Retain"), 0, &[]), names(&["set"]));
        assert_eq!(owned_by(&set("Delete", "Retain"), 2, &[]), names(&["set"]));
        assert_eq!(owned_by(&set("Retain", "Delete"), 0, &[]), None);
        assert_eq!(owned_by(&set("Retain", "Delete"), 2, &[]), names(&["pod-2"]));
        assert_eq!(owned_by(&set("Delete", "Delete"), 0, &[]), names(&["set"]));
        let owner = owner(&set("Delete", "Delete")).unwrap();
        assert_eq!(
            owned_by(&set("Delete", "Delete"), 2, std::slice::from_ref(&owner)),
            names(&["pod-2"])
        );
        assert_eq!(owned_by(&set("Retain", "Retain"), 0, &[owner]), names(&[]));
    }

    #[test]
    fn claims_of_others_and_of_namesakes_are_left_alone() {
        let mut stale = owner(&set("Delete", "Delete")).unwrap();
        stale.uid = "before".into();
        assert_eq!(owned_by(&set("Delete", "Retain"), 0, &[stale]), None);
        let mut foreign = owner(&set("Delete", "Delete")).unwrap();
        foreign.name = "other".into();
        foreign.uid = "other".into();
        assert_eq!(owned_by(&set("Delete", "Retain"), 0, &[foreign]), None);
    }
}
