//! Creates and deletes the pods of an owner: with its expectations, and with an event each.

use crate::{
    error::{Error, failed, gone_is_fine, is_namespace_terminating, words},
    expect::Expectations,
    shared::ClientFor,
};
use atoll_informer::Recorder;
use futures::{StreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::future::Future;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Writes under way at once for one owner; more would only queue in the API server.
const WRITES_AT_ONCE: usize = 16;
/// Creations of the first batch.
const BATCH_FIRST: usize = 1;

pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) expectations: Expectations,
    pub(crate) recorder: Recorder,
}

impl PodControl {
    /// For the controller that acts as `account`, whose name its events carry.
    pub(crate) fn start(
        clients: &ClientFor,
        account: &'static str,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let client = clients(account);
        let recorder = Recorder::start(client.clone(), account, None, tasks, stop.clone());
        Self { client, expectations: Expectations::default(), recorder }
    }

    pub(crate) async fn create<K>(&self, owner: &K, pod: &Pod) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let created = self.create_quietly(owner, pod).await;
        match &created {
            Ok(None) => return Ok(()),
            Ok(Some(pod)) => self.record(owner, "Create", "Created pod: ", Ok(pod.name_any())),
            Err(error) => self.record(owner, "Create", "", Err(error)),
        }
        created.map(drop).map_err(failed("creating", "a pod of", owner.name_any()))
    }

    /// The same, without an event. Nothing is created, and nobody needs to be told, where the
    /// namespace is going.
    pub(crate) async fn create_quietly<K>(
        &self,
        owner: &K,
        pod: &Pod,
    ) -> Result<Option<Pod>, kube::Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let pending = self.expectations.creating(&owner.uid().unwrap_or_default());
        let created = self.pods(owner).create(&PostParams::default(), pod).await;
        if created.as_ref().is_err_and(is_namespace_terminating) {
            return Ok(None);
        }
        let created = created?;
        pending.created(&created.uid().unwrap_or_default());
        Ok(Some(created))
    }

    /// The uid guards against deleting a namesake that was created since we listed.
    pub(crate) async fn delete<K>(&self, owner: &K, name: &str, uid: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let deleted = self.delete_quietly(owner, name, uid).await;
        self.record(owner, "Delete", "Deleted pod: ", deleted.as_ref().map(|()| name.to_owned()));
        deleted.map_err(failed("deleting", "pod", name))
    }

    /// The same, without an event.
    pub(crate) async fn delete_quietly<K>(
        &self,
        owner: &K,
        name: &str,
        uid: &str,
    ) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let owner_uid = owner.uid().unwrap_or_default();
        let preconditions = Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        self.expectations.deleting(&owner_uid, uid);
        let deleted = gone_is_fine(self.pods(owner).delete(name, &params).await);
        if !matches!(deleted, Ok(Some(_))) {
            // The cache may have shown it going before we began to wait for that.
            self.expectations.not_deleted(&owner_uid, uid);
        }
        deleted.map(drop)
    }

    fn pods<K: Resource<DynamicType = ()>>(&self, owner: &K) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &owner.namespace().unwrap_or_default())
    }

    fn record<K>(&self, owner: &K, verb: &str, text: &str, result: Result<String, &kube::Error>)
    where
        K: Resource<DynamicType = ()>,
    {
        match result {
            Ok(pod) => {
                self.recorder.normal(owner, &format!("Successful{verb}"), format!("{text}{pod}"));
            }
            Err(error) => {
                let (reason, gerund) = (format!("Failed{verb}"), verb.trim_end_matches('e'));
                let message = format!("Error {}ing: {}", gerund.to_lowercase(), words(error));
                self.recorder.warning(owner, &reason, message);
            }
        }
    }
}

/// Creations begin with one and double while they succeed, so that an owner whose pods
/// are refused costs one request, not as many as it lacks pods.
pub(crate) async fn slowly<T, F>(items: Vec<T>, write: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut items = items.into_iter();
    let mut batch = BATCH_FIRST;
    while !items.as_slice().is_empty() {
        at_once(items.by_ref().take(batch), &write).await?;
        batch = batch.saturating_mul(2);
    }
    Ok(())
}

/// A few at a time; all are tried, and the first failure is told.
pub(crate) async fn at_once<T, F>(
    items: impl IntoIterator<Item = T>,
    write: impl Fn(T) -> F,
) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let writes: Vec<F> = items.into_iter().map(write).collect();
    let mut results = stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
    let mut first_failure = Ok(());
    while let Some(result) = results.next().await {
        if first_failure.is_ok() {
            first_failure = result;
        }
    }
    first_failure
}

/// A pod of a template, without a name.
pub(crate) fn pod_of(
    template: PodTemplateSpec,
    namespace: Option<String>,
    owner: Option<OwnerReference>,
) -> Pod {
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = None;
    metadata.generate_name = None;
    metadata.namespace = namespace;
    metadata.owner_references =
        owner.map(|owner| vec![OwnerReference { block_owner_deletion: Some(true), ..owner }]);
    Pod { metadata, spec: template.spec, status: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn refused() -> Error {
        Error::Stale { what: "refused".into() }
    }

    #[tokio::test]
    async fn refusals_cost_one_request() {
        let tried = AtomicUsize::new(0);
        let result = slowly((0..100).collect(), |_| {
            tried.fetch_add(1, Ordering::Relaxed);
            async { Err(refused()) }
        })
        .await;
        assert!(result.is_err() && tried.load(Ordering::Relaxed) == 1, "{tried:?}");
    }

    #[tokio::test]
    async fn all_are_written_when_none_is_refused() {
        let tried = AtomicUsize::new(0);
        let result = slowly((0..100).collect(), |_| {
            tried.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        })
        .await;
        assert!(result.is_ok() && tried.load(Ordering::Relaxed) == 100, "{tried:?}");
    }
}
