//! Which ReplicaSets a Deployment creates, scales and deletes; decides only.

use super::{
    revision::{
        DESIRED, HASH_LABEL, MAX, REVISION, annotations, revision_of, template_hash, without_hash,
    },
    rolling::{
        Bounds, Member, available, is_recreate, new_size, proportional, replicas, shrink_old,
        wanted,
    },
};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use kube::{
    Resource, ResourceExt,
    api::{ObjectMeta, Preconditions},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// Old ReplicaSets kept for undo when the Deployment does not say.
const HISTORY_DEFAULT: i32 = 10;

/// A Deployment and its ReplicaSets, the one of its present template apart.
pub(super) struct Rollout<'a> {
    pub(super) deployment: &'a Deployment,
    pub(super) new: Option<Arc<ReplicaSet>>,
    /// Oldest first.
    pub(super) old: Vec<Arc<ReplicaSet>>,
    /// Whether `new` was made by this very pass.
    pub(super) is_begun: bool,
}

#[derive(Debug)]
pub(super) enum Step {
    Create(Box<ReplicaSet>),
    Update { name: String, uid: String, patch: Value, from: i32, to: i32 },
    Delete { name: String, preconditions: Preconditions },
    Annotate { revision: i64 },
}

impl<'a> Rollout<'a> {
    pub(super) fn new(deployment: &'a Deployment, mut sets: Vec<Arc<ReplicaSet>>) -> Self {
        sets.sort_by_key(|set| (set.creation_timestamp().map(|time| time.0), set.name_any()));
        let position = sets.iter().position(|set| same_template(set, deployment));
        let new = position.map(|position| sets.remove(position));
        Self { deployment, new, old: sets, is_begun: false }
    }

    /// The ReplicaSet of the present template has just been created.
    pub(super) fn take_in(&mut self, created: ReplicaSet) {
        self.new = Some(Arc::new(created));
        self.is_begun = true;
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    fn is_paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true)
    }

    fn revision(&self) -> i64 {
        let newest_old = self.old.iter().map(|set| revision_of(set)).max().unwrap_or(0);
        self.new.as_deref().map_or(0, revision_of).max(newest_old + 1)
    }

    /// A change of `spec.replicas` in the middle of a rollout.
    fn is_scaling(&self) -> bool {
        let desired = replicas(self.deployment).to_string();
        self.all()
            .filter(|set| wanted(set) > 0)
            .any(|set| set.annotations().get(DESIRED).is_some_and(|known| *known != desired))
    }
}

pub(super) fn same_template(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let known = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).map(without_hash);
    known == deployment.spec.as_ref().map(|spec| without_hash(&spec.template))
}

/// `has_live_pods` tells whether a ReplicaSet still has pods that have not ended.
pub(super) fn plan(
    rollout: &Rollout<'_>,
    has_live_pods: &dyn Fn(&ReplicaSet) -> bool,
) -> Vec<Step> {
    if rollout.is_paused() || rollout.is_scaling() {
        let mut steps = scale_only(rollout);
        if rollout.is_paused() {
            steps.extend(annotate(rollout));
            steps.extend(forget_history(rollout));
        }
        return steps;
    }
    let mut steps = if is_recreate(rollout.deployment) {
        recreate(rollout, has_live_pods)
    } else {
        roll(rollout)
    };
    steps.extend(annotate(rollout));
    if super::status::is_complete(rollout) {
        steps.extend(forget_history(rollout));
    }
    steps
}

fn roll(rollout: &Rollout<'_>) -> Vec<Step> {
    let all: i32 = rollout.all().map(|set| wanted(set)).sum();
    let Some(new) = &rollout.new else {
        return vec![create(rollout, new_size(rollout.deployment, 0, all))];
    };
    let size = new_size(rollout.deployment, wanted(new), all);
    let mut steps: Vec<Step> = update(rollout, new, size).into_iter().collect();
    if size > wanted(new) {
        // The old ones shrink when the cache shows what was just begun.
        return steps;
    }
    let old: Vec<&ReplicaSet> = rollout.old.iter().map(AsRef::as_ref).collect();
    let sizes = shrink_old(rollout.deployment, Some(new), &old);
    steps.extend(rescale(rollout, &rollout.old, &sizes));
    steps
}

fn recreate(rollout: &Rollout<'_>, has_live_pods: &dyn Fn(&ReplicaSet) -> bool) -> Vec<Step> {
    let zeros = vec![0; rollout.old.len()];
    let steps = rescale(rollout, &rollout.old, &zeros);
    let old_live = rollout.old.iter().any(|set| wanted(set) > 0 || has_live_pods(set));
    if !steps.is_empty() || old_live {
        return steps;
    }
    match &rollout.new {
        None => vec![create(rollout, replicas(rollout.deployment))],
        Some(new) => update(rollout, new, replicas(rollout.deployment)).into_iter().collect(),
    }
}

/// Brings the sizes to a new `spec.replicas`, in the middle of a rollout in proportion.
fn scale_only(rollout: &Rollout<'_>) -> Vec<Step> {
    let active: Vec<Arc<ReplicaSet>> =
        rollout.all().filter(|set| wanted(set) > 0).cloned().collect();
    let total = replicas(rollout.deployment);
    match active.as_slice() {
        [] => {
            let latest = rollout.new.clone().or_else(|| rollout.old.last().cloned());
            let latest: Vec<_> = latest.into_iter().collect();
            rescale(rollout, &latest, &[total])
        }
        [only] => rescale(rollout, std::slice::from_ref(only), &[total]),
        _ if is_saturated(rollout) => {
            let old: Vec<_> = active.into_iter().filter(|set| !is_new(rollout, set)).collect();
            let zeros = vec![0; old.len()];
            rescale(rollout, &old, &zeros)
        }
        _ if is_recreate(rollout.deployment) => Vec::new(),
        several => {
            let members: Vec<Member> = several.iter().map(|set| member(rollout, set)).collect();
            let bounds = Bounds::of(rollout.deployment);
            rescale(rollout, several, &proportional(&members, total, bounds.surge))
        }
    }
}

