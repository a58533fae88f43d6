//! Empties a namespace that is being deleted, then lets it go.
//!
//! The garbage collector's graph tells what is left; each removal there calls for another
//! look, so nothing is polled.

use crate::{
    error::{Error, failed, gone_is_fine},
    gc::{Collector, Kind},
    launch::launch,
    shared::{ClientFor, Shared},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const FINALIZER: &str = "kubernetes";

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    collector: Arc<Collector>,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    collector: &Arc<Collector>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let controller = Arc::new(Controller {
        client: clients("namespace-controller"),
        shared: shared.clone(),
        collector: collector.clone(),
    });
    let terminating = queue.clone();
    shared.namespaces.on_change(move |change: &Change<'_, Namespace>| {
        let new = change.new.filter(|one| one.metadata.deletion_timestamp.is_some());
        if let Some(namespace) = new {
            terminating.add(Key::new("", namespace.name_any()));
        }
    });
    let (emptied, all) = (queue.clone(), shared.clone());
    collector.on_removed(move |namespace| {
        let key = Key::new("", namespace);
        let deleted = all.namespaces.get(&key);
        if deleted.is_some_and(|one| one.metadata.deletion_timestamp.is_some()) {
            emptied.add(key);
        }
    });
    launch("namespace", 2, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        self.collector.synced().await;
        let Some(namespace) = self.shared.namespaces.get(key) else { return Ok(Outcome::Done) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
        let ours = finalizers.unwrap_or_default().iter().any(|one| one == FINALIZER);
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(Outcome::Done);
        }
        let mut census = self.collector.census(&key.name);
        // Pods go first, so that what they use outlives them.
        census.sort_by_key(|(kind, _)| kind.resource.plural != "pods");
        for (kind, _) in &census {
            self.empty(&key.name, kind).await?;
            if kind.resource.plural == "pods" {
                break;
            }
        }
        if !census.is_empty() {
            self.report(&namespace, &census).await?;
            return Ok(Outcome::Done);
        }
        // The graph may lag behind the last creation, so the API has the last word.
        if self.is_empty(&key.name).await? {
            self.finalize(&namespace).await?;
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Retry)
    }

    fn api(&self, namespace: &str, kind: &Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
    }

    async fn empty(&self, namespace: &str, kind: &Kind) -> Result<(), Error> {
        if !kind.namespaced || !kind.delete_collection {
            return Ok(());
        }
        let params = DeleteParams::background();
        let api = self.api(namespace, kind);
        let deleted = api.delete_collection(&params, &ListParams::default()).await;
        gone_is_fine(deleted).map_err(failed("emptying", "namespace", namespace))?;
        Ok(())
    }

    async fn is_empty(&self, namespace: &str) -> Result<bool, Error> {
        for kind in self.collector.namespaced_kinds() {
            let one = ListParams::default().limit(1);
            let listed = self.api(namespace, &kind).list_metadata(&one).await;
            let listed =
                listed.map_err(failed("listing what is left of", "namespace", namespace))?;
            if !listed.items.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let name = namespace.name_any();
        let mut wanted = namespace.clone();
        if let Some(finalizers) = wanted.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|one| one != FINALIZER);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let params = PostParams::default();
        let replaced: Result<Namespace, _> =
            api.replace_subresource("finalize", &name, &params, &wanted).await;
        gone_is_fine(replaced).map_err(failed("finalizing", "namespace", name))?;
        Ok(())
    }

    /// Says in the namespace's conditions what it still waits for.
    async fn report(&self, namespace: &Namespace, census: &[(Kind, usize)]) -> Result<(), Error> {
        let left = census
            .iter()
            .map(|(kind, count)| format!("{} has {count} resource instances", qualified(kind)));
        let left = format!("Some resources are remaining: {}", left.collect::<Vec<_>>().join(", "));
        let held = self.collector.finalizers(&namespace.name_any());
        let mut wanted = vec![condition("NamespaceContentRemaining", "SomeResourcesRemain", left)];
        if !held.is_empty() {
            let held = held
                .iter()
                .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"));
            let text = held.collect::<Vec<_>>().join(", ");
            let message = format!("Some content in the namespace has finalizers remaining: {text}");
            wanted.push(condition("NamespaceFinalizersRemaining", "SomeFinalizersRemain", message));
        }
        let known = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        let said = |one: &NamespaceCondition| {
            known.into_iter().flatten().any(|known| known.message == one.message)
        };
        if wanted.iter().all(said) {
            return Ok(());
        }
        let name = namespace.name_any();
        let patch = Patch::Strategic(serde_json::json!({ "status": { "conditions": wanted } }));
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("writing the status of", "namespace", name))?;
        Ok(())
    }
}

fn qualified(kind: &Kind) -> String {
    match kind.resource.group.as_str() {
        "" => format!("{}.", kind.resource.plural),
        group => format!("{}.{group}", kind.resource.plural),
    }
}

fn condition(kind: &str, reason: &str, message: String) -> NamespaceCondition {
    NamespaceCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(Time(Timestamp::now())),
    }
}
