//! Names, hashes and annotations that tell a Deployment's ReplicaSets apart.

use crate::history::short_hash;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::PodTemplateSpec,
};
use kube::ResourceExt;
use std::collections::BTreeMap;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
pub(super) const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not inherit.
const NOT_INHERITED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];

/// Characters of a ReplicaSet's former revisions; older ones are forgotten.
const HISTORY_LENGTH_MAX: usize = 2_000;

/// A short name for a template. `collisions` gives another one when the first is taken.
pub(super) fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    // Maps are ordered, so equal templates have equal text.
    short_hash(&serde_json::to_vec(template).unwrap_or_default(), collisions)
}

/// The template without the label that the controller itself adds.
pub(super) fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What a ReplicaSet's annotations are to be: inherited ones, the revision and its history.
pub(super) fn annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    revision: i64,
) -> BTreeMap<String, String> {
    let mut wanted = set.map(|set| set.annotations().clone()).unwrap_or_default();
    for (key, value) in deployment.annotations() {
        if !NOT_INHERITED.contains(&key.as_str()) {
            wanted.insert(key.clone(), value.clone());
        }
    }
    let before = set.map_or(0, revision_of);
    if before < revision {
        if before > 0 {
            let history = match wanted.get(REVISION_HISTORY) {
                Some(known) => shorten(&format!("{known},{before}")).to_owned(),
                None => before.to_string(),
            };
            wanted.insert(REVISION_HISTORY.into(), history);
        }
        wanted.insert(REVISION.into(), revision.to_string());
    }
    wanted
}

/// The newest revisions of a history that fit.
fn shorten(history: &str) -> &str {
    let mut rest = history;
    while rest.len() > HISTORY_LENGTH_MAX {
        match rest.split_once(',') {
            Some((_, newer)) => rest = newer,
            None => return rest,
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_hash_depends_on_template_and_collisions_only() {
        assert_eq!(template_hash(&template("a"), 0), template_hash(&template("a"), 0));
        assert_ne!(template_hash(&template("a"), 0), template_hash(&template("b"), 0));
        assert_ne!(template_hash(&template("a"), 0), template_hash(&template("a"), 1));
    }

    #[test]
    fn a_reused_set_remembers_its_former_revisions() {
        let set: ReplicaSet = serde_json::from_value(json!({ "metadata": { "annotations": {
            REVISION: "2", REVISION_HISTORY: "1",
        } } }))
        .unwrap();
        let wanted = annotations(&Deployment::default(), Some(&set), 5);
        assert_eq!(wanted[REVISION], "5");
        assert_eq!(wanted[REVISION_HISTORY], "1,2");
    }

    #[test]
    fn a_history_has_an_end() {
        let long = (0..1_000).map(|revision| revision.to_string()).collect::<Vec<_>>().join(",");
        let short = shorten(&long);
        assert!(short.len() <= HISTORY_LENGTH_MAX && short.ends_with(",998,999"), "{short}");
    }
}
