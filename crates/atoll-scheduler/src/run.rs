//! Wires watches, queue, decision and binding together.

use crate::{
    DEFAULT_SCHEDULER,
    affinity::Topology,
    cluster::{Cluster, NodeState},
    explain::{self, Refused},
    filter::{self, Request},
    queue::Queue,
    score,
    selector::Labels,
};
use atoll_informer::{Change, Informer, Key, Recorder};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::ReplicaSet,
        core::v1::{Binding, Namespace, Node, ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

/// A failed write is tried again after this time.
const RETRY: Duration = Duration::from_secs(1);
/// Bindings under way at once; decisions wait when there are more.
const BINDS_MAX: usize = 64;

#[derive(Clone)]
pub struct Config {
    /// Acts as `system:kube-scheduler`.
    pub client: Client,
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    queue: Queue,
    cluster: Mutex<Cluster>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    namespaces: Arc<Informer<Namespace>>,
    replica_sets: Arc<Informer<ReplicaSet>>,
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

    // Pods that have ended take no room.
    let live = watcher::Config::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let all = watcher::Config::default;
    tasks.spawn(scheduler.pods.clone().run(Api::all(client.clone()), live, stop.clone()));
    tasks.spawn(scheduler.nodes.clone().run(Api::all(client.clone()), all(), stop.clone()));
    tasks.spawn(scheduler.namespaces.clone().run(Api::all(client.clone()), all(), stop.clone()));
    tasks.spawn(scheduler.replica_sets.clone().run(Api::all(client), all(), stop.clone()));
    tasks.spawn(scheduler.run(tasks.clone(), stop.clone()));
}

enum Decision {
    Bind(String),
    Wait(String),
    Gated,
}

impl Scheduler {
    fn cluster(&self) -> MutexGuard<'_, Cluster> {
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
            self.cluster().set_pod(pod.clone(), &node);
            // It may be what another pod's affinity waits for.
            if change.old.is_none_or(|old| stands(old) != stands(pod)) {
                self.retry_parked(minds_others);
            }
        } else if is_ours(pod) && !self.cluster().is_assumed(&uid) && is_news(change) {
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
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = synced => {}
        }
        let binds = Arc::new(Semaphore::new(BINDS_MAX));
        loop {
            let (key, moves) = tokio::select! {
                () = stop.cancelled() => return,
                next = self.queue.next() => next,
            };
            let Some(pod) = self.pods.get(&key).filter(|pod| is_ours(pod)) else { continue };
            match self.decide(&pod) {
                Decision::Bind(node) => {
                    self.cluster().assume(pod.clone(), &node);
                    // The semaphore is never closed.
                    let Ok(permit) = binds.clone().acquire_owned().await else { return };
                    let scheduler = self.clone();
                    tasks.spawn(async move {
                        scheduler.bind(pod, node).await;
                        drop(permit);
                    });
                }
                Decision::Wait(why) => {
                    self.queue.park(key.clone(), priority(&pod), moves);
                    let said = self.explain(&pod, "Unschedulable", &why).await;
                    self.retry_unless(said, key, &pod, &tasks);
                }
                Decision::Gated => {
                    let why = "Scheduling is blocked due to non-empty scheduling gates";
                    let said = self.explain(&pod, "SchedulingGated", why).await;
                    self.retry_unless(said, key, &pod, &tasks);
                }
            }
        }
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

    fn decide(&self, pod: &Pod) -> Decision {
        let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
        if gates.is_some_and(|gates| !gates.is_empty()) {
            return Decision::Gated;
        }
        let namespace_labels: BTreeMap<String, Labels> = self
            .namespaces
            .list()
            .iter()
            .map(|namespace| (namespace.name_any(), namespace.labels().clone()))
            .collect();
        let topology = Topology { namespace_labels: &namespace_labels };
        let owner_labels = self.owner_labels(pod);
        let cluster = self.cluster();
        let nodes: Vec<&NodeState> = cluster.nodes().collect();
        let request = Request::new(pod, &nodes, &topology);
        let mut refused = Vec::with_capacity(cluster.node_count());
        let mut feasible = Vec::new();
        for node in nodes {
            match filter::refusal(&request, node) {
                None => feasible.push(node),
                Some(refusal) => {
                    let lesser = |other: &Arc<Pod>| priority(other) < priority(pod);
                    let has_lesser_pods = node.pods.values().any(lesser);
                    refused.push(Refused { refusal, has_lesser_pods });
                }
            }
        }
        match score::best(pod, &feasible, &topology, owner_labels.as_ref()) {
            Some(node) => Decision::Bind(node.node.name_any()),
            None => Decision::Wait(explain::sentence(&refused, never_preempts(pod))),
        }
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

    async fn bind(&self, pod: Arc<Pod>, node: String) {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let uid = pod.uid().unwrap_or_default();
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                // The uid guards against binding a namesake.
                uid: Some(uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.clone()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        let bound: Result<serde_json::Value, _> =
            api.create_subresource("binding", &name, &params, &binding).await;
        match bound {
            Ok(_) => {
                info!(pod = %format!("{namespace}/{name}"), %node, "bound");
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.recorder.normal(pod.as_ref(), "Scheduled", message);
            }
            Err(error) => self.on_bind_failure(&pod, &uid, &node, &error).await,
        }
    }

    async fn on_bind_failure(&self, pod: &Pod, uid: &str, node: &str, error: &kube::Error) {
        self.cluster().unassume(uid);
        if matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409)) {
            // It was deleted, or somebody else bound it: the watch will tell.
            debug!(pod = %pod.name_any(), %error, "binding lost a race");
            return;
        }
        warn!(pod = %pod.name_any(), %node, %error, "binding failed; retrying");
        self.recorder.warning(pod, "FailedScheduling", format!("binding rejected: {error}"));
        tokio::time::sleep(RETRY).await;
        self.queue.add(Key::of(pod), priority(pod));
    }

    /// Says in the pod's condition and in an event why it waits, once for each new reason.
    /// Returns whether it is said, or whether nobody is left to read it.
    async fn explain(&self, pod: &Pod, reason: &str, message: &str) -> bool {
        let known = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == "PodScheduled");
        let said = known.is_some_and(|known| {
            known.reason.as_deref() == Some(reason) && known.message.as_deref() == Some(message)
        });
        if said {
            return true;
        }
        if reason == "Unschedulable" {
            self.recorder.warning(pod, "FailedScheduling", message.to_owned());
        }
        let now = Timestamp::now();
        let now = known
            .filter(|known| known.status == "False")
            .and_then(|known| known.last_transition_time.clone())
            .unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.uid() },
            "status": { "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                "lastTransitionTime": now,
            }] },
        }));
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let patched = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        match patched {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                warn!(pod = %pod.name_any(), %error, "condition not written; retrying");
                false
            }
        }
    }
}

/// What other pods' affinity and spreading can see of a bound pod.
fn stands(pod: &Pod) -> impl PartialEq + '_ {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    (pod.labels(), node.unwrap_or_default(), pod.metadata.deletion_timestamp.is_some())
}

/// Whether where a pod may go depends on where others stand.
fn minds_others(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return false };
    let has_constraints =
        spec.topology_spread_constraints.as_ref().is_some_and(|list| !list.is_empty());
    let affinity = spec.affinity.as_ref();
    has_constraints
        || affinity.is_some_and(|one| one.pod_affinity.is_some() || one.pod_anti_affinity.is_some())
}

fn never_preempts(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never")
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

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}
