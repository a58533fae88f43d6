//! The provisioner `atoll.dev/local`: volumes that are folders of a node.
//!
//! It makes the object; the agent of the node makes the folder when a pod first mounts it, and
//! from then on holds the object by a finalizer until it has removed the folder. Sizes are
//! written down and not enforced: a folder can fill the node's disk.

use std::sync::Arc;

use atoll_informer::{EventType, Key, Outcome};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Volumes, binding};
use crate::error::{Error, failed, gone_is_fine, words};

/// The provisioner's name in classes.
pub(super) const PROVISIONER: &str = "atoll.dev/local";
/// Held by the agent of the node that has the folder.
const FOLDER_FINALIZER: &str = "atoll.dev/local-volume";
const HOSTNAME: &str = "kubernetes.io/hostname";

impl Volumes {
    /// Nobody's volume suits the claim: one is to be made, by us or by somebody else.
    pub(super) async fn provision(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        class_name: &str,
        class: Option<&StorageClass>,
    ) -> Result<Outcome, Error> {
        let Some(class) = class else {
            let text = format!("storageclass.storage.k8s.io {class_name:?} not found");
            self.say(claim, EventType::Warning, "ProvisioningFailed", text);
            return self.pending(claim).await;
        };
        let provisioner = class.provisioner.as_str();
        if provisioner == "kubernetes.io/no-provisioner" {
            let text = "no persistent volumes available for this claim; its class makes none";
            self.say(claim, EventType::Normal, "FailedBinding", text.to_owned());
            return self.pending(claim).await;
        }
        if binding::annotation(claim.as_ref(), binding::PROVISIONER) != Some(provisioner) {
            let annotations = json!({ binding::PROVISIONER: provisioner, binding::PROVISIONER_BETA: provisioner });
            let metadata = json!({ "uid": claim.metadata.uid, "annotations": annotations });
            self.patch_claim(claim, json!({ "metadata": metadata })).await?;
        }
        if provisioner == PROVISIONER {
            return self.provision_local(claim, class).await;
        }
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner \
             '{provisioner}' or manually by the system administrator. If volume creation is \
             delayed, please verify that the provisioner is running and correctly registered."
        );
        self.say(claim, EventType::Normal, "ExternalProvisioning", text);
        self.pending(claim).await
    }

    async fn provision_local(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        class: &StorageClass,
    ) -> Result<Outcome, Error> {
        if let Some(why) = unsupported(claim, class) {
            let text = format!(
                "failed to provision volume with StorageClass {:?}: {why}",
                class.name_any()
            );
            self.say(claim, EventType::Warning, "ProvisioningFailed", text);
            return self.pending(claim).await;
        }
        let selected = binding::annotation(claim.as_ref(), binding::SELECTED_NODE);
        let node = match selected {
            Some(name) => self.shared.nodes.get(&Key::new("", name)),
            None => self.emptiest_node(class),
        };
        let Some(node) = node else {
            return self.without_node(claim, selected).await;
        };
        let volume = object(claim, class, &node);
        let name = volume["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let Ok(volume) = serde_json::from_value::<PersistentVolume>(volume) else {
            return self.pending(claim).await;
        };
        let api: Api<PersistentVolume> = Api::all(self.local.clone());
        match api.create(&PostParams::default(), &volume).await {
            Ok(_) => {
                let text = format!("Successfully provisioned volume {name}");
                self.say(claim, EventType::Normal, "ProvisioningSucceeded", text);
                Ok(Outcome::Done)
            }
            // Made before; its watch brings us on.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Done),
            Err(error) => {
                let text = format!(
                    "failed to provision volume with StorageClass {:?}: {}",
                    class.name_any(),
                    words(&error)
                );
                self.say(claim, EventType::Warning, "ProvisioningFailed", text);
                Err(failed("creating", "persistentvolume", name)(error))
            }
        }
    }

    /// The node that the scheduler chose is gone: it chooses anew.
    async fn without_node(
        &self,
        claim: &PersistentVolumeClaim,
        selected: Option<&str>,
    ) -> Result<Outcome, Error> {
        if selected.is_some() {
            let metadata = json!({
                "uid": claim.metadata.uid, "annotations": { binding::SELECTED_NODE: null },
            });
            self.patch_claim(claim, json!({ "metadata": metadata })).await?;
            return Ok(Outcome::Done);
        }
        let text = "no node is ready to have the volume".to_owned();
        self.say(claim, EventType::Warning, "ProvisioningFailed", text);
        self.pending(claim).await
    }

    /// The ready node with the fewest local volumes that the class allows.
    fn emptiest_node(&self, class: &StorageClass) -> Option<Arc<Node>> {
        let volumes = self.volumes.list();
        let held = |node: &Node| {
            let name = node.name_any();
            volumes.iter().filter(|volume| binding::only_node(volume) == Some(&name)).count()
        };
        let nodes = self.shared.nodes.list();
        let usable = nodes.into_iter().filter(|node| is_usable(node) && allows(class, node));
        usable.min_by_key(|node| (held(node), node.name_any()))
    }

    /// The node that has the folder, when its Node object is gone.
    fn lost_node<'a>(&self, volume: &'a PersistentVolume) -> Option<&'a str> {
        let ours = binding::annotation(volume, binding::PROVISIONED_BY) == Some(PROVISIONER);
        let node = binding::only_node(volume).filter(|_| ours)?;
        self.shared.nodes.get(&Key::new("", node)).is_none().then_some(node)
    }

    /// Nobody but its owner can say that the data of a claim is given up.
    pub(super) fn say_if_lost(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
        let Some(node) = self.lost_node(volume) else { return };
        let text = format!(
            "volume {} is a folder of node {node}, which was deleted: pods that use it wait until \
             a node of that name is back. If it does not come back, its data is lost; delete the \
             claim, and pods that wait for it, to begin with an empty volume",
            volume.name_any()
        );
        self.say(claim, EventType::Warning, "VolumeNodeDeleted", text);
    }

    /// A folder on a node that is gone is gone with it: its volume waits for nobody.
    pub(super) async fn let_go_without_node(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let held = volume.finalizers().iter().any(|one| one == FOLDER_FINALIZER);
        let going = volume.metadata.deletion_timestamp.is_some();
        if !held || !going || self.lost_node(volume).is_none() {
            return Ok(());
        }
        let left: Vec<&String> =
            volume.finalizers().iter().filter(|one| *one != FOLDER_FINALIZER).collect();
        let patch = json!({ "metadata": {
            "uid": volume.metadata.uid,
            "resourceVersion": volume.metadata.resource_version,
            "finalizers": left,
        } });
        let name = volume.name_any();
        let api: Api<PersistentVolume> = Api::all(self.local.clone());
        let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_fine(patched).map_err(failed("releasing", "persistentvolume", name))?;
        Ok(())
    }
}

