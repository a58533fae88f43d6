//! Volumes: binds claims to them, makes and removes those that are folders of nodes, and lets
//! nothing go that is used.
//!
//! [`matching`] decides which volume suits a claim; [`claims`] and [`reclaim`] make both sides
//! agree; [`local`] is the provisioner `atoll.dev/local`; [`protection`] holds finalizers;
//! [`ephemeral`] makes the claims of pods' own volumes. The rules and texts are those of
//! kube-controller-manager.

mod binding;
mod claims;
mod ephemeral;
mod local;
mod matching;
mod protection;
mod reclaim;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use atoll_informer::{Change, Informer, Key, Outcome, Recorder, WorkQueue};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Error,
    launch::launch,
    shared::{ClientFor, MANAGER, Shared},
};

/// Objects of one kind worked on at once.
const WORKERS: usize = 4;

/// What all parts share.
struct Volumes {
    shared: Arc<Shared>,
    claims: Arc<Informer<PersistentVolumeClaim>>,
    volumes: Arc<Informer<PersistentVolume>>,
    classes: Arc<Informer<StorageClass>>,
    /// Volumes promised to a claim whose binding the cache does not show yet.
    promised: matching::Promises,
    binder: Client,
    local: Client,
    protection: Client,
    ephemeral: Client,
    recorder: Recorder,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let binder = clients("persistent-volume-binder");
    let component = "persistentvolume-controller";
    let all = Arc::new(Volumes {
        shared: shared.clone(),
        claims: Informer::new(),
        volumes: Informer::new(),
        classes: Informer::new(),
        promised: matching::Promises::default(),
        recorder: Recorder::start(binder.clone(), component, None, tasks, stop.clone()),
        binder,
        local: clients("local-volume-provisioner"),
        protection: clients("pvc-protection-controller"),
        ephemeral: clients("ephemeral-volume-controller"),
    });
    let (claims, volumes, pods) = (WorkQueue::new(), WorkQueue::new(), WorkQueue::new());
    all.listen(&claims, &volumes, &pods);
    let manager = clients(MANAGER);
    let config = watcher::Config::default;
    tasks.spawn(all.claims.clone().run(Api::all(manager.clone()), config(), stop.clone()));
    tasks.spawn(all.volumes.clone().run(Api::all(manager.clone()), config(), stop.clone()));
    tasks.spawn(all.classes.clone().run(Api::all(manager), config(), stop.clone()));
    let this = all.clone();
    launch("persistentvolumeclaim", WORKERS, &claims, shared, tasks, stop, move |key| {
        let this = this.clone();
        async move { this.on_claim(&key).await }
    });
    let this = all.clone();
    launch("persistentvolume", WORKERS, &volumes, shared, tasks, stop, move |key| {
        let this = this.clone();
        async move { this.on_volume(&key).await }
    });
    launch("ephemeral-volume", WORKERS, &pods, shared, tasks, stop, move |key| {
        let this = all.clone();
        async move { this.on_pod(&key).await }
    });
}

type Queue = Arc<WorkQueue<Key>>;

impl Volumes {
    fn listen(self: &Arc<Self>, claims: &Queue, volumes: &Queue, pods: &Queue) {
        let (own, other) = (claims.clone(), volumes.clone());
        self.claims.on_change(move |change: &Change<'_, PersistentVolumeClaim>| {
            let Some(claim) = change.object() else { return };
            own.add(Key::of(claim.as_ref()));
            if let Some(volume) = binding::volume_name(claim) {
                other.add(Key::new("", volume));
            }
        });
        let (own, other, all) = (volumes.clone(), claims.clone(), self.clone());
        self.volumes.on_change(move |change: &Change<'_, PersistentVolume>| {
            let Some(volume) = change.object() else { return };
            own.add(Key::of(volume.as_ref()));
            match binding::claim_key(volume) {
                Some(claim) => other.add(claim),
                // It may be what a claim waits for.
                None => all.retry_unbound(&other, Some(&volume.name_any())),
            }
        });
        let (other, all) = (claims.clone(), self.clone());
        self.classes.on_change(move |_: &Change<'_, StorageClass>| all.retry_unbound(&other, None));
        let (own, other) = (pods.clone(), claims.clone());
        self.shared.pods.on_change(move |change: &Change<'_, Pod>| {
            let Some(pod) = change.object() else { return };
            let names = binding::claims_of(pod);
            if !names.is_empty() && change.new.is_some() {
                own.add(Key::of(pod.as_ref()));
            }
            let namespace = pod.namespace().unwrap_or_default();
            for name in names {
                other.add(Key::new(namespace.clone(), name));
            }
        });
        let (other, waiting, all) = (volumes.clone(), claims.clone(), self.clone());
        self.shared.nodes.on_change(move |change: &Change<'_, Node>| {
            if change.new.is_none() {
                for volume in all.volumes.list() {
                    other.add(Key::of(volume.as_ref()));
                }
            }
            if change.old.is_none() {
                all.retry_unbound(&waiting, None);
            }
        });
    }

    /// Claims that have no volume, and those that ask for this one: they may have been there
    /// before it.
    fn retry_unbound(&self, claims: &Queue, volume: Option<&str>) {
        for claim in self.claims.list() {
            let named = binding::volume_name(&claim);
            if named.is_none() || named == volume {
                claims.add(Key::of(claim.as_ref()));
            }
        }
    }

    async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    async fn on_claim(&self, key: &Key) -> Result<Outcome, Error> {
        self.synced().await;
        let Some(claim) = self.claims.get(key) else { return Ok(Outcome::Done) };
        self.protect_claim(&claim).await?;
        if claim.metadata.deletion_timestamp.is_some() && binding::volume_name(&claim).is_none() {
            return Ok(Outcome::Done);
        }
        self.bind_claim(&claim).await
    }

    async fn on_volume(&self, key: &Key) -> Result<Outcome, Error> {
        self.synced().await;
        let Some(volume) = self.volumes.get(key) else { return Ok(Outcome::Done) };
        self.protect_volume(&volume).await?;
        self.sync_volume(&volume).await
    }

    async fn on_pod(&self, key: &Key) -> Result<Outcome, Error> {
        self.synced().await;
        let Some(pod) = self.shared.pods.get(key) else { return Ok(Outcome::Done) };
        self.claims_for_pod(&pod).await
    }
}
