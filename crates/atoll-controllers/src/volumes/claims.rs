//! A claim and the volume that it gets.

use std::sync::Arc;

use atoll_informer::{EventType, Key, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Volumes, binding, matching};
use crate::error::{Error, failed};

type Claim = PersistentVolumeClaim;

impl Volumes {
    pub(super) fn claim_api(&self, claim: &Claim) -> Api<Claim> {
        Api::namespaced(self.binder.clone(), &claim.namespace().unwrap_or_default())
    }

    fn volume_api(&self) -> Api<PersistentVolume> {
        Api::all(self.binder.clone())
    }

    pub(super) fn say(&self, claim: &Claim, kind: EventType, reason: &str, text: String) {
        self.recorder.record(claim, kind, reason, text, None);
    }

    pub(super) async fn bind_claim(&self, claim: &Arc<Claim>) -> Result<Outcome, Error> {
        if binding::annotation(claim.as_ref(), binding::BIND_COMPLETED).is_some() {
            return self.check_bound(claim).await;
        }
        match binding::volume_name(claim) {
            Some(name) => self.bind_named(claim, name).await,
            None => self.find_volume(claim).await,
        }
    }

    /// A claim that was bound before: it keeps its volume, or has lost it.
    async fn check_bound(&self, claim: &Arc<Claim>) -> Result<Outcome, Error> {
        let Some(name) = binding::volume_name(claim) else {
            let text =
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return self.lose(claim, "ClaimLost", text).await;
        };
        let Some(volume) = self.volumes.get(&Key::new("", name)) else {
            let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return self.lose(claim, "ClaimLost", text).await;
        };
        if binding::claim_ref(&volume).is_none() || binding::names(&volume, claim) {
            return self.bind(claim, &volume).await;
        }
        let text = "Two claims are bound to the same volume, this one is bound incorrectly";
        self.lose(claim, "ClaimMisbound", text).await
    }

    async fn lose(&self, claim: &Claim, reason: &str, text: &str) -> Result<Outcome, Error> {
        if binding::phase_of_claim(claim) != "Lost" {
            let status = json!({ "phase": "Lost", "accessModes": null, "capacity": null });
            self.write_status(claim, status).await?;
            self.say(claim, EventType::Warning, reason, text.to_owned());
        }
        Ok(Outcome::Done)
    }

    async fn bind_named(&self, claim: &Arc<Claim>, name: &str) -> Result<Outcome, Error> {
        let Some(volume) = self.volumes.get(&Key::new("", name)) else {
            return self.pending(claim).await;
        };
        if binding::claim_ref(&volume).is_none() {
            if let Some(why) = matching::misfit(&volume, claim) {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                self.say(claim, EventType::Warning, "VolumeMismatch", text);
                return self.pending(claim).await;
            }
            return self.bind(claim, &volume).await;
        }
        if binding::names(&volume, claim) {
            return self.bind(claim, &volume).await;
        }
        let text = format!("volume {name:?} already bound to a different claim.");
        self.say(claim, EventType::Warning, "FailedBinding", text);
        self.pending(claim).await
    }

    async fn find_volume(&self, claim: &Arc<Claim>) -> Result<Outcome, Error> {
        if binding::class_of_claim(claim).is_none() && self.give_default_class(claim).await? {
            return Ok(Outcome::Done);
        }
        let name = binding::class_of_claim(claim).unwrap_or_default();
        let class = self.classes.get(&Key::new("", name));
        let selected = binding::annotation(claim.as_ref(), binding::SELECTED_NODE);
        let waits = matching::waits(class.as_deref());
        let uid = claim.uid().unwrap_or_default();
        let chosen = self
            .promised
            .choose(&uid, self.volumes.list(), |open| matching::best(claim, open, waits).cloned());
        if let Some(volume) = chosen {
            return self.bind(claim, &volume).await;
        }
        if waits && selected.is_none() {
            self.say_waiting(claim);
        } else if !name.is_empty() {
            return self.provision(claim, name, class.as_deref()).await;
        } else {
            let text = "no persistent volumes available for this claim and no storage class is set";
            self.say(claim, EventType::Normal, "FailedBinding", text.to_owned());
        }
        self.pending(claim).await
    }

