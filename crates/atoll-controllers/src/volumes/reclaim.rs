//! A volume and the claim that has it, and what becomes of it without one.

use std::sync::Arc;

use atoll_informer::{EventType, Key, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{Volumes, binding, local};
use crate::error::{Error, failed, gone_is_fine};

impl Volumes {
    fn all_volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.binder.clone())
    }

    pub(super) async fn sync_volume(
        &self,
        volume: &Arc<PersistentVolume>,
    ) -> Result<Outcome, Error> {
        self.let_go_without_node(volume).await?;
        let Some(reference) = binding::claim_ref(volume) else {
            return self.phase(volume, "Available", None).await;
        };
        let uid = reference.uid.as_deref().unwrap_or_default();
        if uid.is_empty() {
            // Reserved for a claim that is still to come, or about to bind.
            return self.phase(volume, "Available", None).await;
        }
        let Some(key) = binding::claim_key(volume) else { return Ok(Outcome::Done) };
        match self.find_claim(&key, uid).await? {
            None => self.released(volume).await,
            Some(claim) if binding::volume_name(&claim) == Some(volume.name_any().as_str()) => {
                self.say_if_lost(volume, &claim);
                self.phase(volume, "Bound", None).await
            }
            // The claim is about to bind.
            Some(claim) if binding::volume_name(&claim).is_none() => self.bind_claim(&claim).await,
            Some(_) => self.taken_elsewhere(volume).await,
        }
    }

    /// The claim with this uid. The cache may be behind that of volumes, so the API has the
    /// last word before a volume counts as released.
    async fn find_claim(
        &self,
        key: &Key,
        uid: &str,
    ) -> Result<Option<Arc<PersistentVolumeClaim>>, Error> {
        let same = |claim: &PersistentVolumeClaim| claim.metadata.uid.as_deref() == Some(uid);
        if let Some(claim) = self.claims.get(key).filter(|claim| same(claim)) {
            return Ok(Some(claim));
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.binder.clone(), &key.namespace);
        let found = api.get_opt(&key.name).await;
        let found = found.map_err(failed("reading", "persistentvolumeclaim", key.to_string()))?;
        Ok(found.filter(same).map(Arc::new))
    }

    /// The claim has another volume: one that was made for it in vain goes, one that the binder
    /// chose is free again.
    async fn taken_elsewhere(&self, volume: &PersistentVolume) -> Result<Outcome, Error> {
        let dynamic = binding::annotation(volume, binding::PROVISIONED_BY).is_some();
        if dynamic && policy(volume) == "Delete" {
            return self.released(volume).await;
        }
        let chosen = binding::annotation(volume, binding::BOUND_BY_CONTROLLER).is_some();
        let reference = if chosen { json!(null) } else { json!({ "uid": null }) };
        let patch = json!({
            "metadata": {
                "uid": volume.metadata.uid,
                "resourceVersion": volume.metadata.resource_version,
                "annotations": { binding::BOUND_BY_CONTROLLER: null },
            },
            "spec": { "claimRef": reference },
        });
        let name = volume.name_any();
        let params = PatchParams::default();
        let patched = self.all_volumes().patch(&name, &params, &Patch::Merge(patch)).await;
        patched.map_err(failed("releasing", "persistentvolume", name))?;
        Ok(Outcome::Done)
    }

    async fn released(&self, volume: &PersistentVolume) -> Result<Outcome, Error> {
        let phase = binding::phase_of_volume(volume);
        if !matches!(phase, "Released" | "Failed") {
            self.phase(volume, "Released", None).await?;
        }
        if policy(volume) != "Delete" || volume.metadata.deletion_timestamp.is_some() {
            if policy(volume) == "Recycle" && phase != "Failed" {
                let text = "volumes are not recycled; make it Retain or Delete, or delete it";
                return self.fail(volume, "VolumeFailedRecycle", text).await;
            }
            return Ok(Outcome::Done);
        }
        match binding::annotation(volume, binding::PROVISIONED_BY) {
            Some(local::PROVISIONER) => self.delete_volume(volume).await,
            // Its own provisioner does that.
            Some(_) => Ok(Outcome::Done),
            None if phase == "Failed" => Ok(Outcome::Done),
            None => {
                let text = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume \
                     plugin matched",
                    volume.name_any()
                );
                self.fail(volume, "VolumeFailedDelete", &text).await
            }
        }
    }

    async fn fail(
        &self,
        volume: &PersistentVolume,
        reason: &str,
        text: &str,
    ) -> Result<Outcome, Error> {
        self.recorder.record(volume, EventType::Warning, reason, text.to_owned(), None);
        self.phase(volume, "Failed", Some(text)).await
    }

    /// The finalizer of the node that has the folder, if it has one, holds the object until the
    /// folder is gone.
    async fn delete_volume(&self, volume: &PersistentVolume) -> Result<Outcome, Error> {
        let name = volume.name_any();
        let preconditions =
            Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
        let api: Api<PersistentVolume> = Api::all(self.local.clone());
        let deleted = gone_is_fine(api.delete(&name, &params).await);
        deleted.map_err(failed("deleting", "persistentvolume", name))?;
        Ok(Outcome::Done)
    }

    async fn phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> Result<Outcome, Error> {
        if binding::phase_of_volume(volume) == phase {
            return Ok(Outcome::Done);
        }
        let patch = Patch::Merge(json!({
            "metadata": { "uid": volume.metadata.uid },
            "status": { "phase": phase, "message": message },
        }));
        let name = volume.name_any();
        let patched = self.all_volumes().patch_status(&name, &PatchParams::default(), &patch).await;
        patched.map_err(failed("updating", "persistentvolume", name))?;
        Ok(Outcome::Done)
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}
