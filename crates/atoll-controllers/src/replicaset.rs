//! Keeps the number of a ReplicaSet's live pods equal to `spec.replicas`.
//!
//! What can be seen as a ReplicaSet is kept in the same way ([`Replicated`]). It does not
//! place pods (the scheduler does) nor start them (the node does).

mod plan;
mod status;

use crate::{
    claim::claim,
    error::Error,
    launch::{launch, on_each},
    pod_control::{PodControl, at_once, pod_of, slowly},
    pods, selector,
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ReplicaSet, core::v1::Pod},
};
use kube::{Api, Resource, ResourceExt};
use plan::Step;
use serde::de::DeserializeOwned;
use std::{borrow::Cow, collections::HashMap, fmt::Debug, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Objects of one kind worked on at once.
const WORKERS: usize = 4;

/// A ReplicaSet, or what can be seen as one.
pub(crate) trait Replicated:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + Debug
    + Send
    + Sync
    + 'static
{
    /// The ServiceAccount of its controller.
    const ACCOUNT: &'static str;
    /// Its kind in logs.
    const WORD: &'static str;
    /// Whether its status tells how many pods are going.
    const COUNTS_TERMINATING: bool;

    fn informer(shared: &Shared) -> &Arc<Informer<Self>>;
    fn as_set(&self) -> Cow<'_, ReplicaSet>;
}

impl Replicated for ReplicaSet {
    const ACCOUNT: &'static str = "replicaset-controller";
    const WORD: &'static str = "replicaset";
    const COUNTS_TERMINATING: bool = true;

    fn informer(shared: &Shared) -> &Arc<Informer<Self>> {
        &shared.replica_sets
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }
}

struct Controller {
    shared: Arc<Shared>,
    pods: PodControl,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    start_for::<ReplicaSet>(clients, shared, tasks, stop);
}

pub(crate) fn start_for<K: Replicated>(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let controller = Arc::new(Controller {
        shared: shared.clone(),
        pods: PodControl::start(clients, K::ACCOUNT, tasks, stop),
    });

    let forgetting = controller.clone();
    K::informer(shared).on_change(move |change: &Change<'_, K>| {
        if let (Some(gone), None) = (change.old, change.new) {
            forgetting.pods.expectations.forget(&gone.uid().unwrap_or_default());
        }
    });
    on_each(K::informer(shared), &queue);
    let (owners, watching) = (queue.clone(), controller.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| watching.on_pod::<K>(change, &owners));

    launch(K::WORD, WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile::<K>(&key).await }
    });
}

impl Controller {
    fn on_pod<K: Replicated>(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        self.pods.expectations.tell_owners(&K::kind(&()), change, queue);
        if let Some(orphan) = change.new.filter(|pod| controller_of(pod.as_ref()).is_none()) {
            let namespace = orphan.namespace().unwrap_or_default();
            for object in K::informer(&self.shared).in_namespace(&namespace) {
                let set = object.as_set();
                let spec = set.spec.as_ref();
                if spec.is_some_and(|spec| selector::matches(&spec.selector, orphan.labels())) {
                    queue.add(Key::of(object.as_ref()));
                }
            }
        }
    }

    async fn reconcile<K: Replicated>(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(object) = K::informer(&self.shared).get(key) else { return Ok(Outcome::Done) };
        let set = object.as_set();
        let uid = set.uid().unwrap_or_default();
        let owned = self.owned(object.as_ref(), &set).await?;

        let mut failure = None;
        // Until the cache has seen our own last writes, counting would repeat them.
        let patience = self.pods.expectations.unmet(&uid);
        if patience.is_none() && set.metadata.deletion_timestamp.is_none() {
            let related = self.related_on_node(&set, &owned);
            let steps = plan::plan(&set, &owned, &related);
            failure = self.apply(object.as_ref(), &set, steps).await.err();
        }
        let now = Timestamp::now();
        status::write::<K>(&self.pods.client, &set, &owned, failure.as_ref(), now).await?;
        match (failure, patience) {
            (Some(error), _) => Err(error),
            (None, Some(left)) => Ok(Outcome::After(left)),
            (None, None) => Ok(status::next_look(&set, &owned, now)),
        }
    }

    async fn owned<K: Replicated>(
        &self,
        object: &K,
        set: &ReplicaSet,
    ) -> Result<Vec<Arc<Pod>>, Error> {
        let uid = set.uid().unwrap_or_default();
        let mut candidates = self.shared.pods.indexed(BY_OWNER, &uid);
        let namespace = set.namespace().unwrap_or_default();
        let orphans = self.shared.pods.in_namespace(&namespace);
        candidates.extend(
            orphans
                .into_iter()
                .filter(|pod| controller_of(pod.as_ref()).is_none() && pods::is_active(pod)),
        );
        let Some(owner) = object.controller_owner_ref(&()) else { return Ok(Vec::new()) };
        let selector = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let deleted = set.metadata.deletion_timestamp.is_some();
        let client = self.pods.client.clone();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let owners: Api<K> = Api::namespaced(client, &namespace);
        claim(&api, candidates, &owners, &owner, deleted, &selector).await
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

    async fn apply<K: Replicated>(
        &self,
        object: &K,
        set: &ReplicaSet,
        steps: Vec<Step>,
    ) -> Result<(), Error> {
        let write = |step| self.apply_step(object, set, step);
        match steps.first() {
            Some(Step::Create) => slowly(steps, write).await,
            _ => at_once(steps, write).await,
        }
    }

    async fn apply_step<K: Replicated>(
        &self,
        object: &K,
        set: &ReplicaSet,
        step: Step,
    ) -> Result<(), Error> {
        match step {
            Step::Create => self.pods.create(object, &pod_from_template(object, set)?).await,
            Step::Delete { name, uid } => self.pods.delete(object, &name, &uid).await,
        }
    }
}

fn pod_from_template<K: Replicated>(object: &K, set: &ReplicaSet) -> Result<Pod, Error> {
    let template = set.spec.as_ref().and_then(|spec| spec.template.clone());
    let template = template.ok_or_else(|| Error::Object {
        kind: K::WORD,
        name: set.name_any(),
        problem: "no pod template".into(),
    })?;
    let mut pod = pod_of(template, set.namespace(), object.controller_owner_ref(&()));
    pod.metadata.generate_name = Some(format!("{}-", set.name_any()));
    Ok(pod)
}

/// An available pod is looked at again when `minReadySeconds` will have passed.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
