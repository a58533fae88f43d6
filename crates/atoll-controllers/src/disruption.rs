//! Keeps the counts of PodDisruptionBudgets, by which the API server lets pods be evicted.
//!
//! The API server takes one from `disruptionsAllowed` for each eviction that it lets through
//! and notes the pod; this controller counts anew whenever pods change.

mod plan;

use crate::{
    error::{Error, failed, words},
    launch::{launch, on_each},
    pods, selector,
    shared::{ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, GroupVersionKind, PostParams},
};
use std::{collections::HashMap, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const WORKERS: usize = 2;

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
    let client = clients("disruption-controller");
    let controller = Arc::new(Controller {
        recorder: Recorder::start(client.clone(), "controllermanager", None, tasks, stop.clone()),
        client,
        shared: shared.clone(),
    });
    on_each(&shared.budgets, &queue);
    let (pods, cache) = (queue.clone(), Arc::downgrade(shared));
    shared.pods.on_change(move |change: &Change<'_, Pod>| {
        let Some(cache) = cache.upgrade().filter(|_| matters(change)) else { return };
        for pod in [change.old, change.new].into_iter().flatten() {
            for budget in cache.budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
                if covers(&budget, pod) {
                    pods.add(Key::of(budget.as_ref()));
                }
            }
        }
    });
    launch("disruption", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

/// Whether a count can be another than before.
fn matters(change: &Change<'_, Pod>) -> bool {
    let (Some(old), Some(new)) = (change.old, change.new) else { return true };
    let seen = |pod: &Pod| {
        (pods::is_ready(pod), pods::is_finished(pod), pod.metadata.deletion_timestamp.is_some())
    };
    seen(old) != seen(new) || old.labels() != new.labels()
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, pod.labels()))
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(budget) = self.shared.budgets.get(key) else { return Ok(Outcome::Done) };
        let all = self.shared.pods.in_namespace(&key.namespace).into_iter();
        let selected: Vec<Arc<Pod>> = all.filter(|pod| covers(&budget, pod)).collect();
        if selected.is_empty() {
            self.recorder.normal(budget.as_ref(), "NoPods", "No matching pods found".into());
        }
        let expected = if plan::needs_scale(&budget) {
            self.expected(&budget, &selected).await
        } else {
            Ok(0)
        };
        let now = whole_seconds(Timestamp::now());
        let plan = match expected {
            Ok(expected) => plan::plan(&budget, &selected, expected, now),
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                let reason = "CalculateExpectedPodCountFailed";
                self.recorder.warning(budget.as_ref(), reason, message);
                let status = plan::fail_safe(&budget, &why, now);
                self.write(&budget, status).await?;
                return Ok(Outcome::Retry);
            }
        };
        self.write(&budget, plan.status).await?;
        Ok(plan.look_again.map_or(Outcome::Done, Outcome::After))
    }

    /// Under the version that was counted from, so that an eviction let through meanwhile is
    /// never forgotten.
    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let namespace = budget.namespace().unwrap_or_default();
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &namespace);
        let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        let name = budget.name_any();
        let written = api.replace_status(&name, &PostParams::default(), &new).await;
        written.map_err(failed("writing the status of", "poddisruptionbudget", name))?;
        Ok(())
    }

    /// The sum of what the pods' owners want. Pods of nobody count for nothing.
    async fn expected(
        &self,
        budget: &PodDisruptionBudget,
        selected: &[Arc<Pod>],
    ) -> Result<i32, String> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut unmanaged = Vec::new();
        for pod in selected {
            let Some(owner) = controller_of(pod.as_ref()) else {
                unmanaged.push(pod.name_any());
                continue;
            };
            if scales.contains_key(&owner.uid) {
                continue;
            }
            let namespace = pod.namespace().unwrap_or_default();
            let (uid, scale) = self.scale(&namespace, owner).await?;
            scales.insert(owner.uid.clone(), 0);
            // A Deployment's sets want together what it wants.
            scales.insert(uid, scale);
        }
        if !unmanaged.is_empty() {
            let message = format!(
                "Pods selected by this PodDisruptionBudget were found to be unmanaged: {}. They do \
                 not count; set minAvailable to a number to account for them.",
                unmanaged.join(", ")
            );
            self.recorder.warning(budget, "UnmanagedPods", message);
        }
        Ok(scales.values().fold(0, |sum, scale| sum.saturating_add(*scale)))
    }

    /// Who decides how many pods there are, and how many.
    async fn scale(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<(String, i32), String> {
        if owner.kind == "ReplicaSet" {
            let key = Key::new(namespace, &owner.name);
            let set = self.shared.replica_sets.get(&key);
            let set = set.ok_or_else(|| format!("replicasets.apps {:?} not found", owner.name))?;
            let above = controller_of(set.as_ref()).filter(|above| above.kind == "Deployment");
            if let Some(above) = above {
                let key = Key::new(namespace, &above.name);
                if let Some(deployment) = self.shared.deployments.get(&key) {
                    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                    return Ok((above.uid.clone(), replicas.unwrap_or(1)));
                }
            }
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
            return Ok((owner.uid.clone(), replicas.unwrap_or(1)));
        }
        self.scale_of_any(namespace, owner).await.map(|scale| (owner.uid.clone(), scale))
    }

    /// By the `scale` of the owner's kind, built-in or not.
    async fn scale_of_any(&self, namespace: &str, owner: &OwnerReference) -> Result<i32, String> {
        let (group, version) =
            owner.api_version.split_once('/').unwrap_or(("", owner.api_version.as_str()));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let found = kube::discovery::pinned_kind(&self.client, &kind).await;
        let (resource, capabilities) = found.map_err(|error| words(&error))?;
        if !capabilities.subresources.iter().any(|(part, _)| part.plural == "scale") {
            let dot = if group.is_empty() { "" } else { "." };
            let name = format!("{}{dot}{group}", resource.plural);
            return Err(format!("{name} does not implement the scale subresource"));
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let scale = api.get_scale(&owner.name).await.map_err(|error| words(&error))?;
        Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))
    }
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
