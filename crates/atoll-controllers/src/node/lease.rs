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

/// A node whose lease has not moved for this long, and for as long as it says, counts as lost.
/// Pings notice within two seconds; this is for servers that do not have them.
const GRACE: Duration = Duration::from_secs(40);
/// Whatever it says.
const GRACE_MAX: Duration = Duration::from_secs(1800);
const NAMESPACE: &str = "kube-node-lease";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The node has no lease yet.
    Unknown,
    ExpiresIn(Duration),
    Expired,
}

pub(super) struct Leases {
    /// When each lease last moved, as we saw it, and its grace. A controller just started sees all
    /// of them move now, and so waits a full period.
    moved_at: Mutex<HashMap<String, (Instant, Duration)>>,
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
            if let Some((name, grace)) = seen.observe(change) {
                queue.add_after(Key::new("", name), grace);
            }
        });
        let api = Api::namespaced(client.clone(), NAMESPACE);
        tasks.spawn(informer.run(api, watcher::Config::default(), stop.clone()));
        leases
    }

    /// The node to look at when this lease would expire, unless that is known.
    fn observe(&self, change: &Change<'_, Lease>) -> Option<(String, Duration)> {
        let mut moved_at = self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lease) = change.new else {
            moved_at.remove(&change.old?.name_any());
            return None;
        };
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        if change.old.map(|old| renewed(old)) == Some(renewed(lease)) {
            return None;
        }
        let grace = grace(lease);
        let before = moved_at.insert(lease.name_any(), (Instant::now(), grace));
        let is_sooner = before.is_none_or(|(_, before)| grace < before);
        is_sooner.then(|| (lease.name_any(), grace))
    }

    pub(super) fn check(&self, node: &str) -> Verdict {
        let moved_at = self.moved_at.lock().unwrap_or_else(PoisonError::into_inner);
        match moved_at.get(node) {
            None => Verdict::Unknown,
            Some((at, grace)) => match grace.checked_sub(at.elapsed()) {
                Some(left) if !left.is_zero() => Verdict::ExpiresIn(left),
                _ => Verdict::Expired,
            },
        }
    }
}

fn grace(lease: &Lease) -> Duration {
    let said = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    Duration::from_secs(said.unwrap_or(0).max(0).unsigned_abs().into()).clamp(GRACE, GRACE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

    fn lease(seconds: i32, renewed: i64) -> Arc<Lease> {
        let at = jiff::Timestamp::from_second(renewed).unwrap();
        Arc::new(Lease {
            metadata: ObjectMeta { name: Some("n".to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                lease_duration_seconds: Some(seconds),
                renew_time: Some(MicroTime(at)),
                ..LeaseSpec::default()
            }),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_has_as_long_as_its_lease_says_and_forty_seconds_at_least() {
        let leases = Leases { moved_at: Mutex::default() };
        let (slow, quick) = (lease(900, 1), lease(10, 2));
        let observe = |old: Option<&Arc<Lease>>, new: &Arc<Lease>| {
            leases.observe(&Change { old, new: Some(new) }).map(|(_, grace)| grace)
        };
        assert_eq!(observe(None, &slow), Some(Duration::from_secs(900)));
        tokio::time::advance(Duration::from_secs(899)).await;
        assert_eq!(leases.check("n"), Verdict::ExpiresIn(Duration::from_secs(1)));
        // One that is renewed more often is looked at sooner, and one that did not move is not.
        assert_eq!(observe(Some(&slow), &quick), Some(GRACE));
        assert_eq!(observe(Some(&quick), &quick), None);
        tokio::time::advance(GRACE).await;
        assert_eq!(leases.check("n"), Verdict::Expired);
        assert_eq!(grace(&lease(i32::MAX, 3)), GRACE_MAX);
        assert_eq!(grace(&lease(-5, 3)), GRACE);
    }
}
