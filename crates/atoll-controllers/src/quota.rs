//! Counts what the objects of a namespace use, and writes it into the status of its quotas.
//!
//! The API server charges each new object in the transaction that stores it; what goes, ends or
//! shrinks is given back here. A count is only written onto the quota that was read before it
//! began: whatever was charged meanwhile changed the quota, and the count is made again. So a
//! count never forgets an object, and a limit is never passed because of one.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_api::kinds::quota::{amounts, amounts::Amounts, count_name, scopes, usage};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
    error::DiscoveryError,
    runtime::watcher,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::{Error, failed, gone_is_fine},
    gc::{Collector, Kind},
    launch::launch,
    shared::{ClientFor, MANAGER, Shared},
};

/// Namespaces counted at once.
const WORKERS: usize = 4;
/// Changes of a namespace within this time are counted together.
const GATHER: Duration = Duration::from_millis(200);
/// Objects of a list's page.
const PAGE: u32 = 500;
/// Kinds of the core group that quotas also name without `count/`.
const LEGACY: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

struct Controller {
    client: Client,
    collector: Arc<Collector>,
    quotas: Arc<Informer<ResourceQuota>>,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    collector: &Arc<Collector>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let quotas: Arc<Informer<ResourceQuota>> = Informer::new();
    let claims: Arc<Informer<PersistentVolumeClaim>> = Informer::new();
    let controller = Arc::new(Controller {
        client: clients("resourcequota-controller"),
        collector: collector.clone(),
        quotas: quotas.clone(),
    });
    let own = queue.clone();
    quotas.on_change(move |change: &Change<'_, ResourceQuota>| {
        // A change of the status is our own or a charge; neither needs a count, but a spec does.
        let spec = |quota: &Arc<ResourceQuota>| quota.spec.clone();
        let counted = change.new.is_some_and(|quota| is_counted(quota));
        if let Some(new) = change.new
            && (change.old.map(spec) != change.new.map(spec) || !counted)
        {
            own.add(Key::new("", new.namespace().unwrap_or_default()));
        }
    });
    let removed = Trigger { queue: queue.clone(), quotas: quotas.clone() };
    collector.on_removed(move |namespace| removed.recount(namespace));
    let pods = Trigger { queue: queue.clone(), quotas: quotas.clone() };
    shared.pods.on_change(move |change: &Change<'_, Pod>| pods.on_pod(change));
    let services = Trigger { queue: queue.clone(), quotas: quotas.clone() };
    shared.services.on_change(move |change: &Change<'_, Service>| {
        let ports = |service: &Arc<Service>| {
            service
                .spec
                .as_ref()
                .map(|spec| (spec.type_.clone(), spec.ports.clone().map(|all| all.len())))
        };
        if change.old.map(ports) != change.new.map(ports) && change.old.is_some() {
            services.recount(&change.object().and_then(|one| one.namespace()).unwrap_or_default());
        }
    });
    let sizes = Trigger { queue: queue.clone(), quotas: quotas.clone() };
    claims.on_change(move |change: &Change<'_, PersistentVolumeClaim>| {
        let size = |claim: &Arc<PersistentVolumeClaim>| {
            claim
                .spec
                .as_ref()
                .map(|spec| (spec.resources.clone(), spec.storage_class_name.clone()))
        };
        if change.old.map(size) != change.new.map(size) && change.old.is_some() {
            sizes.recount(&change.object().and_then(|one| one.namespace()).unwrap_or_default());
        }
    });
    let manager = clients(MANAGER);
    let config = watcher::Config::default;
    tasks.spawn(quotas.run(Api::all(manager.clone()), config(), stop.clone()));
    tasks.spawn(claims.run(Api::all(manager), config(), stop.clone()));
    launch("resourcequota", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.count_namespace(&key.name).await }
    });
}

/// Has a namespace counted anew when it has quotas.
struct Trigger {
    queue: Arc<WorkQueue<Key>>,
    quotas: Arc<Informer<ResourceQuota>>,
}

impl Trigger {
    fn recount(&self, namespace: &str) {
        if !self.quotas.in_namespace(namespace).is_empty() {
            self.queue.add_after(Key::new("", namespace), GATHER);
        }
    }

    /// A pod that ends or was resized gives back what it used; one that overstays its end does so
    /// later.
    fn on_pod(&self, change: &Change<'_, Pod>) {
        let Some(pod) = change.object() else { return };
        let namespace = pod.namespace().unwrap_or_default();
        let counts = |pod: &Arc<Pod>| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
            let over = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
            let spec = pod.spec.iter();
            let wanted = spec.flat_map(|spec| {
                spec.containers.iter().chain(spec.init_containers.iter().flatten())
            });
            let held = pod.status.iter().flat_map(|status| {
                let sidecars = status.init_container_statuses.iter().flatten();
                status.container_statuses.iter().flatten().chain(sidecars)
            });
            let conditions =
                pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let reasons = conditions.filter(|one| one.type_ == "PodResizePending");
            (
                over,
                wanted.map(|one| one.resources.clone()).collect::<Vec<_>>(),
                held.map(|one| (one.resources.clone(), one.allocated_resources.clone()))
                    .collect::<Vec<_>>(),
                reasons.map(|one| one.reason.clone()).collect::<Vec<_>>(),
            )
        };
        if change.old.is_some() && change.old.map(counts) != change.new.map(counts) {
            self.recount(&namespace);
        }
        let Some(new) = change.new.filter(|pod| pod.metadata.deletion_timestamp.is_some()) else {
            return;
        };
        let end = serde_json::to_value(new.as_ref()).ok().as_ref().and_then(usage::expires_at);
        if let Some(end) = end
            && !self.quotas.in_namespace(&namespace).is_empty()
        {
            let left = end.duration_since(Timestamp::now()).max(jiff::SignedDuration::ZERO);
            let wait = left.unsigned_abs() + Duration::from_secs(1);
            self.queue.add_after(Key::new("", namespace), wait);
        }
    }
}

