//! Keeps a DaemonSet's pod on every node that it is meant for.
//!
//! The pods name their node by affinity, and the scheduler binds them. [`plan`] decides which
//! come and go, [`history`] keeps the templates. Rules and texts are kube-controller-manager's.

mod fit;
mod plan;
mod status;
mod template;

use crate::{
    claim::claim,
    error::Error,
    failures::Failures,
    history::{self, History},
    launch::{launch, on_each},
    pod_control::{PodControl, at_once, slowly},
    selector,
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{DaemonSet, DaemonSetSpec},
    core::v1::{Node, Pod},
};
use kube::{Api, Resource, ResourceExt};
use plan::{Doomed, Scene};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// DaemonSets worked on at once.
const WORKERS: usize = 2;
/// Upstream's name for its controller.
const ACCOUNT: &str = "daemon-set-controller";
/// Old revisions kept for undo when the DaemonSet does not say.
const HISTORY_DEFAULT: i32 = 10;

struct Controller {
    shared: Arc<Shared>,
    pods: PodControl,
    failures: Failures,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let controller = Arc::new(Controller {
        shared: shared.clone(),
        pods: PodControl::start(clients, ACCOUNT, tasks, stop),
        failures: Failures::default(),
    });
    let forgetting = controller.clone();
    shared.daemon_sets.on_change(move |change: &Change<'_, DaemonSet>| {
        if let (Some(gone), None) = (change.old, change.new) {
            let uid = gone.uid().unwrap_or_default();
            forgetting.pods.expectations.forget(&uid);
            forgetting.failures.forget(&uid);
        }
    });
    on_each(&shared.daemon_sets, &queue);
    let (owners, watching) = (queue.clone(), controller.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| watching.on_pod(change, &owners));
    let (owners, all) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |change: &Change<'_, Node>| {
        if fit::concerns(change.old.map(AsRef::as_ref), change.new.map(AsRef::as_ref)) {
            for set in all.daemon_sets.list() {
                owners.add(Key::of(set.as_ref()));
            }
        }
    });
    launch("daemonset", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    fn on_pod(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        self.pods.expectations.tell_owners("DaemonSet", change, queue);
        if let Some(orphan) = change.new.filter(|pod| controller_of(pod.as_ref()).is_none()) {
            let namespace = orphan.namespace().unwrap_or_default();
            for set in self.shared.daemon_sets.in_namespace(&namespace) {
                let spec = set.spec.as_ref();
                if spec.is_some_and(|spec| selector::matches(&spec.selector, orphan.labels())) {
                    queue.add(Key::of(set.as_ref()));
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(set) = self.shared.daemon_sets.get(key) else { return Ok(Outcome::Done) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Outcome::Done) };
        // What is being deleted is left to the garbage collector.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let uid = set.uid().unwrap_or_default();
        let owned = self.owned(&set, spec).await?;
        let history = self.history(&set, spec).await?;
        let hash = template::hash_of(&history.present);
        let now = Timestamp::now();
        let is_held = |node: &str| self.failures.left(&uid, set.metadata.generation, node);
        let scene = Scene {
            set: &set,
            nodes: self.shared.nodes.list(),
            pods: by_node(&owned),
            hash: &hash,
            held: &is_held,
            now,
        };
        let patience = self.pods.expectations.unmet(&uid);
        let mut failure = None;
        let mut retry = None;
        // Until the cache has seen our own last writes, deciding would repeat them.
        if patience.is_none() {
            let plan = plan::plan(&scene);
            retry = plan.retry;
            failure = self.carry_out(&set, spec, &hash, plan).await.err();
        }
        status::write(&self.pods.client, &scene, history.collisions, patience.is_none()).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        self.forget(spec, &history, &owned).await?;
        let next = patience.or(retry).map_or_else(|| status::next_look(&scene), Outcome::After);
        Ok(next)
    }

    async fn owned(&self, set: &DaemonSet, spec: &DaemonSetSpec) -> Result<Vec<Arc<Pod>>, Error> {
        let Some(owner) = set.controller_owner_ref(&()) else { return Ok(Vec::new()) };
        let namespace = set.namespace().unwrap_or_default();
        let mut candidates = self.shared.pods.indexed(BY_OWNER, &owner.uid);
        let others = self.shared.pods.in_namespace(&namespace).into_iter();
        candidates.extend(others.filter(|pod| controller_of(pod.as_ref()).is_none()));
        let client = self.pods.client.clone();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let owners: Api<DaemonSet> = Api::namespaced(client, &namespace);
        claim(&api, candidates, &owners, &owner, false, &spec.selector).await
    }

    async fn history(&self, set: &DaemonSet, spec: &DaemonSetSpec) -> Result<History, Error> {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let owner = history::Owner {
            object: set,
            selector: &spec.selector,
            template: &spec.template,
            collisions: collisions.unwrap_or(0),
            hash_label: history::POD_LABEL,
        };
        history::keep(&self.pods.client, &self.shared.revisions, &owner).await
    }

    async fn forget(
        &self,
        spec: &DaemonSetSpec,
        history: &History,
        owned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let hashes: BTreeSet<&str> = owned.iter().filter_map(|pod| template::hash(pod)).collect();
        let in_use = history.all.iter().filter(|one| {
            hashes.contains(template::hash_of(one).as_str())
                || one.name_any() == history.present.name_any()
        });
        let live: BTreeSet<String> = in_use.map(|one| one.name_any()).collect();
        let limit = spec.revision_history_limit.unwrap_or(HISTORY_DEFAULT);
        history::forget(&self.pods.client, history, &live, limit).await
    }

    async fn carry_out(
        &self,
        set: &DaemonSet,
        spec: &DaemonSetSpec,
        hash: &str,
        plan: plan::Plan,
    ) -> Result<(), Error> {
        let created = slowly(plan.nodes, |node| async move {
            self.pods.create(set, &template::pod(set, spec, &node, hash)).await
        });
        let created = created.await;
        let deleted = at_once(plan.doomed, |doomed| self.delete(set, doomed)).await;
        created.and(deleted)
    }

    async fn delete(&self, set: &DaemonSet, doomed: Doomed) -> Result<(), Error> {
        let Doomed { pod, node, ended } = doomed;
        let full_name = format!("{}/{}", set.namespace().unwrap_or_default(), pod.name_any());
        match ended {
            Some(plan::Ended::Failed) => {
                let uid = set.uid().unwrap_or_default();
                self.failures.count(&uid, set.metadata.generation, &node);
                let text = format!(
                    "Found failed daemon pod {full_name} on node {node}, will try to kill it"
                );
                self.pods.recorder.warning(set, "FailedDaemonPod", text);
            }
            Some(plan::Ended::Succeeded) => {
                let text = format!(
                    "Found succeeded daemon pod {full_name} on node {node}, will try to delete it"
                );
                self.pods.recorder.normal(set, "SucceededDaemonPod", text);
            }
            None => {}
        }
        self.pods.delete(set, &pod.name_any(), &pod.uid().unwrap_or_default()).await
    }
}

/// A pod belongs to the node that it is bound to, or that its affinity names.
fn by_node(owned: &[Arc<Pod>]) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut nodes: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in owned {
        if let Some(node) = template::node_of(pod) {
            nodes.entry(node.to_owned()).or_default().push(pod.clone());
        }
    }
    for pods in nodes.values_mut() {
        pods.sort_by_key(|pod| {
            let bound = crate::pods::node_name(pod).is_some();
            (!bound, crate::pods::created_at(pod), pod.name_any())
        });
    }
    nodes
}
