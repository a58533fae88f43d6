//! The templates that a StatefulSet or DaemonSet has had, as numbered ControllerRevisions.
//!
//! A revision's data is a strategic merge patch that puts its template back, which is what
//! `kubectl rollout undo` sends.

use crate::{
    claim::claim,
    error::{Error, failed, gone_is_fine},
    shared::{BY_OWNER, controller_of},
};
use atoll_informer::Informer;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, OwnerReference},
        runtime::RawExtension,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

/// Which revision a pod was made from.
pub(crate) const POD_LABEL: &str = "controller-revision-hash";

/// Letters and digits that spell no words; apimachinery's rand.SafeEncodeString.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const HASH_LENGTH: usize = 10;
/// Names tried in one pass; each is taken only if another template has the same hash.
const COLLISIONS_MAX: i32 = 16;

/// The revision of the present template, and all that there are.
pub(crate) struct History {
    /// Oldest first, the present one among them.
    pub(crate) all: Vec<Arc<ControllerRevision>>,
    pub(crate) present: Arc<ControllerRevision>,
    /// Names that were found taken, ever.
    pub(crate) collisions: i32,
}

/// What has to be done to have the present template at the head of the history.
#[derive(Debug, PartialEq)]
pub(crate) enum Head {
    Stands(Arc<ControllerRevision>),
    /// An old revision is the present one again.
    Renumber(Arc<ControllerRevision>, i64),
    Create(i64),
}

/// The owner of a history, and where its parts are.
pub(crate) struct Owner<'a, K> {
    pub(crate) object: &'a K,
    pub(crate) selector: &'a LabelSelector,
    pub(crate) template: &'a PodTemplateSpec,
    pub(crate) collisions: i32,
    /// The label that carries a revision's hash.
    pub(crate) hash_label: &'static str,
}

/// Adopts and releases, then finds, renumbers or makes the revision of the present template.
pub(crate) async fn keep<K>(
    client: &Client,
    cache: &Informer<ControllerRevision>,
    owner: &Owner<'_, K>,
) -> Result<History, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let namespace = owner.object.namespace().unwrap_or_default();
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
    let mut all = claimed(client, &api, cache, owner).await?;
    sort(&mut all);
    let patch = patch_of(owner.template);
    let mut collisions = owner.collisions;
    let present = match head(&all, &patch) {
        Head::Stands(present) => present,
        Head::Renumber(old, number) => {
            let present = Arc::new(renumber(&api, &old, number).await?);
            all.retain(|one| one.name_any() != present.name_any());
            all.push(present.clone());
            present
        }
        Head::Create(number) => {
            let present = Arc::new(create(&api, owner, &patch, number, &mut collisions).await?);
            all.push(present.clone());
            present
        }
    };
    Ok(History { all, present, collisions })
}

/// Deletes the oldest of those that nobody uses, down to `limit`.
pub(crate) async fn forget(
    client: &Client,
    history: &History,
    live: &BTreeSet<String>,
    limit: i32,
) -> Result<(), Error> {
    for old in surplus(&history.all, live, limit) {
        let name = old.name_any();
        let namespace = old.namespace().unwrap_or_default();
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
        let deleted = api.delete(&name, &DeleteParams::default()).await;
        gone_is_fine(deleted).map_err(failed("deleting", "controllerrevision", name))?;
    }
    Ok(())
}

/// `live` names the revisions that are in use; a negative limit keeps all.
pub(crate) fn surplus<'a>(
    all: &'a [Arc<ControllerRevision>],
    live: &BTreeSet<String>,
    limit: i32,
) -> Vec<&'a Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let dead: Vec<_> = all.iter().filter(|one| !live.contains(&one.name_any())).collect();
    let count = dead.len().saturating_sub(limit);
    dead.into_iter().take(count).collect()
}

pub(crate) fn head(all: &[Arc<ControllerRevision>], patch: &Value) -> Head {
    let next = all.last().map_or(1, |newest| newest.revision + 1);
    let same = all.iter().rposition(|one| one.data.as_ref().map(|known| &known.0) == Some(patch));
    match same {
        Some(position) if position + 1 == all.len() => Head::Stands(all[position].clone()),
        Some(position) => Head::Renumber(all[position].clone(), next),
        None => Head::Create(next),
    }
}

/// The template that a revision puts back; `None` when its data are not of this kind.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// A short name for `bytes`. `collisions` gives another one when the first is taken.
pub(crate) fn short_hash(bytes: &[u8], collisions: i32) -> String {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hasher.update(collisions.to_le_bytes());
    let digest = hasher.finalize();
    let letters = digest.iter().take(HASH_LENGTH);
    letters.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

fn patch_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

fn sort(all: &mut [Arc<ControllerRevision>]) {
    all.sort_by_key(|one| {
        (one.revision, one.creation_timestamp().map(|time| time.0), one.name_any())
    });
}

async fn claimed<K>(
    client: &Client,
    api: &Api<ControllerRevision>,
    cache: &Informer<ControllerRevision>,
    owner: &Owner<'_, K>,
) -> Result<Vec<Arc<ControllerRevision>>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let Some(reference) = owner.object.controller_owner_ref(&()) else { return Ok(Vec::new()) };
    let namespace = owner.object.namespace().unwrap_or_default();
    let mut candidates = cache.indexed(BY_OWNER, &reference.uid);
    let others = cache.in_namespace(&namespace).into_iter();
    candidates.extend(others.filter(|one| controller_of(one.as_ref()).is_none()));
    let owners: Api<K> = Api::namespaced(client.clone(), &namespace);
    claim(api, candidates, &owners, &reference, false, owner.selector).await
}

