//! Empties a namespace that is being deleted, then lets it go.
//!
//! The garbage collector's graph tells what is left; each removal there calls for another
//! look, so nothing is polled.

use crate::{
    error::{Error, failed, gone_is_fine},
    gc::{Collector, Kind, Served},
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
        let pods_left = census.first().is_some_and(|(kind, _)| kind.resource.plural == "pods");
        let now = if pods_left { &census[..1] } else { &census[..] };
        let mut failure = None;
        for (kind, _) in now {
            // One kind that refuses does not keep the others.
            if let Err(error) = self.empty(&key.name, kind).await {
                failure.get_or_insert(error);
            }
        }
        if !census.is_empty() {
            let finalizers = self.collector.finalizers(&key.name);
            let conditions = conditions(&census, finalizers, &failure, &[]);
            self.report(&namespace, conditions).await?;
            return failure.map_or(Ok(Outcome::Done), Err);
        }
        // The graph may lag behind the last creation, so the API has the last word.
        let served = Served::ask(&self.client).await;
        let served = served.map_err(failed("finding all kinds of", "namespace", &key.name))?;
        if !self.is_empty(&key.name, &served.kinds).await? {
            return Ok(Outcome::Retry);
        }
        if !served.away.is_empty() {
            // Whoever is away may have objects of the namespace.
            self.report(&namespace, conditions(&[], Vec::new(), &None, &served.away)).await?;
            return Ok(Outcome::Retry);
        }
        self.finalize(&namespace).await?;
        Ok(Outcome::Done)
    }

    fn api(&self, namespace: &str, kind: &Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource)
    }

    async fn empty(&self, namespace: &str, kind: &Kind) -> Result<(), Error> {
        if !kind.namespaced {
            return Ok(());
        }
        let params = DeleteParams::background();
        let api = self.api(namespace, kind);
        if !kind.delete_collection {
            let listed = api.list_metadata(&ListParams::default()).await;
            for one in listed.map_err(failed("emptying", "namespace", namespace))?.items {
                let deleted = gone_is_fine(api.delete(&one.name_any(), &params).await);
                deleted.map_err(failed("emptying", "namespace", namespace))?;
            }
            return Ok(());
        }
        let deleted = api.delete_collection(&params, &ListParams::default()).await;
        gone_is_fine(deleted).map_err(failed("emptying", "namespace", namespace))?;
        Ok(())
    }

    /// Deletes what it finds: the graph does not watch what other servers serve.
    async fn is_empty(&self, namespace: &str, kinds: &[Kind]) -> Result<bool, Error> {
        let mut empty = true;
        for kind in kinds.iter().filter(|kind| kind.namespaced) {
            let one = ListParams::default().limit(1);
            let listed = self.api(namespace, kind).list_metadata(&one).await;
            let listed =
                listed.map_err(failed("listing what is left of", "namespace", namespace))?;
            if !listed.items.is_empty() {
                self.empty(namespace, kind).await?;
                empty = false;
            }
        }
        Ok(empty)
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
    async fn report(
        &self,
        namespace: &Namespace,
        wanted: Vec<NamespaceCondition>,
    ) -> Result<(), Error> {
        let known = namespace.status.as_ref().and_then(|status| status.conditions.as_ref());
        let said = |one: &NamespaceCondition| {
            known.into_iter().flatten().any(|known| {
                known.type_ == one.type_
                    && known.status == one.status
                    && known.message == one.message
            })
        };
        let news: Vec<_> = wanted.into_iter().filter(|one| !said(one)).collect();
        if news.is_empty() {
            return Ok(());
        }
        let name = namespace.name_any();
        let patch = Patch::Strategic(serde_json::json!({ "status": { "conditions": news } }));
        let api: Api<Namespace> = Api::all(self.client.clone());
        let patched = api.patch_status(&name, &PatchParams::default(), &patch).await;
        gone_is_fine(patched).map_err(failed("writing the status of", "namespace", name))?;
        Ok(())
    }
}

