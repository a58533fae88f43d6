//! Wires watches, queue, decision and binding together.

use crate::{
    DEFAULT_SCHEDULER,
    bind::Remark,
    cluster::{Cluster, priority},
    decide::{Decider, Decision, Surroundings, is_gated, labels_of, minds_others},
    queue::Queue,
    selector::Labels,
    volumes::{self, Needs, Volumes},
};
use atoll_informer::{Change, Informer, Key, Recorder};
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{Namespace, Node, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, Client, ResourceExt, runtime::watcher};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A failed write is tried again after this time.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// Bindings under way at once; decisions wait when there are more.
const BINDS_MAX: usize = 64;

#[derive(Clone)]
pub struct Config {
    /// Acts as `system:kube-scheduler`.
    pub client: Client,
}

pub(crate) struct Scheduler {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) queue: Queue,
    cluster: Mutex<Cluster>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    namespaces: Arc<Informer<Namespace>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
    budgets: Arc<Informer<PodDisruptionBudget>>,
    volumes: Volumes,
}

/// Schedules pods on `tasks` until `stop` is cancelled.
pub fn start(config: &Config, tasks: &TaskTracker, stop: &CancellationToken) {
    let client = config.client.clone();
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::start(client.clone(), DEFAULT_SCHEDULER, None, tasks, stop.clone()),
        client: client.clone(),
        queue: Queue::default(),
        cluster: Mutex::default(),
        pods: Informer::new(),
        nodes: Informer::new(),
        namespaces: Informer::new(),
        replica_sets: Informer::new(),
        budgets: Informer::new(),
        volumes: Volumes::new(client.clone()),
    });
    let handler = scheduler.clone();
    scheduler.pods.on_change(move |change: &Change<'_, Pod>| handler.on_pod(change));
    let handler = scheduler.clone();
    scheduler.namespaces.on_change(move |change: &Change<'_, Namespace>| {
        if change.old.map(|one| one.labels()) != change.new.map(|one| one.labels()) {
            handler.retry_parked(minds_others);
        }
    });
    let handler = scheduler.clone();
    scheduler.nodes.on_change(move |change: &Change<'_, Node>| handler.on_node(change));
    let handler = scheduler.clone();
    scheduler.volumes.start(move || handler.retry_parked(volumes::has_claims), tasks, stop);

    // Pods that have ended take no room.
    let live = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let all = watcher::Config::default;
    tasks.spawn(scheduler.pods.clone().run(Api::all(client.clone()), live, stop.clone()));
    tasks.spawn(scheduler.nodes.clone().run(Api::all(client.clone()), all(), stop.clone()));
    tasks.spawn(scheduler.namespaces.clone().run(Api::all(client.clone()), all(), stop.clone()));
    let sets = scheduler.replica_sets.clone();
    tasks.spawn(sets.run(Api::all(client.clone()), all(), stop.clone()));
    tasks.spawn(scheduler.budgets.clone().run(Api::all(client), all(), stop.clone()));
    tasks.spawn(scheduler.run(tasks.clone(), stop.clone()));
}

impl Scheduler {
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_pod(&self, change: &Change<'_, Pod>) {
        let Some(pod) = change.object() else { return };
        let key = Key::of(pod.as_ref());
        let uid = pod.uid().unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if change.new.is_none() {
            self.queue.remove(&key);
            if self.cluster().remove_pod(&uid) {
                self.retry_parked(|_| true);
            }
        } else if !node.is_empty() {
            self.queue.remove(&key);
            let resized = self.cluster().set_pod(pod.clone(), &node);
            // It may be what another pod's affinity waits for.
            if resized {
                self.retry_parked(|_| true);
            } else if change.old.is_none_or(|old| stands(old) != stands(pod)) {
                self.retry_parked(minds_others);
            }
        } else if is_ours(pod) && !self.cluster().is_assumed(&uid) && is_news(change) {
            // A scheduler before this one may have made room for it.
            let status = pod.status.as_ref();
            if let Some(node) = status.and_then(|status| status.nominated_node_name.as_deref())
                && change.old.is_none()
            {
                self.cluster().nominate(pod.clone(), node, HashSet::new());
            }
            self.queue.add(key, priority(pod));
        }
    }

    fn on_node(&self, change: &Change<'_, Node>) {
        let opened = match (change.old, change.new) {
            (_, Some(node)) => self.cluster().set_node(node.clone()),
            (Some(node), None) => {
                self.cluster().remove_node(&node.name_any());
                // The sentence of why counts nodes.
                true
            }
            (None, None) => false,
        };
        if opened {
            self.retry_parked(|_| true);
        }
    }

    fn retry_parked(&self, concerns: impl Fn(&Pod) -> bool) {
        self.queue.retry_parked(|key| {
            let pod = self.pods.get(key);
            pod.is_none_or(|pod| concerns(&pod))
                .then(|| self.pods.get(key).map_or(0, |pod| priority(&pod)))
        });
    }

