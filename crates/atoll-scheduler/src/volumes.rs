//! Volumes: a pod goes where its volumes can be used, and a claim that waits for its first pod
//! gets its volume where the pod goes.
//!
//! [`Volumes::needs`] reads what the pod's claims ask of a node, [`Needs::refusal`] says whether
//! a node gives it, and [`Volumes::prepare`] has claims bound before the pod is. Rules and texts
//! are those of kube-scheduler's VolumeBinding and VolumeRestrictions.

use std::{sync::Arc, time::Duration};

use atoll_informer::{Change, Informer, Key};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::NodeState,
    filter::{Refusal, never, taken},
    selector::{self, Labels},
};

/// Where the scheduler wants the claim's pod to run.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// How long a pod's place is kept while its claims are bound; then it is decided anew.
const BIND_PATIENCE: Duration = Duration::from_secs(30);

const UNBOUND: &str = "pod has unbound immediate PersistentVolumeClaims";
const WRONG_NODE: &str = "node(s) didn't match PersistentVolume's node affinity";
const NO_VOLUME: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const TAKEN: &str = "node has pod using PersistentVolumeClaim with the same name and \
                     ReadWriteOncePod access mode";

/// Claims, volumes and classes, as watched.
pub(crate) struct Volumes {
    client: Client,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    /// Woken by every change of a claim.
    bound: Arc<Notify>,
}

/// What the claims of one pod ask of its node.
#[derive(Default)]
pub(crate) struct Needs {
    /// Volumes that the pod has; `None` for one that is not there.
    held: Vec<Option<Arc<PersistentVolume>>>,
    /// Claims that wait for the pod, each with its class and the free volumes that suit it.
    waiting: Vec<Waiting>,
    /// Claims that one pod alone may use.
    alone: Vec<Key>,
}

struct Waiting {
    claim: Arc<PersistentVolumeClaim>,
    class: Arc<StorageClass>,
    free: Vec<Arc<PersistentVolume>>,
}