fn is_new(rollout: &Rollout<'_>, set: &ReplicaSet) -> bool {
    rollout.new.as_ref().is_some_and(|new| new.uid() == set.uid())
}

/// Whether the new ReplicaSet alone has all that is wanted.
fn is_saturated(rollout: &Rollout<'_>) -> bool {
    let total = replicas(rollout.deployment);
    rollout.new.as_ref().is_some_and(|new| {
        let desired = new.annotations().get(DESIRED).and_then(|text| text.parse().ok());
        wanted(new) == total && desired == Some(total) && available(new) == total
    })
}

fn member(rollout: &Rollout<'_>, set: &ReplicaSet) -> Member {
    let stated = set.annotations().get(MAX).and_then(|text| text.parse().ok());
    let of_all = || rollout.deployment.status.as_ref().and_then(|status| status.replicas);
    Member {
        size: wanted(set),
        max_before: stated.filter(|max| *max > 0).or_else(of_all).unwrap_or(0),
    }
}

fn rescale(rollout: &Rollout<'_>, sets: &[Arc<ReplicaSet>], sizes: &[i32]) -> Vec<Step> {
    let sized = sets.iter().zip(sizes);
    sized
        .filter(|(set, size)| wanted(set) != **size || has_stale_counts(rollout, set))
        .filter_map(|(set, size)| {
            if wanted(set) == 0 && *size == 0 {
                return None;
            }
            let patch = json!({
                "metadata": { "annotations": counts(rollout) },
                "spec": { "replicas": size },
            });
            Some(patch_step(set, patch, *size))
        })
        .collect()
}

fn has_stale_counts(rollout: &Rollout<'_>, set: &ReplicaSet) -> bool {
    wanted(set) > 0
        && counts(rollout).iter().any(|(key, value)| set.annotations().get(key) != Some(value))
}

/// Brings the new ReplicaSet's size, annotations and minReadySeconds up to date.
fn update(rollout: &Rollout<'_>, new: &ReplicaSet, size: i32) -> Option<Step> {
    let mut wanted_annotations = annotations(rollout.deployment, Some(new), rollout.revision());
    wanted_annotations.extend(counts(rollout));
    let min_ready = |seconds: Option<i32>| seconds.unwrap_or(0);
    let wanted_ready =
        min_ready(rollout.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let known_ready = min_ready(new.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    if wanted_annotations == *new.annotations()
        && size == wanted(new)
        && wanted_ready == known_ready
    {
        return None;
    }
    let patch = json!({
        "metadata": { "annotations": wanted_annotations },
        "spec": { "replicas": size, "minReadySeconds": wanted_ready },
    });
    Some(patch_step(new, patch, size))
}

fn patch_step(set: &ReplicaSet, patch: Value, to: i32) -> Step {
    let uid = set.uid().unwrap_or_default();
    Step::Update { name: set.name_any(), uid, patch, from: wanted(set), to }
}

fn counts(rollout: &Rollout<'_>) -> BTreeMap<String, String> {
    let replicas = replicas(rollout.deployment);
    let max = replicas + Bounds::of(rollout.deployment).surge;
    BTreeMap::from([(DESIRED.into(), replicas.to_string()), (MAX.into(), max.to_string())])
}

fn create(rollout: &Rollout<'_>, size: i32) -> Step {
    let deployment = rollout.deployment;
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions =
        deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);

    let mut template = spec.template;
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let labels = metadata.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());

    let mut annotations = annotations(deployment, None, rollout.revision());
    annotations.extend(counts(rollout));
    let owner = deployment.controller_owner_ref(&()).map(|mut owner| {
        owner.block_owner_deletion = Some(true);
        vec![owner]
    });
    Step::Create(Box::new(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(annotations),
            owner_references: owner,
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }))
}

fn annotate(rollout: &Rollout<'_>) -> Option<Step> {
    let revision = rollout.new.is_some().then(|| rollout.revision())?;
    let known = rollout.deployment.annotations().get(REVISION);
    (known != Some(&revision.to_string())).then_some(Step::Annotate { revision })
}

fn forget_history(rollout: &Rollout<'_>) -> Vec<Step> {
    let limit = rollout
        .deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.revision_history_limit)
        .unwrap_or(HISTORY_DEFAULT);
    let mut empty: Vec<&Arc<ReplicaSet>> = rollout.old.iter().filter(|set| is_empty(set)).collect();
    empty.sort_by_key(|set| revision_of(set));
    let surplus = empty.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let surplus = empty.into_iter().take(surplus);
    surplus
        .map(|set| Step::Delete {
            name: set.name_any(),
            // Going back to it meanwhile makes it another version, which stays.
            preconditions: Preconditions {
                uid: set.uid(),
                resource_version: set.resource_version(),
            },
        })
        .collect()
}

fn is_empty(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    wanted(set) == 0
        && set.metadata.deletion_timestamp.is_none()
        && status.is_some_and(|status| {
            status.replicas == 0 && status.observed_generation >= set.metadata.generation
        })
}

#[cfg(test)]
mod tests;