/// What a folder of a node cannot be.
fn unsupported(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("it makes folders, not block devices: volumeMode must be Filesystem".into());
    }
    let shared = |mode: &&String| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany");
    if let Some(mode) = spec.access_modes.iter().flatten().find(shared) {
        return Some(format!(
            "a folder is on one node: accessModes has {mode}, use ReadWriteOnce or ReadWriteOncePod"
        ));
    }
    if spec.selector.is_some() {
        return Some("claim.Spec.Selector is not supported".into());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("volumes are made empty: dataSource is not supported".into());
    }
    let parameter = class.parameters.iter().flatten().next()?;
    Some(format!("the class has a parameter that is not known: {}", parameter.0))
}

fn is_usable(node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
    ready && !cordoned && node.metadata.deletion_timestamp.is_none()
}

/// `allowedTopologies`: any of the terms, all of its expressions.
fn allows(class: &StorageClass, node: &Node) -> bool {
    let Some(terms) = class.allowed_topologies.as_ref().filter(|terms| !terms.is_empty()) else {
        return true;
    };
    terms.iter().any(|term| {
        term.match_label_expressions
            .iter()
            .flatten()
            .all(|one| node.labels().get(&one.key).is_some_and(|value| one.values.contains(value)))
    })
}

fn object(claim: &PersistentVolumeClaim, class: &StorageClass, node: &Node) -> Value {
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let spec = claim.spec.as_ref();
    let requests = spec.and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let size = requests.and_then(|requests| requests.get("storage").cloned());
    let hostname = node.labels().get(HOSTNAME).cloned().unwrap_or_else(|| node.name_any());
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": { binding::PROVISIONED_BY: PROVISIONER } },
        "spec": {
            "capacity": { "storage": size },
            "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name_any(),
            "mountOptions": class.mount_options,
            "claimRef": binding::reference(claim),
            // Below the node's own folder, wherever that is.
            "local": { "path": format!("/volumes/{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": HOSTNAME, "operator": "In", "values": [hostname] },
            ] }] } },
        },
    })
}
