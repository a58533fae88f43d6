//! Draws the consequences of a node's health: conditions, taints, evictions.
//!
//! Whoever hears from the node (the API server's pings) sets Ready to Unknown; here the
//! lease is the fall-back. From the conditions follow taints, from taints what becomes of
//! pods. [`plan`] decides; rules and texts are kube-controller-manager's.

mod ages;
mod arrivals;
mod evict;
mod lease;
mod plan;

use crate::{
    error::{Error, failed, gone_is_fine},
    launch::launch,
    pods,
    shared::{BY_NODE, ClientFor, MANAGER, Shared},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use plan::Evictions;
use serde_json::json;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    recorder: Recorder,
    leases: Arc<lease::Leases>,
    disruption: Mutex<Disruption>,
}

/// What is remembered of the cluster's nodes as a whole.
#[derive(Default)]
struct Disruption {
    /// Nodes of a cluster that has just started have not been well before.
    was_well: bool,
    /// When most nodes were last unwell at once.
    at: Option<Instant>,
}

/// After most nodes were unwell at once, none of them is evicted for this long once the
/// first is back: the others are given time to come back too.
const RECOVERY: Duration = Duration::from_secs(10);

/// Pods of a lost node that are marked at once: requests to them fail until then.
const PODS_AT_ONCE: usize = 16;

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let client = clients("node-controller");
    let recorder = Recorder::start(client.clone(), "node-controller", None, tasks, stop.clone());
    let nodes = WorkQueue::new();
    let leases = lease::Leases::start(&clients(MANAGER), &nodes, tasks, stop);
    let controller = Arc::new(Controller {
        client: client.clone(),
        shared: shared.clone(),
        recorder: recorder.clone(),
        leases,
        disruption: Mutex::default(),
    });
    let all = nodes.clone();
    let everyone = shared.clone();
    shared.nodes.on_change(move |change: &Change<'_, Node>| {
        if let Some(node) = change.object() {
            all.add(Key::of(node.as_ref()));
        }
        // Whether evictions may go on depends on how many nodes are well.
        if change.old.map(|node| plan::health(node)) != change.new.map(|node| plan::health(node)) {
            everyone.nodes.list().iter().for_each(|node| all.add(Key::of(node.as_ref())));
        }
    });
    launch("node", 2, &nodes, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
    evict::start(client, recorder, shared, tasks, stop);
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(node) = self.shared.nodes.get(key) else { return Ok(Outcome::Done) };
        let now = Timestamp::now();
        let lease = self.leases.check(&key.name);
        if matches!(lease, lease::Verdict::Expired) && plan::health(&node) != plan::Health::Unknown
        {
            self.mark_unknown(&node, now).await?;
            return Ok(Outcome::Done);
        }
        let (evictions, held_for) = self.evictions();
        if let Some(taints) = plan::taints(&node, evictions, now) {
            self.write_taints(&node, &taints).await?;
        }
        if plan::health(&node) != plan::Health::Ready {
            self.mark_pods_not_ready(&node, now).await?;
        }
        let expires = match lease {
            lease::Verdict::ExpiresIn(left) => Some(left),
            _ => None,
        };
        Ok(match expires.into_iter().chain(held_for).min() {
            Some(wait) => Outcome::After(wait),
            None => Outcome::Done,
        })
    }

    /// Whether evictions may begin, and when to ask again if they are only held up.
    fn evictions(&self) -> (Evictions, Option<Duration>) {
        let mut disruption = self.disruption.lock().unwrap_or_else(PoisonError::into_inner);
        match plan::evictions(&self.shared.nodes.list()) {
            Evictions::CallOff => {
                if disruption.was_well {
                    disruption.at = Some(Instant::now());
                }
                (Evictions::CallOff, None)
            }
            Evictions::Go => {
                disruption.was_well = true;
                let left = disruption.at.and_then(|at| RECOVERY.checked_sub(at.elapsed()));
                match left.filter(|left| !left.is_zero()) {
                    Some(left) => (Evictions::Hold, Some(left)),
                    None => (Evictions::Go, None),
                }
            }
            Evictions::Hold => (Evictions::Hold, None),
        }
    }

    async fn mark_unknown(&self, node: &Node, now: Timestamp) -> Result<(), Error> {
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        let conditions: Vec<_> = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"]
            .iter()
            .map(|kind| {
                json!({
                    "type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status.",
                    "lastTransitionTime": now,
                })
            })
            .collect();
        let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
        let api: Api<Node> = Api::all(self.client.clone());
        let name = node.name_any();
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("marking as unknown", "node", &name))?;
        self.recorder.normal(
            node,
            "NodeNotReady",
            format!("Node {name} status is now: NodeNotReady"),
        );
        Ok(())
    }

    async fn write_taints(
        &self,
        node: &Node,
        taints: &[k8s_openapi::api::core::v1::Taint],
    ) -> Result<(), Error> {
        // The resourceVersion guards a taint that somebody added meanwhile.
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.resource_version() },
            "spec": { "taints": taints },
        }));
        let api: Api<Node> = Api::all(self.client.clone());
        let name = node.name_any();
        let patched = api.patch(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("tainting", "node", name))?;
        Ok(())
    }

    /// Endpoints leave when a pod is not ready, and a silent node cannot say so itself.
    async fn mark_pods_not_ready(&self, node: &Node, now: Timestamp) -> Result<(), Error> {
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        let pods = self.shared.pods.indexed(BY_NODE, &node.name_any());
        let ready = pods.into_iter().filter(|pod| pods::is_ready(pod)).map(Ok);
        let marked = futures::stream::iter(ready);
        marked.try_for_each_concurrent(PODS_AT_ONCE, |pod| self.mark_not_ready(pod, &now)).await
    }

    async fn mark_not_ready(&self, pod: Arc<Pod>, now: &Time) -> Result<(), Error> {
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.uid() },
            "status": { "conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": now,
            }] },
        }));
        let api = self.pods(&pod);
        let name = pod.name_any();
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("marking as not ready", "pod", name))?;
        self.recorder.warning(pod.as_ref(), "NodeNotReady", "Node is not ready".into());
        Ok(())
    }

    fn pods(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}
