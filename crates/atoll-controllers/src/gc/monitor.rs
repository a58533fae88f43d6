//! Watches the metadata of every kind that can be deleted.

use super::graph::{Node, Owner};
use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, PartialObjectMeta},
    core::{
        ApiResource,
        discovery::v2::{APIGroupDiscoveryList, APIVersionDiscovery},
    },
    discovery::{Discovery, Scope, verbs},
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

/// Discovery is asked again after this time when it fails.
const DISCOVERY_RETRY: Duration = Duration::from_secs(1);

/// What the watches report, in order for each kind.
pub(super) enum Observed {
    Present(Node),
    Gone(String),
    /// A complete list of a kind has been reported; nothing else of it exists.
    Listed {
        kind: usize,
        uids: BTreeSet<String>,
    },
}

/// A kind that can be listed, watched and deleted.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) delete_collection: bool,
}

/// All such kinds that the API serves. Custom resources come and go; a kind keeps its place.
pub(super) struct Catalog(Mutex<Vec<Slot>>);

struct Slot {
    kind: Kind,
    /// Cancelled when the kind is not served any more; ends its watch.
    gone: CancellationToken,
}

/// Kinds that are not worth collecting: they own nothing, nobody owns them, and they end
/// by themselves (upstream ignores them too).
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

