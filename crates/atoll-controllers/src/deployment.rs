//! Rolls a Deployment's pods from one template to the next by scaling its ReplicaSets.
//!
//! [`plan`] decides which ReplicaSets to create, scale and delete; [`status`] says how
//! far the rollout has come. Rules and texts are kube-controller-manager's.

mod plan;
mod revision;
mod rolling;
mod status;

use crate::{
    claim::claim,
    error::{Error, failed, gone_is_fine, is_namespace_terminating, words},
    launch::{launch, on_each},
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use plan::{Rollout, Step};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Deployments worked on at once.
const WORKERS: usize = 4;

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    recorder: Recorder,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let client = clients("deployment-controller");
    let recorder =
        Recorder::start(client.clone(), "deployment-controller", None, tasks, stop.clone());
    let controller = Arc::new(Controller { client, shared: shared.clone(), recorder });

    on_each(&shared.deployments, &queue);
    let (owners, all) = (queue.clone(), shared.clone());
    shared.replica_sets.on_change(move |change: &Change<'_, ReplicaSet>| {
        for set in [change.old, change.new].into_iter().flatten() {
            enqueue_owner(set, &all, &owners);
        }
    });
    // A Recreate rollout waits for the last old pod, which ReplicaSets do not count.
    let (owners, all) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| {
        if let (Some(pod), None) = (change.old, change.new) {
            enqueue_grandparent(pod, &all, &owners);
        }
    });
    launch("deployment", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn enqueue_owner(set: &ReplicaSet, shared: &Shared, queue: &WorkQueue<Key>) {
    let namespace = set.namespace().unwrap_or_default();
    match controller_of(set) {
        Some(owner) if owner.kind == "Deployment" => queue.add(Key::new(&namespace, &owner.name)),
        Some(_) => {}
        None => {
            for deployment in shared.deployments.in_namespace(&namespace) {
                let spec = deployment.spec.as_ref();
                if spec.is_some_and(|spec| crate::selector::matches(&spec.selector, set.labels())) {
                    queue.add(Key::of(deployment.as_ref()));
                }
            }
        }
    }
}

fn enqueue_grandparent(pod: &Pod, shared: &Shared, queue: &WorkQueue<Key>) {
    let namespace = pod.namespace().unwrap_or_default();
    let set = controller_of(pod)
        .filter(|owner| owner.kind == "ReplicaSet")
        .and_then(|owner| shared.replica_sets.get(&Key::new(&namespace, &owner.name)));
    if let Some(set) = set {
        enqueue_owner(&set, shared, queue);
    }
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(deployment) = self.shared.deployments.get(key) else {
            return Ok(Outcome::Done);
        };
        let sets = self.owned(key, &deployment).await?;
        let old_pods_live = |set: &ReplicaSet| {
            let pods = self.shared.pods.indexed(BY_OWNER, &set.uid().unwrap_or_default());
            pods.iter().any(|pod| !crate::pods::is_finished(pod))
        };
        let mut rollout = Rollout::new(&deployment, sets);
        let now = Timestamp::now();
        if deployment.metadata.deletion_timestamp.is_none() {
            for step in plan::plan(&rollout, &old_pods_live) {
                if let Some(created) = self.apply(&deployment, step).await? {
                    rollout.take_in(created);
                }
            }
        }
        status::write(&self.client, &rollout, now).await?;
        Ok(status::next_look(&rollout, now))
    }

    async fn owned(
        &self,
        key: &Key,
        deployment: &Deployment,
    ) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let Some(owner) = deployment.controller_owner_ref(&()) else { return Ok(Vec::new()) };
        let candidates = self.shared.replica_sets.in_namespace(&key.namespace);
        let selector = deployment.spec.as_ref().map(|spec| spec.selector.clone());
        let deleted = deployment.metadata.deletion_timestamp.is_some();
        let api = self.sets(&key.namespace);
        let owners: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        claim(&api, candidates, &owners, &owner, deleted, &selector.unwrap_or_default()).await
    }

    fn sets(&self, namespace: &str) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Returns the ReplicaSet that it has created, if it has.
    async fn apply(
        &self,
        deployment: &Deployment,
        step: Step,
    ) -> Result<Option<ReplicaSet>, Error> {
        let namespace = deployment.namespace().unwrap_or_default();
        let sets = self.sets(&namespace);
        match step {
            Step::Create(set) => return self.create(deployment, &sets, *set).await,
            Step::Update { name, uid, mut patch, from, to } => {
                patch["metadata"]["uid"] = uid.into();
                sets.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .map_err(failed("scaling", "replicaset", &name))?;
                if from != to {
                    self.scaled(deployment, &name, from, to);
                }
            }
            Step::Delete { name, preconditions } => {
                let params = DeleteParams::background().preconditions(preconditions);
                let deleted = sets.delete(&name, &params).await;
                gone_is_fine(deleted).map_err(failed("deleting", "replicaset", &name))?;
            }
            Step::Annotate { revision } => {
                let api: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
                let patch = serde_json::json!({
                    "metadata": { "annotations": { revision::REVISION: revision.to_string() } },
                });
                let name = deployment.name_any();
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await
                    .map_err(failed("annotating", "deployment", &name))?;
            }
        }
        Ok(None)
    }

    async fn create(
        &self,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        set: ReplicaSet,
    ) -> Result<Option<ReplicaSet>, Error> {
        let name = set.name_any();
        match sets.create(&PostParams::default(), &set).await {
            Ok(created) => {
                let replicas = created.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if replicas > 0 {
                    self.scaled(deployment, &name, 0, replicas);
                }
                Ok(Some(created))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.on_name_taken(deployment, sets, &set).await
            }
            // Nothing can be made there any more, and nobody needs to be told.
            Err(error) if is_namespace_terminating(&error) => Ok(None),
            Err(source) => {
                let message =
                    format!("Failed to create new replica set \"{name}\": {}", words(&source));
                status::refused(&self.client, deployment, message.clone()).await?;
                self.recorder.warning(deployment, status::SET_CREATE_ERROR, message);
                Err(Error::Write { verb: "creating", kind: "replicaset", name, source })
            }
        }
    }

    /// Our own creation that the cache does not show yet is fine; another template with the
    /// same hash makes us try another name.
    async fn on_name_taken(
        &self,
        deployment: &Deployment,
        sets: &Api<ReplicaSet>,
        wanted: &ReplicaSet,
    ) -> Result<Option<ReplicaSet>, Error> {
        let name = wanted.name_any();
        let known = sets.get(&name).await.map_err(failed("reading", "replicaset", &name))?;
        let ours =
            controller_of(&known).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref();
        if ours && plan::same_template(&known, deployment) {
            return Ok(Some(known));
        }
        let collisions =
            deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0) + 1;
        let namespace = deployment.namespace().unwrap_or_default();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let patch = serde_json::json!({ "status": { "collisionCount": collisions } });
        api.patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(failed("counting a collision of", "deployment", deployment.name_any()))?;
        Err(Error::Stale { what: format!("the name {name} is taken by another template") })
    }

    fn scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.recorder.normal(deployment, "ScalingReplicaSet", message);
    }
}
