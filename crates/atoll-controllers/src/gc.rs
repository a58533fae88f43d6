//! Deletes what nobody owns any more, and what foreground and orphan deletion ask for.
//!
//! [`graph`] knows who owns whom from the metadata of every object; [`decide`] says what
//! becomes of one object; this file watches, looks up and writes. The rules are those of
//! kube-controller-manager's garbage collector.

mod decide;
mod graph;
mod monitor;

use crate::{
    error::{Error, failed, gone_is_fine, settle},
    shared::ClientFor,
};
use atoll_informer::{Key, Outcome, Recorder, WorkQueue, run_workers};
use decide::{OwnerState, Verdict};
use graph::{Graph, Node, Owner};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, ResourceExt,
    api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy},
};
use monitor::{Catalog, Observed};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub(crate) use monitor::{Kind, Served};

/// Objects worked on at once.
const WORKERS: usize = 8;
/// Observations waiting for the graph; watches wait when it is full.
const OBSERVED_MAX: usize = 256;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

type Removed = Box<dyn Fn(&str) + Send + Sync>;

/// What the collector knows of the cluster; others ask it about namespaces.
pub(crate) struct Collector {
    client: Client,
    recorder: Recorder,
    graph: Mutex<Graph>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    synced: watch::Sender<bool>,
    queue: Arc<WorkQueue<String>>,
    on_removed: Mutex<Vec<Removed>>,
}

impl Collector {
    pub(crate) fn new(
        clients: &ClientFor,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let client = clients("generic-garbage-collector");
        let component = "garbage-collector-controller";
        let recorder = Recorder::start(client.clone(), component, None, tasks, stop.clone());
        Arc::new(Self {
            client,
            recorder,
            graph: Mutex::new(Graph::default()),
            catalog: watch::Sender::new(None),
            synced: watch::Sender::new(false),
            queue: WorkQueue::new(),
            on_removed: Mutex::new(Vec::new()),
        })
    }

    /// Calls `handler` with the namespace of every object that goes.
    pub(crate) fn on_removed(&self, handler: impl Fn(&str) + Send + Sync + 'static) {
        lock(&self.on_removed).push(Box::new(handler));
    }

    /// The kinds that have objects in `namespace`, with their number.
    pub(crate) fn census(&self, namespace: &str) -> Vec<(Kind, usize)> {
        let Some(catalog) = self.catalog.borrow().clone() else { return Vec::new() };
        let counts = self.lock().census(namespace);
        counts.into_iter().map(|(kind, count)| (catalog.kind(kind), count)).collect()
    }

    pub(crate) fn namespaced_kinds(&self) -> Vec<Kind> {
        let catalog = self.catalog.borrow().clone();
        catalog.map(|catalog| catalog.namespaced()).unwrap_or_default()
    }

    /// Objects in `namespace` that wait for these finalizers, with the number of each.
    pub(crate) fn finalizers(&self, namespace: &str) -> Vec<(String, usize)> {
        self.lock().finalizers(namespace)
    }

