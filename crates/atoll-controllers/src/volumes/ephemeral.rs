//! The claims of volumes that live as long as their pod.

use atoll_informer::{EventType, Key, Outcome};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, PostParams},
};

use super::Volumes;
use crate::{
    error::{Error, failed, words},
    shared::controller_of,
};

impl Volumes {
    pub(super) async fn claims_for_pod(&self, pod: &Pod) -> Result<Outcome, Error> {
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if volume.ephemeral.is_some() {
                self.ensure_claim(pod, volume).await?;
            }
        }
        Ok(Outcome::Done)
    }

    async fn ensure_claim(&self, pod: &Pod, volume: &Volume) -> Result<(), Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let name = format!("{}-{}", pod.name_any(), volume.name);
        if let Some(claim) = self.claims.get(&Key::new(namespace.clone(), name.clone())) {
            let owned = controller_of(claim.as_ref())
                .is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
            if !owned {
                let text = format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.name_any()
                );
                self.recorder.record(pod, EventType::Warning, "FailedBinding", text, None);
            }
            return Ok(());
        }
        let Some(claim) = claim(pod, volume, &namespace, &name) else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.ephemeral.clone(), &namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => {
                let text = format!(
                    "ephemeral volume {}: create PVC {name}: {}",
                    volume.name,
                    words(&error)
                );
                self.recorder.record(pod, EventType::Warning, "FailedBinding", text, None);
                Err(failed("creating", "persistentvolumeclaim", name)(error))
            }
        }
    }
}

fn claim(pod: &Pod, volume: &Volume, namespace: &str, name: &str) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let metadata = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name_any(),
        uid: pod.metadata.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}
