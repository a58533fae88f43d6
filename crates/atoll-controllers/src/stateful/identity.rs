//! Who a replica is: its ordinal, name, labels, host name and claims.

use crate::{history::POD_LABEL, pod_control::pod_of};
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec},
    core::v1::{PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal of a pod with a name of this set's: `web-3` of `web`.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let digits = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    // No other spelling of the number is a name that this set gives.
    (ordinal.to_string() == digits).then_some(ordinal)
}

pub(super) fn first_ordinal(spec: &StatefulSetSpec) -> i32 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

pub(super) fn replicas(spec: &StatefulSetSpec) -> i32 {
    spec.replicas.unwrap_or(1).max(0)
}

pub(super) fn is_in_range(spec: &StatefulSetSpec, ordinal: i32) -> bool {
    let first = i64::from(first_ordinal(spec));
    (first..first + i64::from(replicas(spec))).contains(&i64::from(ordinal))
}

pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name_any())
}

/// The name of the revision that a pod was made from.
pub(super) fn revision_of(pod: &Pod) -> Option<&str> {
    pod.labels().get(POD_LABEL).map(String::as_str)
}

/// The labels by which a pod is found by name and ordinal.
pub(super) fn labels(set: &StatefulSet, ordinal: i32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME_LABEL.to_owned(), pod_name(set, ordinal)),
        (INDEX_LABEL.to_owned(), ordinal.to_string()),
    ])
}

pub(super) fn pod(
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    template: PodTemplateSpec,
    ordinal: i32,
    revision: &str,
) -> Pod {
    let mut pod = pod_of(template, set.namespace(), set.controller_owner_ref(&()));
    let name = pod_name(set, ordinal);
    pod.labels_mut().extend(labels(set, ordinal));
    pod.labels_mut().insert(POD_LABEL.to_owned(), revision.to_owned());
    if let Some(pod_spec) = pod.spec.as_mut() {
        pod_spec.hostname = Some(name.clone());
        pod_spec.subdomain = spec.service_name.clone().filter(|name| !name.is_empty());
        let claims = spec.volume_claim_templates.iter().flatten();
        let mut volumes: Vec<Volume> =
            claims.map(|template| volume(set, &template.name_any(), ordinal)).collect();
        let own = pod_spec.volumes.take().unwrap_or_default().into_iter();
        let claimed: Vec<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
        volumes.extend(own.filter(|volume| !claimed.contains(&volume.name)));
        pod_spec.volumes = (!volumes.is_empty()).then_some(volumes);
    }
    pod.metadata.name = Some(name);
    pod
}

/// The name of a replica's claim of one template.
pub(super) fn claim_name(set: &StatefulSet, template: &str, ordinal: i32) -> String {
    format!("{template}-{}-{ordinal}", set.name_any())
}

fn volume(set: &StatefulSet, template: &str, ordinal: i32) -> Volume {
    Volume {
        name: template.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    }
}
