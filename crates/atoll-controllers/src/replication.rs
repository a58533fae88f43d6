//! ReplicationControllers, kept as the ReplicaSets that they amount to.

use crate::{
    replicaset::{self, Replicated},
    shared::{ClientFor, Shared},
};
use atoll_informer::Informer;
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::{borrow::Cow, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    replicaset::start_for::<ReplicationController>(clients, shared, tasks, stop);
}

impl Replicated for ReplicationController {
    const ACCOUNT: &'static str = "replication-controller";
    const WORD: &'static str = "replicationcontroller";
    const COUNTS_TERMINATING: bool = false;

    fn informer(shared: &Shared) -> &Arc<Informer<Self>> {
        &shared.replication_controllers
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: self.spec.as_ref().map(spec),
            status: self.status.as_ref().map(status),
        })
    }
}

fn spec(spec: &ReplicationControllerSpec) -> ReplicaSetSpec {
    ReplicaSetSpec {
        min_ready_seconds: spec.min_ready_seconds,
        replicas: spec.replicas,
        selector: LabelSelector { match_labels: spec.selector.clone(), ..LabelSelector::default() },
        template: spec.template.clone(),
    }
}

fn status(status: &ReplicationControllerStatus) -> ReplicaSetStatus {
    let conditions = status.conditions.as_ref().map(|conditions| {
        let conditions = conditions.iter().cloned();
        let same = conditions.map(|one| ReplicaSetCondition {
            last_transition_time: one.last_transition_time,
            message: one.message,
            reason: one.reason,
            status: one.status,
            type_: one.type_,
        });
        same.collect()
    });
    ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions,
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_of_it_is_lost() {
        let status = json!({ "replicas": 2, "fullyLabeledReplicas": 2, "readyReplicas": 1,
            "availableReplicas": 1, "observedGeneration": 4, "conditions": [
                { "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                  "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
        let template = json!({ "metadata": { "labels": { "a": "b" } },
            "spec": { "containers": [{ "name": "c" }] } });
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": { "name": "rc", "uid": "u" },
            "spec": { "replicas": 2, "minReadySeconds": 3, "selector": { "a": "b" },
                      "template": template },
            "status": status,
        }))
        .unwrap();
        let set = serde_json::to_value(controller.as_set()).unwrap();
        assert_eq!(
            set["spec"],
            json!({ "replicas": 2, "minReadySeconds": 3, "template": template,
                    "selector": { "matchLabels": { "a": "b" } } })
        );
        assert_eq!((&set["status"], &set["metadata"]["uid"]), (&status, &json!("u")));
    }
}