/// Whether the status is about the limits of the spec.
fn is_counted(quota: &ResourceQuota) -> bool {
    let (spec, status) = (quota.spec.as_ref(), quota.status.as_ref());
    let hard = spec.and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let known = status.and_then(|status| status.hard.clone()).unwrap_or_default();
    let used = status.and_then(|status| status.used.clone()).unwrap_or_default();
    hard == known && hard.keys().eq(used.keys())
}

impl Controller {
    async fn count_namespace(&self, namespace: &str) -> Result<Outcome, Error> {
        self.quotas.synced().await;
        self.collector.synced().await;
        for quota in self.quotas.in_namespace(namespace) {
            self.count(namespace, &quota.name_any()).await?;
        }
        Ok(Outcome::Done)
    }

    /// The quota is read before the objects: its revision stands for all that was charged.
    async fn count(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let api: Api<ResourceQuota> = Api::namespaced(self.client.clone(), namespace);
        let shown = || format!("{namespace}/{name}");
        let read = api.get_opt(name).await.map_err(failed("reading", "resourcequota", shown()))?;
        let Some(mut quota) = read else { return Ok(()) };
        let tree = serde_json::to_value(&quota).unwrap_or_default();
        let hard = amounts::read(&tree["spec"]["hard"]);
        let mut used: Amounts =
            hard.keys().map(|name| (name.clone(), amounts::number(0))).collect();
        for kind in self.kinds(&hard).await? {
            self.add_up(namespace, &kind, &tree, &mut used).await?;
        }
        let wanted = serde_json::json!({
            "hard": amounts::write(&hard), "used": amounts::write(&used),
        });
        if tree["status"] == wanted {
            return Ok(());
        }
        quota.status = serde_json::from_value(wanted).ok();
        // With the resourceVersion that was read: charged meanwhile means conflict, and again.
        let written = api.replace_status(name, &PostParams::default(), &quota).await;
        gone_is_fine(written).map_err(failed("updating", "resourcequota", shown()))?;
        Ok(())
    }

    /// The kinds whose objects the limits are about; those that nobody serves have none.
    async fn kinds(&self, hard: &Amounts) -> Result<Vec<ApiResource>, Error> {
        let known = self.collector.namespaced_kinds();
        let wanted: BTreeSet<(String, String)> =
            hard.keys().filter_map(|name| kind_of(name)).collect();
        let mut kinds = Vec::new();
        for (group, resource) in wanted {
            let same = |one: &&Kind| one.resource.group == group && one.resource.plural == resource;
            match known.iter().find(same) {
                Some(kind) => kinds.push(kind.resource.clone()),
                // One that came with a CustomResourceDefinition since we asked.
                None => kinds.extend(self.discover(&group, &resource).await?),
            }
        }
        Ok(kinds)
    }

    async fn discover(&self, group: &str, resource: &str) -> Result<Option<ApiResource>, Error> {
        let missing = |error: &kube::Error| match error {
            kube::Error::Discovery(DiscoveryError::MissingApiGroup(_)) => true,
            kube::Error::Api(status) => status.code == 404,
            _ => false,
        };
        let found = match kube::discovery::group(&self.client, group).await {
            Ok(found) => found,
            Err(error) if missing(&error) => return Ok(None),
            Err(error) => return Err(failed("discovering", "group", group)(error)),
        };
        let mut all = found.recommended_resources().into_iter().map(|(one, _)| one);
        Ok(all.find(|one| one.plural == resource))
    }

    async fn add_up(
        &self,
        namespace: &str,
        kind: &ApiResource,
        quota: &Value,
        used: &mut Amounts,
    ) -> Result<(), Error> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, kind);
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let listed = api.list(&params).await;
            let list = listed.map_err(failed("counting", "namespace", namespace))?;
            for object in &list.items {
                let tree = serde_json::to_value(object).unwrap_or_default();
                if !scopes::covers(quota, &kind.group, &kind.plural, &tree) {
                    continue;
                }
                let mut own = usage::of(&kind.group, &kind.plural, &tree, Timestamp::now());
                own.retain(|name, _| used.contains_key(name));
                amounts::add(used, &own);
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(()),
            }
        }
    }
}

/// Group and resource of the objects that a limit is about.
fn kind_of(limit: &str) -> Option<(String, String)> {
    let core = |resource: &str| Some((String::new(), resource.to_owned()));
    if let Some(counted) = limit.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        debug_assert_eq!(count_name(resource, group), limit);
        return Some((group.to_owned(), resource.to_owned()));
    }
    if LEGACY.contains(&limit) {
        return core(limit);
    }
    if limit.starts_with("services") {
        return core("services");
    }
    let storage = limit.contains(".storageclass.storage.k8s.io/");
    if storage || limit == "persistentvolumeclaims" || limit == "requests.storage" {
        return core("persistentvolumeclaims");
    }
    core("pods")
}
