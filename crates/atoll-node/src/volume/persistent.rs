//! Claims of a pod: which volume each has, and what that is on this node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use super::folders::{Folders, PROVISIONED_BY, PROVISIONER};
use super::{Plan, VolumeError};

/// Fields of a volume that are not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// Adds to `known` the plans of those claims that are not in it. A claim's volume never changes,
/// so what is known needs no API.
pub async fn resolve(
    pod: &Pod,
    client: &Client,
    folders: &Arc<Folders>,
    node: &str,
    known: &mut BTreeMap<String, Plan>,
) -> Result<(), VolumeError> {
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(claim) = claim_of(pod, volume) else { continue };
        if known.contains_key(&volume.name) {
            continue;
        }
        let lookup = Lookup { pod, client, folders, node };
        let plan = lookup
            .plan(volume, &claim)
            .await
            .map_err(|reason| VolumeError { volume: volume.name.clone(), reason })?;
        known.insert(volume.name.clone(), plan);
    }
    Ok(())
}

/// The name of the claim behind a volume.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        (None, None) => None,
    }
}

struct Lookup<'a> {
    pod: &'a Pod,
    client: &'a Client,
    folders: &'a Arc<Folders>,
    node: &'a str,
}

impl Lookup<'_> {
    async fn plan(&self, volume: &Volume, name: &str) -> Result<Plan, String> {
        let namespace = self.pod.namespace().unwrap_or_default();
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let found = claims.get_opt(name).await.map_err(|error| error.to_string())?;
        let claim = found.ok_or_else(|| format!("persistentvolumeclaim {name:?} not found"))?;
        if volume.ephemeral.is_some() && !self.owns(&claim) {
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                self.pod.name_any()
            ));
        }
        let bound = bound_to(&claim)
            .ok_or_else(|| format!("error processing PVC {namespace}/{name}: PVC is not bound"))?;
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = volumes.get(bound).await.map_err(|error| error.to_string())?;
        let holder = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if holder.and_then(|holder| holder.uid.as_ref()) != claim.metadata.uid.as_ref() {
            return Err(format!("persistentvolume {bound:?} is bound to another claim"));
        }
        self.mount(&volume).await
    }

    fn owns(&self, claim: &PersistentVolumeClaim) -> bool {
        claim.owner_references().iter().any(|owner| {
            owner.controller == Some(true) && Some(&owner.uid) == self.pod.metadata.uid.as_ref()
        })
    }

    async fn mount(&self, volume: &PersistentVolume) -> Result<Plan, String> {
        let name = volume.name_any();
        let Some(spec) = volume.spec.as_ref() else { return Err("it has no spec".to_owned()) };
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err(
                "volumeMode Block is not supported on this node, only Filesystem".to_owned()
            );
        }
        if let Some(node) = only_node(volume).filter(|node| *node != self.node) {
            return Err(format!(
                "MountVolume.NodeAffinity check failed for volume {name:?}: it is on node {node}"
            ));
        }
        if volume.annotations().get(PROVISIONED_BY).map(String::as_str) == Some(PROVISIONER) {
            return Ok(self.folder(self.folders.ensure(volume).await?));
        }
        if let Some(local) = &spec.local {
            let path = std::path::PathBuf::from(&local.path);
            if !path.is_dir() {
                return Err(format!("path {:?} does not exist", local.path));
            }
            return Ok(self.folder(path));
        }
        if let Some(source) = &spec.host_path {
            let kind = source.type_.clone().unwrap_or_default();
            return Ok(Plan::HostPath { path: source.path.clone().into(), kind });
        }
        Err(format!("volumes of type {} are not supported on this node", source(volume)))
    }

    fn folder(&self, path: std::path::PathBuf) -> Plan {
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        Plan::Folder { path, only_on_mismatch: policy == Some("OnRootMismatch") }
    }
}

fn bound_to(claim: &PersistentVolumeClaim) -> Option<&str> {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    name.filter(|name| !name.is_empty() && phase == Some("Bound"))
}

/// The node that the volume's affinity names, where it names one by its host name.
fn only_node(volume: &PersistentVolume) -> Option<&str> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let [term] = affinity.required.as_ref()?.node_selector_terms.as_slice() else { return None };
    let mut expressions = term.match_expressions.iter().flatten();
    let one =
        expressions.find(|one| one.key == "kubernetes.io/hostname" && one.operator == "In")?;
    match one.values.as_deref()? {
        [name] => Some(name),
        _ => None,
    }
}

/// The name of the source's field.
fn source(volume: &PersistentVolume) -> String {
    let tree = serde_json::to_value(volume).unwrap_or_default();
    let fields = tree["spec"].as_object().into_iter().flatten();
    let mut sources = fields
        .filter(|(name, value): &(&String, &Value)| {
            !value.is_null() && !NOT_SOURCES.contains(&name.as_str())
        })
        .map(|(name, _)| name.clone());
    sources.next().unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse<K: serde::de::DeserializeOwned>(object: Value) -> K {
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_source_is_named() {
        let volume =
            parse(json!({"spec": {"capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem",
            "nfs": {"server": "s", "path": "/"}}}));
        assert_eq!(source(&volume), "nfs");
    }

    #[test]
    fn a_claim_counts_once_both_sides_agree() {
        let claim = |phase: &str, volume: &str| {
            parse::<PersistentVolumeClaim>(
                json!({"spec": {"volumeName": volume}, "status": {"phase": phase}}),
            )
        };
        assert_eq!(bound_to(&claim("Bound", "v")), Some("v"));
        assert_eq!(bound_to(&claim("Pending", "v")), None);
        assert_eq!(bound_to(&claim("Bound", "")), None);
    }

    #[test]
    fn a_pods_own_claim_is_named_after_both() {
        let pod: Pod = parse(json!({"metadata": {"name": "p"}}));
        let volume = |source: Value| {
            let mut volume = json!({"name": "v"});
            volume["ephemeral"] = source;
            parse::<Volume>(volume)
        };
        assert_eq!(claim_of(&pod, &volume(json!({}))).as_deref(), Some("p-v"));
    }
}
