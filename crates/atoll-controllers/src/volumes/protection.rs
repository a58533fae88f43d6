//! Finalizers: a claim stays while a pod uses it, a volume while it is bound.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{Volumes, binding};
use crate::error::{Error, failed, gone_is_fine};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

impl Volumes {
    pub(super) async fn protect_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let namespace = claim.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.protection.clone(), &namespace);
        let held = claim.finalizers().iter().any(|one| one == CLAIM);
        match (claim.metadata.deletion_timestamp.is_some(), held) {
            (false, false) => add(&api, claim, CLAIM, "persistentvolumeclaim").await,
            (true, true) if !self.is_used(&namespace, &claim.name_any()).await? => {
                remove(&api, claim, CLAIM, "persistentvolumeclaim").await
            }
            _ => Ok(()),
        }
    }

    /// By the cache, and where it says no by the API: the cache may be behind.
    async fn is_used(&self, namespace: &str, claim: &str) -> Result<bool, Error> {
        let uses = |pod: &Pod| {
            let status = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let over = matches!(status, Some("Succeeded" | "Failed"));
            // No node starts a pod that comes with a claim that is going away.
            let placed = pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()));
            placed && !over && binding::claims_of(pod).iter().any(|one| one == claim)
        };
        if self.shared.pods.in_namespace(namespace).iter().any(|pod| uses(pod)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.protection.clone(), namespace);
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(failed("listing pods for", "persistentvolumeclaim", claim))?;
        Ok(listed.items.iter().any(uses))
    }

    pub(super) async fn protect_volume(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let client: Client = self.protection.clone();
        let api: Api<PersistentVolume> = Api::all(client);
        let held = volume.finalizers().iter().any(|one| one == VOLUME);
        match (volume.metadata.deletion_timestamp.is_some(), held) {
            (false, false) => add(&api, volume, VOLUME, "persistentvolume").await,
            (true, true) if binding::phase_of_volume(volume) != "Bound" => {
                remove(&api, volume, VOLUME, "persistentvolume").await
            }
            _ => Ok(()),
        }
    }
}

async fn add<K>(api: &Api<K>, object: &K, finalizer: &str, kind: &'static str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut all = object.finalizers().to_vec();
    all.push(finalizer.to_owned());
    write(api, object, &all, kind).await
}

async fn remove<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    kind: &'static str,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut all = object.finalizers().to_vec();
    all.retain(|one| one != finalizer);
    write(api, object, &all, kind).await
}

async fn write<K>(
    api: &Api<K>,
    object: &K,
    finalizers: &[String],
    kind: &'static str,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let patch = Patch::Merge(json!({ "metadata": {
        "uid": object.uid(),
        // The list is replaced as a whole, so it must be the one that was read.
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    } }));
    let patched = api.patch(&object.name_any(), &PatchParams::default(), &patch).await;
    gone_is_fine(patched).map_err(failed("updating", kind, object.name_any()))?;
    Ok(())
}
