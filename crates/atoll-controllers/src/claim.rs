//! Which objects belong to a controller: keeps, adopts and releases by selector.
//!
//! An orphan that the selector matches is adopted, an owned object that it no longer
//! matches is released (Kubernetes' ControllerRefManager).

use crate::{
    error::{Error, failed},
    selector,
    shared::controller_of,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// What the owner with `owner_uid` does about `object`.
pub(crate) fn decide<K: ResourceExt>(
    object: &K,
    owner_uid: &str,
    owner_is_deleted: bool,
    wanted: &LabelSelector,
) -> Claim {
    let selected = selector::matches(wanted, object.labels());
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if selected || owner_is_deleted => Claim::Keep,
        Some(_) => Claim::Release,
        None if selected && !owner_is_deleted && object.meta().deletion_timestamp.is_none() => {
            Claim::Adopt
        }
        None => Claim::Ignore,
    }
}

/// The objects among `candidates` that `owner` controls after adopting and releasing.
///
/// `owners` is where the owner itself stands. It is read there before the first adoption:
/// the cache may not show yet that the owner is being deleted, and what it adopted then
/// would go with it.
pub(crate) async fn claim<K, O>(
    api: &Api<K>,
    candidates: Vec<Arc<K>>,
    owners: &Api<O>,
    owner: &OwnerReference,
    owner_is_deleted: bool,
    wanted: &LabelSelector,
) -> Result<Vec<Arc<K>>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut claimed = Vec::with_capacity(candidates.len());
    let mut is_alive = false;
    for object in candidates {
        match decide(object.as_ref(), &owner.uid, owner_is_deleted, wanted) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if !is_alive {
                    check_alive(owners, owner).await?;
                    is_alive = true;
                }
                let mut owners = object.owner_references().to_vec();
                owners.push(owner.clone());
                claimed
                    .push(Arc::new(write_owners(api, object.as_ref(), "adopting", owners).await?));
            }
            Claim::Release => {
                let mut owners = object.owner_references().to_vec();
                owners.retain(|one| one.uid != owner.uid);
                let released = write_owners(api, object.as_ref(), "releasing", owners).await;
                // What is gone is released.
                if !matches!(&released, Err(Error::Write { source: kube::Error::Api(status), .. }) if status.code == 404)
                {
                    released?;
                }
            }
        }
    }
    Ok(claimed)
}

async fn check_alive<O>(owners: &Api<O>, owner: &OwnerReference) -> Result<(), Error>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let read = owners.get_metadata_opt(&owner.name).await;
    let live = read.map_err(failed("reading", "owner", &owner.name))?;
    let alive = live.is_some_and(|live| {
        live.uid().as_deref() == Some(&owner.uid) && live.metadata.deletion_timestamp.is_none()
    });
    if alive {
        return Ok(());
    }
    Err(Error::Stale { what: format!("{} {} is going and adopts nothing", owner.kind, owner.name) })
}

async fn write_owners<K>(
    api: &Api<K>,
    object: &K,
    verb: &'static str,
    owners: Vec<OwnerReference>,
) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    // The uid guards against a namesake created since the object was cached, the
    // resourceVersion against an owner that somebody else has set meanwhile.
    let patch = serde_json::json!({ "metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(),
        "ownerReferences": owners,
    } });
    api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(failed(verb, "object", object.name_any()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn pod(labels: serde_json::Value, owner: Option<&str>) -> Pod {
        let owners: Vec<_> = owner
            .map(|uid| json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": uid, "controller": true }))
            .into_iter()
            .collect();
        serde_json::from_value(
            json!({ "metadata": { "name": "p", "labels": labels, "ownerReferences": owners } }),
        )
        .unwrap()
    }

    fn verdict(pod: &Pod, deleted: bool) -> Claim {
        let wanted = serde_json::from_value(json!({ "matchLabels": { "app": "web" } })).unwrap();
        decide(pod, "me", deleted, &wanted)
    }

    #[test]
    fn adopts_matching_orphans_only_while_alive() {
        let orphan = pod(json!({ "app": "web" }), None);
        assert_eq!(verdict(&orphan, false), Claim::Adopt);
        assert_eq!(verdict(&orphan, true), Claim::Ignore);
    }

    #[test]
    fn releases_what_it_no_longer_selects_and_leaves_others_alone() {
        assert_eq!(verdict(&pod(json!({ "app": "other" }), Some("me")), false), Claim::Release);
        assert_eq!(verdict(&pod(json!({ "app": "web" }), Some("you")), false), Claim::Ignore);
        assert_eq!(verdict(&pod(json!({ "app": "web" }), Some("me")), false), Claim::Keep);
    }
}
