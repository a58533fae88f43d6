//! Deletes pods that their node's NoExecute taints no longer let stay, and pods whose
//! node is gone for good.

use super::{
    ages::Ages,
    arrivals::{Arrivals, bound_at},
    plan::{Stay, is_out_of_service, stay},
};
use crate::{
    error::{Error, failed, gone_is_fine},
    launch::launch,
    pods,
    shared::{BY_NODE, Shared},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Pods of a node that is not in the API are given this long for it to appear
/// (kube-controller-manager's quarantine).
const ORPHAN_QUARANTINE: Duration = Duration::from_secs(40);

/// A pod without a node that is marked for deletion is given this long to go by itself.
const MARKED_QUARANTINE: Duration = Duration::from_secs(10);

struct Evictor {
    client: Client,
    recorder: Recorder,
    shared: Arc<Shared>,
    ages: Ages,
    arrivals: Arrivals,
}

pub(super) fn start(
    client: Client,
    recorder: Recorder,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let evictor = Arc::new(Evictor {
        client,
        recorder,
        shared: shared.clone(),
        ages: Ages::default(),
        arrivals: Arrivals::default(),
    });
    let (own, witness) = (queue.clone(), evictor.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| {
        witness.witness(change);
        let moved = change.old.and_then(|pod| pods::node_name(pod))
            != change.new.and_then(|pod| pods::node_name(pod));
        let leaves = change.new.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
        if let Some(pod) = change.new.filter(|_| moved || leaves) {
            own.add(Key::of(pod.as_ref()));
        }
    });
    let (affected, all) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |change: &Change<'_, Node>| {
        let taints = |node: &Arc<Node>| node.spec.as_ref().and_then(|spec| spec.taints.clone());
        if change.new.is_some() && change.old.map(taints) == change.new.map(taints) {
            return;
        }
        let name = change.object().map(|node| node.name_any()).unwrap_or_default();
        for pod in all.pods.indexed(BY_NODE, &name) {
            affected.add(Key::of(pod.as_ref()));
        }
    });
    launch("eviction", 4, &queue, shared, tasks, stop, move |key| {
        let evictor = evictor.clone();
        async move { evictor.reconcile(&key).await }
    });
}

impl Evictor {
    /// Notes when pods come to their nodes. Those of the first list came before.
    fn witness(&self, change: &Change<'_, Pod>) {
        match (change.old, change.new) {
            (_, Some(pod)) if pods::node_name(pod).is_some() => {
                self.arrivals.note(pod, self.shared.pods.is_synced(), Timestamp::now());
            }
            (Some(pod), None) => self.arrivals.forget(pod),
            _ => {}
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(pod) = self.shared.pods.get(key) else { return Ok(Outcome::Done) };
        let Some(name) = pods::node_name(&pod) else { return self.on_unbound(&pod).await };
        let Some(node) = self.shared.nodes.get(&Key::new("", name)) else {
            return self.on_missing_node(&pod, name).await;
        };
        let deleted = pod.metadata.deletion_timestamp.is_some();
        if deleted && is_out_of_service(&node) {
            self.forget(&pod).await?;
            return Ok(Outcome::Done);
        }
        if deleted || pods::is_finished(&pod) {
            return Ok(Outcome::Done);
        }
        let now = Timestamp::now();
        match stay(&self.ages.of(&node, now), &pod, self.arrivals.of(&pod)) {
            Stay::Forever => Ok(Outcome::Done),
            Stay::For(left) => Ok(Outcome::After(left)),
            Stay::Leave => {
                self.evict(key, &pod, now).await?;
                Ok(Outcome::Done)
            }
        }
    }

    /// A pod that never had a node is marked and goes at once; what stands between the two, a
    /// server that dies, leaves it marked, and nobody else ends it (the pod garbage collector's
    /// unscheduled, terminating pods).
    async fn on_unbound(&self, pod: &Pod) -> Result<Outcome, Error> {
        let Some(left) = left_to_go(pod, Timestamp::now()) else { return Ok(Outcome::Done) };
        if !left.is_zero() {
            return Ok(Outcome::After(left));
        }
        self.forget(pod).await?;
        Ok(Outcome::Done)
    }

    async fn evict(&self, key: &Key, pod: &Pod, now: Timestamp) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.recorder.normal(pod, "TaintManagerEviction", message);
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.uid() },
            "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
            }] },
        }));
        let api = self.api(pod);
        let name = pod.name_any();
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("marking for eviction", "pod", &name))?;
        self.delete(pod, DeleteParams::default()).await
    }

    /// A node that has been removed cannot confirm that its containers are gone.
    async fn on_missing_node(&self, pod: &Pod, node: &str) -> Result<Outcome, Error> {
        self.ages.forget(node);
        let waited = Timestamp::now().duration_since(bound_at(pod)).unsigned_abs();
        if let Some(left) = ORPHAN_QUARANTINE.checked_sub(waited).filter(|left| !left.is_zero()) {
            return Ok(Outcome::After(left));
        }
        let api: Api<Node> = Api::all(self.client.clone());
        // The cache may lag behind a node that has just come.
        let read = api.get_metadata_opt(node).await.map_err(failed("reading", "node", node))?;
        if read.is_none() {
            self.forget(pod).await?;
        }
        Ok(Outcome::Done)
    }

    async fn forget(&self, pod: &Pod) -> Result<(), Error> {
        self.delete(pod, DeleteParams::default().grace_period(0)).await
    }

    async fn delete(&self, pod: &Pod, params: DeleteParams) -> Result<(), Error> {
        let preconditions = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let params = params.preconditions(preconditions);
        let name = pod.name_any();
        let deleted = self.api(pod).delete(&name, &params).await;
        gone_is_fine(deleted).map_err(failed("evicting", "pod", name))?;
        Ok(())
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default())
    }
}

/// How long a marked pod has left to go by itself; `None` when nothing holds it but finalizers, or
/// it is not marked.
fn left_to_go(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let marked = pod.metadata.deletion_timestamp.as_ref()?;
    if pod.metadata.finalizers.iter().flatten().next().is_some() {
        return None;
    }
    let waited = Duration::try_from(now.duration_since(marked.0)).unwrap_or_default();
    Some(MARKED_QUARANTINE.saturating_sub(waited))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_marked_and_held_by_nothing_goes_after_a_while() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let left = |metadata: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            left_to_go(&pod, now).map(|left| left.as_secs())
        };
        assert_eq!(left(json!({})), None);
        assert_eq!(left(json!({"deletionTimestamp": "2026-01-01T00:00:57Z"})), Some(7));
        assert_eq!(left(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})), Some(0));
        // A clock that was ahead.
        assert_eq!(left(json!({"deletionTimestamp": "2026-01-01T00:09:00Z"})), Some(10));
        let held = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b"]});
        assert_eq!(left(held), None);
    }
}
