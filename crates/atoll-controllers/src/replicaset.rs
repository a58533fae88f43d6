//! Keeps the number of a ReplicaSet's live pods equal to `spec.replicas`.
//!
//! It does not place pods (the scheduler does) nor start them (the node does).

mod expect;
mod plan;
mod status;

use crate::{
    claim::claim,
    error::{Error, failed, gone_is_fine, is_namespace_terminating, words},
    launch::launch,
    pods, selector,
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use expect::Expectations;
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use plan::Step;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// ReplicaSets worked on at once.
const WORKERS: usize = 4;
/// Writes under way at once for one ReplicaSet; more would only queue in the API server.
const WRITES_AT_ONCE: usize = 16;
/// Creations of the first batch.
const BATCH_FIRST: usize = 1;

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    expectations: Expectations,
    recorder: Recorder,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let client = clients("replicaset-controller");
    let controller = Arc::new(Controller {
        recorder: Recorder::start(
            client.clone(),
            "replicaset-controller",
            None,
            tasks,
            stop.clone(),
        ),
        client,
        shared: shared.clone(),
        expectations: Expectations::default(),
    });

    let (sets, forgetting) = (queue.clone(), controller.clone());
    shared.replica_sets.on_change(move |change: &Change<'_, ReplicaSet>| {
        if let (Some(gone), None) = (change.old, change.new) {
            forgetting.expectations.forget(&gone.uid().unwrap_or_default());
        }
        if let Some(set) = change.object() {
            sets.add(Key::of(set.as_ref()));
        }
    });
    let (owners, watching) = (queue.clone(), controller.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| watching.on_pod(change, &owners));

    launch("replicaset", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    fn on_pod(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        let Some(pod) = change.object() else { return };
        let namespace = pod.namespace().unwrap_or_default();
        for side in [change.old, change.new].into_iter().flatten() {
            let owner = controller_of(side.as_ref()).filter(|owner| owner.kind == "ReplicaSet");
            if let Some(owner) = owner {
                self.expectations.observe(&owner.uid, change);
                queue.add(Key::new(&namespace, &owner.name));
            }
        }
        if let Some(orphan) = change.new.filter(|pod| controller_of(pod.as_ref()).is_none()) {
            for set in self.shared.replica_sets.in_namespace(&namespace) {
                let spec = set.spec.as_ref();
                if spec.is_some_and(|spec| selector::matches(&spec.selector, orphan.labels())) {
                    queue.add(Key::of(set.as_ref()));
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(set) = self.shared.replica_sets.get(key) else { return Ok(Outcome::Done) };
        let uid = set.uid().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let owned = self.owned(&api, &set).await?;

        let mut failure = None;
        // Until the cache has seen our own last writes, counting would repeat them.
        let patience = self.expectations.unmet(&uid);
        if patience.is_none() && set.metadata.deletion_timestamp.is_none() {
            let related = self.related_on_node(&set, &owned);
            let steps = plan::plan(&set, &owned, &related);
            failure = self.apply(&api, &set, &steps).await.err();
        }
        let now = Timestamp::now();
        status::write(&self.client, &set, &owned, failure.as_ref(), now).await?;
        match (failure, patience) {
            (Some(error), _) => Err(error),
            (None, Some(left)) => Ok(Outcome::After(left)),
            (None, None) => Ok(status::next_look(&set, &owned, now)),
        }
    }

    async fn owned(&self, api: &Api<Pod>, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let uid = set.uid().unwrap_or_default();
        let mut candidates = self.shared.pods.indexed(BY_OWNER, &uid);
        let namespace = set.namespace().unwrap_or_default();
        let orphans = self.shared.pods.in_namespace(&namespace);
        candidates.extend(
            orphans
                .into_iter()
                .filter(|pod| controller_of(pod.as_ref()).is_none() && pods::is_active(pod)),
        );
        let Some(owner) = set.controller_owner_ref(&()) else { return Ok(Vec::new()) };
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let deleted = set.metadata.deletion_timestamp.is_some();
        let owners: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &namespace);
        claim(api, candidates, &owners, &owner, deleted, &selector).await
    }

    /// Counts, for a node, the active pods there of all ReplicaSets that share this one's
    /// owner: of a Deployment's pods, those that stand closest together are to go first.
    fn related_on_node(&self, set: &ReplicaSet, owned: &[Arc<Pod>]) -> HashMap<String, usize> {
        let mut related: Vec<Arc<Pod>> = owned.to_vec();
        if let Some(owner) = controller_of(set) {
            for sibling in self.shared.replica_sets.indexed(BY_OWNER, &owner.uid) {
                if sibling.uid() != set.uid() {
                    let uid = sibling.uid().unwrap_or_default();
                    related.extend(self.shared.pods.indexed(BY_OWNER, &uid));
                }
            }
        }
        let mut counts = HashMap::new();
        for pod in related.iter().filter(|pod| pods::is_active(pod)) {
            let node = pods::node_name(pod).unwrap_or_default().to_owned();
            *counts.entry(node).or_insert(0) += 1;
        }
        counts
    }

    /// Creations begin with one and double while they succeed, so that a set whose pods
    /// are refused costs one request, not as many as it has replicas.
    async fn apply(&self, api: &Api<Pod>, set: &ReplicaSet, steps: &[Step]) -> Result<(), Error> {
        let mut rest = steps;
        let mut batch = match steps.first() {
            Some(Step::Create) => BATCH_FIRST,
            _ => steps.len(),
        };
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            self.apply_batch(api, set, now).await?;
            rest = later;
            batch = batch.saturating_mul(2);
        }
        Ok(())
    }

    async fn apply_batch(
        &self,
        api: &Api<Pod>,
        set: &ReplicaSet,
        steps: &[Step],
    ) -> Result<(), Error> {
        let mut results = stream::iter(steps.to_vec())
            .map(|step| self.apply_step(api, set, step))
            .buffer_unordered(WRITES_AT_ONCE);
        let mut first_failure = Ok(());
        while let Some(result) = results.next().await {
            if first_failure.is_ok() {
                first_failure = result;
            }
        }
        first_failure
    }

    async fn apply_step(&self, api: &Api<Pod>, set: &ReplicaSet, step: Step) -> Result<(), Error> {
        let uid = set.uid().unwrap_or_default();
        match step {
            Step::Create => {
                let pod = pod_from_template(set)?;
                let pending = self.expectations.creating(&uid);
                let created = api.create(&PostParams::default(), &pod).await;
                // Nothing can be made there any more, and nobody needs to be told.
                if created.as_ref().is_err_and(is_namespace_terminating) {
                    return Ok(());
                }
                self.record(
                    set,
                    "Create",
                    "Created pod: ",
                    created.as_ref().map(ResourceExt::name_any),
                );
                let created = created.map_err(failed("creating", "a pod of", set.name_any()))?;
                pending.created(&created.uid().unwrap_or_default());
            }
            // The uid guards against deleting a namesake that was created since we listed.
            Step::Delete { name, uid: pod_uid } => {
                let preconditions =
                    Preconditions { uid: Some(pod_uid.clone()), ..Preconditions::default() };
                let params = DeleteParams::default().preconditions(preconditions);
                self.expectations.deleting(&uid, &pod_uid);
                let deleted = gone_is_fine(api.delete(&name, &params).await);
                if !matches!(deleted, Ok(Some(_))) {
                    // The cache may have shown it going before we began to wait for that.
                    self.expectations.not_deleted(&uid, &pod_uid);
                }
                self.record(set, "Delete", "Deleted pod: ", deleted.as_ref().map(|_| name.clone()));
                deleted.map_err(failed("deleting", "pod", name))?;
            }
        }
        Ok(())
    }
}

impl Controller {
    fn record(
        &self,
        set: &ReplicaSet,
        verb: &str,
        text: &str,
        result: Result<String, &kube::Error>,
    ) {
        match result {
            Ok(pod) => {
                self.recorder.normal(set, &format!("Successful{verb}"), format!("{text}{pod}"));
            }
            Err(error) => {
                let (reason, gerund) = (format!("Failed{verb}"), verb.trim_end_matches('e'));
                let message = format!("Error {}ing: {}", gerund.to_lowercase(), words(error));
                self.recorder.warning(set, &reason, message);
            }
        }
    }
}

fn pod_from_template(set: &ReplicaSet) -> Result<Pod, Error> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let template = template.ok_or_else(|| Error::Object {
        kind: "replicaset",
        name: set.name_any(),
        problem: "no pod template".into(),
    })?;
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = None;
    metadata.generate_name = Some(format!("{}-", set.name_any()));
    metadata.namespace = set.namespace();
    metadata.owner_references = set.controller_owner_ref(&()).map(|owner| {
        vec![k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference {
            block_owner_deletion: Some(true),
            ..owner
        }]
    });
    Ok(Pod { metadata, spec: template.spec, status: None })
}

/// An available pod is looked at again when `minReadySeconds` will have passed.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