    /// Claims that were made before there was a default class get it as soon as there is one.
    async fn give_default_class(&self, claim: &Claim) -> Result<bool, Error> {
        let Some(class) = matching::default_class(&self.classes.list()) else { return Ok(false) };
        let patch = json!({
            "metadata": { "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version },
            "spec": { "storageClassName": class },
        });
        self.patch_claim(claim, patch).await?;
        Ok(true)
    }

    fn say_waiting(&self, claim: &Claim) {
        let name = claim.name_any();
        let namespace = claim.namespace().unwrap_or_default();
        let pods = self.shared.pods.in_namespace(&namespace);
        let user = pods.iter().find(|pod| binding::claims_of(pod).contains(&name));
        let (reason, text) = match user {
            Some(pod) => (
                "WaitForPodScheduled",
                format!("waiting for pod {} to be scheduled", pod.name_any()),
            ),
            None => (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding".to_owned(),
            ),
        };
        self.say(claim, EventType::Normal, reason, text);
    }

    pub(super) async fn pending(&self, claim: &Claim) -> Result<Outcome, Error> {
        if !matches!(binding::phase_of_claim(claim), "Pending" | "") {
            self.write_status(claim, json!({ "phase": "Pending" })).await?;
        }
        Ok(Outcome::Done)
    }

    /// Makes both sides name each other, the volume first: a volume names one claim only, so
    /// the claim that comes second sees it.
    pub(super) async fn bind(
        &self,
        claim: &Arc<Claim>,
        volume: &PersistentVolume,
    ) -> Result<Outcome, Error> {
        let bound = self.bind_volume(volume, claim).await?;
        if binding::phase_of_volume(&bound) != "Bound" {
            let patch = Patch::Merge(json!({
                "metadata": { "uid": bound.metadata.uid },
                "status": { "phase": "Bound", "message": null, "reason": null },
            }));
            let name = bound.name_any();
            let patched =
                self.volume_api().patch_status(&name, &PatchParams::default(), &patch).await;
            patched.map_err(failed("binding", "persistentvolume", name))?;
        }
        self.bind_side_of_claim(claim, &bound).await?;
        Ok(Outcome::Done)
    }

    async fn bind_volume(
        &self,
        volume: &PersistentVolume,
        claim: &Claim,
    ) -> Result<PersistentVolume, Error> {
        let known = binding::claim_ref(volume);
        if known.and_then(|known| known.uid.as_ref()).is_some() {
            return Ok(volume.clone());
        }
        let mut metadata = json!({
            "uid": volume.metadata.uid,
            // Somebody else may be giving it away at the same time.
            "resourceVersion": volume.metadata.resource_version,
        });
        if known.is_none() {
            metadata["annotations"] = json!({ binding::BOUND_BY_CONTROLLER: "yes" });
        }
        let patch = json!({
            "metadata": metadata,
            "spec": { "claimRef": binding::reference(claim) },
        });
        let name = volume.name_any();
        let patched =
            self.volume_api().patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map_err(failed("binding", "persistentvolume", name))
    }

    async fn bind_side_of_claim(
        &self,
        claim: &Claim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let marked = binding::annotation(claim, binding::BIND_COMPLETED).is_some();
        if !marked || binding::volume_name(claim).is_none() {
            let mut annotations = json!({ binding::BIND_COMPLETED: "yes" });
            if binding::volume_name(claim).is_none() {
                annotations[binding::BOUND_BY_CONTROLLER] = json!("yes");
            }
            let patch = json!({
                "metadata": { "uid": claim.metadata.uid, "annotations": annotations },
                "spec": { "volumeName": volume.name_any() },
            });
            self.patch_claim(claim, patch).await?;
        }
        let spec = volume.spec.as_ref();
        let status = json!({
            "phase": "Bound",
            "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
            "capacity": spec.and_then(|spec| spec.capacity.clone()),
        });
        let known = claim.status.as_ref();
        let same = binding::phase_of_claim(claim) == "Bound"
            && known.map(|known| (json!(known.access_modes), known.capacity.is_some()))
                == Some((status["accessModes"].clone(), true));
        if !same {
            self.write_status(claim, status).await?;
        }
        Ok(())
    }

    pub(super) async fn patch_claim(
        &self,
        claim: &Claim,
        patch: serde_json::Value,
    ) -> Result<(), Error> {
        let name = claim.name_any();
        let patched =
            self.claim_api(claim).patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        patched.map(drop).map_err(failed("updating", "persistentvolumeclaim", name))
    }

    async fn write_status(&self, claim: &Claim, status: serde_json::Value) -> Result<(), Error> {
        let name = claim.name_any();
        let patch =
            Patch::Merge(json!({ "metadata": { "uid": claim.metadata.uid }, "status": status }));
        let patched =
            self.claim_api(claim).patch_status(&name, &PatchParams::default(), &patch).await;
        patched.map(drop).map_err(failed("updating", "persistentvolumeclaim", name))
    }
}