/// kube-controller-manager's five conditions of a namespace that is being deleted.
fn conditions(
    census: &[(Kind, usize)],
    finalizers: Vec<(String, usize)>,
    failure: &Option<Error>,
    away: &[String],
) -> Vec<NamespaceCondition> {
    let counted = |items: Vec<String>| {
        let mut items = items;
        items.sort();
        items.join(", ")
    };
    let left = counted(
        census
            .iter()
            .map(|(kind, count)| format!("{} has {count} resource instances", qualified(kind)))
            .collect(),
    );
    let held = counted(
        finalizers
            .iter()
            .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
            .collect(),
    );
    let content = match failure {
        None => condition(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            None,
            "All content successfully deleted, may be waiting on finalization",
        ),
        Some(error) => {
            let cause = error.cause().unwrap_or_else(|| error.to_string());
            let message = format!("Failed to delete all resource types, 1 remaining: {cause}");
            let kind = "NamespaceDeletionContentFailure";
            condition(kind, "ContentDeletionFailed", Some(message), "")
        }
    };
    let remaining = (!census.is_empty()).then(|| format!("Some resources are remaining: {left}"));
    let (removed, all_removed) = ("ContentRemoved", "All content successfully removed");
    let (empty_or, finalized) = if census.is_empty() {
        (removed, all_removed)
    } else {
        ("ContentHasNoFinalizers", "All content-preserving finalizers finished")
    };
    let finalizing = (!held.is_empty())
        .then(|| format!("Some content in the namespace has finalizers remaining: {held}"));
    vec![
        discovered(away),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            None,
            "All legacy kube types successfully parsed",
        ),
        content,
        condition(
            "NamespaceContentRemaining",
            if remaining.is_some() { "SomeResourcesRemain" } else { removed },
            remaining,
            all_removed,
        ),
        condition(
            "NamespaceFinalizersRemaining",
            if finalizing.is_some() { "SomeFinalizersRemain" } else { empty_or },
            finalizing,
            finalized,
        ),
    ]
}

/// Whether all groups could say what they serve.
fn discovered(away: &[String]) -> NamespaceCondition {
    let kind = "NamespaceDeletionDiscoveryFailure";
    if away.is_empty() {
        let text = "All resources successfully discovered";
        return condition(kind, "ResourcesDiscovered", None, text);
    }
    let stale: Vec<String> =
        away.iter().map(|one| format!("{one}: stale GroupVersion discovery: {one}")).collect();
    let text = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of \
         server APIs: {}",
        away.len(),
        stale.join(", ")
    );
    condition(kind, "DiscoveryFailed", Some(text), "")
}

fn qualified(kind: &Kind) -> String {
    match kind.resource.group.as_str() {
        "" => format!("{}.", kind.resource.plural),
        group => format!("{}.{group}", kind.resource.plural),
    }
}

/// A condition is true when there is a `problem` to tell of.
fn condition(
    kind: &str,
    reason: &str,
    problem: Option<String>,
    otherwise: &str,
) -> NamespaceCondition {
    let now = Timestamp::now();
    NamespaceCondition {
        type_: kind.into(),
        status: if problem.is_some() { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(problem.unwrap_or_else(|| otherwise.to_owned())),
        last_transition_time: Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::{ApiResource, GroupVersionKind};

    #[test]
    fn conditions_name_what_remains_and_what_holds_it() {
        let gvk = GroupVersionKind::gvk("", "v1", "ConfigMap");
        let kind = Kind {
            resource: ApiResource::from_gvk_with_plural(&gvk, "configmaps"),
            namespaced: true,
            delete_collection: true,
        };
        let said = |finalizers: Vec<(String, usize)>| -> Vec<String> {
            conditions(&[(kind.clone(), 2)], finalizers, &None, &[])
                .into_iter()
                .filter(|one| one.status == "True")
                .filter_map(|one| one.message)
                .collect()
        };
        let left = "Some resources are remaining: configmaps. has 2 resource instances";
        assert_eq!(said(Vec::new()), [left]);
        assert_eq!(
            said(vec![("example.com/hold".into(), 1)]),
            [
                left,
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            ]
        );
        let away = conditions(&[], Vec::new(), &None, &["far.example.com/v1".to_owned()]);
        let problems = away.into_iter().filter(|one| one.status == "True");
        assert_eq!(
            problems.filter_map(|one| one.message).collect::<Vec<_>>(),
            [
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of \
              server APIs: far.example.com/v1: stale GroupVersion discovery: far.example.com/v1"
            ]
        );
    }
}