impl Volumes {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            claims: Informer::new(),
            volumes: Informer::new(),
            classes: Informer::new(),
            bound: Arc::new(Notify::new()),
        }
    }

    /// `changed` is called when a pod with claims may have become schedulable.
    pub(crate) fn start(
        &self,
        changed: impl Fn() + Clone + Send + Sync + 'static,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let (on_claim, bound) = (changed.clone(), self.bound.clone());
        self.claims.on_change(move |_: &Change<'_, PersistentVolumeClaim>| {
            bound.notify_waiters();
            on_claim();
        });
        let on_volume = changed.clone();
        self.volumes.on_change(move |_: &Change<'_, PersistentVolume>| on_volume());
        self.classes.on_change(move |_: &Change<'_, StorageClass>| changed());
        let (client, all) = (&self.client, watcher::Config::default);
        tasks.spawn(self.claims.clone().run(Api::all(client.clone()), all(), stop.clone()));
        tasks.spawn(self.volumes.clone().run(Api::all(client.clone()), all(), stop.clone()));
        tasks.spawn(self.classes.clone().run(Api::all(client.clone()), all(), stop.clone()));
    }

    pub(crate) async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    /// What the pod needs, or why no node can help.
    pub(crate) fn needs(&self, pod: &Pod) -> Result<Needs, String> {
        let mut needs = Needs::default();
        let namespace = pod.namespace().unwrap_or_default();
        for (name, owned) in claims_of(pod) {
            let key = Key::new(namespace.clone(), name);
            let claim = self.claim(pod, &key, owned)?;
            if only_one_pod(&claim) {
                needs.alone.push(key);
            }
            match volume_name(&claim) {
                Some(volume) => needs.held.push(self.volumes.get(&Key::new("", volume))),
                None => needs.waiting.push(self.waiting(&claim)?),
            }
        }
        Ok(needs)
    }

    fn claim(
        &self,
        pod: &Pod,
        key: &Key,
        owned: bool,
    ) -> Result<Arc<PersistentVolumeClaim>, String> {
        let name = &key.name;
        let Some(claim) = self.claims.get(key) else {
            return Err(if owned {
                format!(
                    "waiting for ephemeral volume controller to create the \
                     persistentvolumeclaim {name:?}"
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            });
        };
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Lost") {
            let volume = volume_name(&claim).unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let mut owners = claim.owner_references().iter();
        if owned && !owners.any(|one| Some(&one.uid) == pod.metadata.uid.as_ref()) {
            let namespace = &key.namespace;
            return Err(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{} (pod is not owner)",
                pod.name_any()
            ));
        }
        Ok(claim)
    }

    fn waiting(&self, claim: &Arc<PersistentVolumeClaim>) -> Result<Waiting, String> {
        let name = class_of(claim).unwrap_or_default();
        let class = self.classes.get(&Key::new("", name));
        let waits = |class: &&Arc<StorageClass>| {
            class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
        };
        let Some(class) = class.as_ref().filter(waits) else { return Err(UNBOUND.to_owned()) };
        let suits = |volume: &Arc<PersistentVolume>| suits(volume, claim, name);
        let free = self.volumes.list().into_iter().filter(suits).collect();
        Ok(Waiting { claim: claim.clone(), class: class.clone(), free })
    }

    /// Has the pod's waiting claims bound to volumes of the node; returns when they are, or why
    /// they are not.
    pub(crate) async fn prepare(&self, pod: &Pod, node: &Node) -> Result<(), String> {
        let needs = self.needs(pod)?;
        if needs.waiting.is_empty() {
            return Ok(());
        }
        let mut used = Vec::new();
        for waiting in &needs.waiting {
            let volume = waiting.on(node, &used).cloned();
            if let Some(volume) = &volume {
                used.push(volume.name_any());
            }
            self.assign(waiting, volume.as_deref(), node).await.map_err(|error| {
                format!("running PreBind plugin \"VolumeBinding\": binding volumes: {error}")
            })?;
        }
        let keys: Vec<Key> = needs.waiting.iter().map(|one| Key::of(one.claim.as_ref())).collect();
        let all_bound = async {
            loop {
                let woken = self.bound.notified();
                tokio::pin!(woken);
                woken.as_mut().enable();
                if keys.iter().all(|key| self.is_bound(key)) {
                    return;
                }
                woken.await;
            }
        };
        tokio::time::timeout(BIND_PATIENCE, all_bound).await.map_err(|_late| {
            "running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded"
                .to_owned()
        })
    }

    fn is_bound(&self, key: &Key) -> bool {
        self.claims.get(key).is_some_and(|claim| {
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
            phase == Some("Bound") && volume_name(&claim).is_some()
        })
    }

    /// A free volume is reserved for the claim; without one the provisioner is told the node.
    async fn assign(
        &self,
        waiting: &Waiting,
        volume: Option<&PersistentVolume>,
        node: &Node,
    ) -> Result<(), kube::Error> {
        let claim = &waiting.claim;
        let params = PatchParams::default();
        if let Some(volume) = volume {
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            let patch = json!({
                "metadata": {
                    "uid": volume.metadata.uid,
                    // Nobody else may have taken it meanwhile.
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": { "pv.kubernetes.io/bound-by-controller": "yes" },
                },
                "spec": { "claimRef": {
                    "kind": "PersistentVolumeClaim", "apiVersion": "v1",
                    "namespace": claim.metadata.namespace, "name": claim.metadata.name,
                    "uid": claim.metadata.uid,
                } },
            });
            return api.patch(&volume.name_any(), &params, &Patch::Merge(patch)).await.map(drop);
        }
        let namespace = claim.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({ "metadata": {
            "uid": claim.metadata.uid, "annotations": { SELECTED_NODE: node.name_any() },
        } });
        api.patch(&claim.name_any(), &params, &Patch::Merge(patch)).await.map(drop)
    }
}

impl Waiting {
    /// The smallest free volume that the node reaches and that is not among `used`.
    fn on(&self, node: &Node, used: &[String]) -> Option<&Arc<PersistentVolume>> {
        let open = self.free.iter().filter(|volume| {
            !used.contains(&volume.name_any()) && reaches(volume, node.labels(), &node.name_any())
        });
        open.min_by_key(|volume| (capacity(volume), volume.name_any()))
    }

    fn can_be_made(&self, node: &Node) -> bool {
        if self.class.provisioner == NO_PROVISIONER {
            return false;
        }
        // A choice that was made before stands until the provisioner gives it back.
        let chosen = self.claim.annotations().get(SELECTED_NODE);
        if chosen.is_some_and(|chosen| *chosen != node.name_any()) {
            return false;
        }
        let Some(terms) = self.class.allowed_topologies.as_ref().filter(|all| !all.is_empty())
        else {
            return true;
        };
        terms.iter().any(|term| {
            term.match_label_expressions.iter().flatten().all(|one| {
                node.labels().get(&one.key).is_some_and(|value| one.values.contains(value))
            })
        })
    }
}