    pub(crate) async fn synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        if self.synced.subscribe().wait_for(|synced| *synced).await.is_err() {
            tracing::debug!("collector dropped before it was synced");
        }
    }

    pub(crate) fn start(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let (collector, inner, stop) = (self.clone(), tasks.clone(), stop.clone());
        tasks.spawn(async move {
            let Some(catalog) = Catalog::discover(&collector.client, &stop).await else { return };
            let catalog = Arc::new(catalog);
            collector.catalog.send_replace(Some(catalog.clone()));
            let (sender, receiver) = mpsc::channel(OBSERVED_MAX);
            let wanted = catalog.len();
            catalog.watch(&collector.client, &sender, &inner, &stop);
            let client = collector.client.clone();
            inner.spawn(catalog.clone().follow(client, sender, inner.clone(), stop.clone()));
            inner.spawn(collector.clone().observe(receiver, catalog.clone(), wanted, stop.clone()));
            collector.synced().await;
            let queue = collector.queue.clone();
            run_workers(&inner, &stop, &queue, WORKERS, move |uid: String| {
                let collector = collector.clone();
                async move { collector.pass(&uid).await }
            });
        });
    }

    fn lock(&self) -> MutexGuard<'_, Graph> {
        lock(&self.graph)
    }

    async fn observe(
        self: Arc<Self>,
        mut observed: mpsc::Receiver<Observed>,
        catalog: Arc<Catalog>,
        wanted: usize,
        stop: CancellationToken,
    ) {
        let mut listed = BTreeSet::new();
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = observed.recv() => next,
            };
            match next {
                None => return,
                Some(Observed::Present(node)) => {
                    let look_at = self
                        .lock()
                        .insert(node, &|owner, known| catalog.is_kind(owner, known.kind));
                    look_at.into_iter().for_each(|uid| self.queue.add(uid));
                }
                Some(Observed::Gone(uid)) => self.forget(&uid),
                Some(Observed::Listed { kind, uids }) => {
                    let gone = self.lock().missing(kind, &uids);
                    gone.iter().for_each(|uid| self.forget(uid));
                    listed.insert(kind);
                    if listed.len() >= wanted {
                        self.synced.send_replace(true);
                    }
                }
            }
        }
    }

    fn forget(&self, uid: &str) {
        let (namespace, look_at) = self.lock().remove(uid);
        look_at.into_iter().for_each(|uid| self.queue.add(uid));
        if let Some(namespace) = namespace {
            for handler in lock(&self.on_removed).iter() {
                handler(&namespace);
            }
        }
    }

    async fn pass(&self, uid: &str) -> Outcome {
        let Some(node) = self.lock().get(uid).cloned() else { return Outcome::Done };
        let key = Key::new(&node.namespace, &node.name);
        let result = self.collect(&node).await;
        settle("garbage-collector", &key, result)
    }

    async fn collect(&self, node: &Node) -> Result<Outcome, Error> {
        let Some(catalog) = self.catalog.borrow().clone() else { return Ok(Outcome::Retry) };
        let api = catalog.api(&self.client, node.kind, &node.namespace);
        let read = api.get_metadata_opt(&node.name).await;
        let live = read.map_err(failed("reading", "object", &node.name))?;
        let live = live.filter(|live| live.uid().as_deref() == Some(node.uid.as_str()));
        let Some(live) = live else {
            self.forget(&node.uid);
            return Ok(Outcome::Done);
        };
        let live = Node::of(node.kind, &live.metadata);
        if live.waits_for(ORPHAN) {
            return self.orphan(&catalog, &api, &live).await;
        }
        if live.waits_for(FOREGROUND) {
            return self.foreground(&api, &live).await;
        }
        if live.deleting {
            return Ok(Outcome::Done);
        }
        let owners = self.owner_states(&catalog, &live).await?;
        let has_dependents = self.lock().has_dependents(&live.uid);
        self.carry_out(&api, &live, decide::decide(&owners, has_dependents)).await
    }

    async fn owner_states(
        &self,
        catalog: &Catalog,
        node: &Node,
    ) -> Result<Vec<(Owner, OwnerState)>, Error> {
        let mut states = Vec::with_capacity(node.owners.len());
        for owner in &node.owners {
            let known = self
                .lock()
                .owner(node, owner, &|owner, known| catalog.is_kind(owner, known.kind))
                .cloned();
            let state = match known {
                Some(known) if known.waits_for(FOREGROUND) && owner.blocks => OwnerState::Waiting,
                Some(_) => OwnerState::Solid,
                // Not in the graph: perhaps not seen yet, or not what the reference says, so
                // only the API can tell.
                None => {
                    self.say_if_elsewhere(catalog, node, owner);
                    self.look_up(catalog, owner, &node.namespace).await?
                }
            };
            states.push((owner.clone(), state));
        }
        Ok(states)
    }

    /// An owner in another namespace is none; who wrote the reference is told why the object
    /// goes, or is never collected.
    fn say_if_elsewhere(&self, catalog: &Catalog, node: &Node, owner: &Owner) {
        if !self.lock().is_news_of_elsewhere(node, owner) {
            return;
        }
        let kind = catalog.kind(node.kind).resource;
        let text = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
            owner.api_version, owner.kind, node.namespace, owner.name, owner.uid, node.namespace
        );
        let dependent = ObjectReference {
            api_version: Some(kind.api_version),
            kind: Some(kind.kind),
            namespace: Some(node.namespace.clone()),
            name: Some(node.name.clone()),
            uid: Some(node.uid.clone()),
            ..ObjectReference::default()
        };
        self.recorder.warning_of(dependent, "OwnerRefInvalidNamespace", text);
    }

    async fn look_up(
        &self,
        catalog: &Catalog,
        owner: &Owner,
        namespace: &str,
    ) -> Result<OwnerState, Error> {
        // An owner of a kind that is not served cannot be proven absent.
        let Some(kind) = catalog.find(&owner.api_version, &owner.kind) else {
            return Ok(OwnerState::Solid);
        };
        if catalog.kind(kind).namespaced && namespace.is_empty() {
            warn!(
                owner = %owner.name, kind = %owner.kind,
                "an object without namespace cannot be owned by one with; it is left alone"
            );
            return Ok(OwnerState::Solid);
        }
        let api = catalog.api(&self.client, kind, namespace);
        let read = api.get_metadata_opt(&owner.name).await;
        let live = read.map_err(failed("reading", "owner", &owner.name))?;
        let is_there = live.is_some_and(|live| live.uid().as_deref() == Some(&owner.uid));
        Ok(if is_there { OwnerState::Solid } else { OwnerState::Absent })
    }

    async fn carry_out(
        &self,
        api: &Api<DynamicObject>,
        node: &Node,
        verdict: Verdict,
    ) -> Result<Outcome, Error> {
        match verdict {
            Verdict::Keep => {}
            Verdict::Disown(uids) => {
                self.write_owners(api, node, |owner| !uids.contains(&owner.uid)).await?;
            }
            Verdict::Delete { foreground } => {
                if foreground && self.closes_a_circle(node) {
                    self.unblock(api, node).await?;
                }
                let policy = match (foreground, node) {
                    (true, _) => PropagationPolicy::Foreground,
                    (false, node) if node.has_finalizer(ORPHAN) => PropagationPolicy::Orphan,
                    (false, node) if node.has_finalizer(FOREGROUND) => {
                        PropagationPolicy::Foreground
                    }
                    _ => PropagationPolicy::Background,
                };
                let params = DeleteParams {
                    propagation_policy: Some(policy),
                    preconditions: Some(Preconditions {
                        uid: Some(node.uid.clone()),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                let deleted = gone_is_fine(api.delete(&node.name, &params).await);
                deleted.map_err(failed("deleting", "object", &node.name))?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether some dependent waits for its own dependents already: in a circle each would wait
    /// for the next for ever.
    fn closes_a_circle(&self, node: &Node) -> bool {
        self.lock().dependents(&node.uid).iter().any(|dependent| dependent.waits_for(FOREGROUND))
    }

    /// Its owners wait for it no more.
    async fn unblock(&self, api: &Api<DynamicObject>, node: &Node) -> Result<(), Error> {
        let owners = node.owners.iter().map(|owner| Owner { blocks: false, ..owner.clone() });
        let owners: Vec<_> = owners.map(|owner| owner.reference()).collect();
        let patch = json!({ "metadata": {
            "uid": node.uid, "resourceVersion": node.resource_version, "ownerReferences": owners,
        } });
        self.patch(api, node, "unblocking the owners of", &patch).await
    }

    /// Foreground: dependents that block go first, then the finalizer.
    async fn foreground(&self, api: &Api<DynamicObject>, node: &Node) -> Result<Outcome, Error> {
        let blocking = self.lock().blocking_dependents(&node.uid);
        if blocking.is_empty() {
            self.drop_finalizer(api, node, FOREGROUND).await?;
        } else {
            blocking.into_iter().for_each(|uid| self.queue.add(uid));
        }
        Ok(Outcome::Done)
    }

    async fn orphan(
        &self,
        catalog: &Catalog,
        api: &Api<DynamicObject>,
        node: &Node,
    ) -> Result<Outcome, Error> {
        let dependents = self.lock().dependents(&node.uid);
        for dependent in dependents {
            let theirs = catalog.api(&self.client, dependent.kind, &dependent.namespace);
            self.write_owners(&theirs, &dependent, |owner| owner.uid != node.uid).await?;
        }
        self.drop_finalizer(api, node, ORPHAN).await?;
        Ok(Outcome::Done)
    }

    async fn write_owners(
        &self,
        api: &Api<DynamicObject>,
        node: &Node,
        stays: impl Fn(&Owner) -> bool,
    ) -> Result<(), Error> {
        let owners: Vec<_> =
            node.owners.iter().filter(|owner| stays(owner)).map(Owner::reference).collect();
        let patch = json!({ "metadata": {
            "uid": node.uid, "resourceVersion": node.resource_version, "ownerReferences": owners,
        } });
        self.patch(api, node, "disowning", &patch).await
    }

    async fn drop_finalizer(
        &self,
        api: &Api<DynamicObject>,
        node: &Node,
        finalizer: &str,
    ) -> Result<(), Error> {
        let left: Vec<&String> = node.finalizers.iter().filter(|one| *one != finalizer).collect();
        let patch = json!({ "metadata": {
            "uid": node.uid, "resourceVersion": node.resource_version, "finalizers": left,
        } });
        self.patch(api, node, "removing a finalizer of", &patch).await
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        node: &Node,
        verb: &'static str,
        patch: &serde_json::Value,
    ) -> Result<(), Error> {
        let params = PatchParams::default();
        let patched = api.patch_metadata(&node.name, &params, &Patch::Merge(patch)).await;
        gone_is_fine(patched).map_err(failed(verb, "object", &node.name))?;
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
