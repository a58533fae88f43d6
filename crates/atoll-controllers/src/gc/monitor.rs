//! Watches the metadata of every kind that can be deleted.

use super::graph::{Node, Owner};
use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, PartialObjectMeta},
    core::ApiResource,
    discovery::{Discovery, Scope, verbs},
    runtime::{WatchStreamExt, watcher},
};
use std::{collections::BTreeSet, time::Duration};
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

/// All such kinds that the API serves.
pub(super) struct Catalog(Vec<Kind>);

/// Kinds that are not worth collecting: they own nothing, nobody owns them, and they end
/// by themselves (upstream ignores them too).
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

impl Catalog {
    /// `None` when `stop` came first.
    pub(super) async fn discover(client: &Client, stop: &CancellationToken) -> Option<Self> {
        loop {
            match Discovery::new(client.clone()).run_aggregated().await {
                Ok(discovery) => return Some(Self(kinds(&discovery))),
                Err(error) => warn!(%error, "discovery failed; retrying"),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(DISCOVERY_RETRY) => {}
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn kind(&self, index: usize) -> &Kind {
        &self.0[index]
    }

    pub(super) fn namespaced(&self) -> Vec<Kind> {
        self.0.iter().filter(|kind| kind.namespaced).cloned().collect()
    }

    pub(super) fn find(&self, api_version: &str, kind: &str) -> Option<usize> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let same = |one: &Kind| one.resource.kind == kind && one.resource.group == group;
        self.0.iter().position(same)
    }

    /// Whether `owner` names the kind at `index`, in whichever version.
    pub(super) fn is_kind(&self, owner: &Owner, index: usize) -> bool {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let resource = &self.kind(index).resource;
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
        for (index, kind) in self.0.iter().enumerate() {
            let api = Api::all_with(client.clone(), &kind.resource);
            tasks.spawn(watch_kind(index, api, sender.clone(), stop.clone()));
        }
    }
}

fn kinds(discovery: &Discovery) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let wanted = [verbs::LIST, verbs::WATCH, verbs::DELETE];
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
) {
    let mut events = Box::pin(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = BTreeSet::new();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
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
