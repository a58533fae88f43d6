//! Ages node leases by our own monotonic clock, so that no node's clock matters.

use atoll_informer::{Change, Informer, Key, WorkQueue};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt, runtime::watcher};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A node whose lease has not moved for this long counts as lost. Pings notice within two
/// seconds; this is for servers that do not have them.
const GRACE: Duration = Duration::from_secs(40);
const NAMESPACE: &str = "kube-node-lease";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The node has no lease yet.
    Unknown,
    ExpiresIn(Duration),
    Expired,
}

pub(super) struct Leases {
    /// When each lease last moved, as we saw it. A controller just started sees all of
    /// them move now, and so waits a full period.
    moved_at: Mutex<HashMap<String, Instant>>,
}

impl Leases {
    pub(super) fn start(
        client: &Client,
        nodes: &Arc<WorkQueue<Key>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let leases = Arc::new(Self { moved_at: Mutex::new(HashMap::new()) });
        let informer: Arc<Informer<Lease>> = Informer::new();
        let (seen, queue) = (leases.clone(), nodes.clone());
        informer.on_change(move |change: &Change<'_, Lease>| {
            if let Some(name) = seen.observe(change) {
                queue.add_after(Key::new("", name), GRACE);
            }
        });
        let api = Api::namespaced(client.clone(), NAMESPACE);
        tasks.spawn(informer.run(api, watcher::Config::default(), stop.clone()));
        leases
    }

    /// The node to look at when this lease would expire.
    fn observe(&self, change: &Change<'_, Lease>) -> Option<String> {
        let mut moved_at = self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = change.new else {
            moved_at.remove(&change.old?.name_any());
            return None;
        };
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        if change.old.map(|old| renewed(old)) == Some(renewed(lease)) {
            return None;
        }
        let first = moved_at.insert(lease.name_any(), Instant::now()).is_none();
        first.then(|| lease.name_any())
    }

    pub(super) fn check(&self, node: &str) -> Verdict {
        let moved_at = self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        match moved_at.get(node) {
            None => Verdict::Unknown,
            Some(at) => match GRACE.checked_sub(at.elapsed()) {
                Some(left) if !left.is_zero() => Verdict::ExpiresIn(left),
                _ => Verdict::Expired,
            },
        }
    }
}
