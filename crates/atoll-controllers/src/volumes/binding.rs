//! Reading claims and volumes, and the words that their two sides are bound with.

use atoll_informer::Key;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

/// Both sides were seen to agree.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The binder chose the other side, so it may also undo that.
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Who is to make a volume for the claim.
pub(super) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub(super) const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Where the scheduler wants the claim's pod to run.
pub(super) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn annotation<'a, K: ResourceExt>(object: &'a K, name: &str) -> Option<&'a str> {
    object.annotations().get(name).map(String::as_str)
}

/// The volume that the claim names.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// The claim that the volume names.
pub(super) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

pub(super) fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let claim = claim_ref(volume)?;
    Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
}

/// Whether the volume names this claim; one without a uid names whoever has the name.
pub(super) fn names(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = claim_ref(volume) else { return false };
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// The class that the claim names; `None` is not the empty one.
pub(super) fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(claim, CLASS).or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

pub(super) fn class_of_volume(volume: &PersistentVolume) -> &str {
    annotation(volume, CLASS)
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_deref())
        .unwrap_or_default()
}

/// The claims that a pod uses, those of its own volumes included.
pub(super) fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
            (None, None) => None,
        })
        .collect()
}

/// The one node that the volume can be used on, where there is just one.
pub(super) fn only_node(volume: &PersistentVolume) -> Option<&str> {
    let spec = volume.spec.as_ref()?;
    let terms = &spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let hostname = |one: &&k8s_openapi::api::core::v1::NodeSelectorRequirement| {
        one.key == "kubernetes.io/hostname" && one.operator == "In"
    };
    let requirement = term.match_expressions.iter().flatten().find(hostname)?;
    match requirement.values.as_deref()? {
        [name] => Some(name),
        _ => None,
    }
}

pub(super) fn phase_of_volume(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn phase_of_claim(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A reference as events and claimRef have it.
pub(super) fn reference(claim: &PersistentVolumeClaim) -> serde_json::Value {
    serde_json::json!({
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "namespace": claim.metadata.namespace,
        "name": claim.metadata.name,
        "uid": claim.metadata.uid,
        "resourceVersion": claim.metadata.resource_version,
    })
}