async fn renumber(
    api: &Api<ControllerRevision>,
    old: &ControllerRevision,
    number: i64,
) -> Result<ControllerRevision, Error> {
    let patch = json!({ "metadata": { "uid": old.uid() }, "revision": number });
    api.patch(&old.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed("renumbering", "controllerrevision", old.name_any()))
}

async fn create<K>(
    api: &Api<ControllerRevision>,
    owner: &Owner<'_, K>,
    patch: &Value,
    number: i64,
    collisions: &mut i32,
) -> Result<ControllerRevision, Error>
where
    K: Resource<DynamicType = ()>,
{
    for _ in 0..COLLISIONS_MAX {
        let revision = revision(owner, patch, number, *collisions);
        let name = revision.name_any();
        match api.create(&PostParams::default(), &revision).await {
            Ok(created) => return Ok(created),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let known = api.get(&name).await;
                let known = known.map_err(failed("reading", "controllerrevision", &name))?;
                // Our own creation that the cache does not show yet.
                if known.data == revision.data {
                    return Ok(known);
                }
                *collisions = collisions.saturating_add(1);
            }
            Err(error) => return Err(failed("creating", "controllerrevision", name)(error)),
        }
    }
    Err(Error::Stale { what: format!("every name for a revision of {} is taken", name_of(owner)) })
}

fn revision<K>(
    owner: &Owner<'_, K>,
    patch: &Value,
    number: i64,
    collisions: i32,
) -> ControllerRevision
where
    K: Resource<DynamicType = ()>,
{
    // Maps are ordered, so equal patches have equal text.
    let hash = short_hash(&serde_json::to_vec(patch).unwrap_or_default(), collisions);
    let template = owner.template.metadata.as_ref();
    let mut labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(owner.hash_label.to_owned(), hash.clone());
    let reference = owner.object.controller_owner_ref(&());
    let references =
        reference.map(|owner| vec![OwnerReference { block_owner_deletion: Some(true), ..owner }]);
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name_of(owner))),
            namespace: owner.object.namespace(),
            labels: Some(labels),
            annotations: owner.object.meta().annotations.clone(),
            owner_references: references,
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch.clone())),
        revision: number,
    }
}

fn name_of<K: Resource<DynamicType = ()>>(owner: &Owner<'_, K>) -> String {
    owner.object.name_any()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "db" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .unwrap()
    }

    fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
        let mut revision = ControllerRevision { revision: number, ..Default::default() };
        revision.metadata.name = Some(name.into());
        revision.data = Some(RawExtension(patch_of(&template(image))));
        Arc::new(revision)
    }

    #[test]
    fn a_revision_gives_its_template_back() {
        assert_eq!(template_of(&revision("a", 1, "i")), Some(template("i")));
        assert_eq!(template_of(&ControllerRevision::default()), None);
    }

    #[test]
    fn a_template_of_old_comes_to_the_head_again() {
        let all = [revision("a", 3, "one"), revision("b", 7, "two")];
        assert_eq!(head(&[], &patch_of(&template("one"))), Head::Create(1));
        assert_eq!(head(&all, &patch_of(&template("three"))), Head::Create(8));
        assert_eq!(head(&all, &patch_of(&template("two"))), Head::Stands(all[1].clone()));
        let again = head(&all, &patch_of(&template("one")));
        assert_eq!(again, Head::Renumber(all[0].clone(), 8));
    }

    #[test]
    fn what_is_in_use_is_not_forgotten() {
        let all: Vec<_> = (1..=5).map(|n| revision(&format!("r{n}"), n, &n.to_string())).collect();
        let live = BTreeSet::from(["r1".to_owned(), "r5".to_owned()]);
        let names = |limit| -> Vec<String> {
            surplus(&all, &live, limit).iter().map(|one| one.name_any()).collect()
        };
        assert_eq!(names(2), ["r2"]);
        assert_eq!(names(0), ["r2", "r3", "r4"]);
        assert_eq!(names(-1), Vec::<String>::new());
    }

    #[test]
    fn a_hash_depends_on_data_and_collisions() {
        assert_eq!(short_hash(b"a", 0), short_hash(b"a", 0));
        assert_ne!(short_hash(b"a", 0), short_hash(b"a", 1));
        assert_ne!(short_hash(b"a", 0), short_hash(b"b", 0));
    }
}