impl Catalog {
    /// `None` when `stop` came first.
    pub(super) async fn discover(client: &Client, stop: &CancellationToken) -> Option<Self> {
        loop {
            match Discovery::new(client.clone()).run_aggregated().await {
                Ok(discovery) => {
                    let slots = kinds(&discovery, WATCHED).into_iter().map(Slot::new).collect();
                    return Some(Self(Mutex::new(slots)));
                }
                Err(error) => warn!(%error, "discovery failed; retrying"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(DISCOVERY_RETRY) => {}
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn kind(&self, index: usize) -> Kind {
        self.lock()[index].kind.clone()
    }

    pub(super) fn namespaced(&self) -> Vec<Kind> {
        let slots = self.lock();
        let served = slots.iter().filter(|slot| !slot.gone.is_cancelled());
        served.map(|slot| slot.kind.clone()).filter(|kind| kind.namespaced).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<usize> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let same = |slot: &Slot| {
            let resource = &slot.kind.resource;
            !slot.gone.is_cancelled() && resource.kind == kind && resource.group == group
        };
        self.lock().iter().position(same)
    }

    /// Whether `owner` names the kind at `index`, in whichever version.
    pub(super) fn is_kind(&self, owner: &Owner, index: usize) -> bool {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let resource = self.kind(index).resource;
        resource.kind == owner.kind && resource.group == group
    }

    pub(super) fn api(&self, client: &Client, kind: usize, namespace: &str) -> Api<DynamicObject> {
        let kind = self.kind(kind);
        if kind.namespaced {
            Api::namespaced_with(client.clone(), namespace, &kind.resource)
        } else {
            Api::all_with(client.clone(), &kind.resource)
        }
    }

    pub(super) fn watch(
        &self,
        client: &Client,
        sender: &mpsc::Sender<Observed>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for (index, slot) in self.lock().iter().enumerate() {
            let api = Api::all_with(client.clone(), &slot.kind.resource);
            let gone = slot.gone.clone();
            tasks.spawn(watch_kind(index, api, sender.clone(), stop.clone(), gone));
        }
    }

    /// Takes in what is served now: the places of kinds that are new, and their watches' ends.
    fn renew(&self, served: Vec<Kind>) -> Vec<(usize, Kind, CancellationToken)> {
        let mut slots = self.lock();
        let same = |one: &Kind, other: &Kind| {
            one.namespaced == other.namespaced
                && one.resource.group == other.resource.group
                && one.resource.plural == other.resource.plural
                && one.resource.version == other.resource.version
        };
        for slot in slots.iter().filter(|slot| !slot.gone.is_cancelled()) {
            if !served.iter().any(|kind| same(kind, &slot.kind)) {
                slot.gone.cancel();
            }
        }
        let mut added = Vec::new();
        for kind in served {
            let known = |slot: &Slot| !slot.gone.is_cancelled() && same(&kind, &slot.kind);
            if !slots.iter().any(known) {
                let slot = Slot::new(kind.clone());
                added.push((slots.len(), kind, slot.gone.clone()));
                slots.push(slot);
            }
        }
        added
    }

    /// Follows the definitions of custom resources: their kinds are watched while they are served.
    pub(super) async fn follow(
        self: Arc<Self>,
        client: Client,
        sender: mpsc::Sender<Observed>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let definitions: Api<PartialObjectMeta<CustomResourceDefinition>> =
            Api::all(client.clone());
        let events = watcher(definitions, watcher::Config::default()).default_backoff();
        let mut events = Box::pin(events);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Err(error)) => {
                    warn!(%error, "watching definitions of custom resources failed; retrying");
                    continue;
                }
                // The list is complete, or one of them changed.
                Some(Ok(watcher::Event::Init | watcher::Event::InitApply(_))) => continue,
                Some(Ok(_)) => {}
            }
            let served = match Discovery::new(client.clone()).run_aggregated().await {
                Ok(discovery) => kinds(&discovery, WATCHED),
                Err(error) => {
                    warn!(%error, "discovery failed; the next change of a definition asks again");
                    continue;
                }
            };
            for (index, kind, gone) in self.renew(served) {
                let api = Api::all_with(client.clone(), &kind.resource);
                tasks.spawn(watch_kind(index, api, sender.clone(), stop.clone(), gone));
            }
        }
    }
}

impl Slot {
    fn new(kind: Kind) -> Self {
        Self { kind, gone: CancellationToken::new() }
    }
}

/// What the API serves now.
pub(crate) struct Served {
    pub(crate) kinds: Vec<Kind>,
    /// Versions of groups whose server is away: `group/version`.
    pub(crate) away: Vec<String>,
}

impl Served {
    pub(crate) async fn ask(client: &Client) -> Result<Self, kube::Error> {
        let groups = client.list_api_groups_aggregated().await?;
        let discovery = Discovery::new(client.clone()).run_aggregated().await?;
        Ok(Self { kinds: kinds(&discovery, LISTED), away: away(&groups) })
    }
}

fn away(groups: &APIGroupDiscoveryList) -> Vec<String> {
    let mut away: Vec<String> = groups
        .items
        .iter()
        .flat_map(|group| {
            let name = group.metadata.as_ref().and_then(|metadata| metadata.name.clone());
            let stale =
                |version: &&APIVersionDiscovery| version.freshness.as_deref() == Some("Stale");
            let versions = group.versions.iter().filter(stale);
            versions.map(move |version| {
                let version = version.version.as_deref().unwrap_or_default();
                format!("{}/{version}", name.as_deref().unwrap_or_default())
            })
        })
        .collect();
    away.sort();
    away
}

/// What the graph follows.
const WATCHED: &[&str] = &[verbs::LIST, verbs::WATCH, verbs::DELETE];
/// What can be found and taken away.
const LISTED: &[&str] = &[verbs::LIST, verbs::DELETE];

fn kinds(discovery: &Discovery, wanted: &[&str]) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let ignored = IGNORED.contains(&(resource.group.as_str(), resource.plural.as_str()));
            if ignored || !wanted.iter().all(|verb| capabilities.supports_operation(verb)) {
                continue;
            }
            kinds.push(Kind {
                namespaced: capabilities.scope == Scope::Namespaced,
                delete_collection: capabilities.supports_operation(verbs::DELETE_COLLECTION),
                resource,
            });
        }
    }
    kinds
}

async fn watch_kind(
    kind: usize,
    api: Api<PartialObjectMeta<DynamicObject>>,
    sender: mpsc::Sender<Observed>,
    stop: CancellationToken,
    gone: CancellationToken,
) {
    let mut events = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = BTreeSet::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            () = gone.cancelled() => {
                // Nothing of the kind exists any more.
                sender.send(Observed::Listed { kind, uids: BTreeSet::new() }).await.ok();
                return;
            }
            event = events.next() => event,
        };
        let observed = match event {
            None => return,
            Some(Err(error)) => {
                warn!(%error, "watching metadata failed; retrying");
                continue;
            }
            Some(Ok(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.insert(object.uid().unwrap_or_default());
                Observed::Present(Node::of(kind, &object.metadata))
            }
            Some(Ok(watcher::Event::InitDone)) => {
                Observed::Listed { kind, uids: std::mem::take(&mut listed) }
            }
            Some(Ok(watcher::Event::Apply(object))) => {
                Observed::Present(Node::of(kind, &object.metadata))
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                Observed::Gone(object.uid().unwrap_or_default())
            }
        };
        if sender.send(observed).await.is_err() {
            return;
        }
    }
}