impl Needs {
    /// Why the node cannot have the pod.
    pub(crate) fn refusal(&self, node: &NodeState) -> Option<Refusal> {
        for volume in &self.held {
            let Some(volume) = volume else { return never(NO_VOLUME) };
            if !reaches(volume, node.node.labels(), &node.node.name_any()) {
                return never(WRONG_NODE);
            }
        }
        let mut used = Vec::new();
        for waiting in &self.waiting {
            match waiting.on(&node.node, &used) {
                Some(volume) => used.push(volume.name_any()),
                None if waiting.can_be_made(&node.node) => {}
                None => return never(NONE_TO_BIND),
            }
        }
        None
    }

    /// A claim for one pod alone that another pod has, wherever that stands.
    pub(crate) fn is_taken(&self, pod: &Pod, nodes: &[&NodeState]) -> Option<Refusal> {
        let uses = |other: &Arc<Pod>, key: &Key| {
            other.namespace().as_deref() == Some(key.namespace.as_str())
                && other.metadata.uid != pod.metadata.uid
                && claims_of(other).iter().any(|(name, _)| *name == key.name)
        };
        let others = || nodes.iter().flat_map(|node| node.pods.values());
        let held = self.alone.iter().any(|key| others().any(|other| uses(other, key)));
        if held { taken(TAKEN) } else { None }
    }
}

/// Whether the pod has claims at all.
pub(crate) fn has_claims(pod: &Pod) -> bool {
    !claims_of(pod).is_empty()
}

/// The pod's claims, and whether each is the pod's own.
fn claims_of(pod: &Pod) -> Vec<(String, bool)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some((source.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{}-{}", pod.name_any(), volume.name), true)),
            (None, None) => None,
        })
        .collect()
}

fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let old = claim.annotations().get(CLASS).map(String::as_str);
    old.or_else(|| claim.spec.as_ref()?.storage_class_name.as_deref())
}

fn only_one_pod(claim: &PersistentVolumeClaim) -> bool {
    let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
    modes.into_iter().any(|mode| mode == "ReadWriteOncePod")
}

/// Whether a free volume could be the claim's, on some node.
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim, class: &str) -> bool {
    let (Some(spec), Some(wanted)) = (volume.spec.as_ref(), claim.spec.as_ref()) else {
        return false;
    };
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    let mode = |stated: &Option<String>| stated.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let offered = spec.access_modes.as_deref().unwrap_or_default();
    let modes = wanted.access_modes.iter().flatten().all(|mode| offered.contains(mode));
    let old = volume.annotations().get(CLASS).map(String::as_str);
    let own = old.or(spec.storage_class_name.as_deref()).unwrap_or_default();
    phase == Some("Available")
        && spec.claim_ref.is_none()
        && volume.metadata.deletion_timestamp.is_none()
        && own == class
        && mode(&spec.volume_mode) == mode(&wanted.volume_mode)
        && modes
        && capacity(volume) >= asked(claim)
        && (wanted.selector.is_none()
            || selector::label_selector(wanted.selector.as_ref(), volume.labels()))
}

fn size(amount: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> i128 {
    let parsed = amount.and_then(|amount| atoll_api::quantity::Quantity::parse(&amount.0).ok());
    parsed.map_or(0, |size| size.nanos())
}

fn capacity(volume: &PersistentVolume) -> i128 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    size(capacity.and_then(|capacity| capacity.get("storage")))
}

fn asked(claim: &PersistentVolumeClaim) -> i128 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    size(requests.and_then(|requests| requests.get("storage")))
}

/// Whether the volume can be used on a node with these labels.
fn reaches(volume: &PersistentVolume, labels: &Labels, node: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity.and_then(|affinity| affinity.required.as_ref()).is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| selector::node_term(term, labels, node))
    })
}

/// The sentence for a pod that no node can help.
pub(crate) fn sentence(nodes: usize, why: &str) -> String {
    let preemption = if nodes == 0 {
        "no nodes available".to_owned()
    } else {
        format!("{nodes} Preemption is not helpful for scheduling")
    };
    format!(
        "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: \
         {preemption}."
    )
}

#[cfg(test)]
mod tests;