    async fn run(self: Arc<Self>, tasks: TaskTracker, stop: CancellationToken) {
        let synced = async {
            self.nodes.synced().await;
            self.pods.synced().await;
            self.namespaces.synced().await;
            self.replica_sets.synced().await;
            self.budgets.synced().await;
            self.volumes.synced().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = synced => {}
        }
        let binds = Arc::new(Semaphore::new(BINDS_MAX));
        let mut decider = Decider::default();
        loop {
            let (key, moves) = tokio::select! {
                () = stop.cancelled() => return,
                next = self.queue.next() => next,
            };
            let Some(pod) = self.pods.get(&key).filter(|pod| is_ours(pod)) else { continue };
            match self.decide(&mut decider, &pod) {
                Decision::Bind(node) => {
                    self.cluster().assume(pod.clone(), &node);
                    // The semaphore is never closed.
                    let Ok(permit) = binds.clone().acquire_owned().await else { return };
                    let scheduler = self.clone();
                    tasks.spawn(async move {
                        if scheduler.prepare_volumes(&pod, &node).await {
                            scheduler.bind(pod, node).await;
                        }
                        drop(permit);
                    });
                }
                Decision::Preempt(candidate, why) => {
                    self.cluster().nominate(pod.clone(), &candidate.node, candidate.uids());
                    self.queue.park(key.clone(), priority(&pod), moves);
                    let told = self.evict(&pod, &candidate).await;
                    if !told {
                        self.cluster().nominate(pod.clone(), &candidate.node, HashSet::new());
                    }
                    let remark = Remark {
                        reason: "Unschedulable",
                        message: &why,
                        nominated: Some(&candidate.node),
                    };
                    let said = self.explain(&pod, &remark).await && told;
                    self.retry_unless(said, key, &pod, &tasks);
                }
                Decision::Wait(why) => {
                    let nominated = self.keep_nomination(&pod);
                    self.queue.park(key.clone(), priority(&pod), moves);
                    let remark = Remark {
                        reason: "Unschedulable",
                        message: &why,
                        nominated: nominated.as_deref(),
                    };
                    let said = self.explain(&pod, &remark).await;
                    self.retry_unless(said, key, &pod, &tasks);
                }
                Decision::Gated => {
                    let message = "Scheduling is blocked due to non-empty scheduling gates";
                    let remark = Remark { reason: "SchedulingGated", message, nominated: None };
                    let said = self.explain(&pod, &remark).await;
                    self.retry_unless(said, key, &pod, &tasks);
                }
            }
        }
    }

    /// The node that pods are still leaving for this one; without any it waits for nobody.
    fn keep_nomination(&self, pod: &Pod) -> Option<String> {
        let uid = pod.uid().unwrap_or_default();
        let mut cluster = self.cluster();
        let name = cluster.nomination(&uid)?.to_owned();
        if cluster.is_being_cleared(pod) {
            return Some(name);
        }
        cluster.forget_nomination(&uid);
        None
    }

    /// What could not be said is said later.
    fn retry_unless(self: &Arc<Self>, said: bool, key: Key, pod: &Pod, tasks: &TaskTracker) {
        if said {
            return;
        }
        let (scheduler, priority) = (self.clone(), priority(pod));
        tasks.spawn(async move {
            tokio::time::sleep(RETRY).await;
            scheduler.queue.add(key, priority);
        });
    }

    fn decide(&self, decider: &mut Decider, pod: &Arc<Pod>) -> Decision {
        let owner_labels = self.owner_labels(pod);
        let cluster = self.cluster();
        let needs = match self.volumes.needs(pod) {
            Ok(needs) => needs,
            Err(_) if is_gated(pod) => Needs::default(),
            Err(why) => return Decision::Wait(volumes::sentence(cluster.nodes().count(), &why)),
        };
        let namespace_labels = if minds_others(pod) || cluster.has_repelling() {
            labels_of(&self.namespaces.list())
        } else {
            BTreeMap::new()
        };
        decider.decide(
            pod,
            &Surroundings {
                cluster: &cluster,
                namespace_labels: &namespace_labels,
                owner_labels: owner_labels.as_ref(),
                needs: &needs,
                budgets: &|| self.budgets.list(),
            },
        )
    }

    /// Has the pod's claims bound where it goes; false when that failed and it is decided anew.
    async fn prepare_volumes(&self, pod: &Pod, node: &str) -> bool {
        if !volumes::has_claims(pod) {
            return true;
        }
        let prepared = match self.nodes.get(&Key::new("", node)) {
            Some(node) => self.volumes.prepare(pod, &node).await,
            None => Err(format!("node {node:?} not found")),
        };
        let Err(why) = prepared else { return true };
        self.cluster().unassume(&pod.uid().unwrap_or_default());
        self.recorder.warning(pod, "FailedScheduling", why);
        tokio::time::sleep(RETRY).await;
        self.queue.add(Key::of(pod), priority(pod));
        false
    }

    /// The labels that the pods of the same owner share: its ReplicaSet's selector.
    fn owner_labels(&self, pod: &Pod) -> Option<Labels> {
        let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        if owner.kind != "ReplicaSet" {
            return None;
        }
        let key = Key::new(pod.namespace().unwrap_or_default(), &owner.name);
        let Some(set) = self.replica_sets.get(&key) else {
            // Its watch may be behind that of pods. Pods of one template have the same labels.
            return Some(pod.labels().clone());
        };
        set.spec.as_ref()?.selector.match_labels.clone()
    }
}

/// What other pods' affinity and spreading can see of a bound pod.
fn stands(pod: &Pod) -> impl PartialEq + '_ {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (pod.labels(), node.unwrap_or_default(), pod.metadata.deletion_timestamp.is_some())
}

/// Waits for a node, and for this scheduler to find it.
fn is_ours(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER);
    let bound = spec.and_then(|spec| spec.node_name.as_deref()).is_some_and(|one| !one.is_empty());
    name == DEFAULT_SCHEDULER && !bound && pod.metadata.deletion_timestamp.is_none()
}

/// Our own remark in the status is not a reason to look again.
fn is_news(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    old.spec != new.spec || old.labels() != new.labels()
}
