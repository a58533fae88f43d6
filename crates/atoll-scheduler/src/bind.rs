//! What the scheduler writes: bindings, remarks on pods that wait, and victims' ends.

use crate::{
    cluster::priority,
    preempt::Candidate,
    run::{RETRY, Scheduler},
};
use atoll_informer::Key;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Binding, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// Why a pod waits, as its condition and an event say it.
pub(crate) struct Remark<'a> {
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    /// The node that others are leaving for it.
    pub(crate) nominated: Option<&'a str>,
}

impl Scheduler {
    pub(crate) async fn bind(&self, pod: Arc<Pod>, node: String) {
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
    pub(crate) async fn explain(&self, pod: &Pod, remark: &Remark<'_>) -> bool {
        let Remark { reason, message, nominated } = *remark;
        let known = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == "PodScheduled");
        let said = known.is_some_and(|known| {
            known.reason.as_deref() == Some(reason) && known.message.as_deref() == Some(message)
        });
        let status = pod.status.as_ref();
        let known_node = status.and_then(|status| status.nominated_node_name.as_deref());
        if said && known_node == nominated {
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
            "status": { "nominatedNodeName": nominated, "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
                "lastTransitionTime": now, "observedGeneration": pod.metadata.generation,
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

    /// Takes the victims off their node: each is told why, then deleted with its own grace
    /// period. False when that failed: the pod is to be decided anew.
    pub(crate) async fn evict(&self, pod: &Pod, candidate: &Candidate) -> bool {
        let by = pod.uid().unwrap_or_default();
        for victim in &candidate.victims {
            if victim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            if let Err(error) = self.evict_one(victim).await {
                warn!(victim = %victim.name_any(), %error, "preemption failed; deciding again");
                return false;
            }
            info!(victim = %victim.name_any(), node = %candidate.node, "preempted");
            let message = format!("Preempted by pod {by} on node {}", candidate.node);
            self.recorder.normal(victim.as_ref(), "Preempted", message);
        }
        true
    }

    async fn evict_one(&self, victim: &Pod) -> Result<(), kube::Error> {
        let namespace = victim.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let (name, uid) = (victim.name_any(), victim.uid());
        let now = Timestamp::now();
        let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        let message = "default-scheduler: preempting to accommodate a higher priority pod";
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": uid },
            "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": message, "lastTransitionTime": now,
                "observedGeneration": victim.metadata.generation,
            }] },
        }));
        let gone = |error: &kube::Error| matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
        match api.patch_status(&name, &PatchParams::default(), &patch).await {
            // It is gone already, or another pod by that name is there now.
            Err(error) if gone(&error) => return Ok(()),
            other => drop(other?),
        }
        let preconditions = Preconditions { uid, ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        match api.delete(&name, &params).await {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}
