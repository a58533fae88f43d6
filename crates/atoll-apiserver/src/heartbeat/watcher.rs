//! Looks after one node, and judges it when it is silent while this server leads.
//!
//! A node that was silent for [`SILENCE`] and whose machine does not answer at the kubelet's port is
//! lost, and its condition Ready becomes Unknown. A machine that answers, if only with a refusal,
//! has lost its agent and keeps its pods for [`AGENT_GRACE`]. A node that has written its Lease
//! meanwhile is well: it reaches another server and not this one.
//!
//! Whoever judges must be well itself: not one that stood still, nor one that hears no node at all,
//! nor one that is cut off (the first step of [`unknown::mark`] is a read that a majority confirms).

use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::Revision;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::probe::{self, Answer, DIAL_TIMEOUT};
use super::{Pulse, SILENCE, is_unknown, unknown};
use crate::config::Clock;
use crate::core::Core;
use crate::registry::Registry;
use crate::storage::Storage;
use crate::trust::Trust;

/// When a silent node is dialled, so that it has had time to answer when its time is up.
const LOOK_AFTER: Duration = SILENCE.saturating_sub(DIAL_TIMEOUT);
/// A Lease that is renewed after so much silence tells that the node lives: agents that no longer
/// hear who leads renew it twice a second. Their last regular renewal is older.
const LEASE_AFTER: Duration = Duration::from_secs(1);
/// How long the pods of a node that answers without its agent keep their endpoints.
const AGENT_GRACE: Duration = Duration::from_secs(10);
/// Between two looks at such a node: it may still go down.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A timer that fires this late tells that this process itself stood still; then nodes get
/// another full period, for their pings may be waiting.
const STALL: Duration = Duration::from_millis(500);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What a watching task needs, without the server around it.
pub(super) struct Watcher {
    registry: Arc<Registry>,
    storage: Storage,
    clock: Arc<dyn Clock>,
    trust: Arc<Trust>,
    /// Whether this server judges; always, when there is no other.
    leads: Option<watch::Receiver<bool>>,
    stop: CancellationToken,
}

/// What became of a silent node.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    /// It was heard, or has been given a full period.
    Over,
    Lost,
    /// There is no such Node any more, or the server stops.
    Gone,
}

/// How a wait ended.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    /// The node is still silent.
    Silent,
    Over,
    Stopped,
}

impl Watcher {
    pub(super) fn new(core: &Core, trust: &Arc<Trust>) -> Self {
        Self {
            registry: core.registry.clone(),
            storage: core.storage.clone(),
            clock: core.config.clock.clone(),
            trust: trust.clone(),
            leads: core.config.servers.as_ref().map(|servers| servers.leads.clone()),
            stop: core.stop.clone(),
        }
    }

    /// Until the Node is gone or the server stops.
    pub(super) async fn watch(&self, name: &str, pulse: &Pulse) {
        loop {
            let seen = pulse.state().seen;
            match self.pass(seen + LEASE_AFTER, pulse, seen).await {
                Wait::Silent => {}
                Wait::Over => continue,
                Wait::Stopped => return,
            }
            if !self.leads() {
                if !self.wait_to_lead(name).await {
                    return;
                }
                pulse.begin(Instant::now());
                continue;
            }
            match self.judge(name, pulse, seen).await {
                Silence::Over => {}
                Silence::Lost if !self.leads() => {}
                Silence::Gone => return,
                Silence::Lost => {
                    if !self.lose(name, pulse, seen).await {
                        return;
                    }
                }
            }
        }
    }

    /// Sleeps until `when`, which may be past for one who has just begun to lead.
    async fn pass(&self, when: Instant, pulse: &Pulse, seen: Instant) -> Wait {
        let when = when.max(Instant::now());
        if !self.sleep_until(when).await {
            return Wait::Stopped;
        }
        if self.stood_still(when.elapsed(), pulse) || pulse.state().seen > seen {
            return Wait::Over;
        }
        Wait::Silent
    }

    /// Whether this process did not run for a while; then nobody can be judged.
    fn stood_still(&self, late: Duration, pulse: &Pulse) -> bool {
        if late <= STALL {
            return false;
        }
        tracing::warn!(?late, "this server stood still; nodes get another full period");
        pulse.wait_anew();
        true
    }

    /// Looks at a silent node until it is heard, is lost, or is no more.
    async fn judge(&self, name: &str, pulse: &Pulse, seen: Instant) -> Silence {
        let lease = self.lease(name);
        let mut next = seen + LOOK_AFTER;
        loop {
            match self.pass(next, pulse, seen).await {
                Wait::Silent => {}
                Wait::Over => return Silence::Over,
                Wait::Stopped => return Silence::Gone,
            }
            let begun = Instant::now();
            let answer = match probe::address(&self.registry, name) {
                Some(address) => probe::dial(address).await,
                None if self.exists(name) => Answer::Nothing,
                None => return Silence::Gone,
            };
            if self.stood_still(begun.elapsed().saturating_sub(DIAL_TIMEOUT), pulse) {
                return Silence::Over;
            }
            match self.pass(seen + SILENCE, pulse, seen).await {
                Wait::Silent => {}
                Wait::Over => return Silence::Over,
                Wait::Stopped => return Silence::Gone,
            }
            if self.lease(name) != lease {
                tracing::debug!(node = name, "a node is heard by way of another server");
                pulse.wait_anew();
                return Silence::Over;
            }
            let has_had_its_time =
                seen.elapsed() >= AGENT_GRACE && self.trust.heartbeats.hear_any(Instant::now());
            if answer == Answer::Nothing || has_had_its_time {
                return Silence::Lost;
            }
            next = Instant::now() + LOOK_AGAIN;
            if next > seen + AGENT_GRACE && seen.elapsed() < AGENT_GRACE {
                next = seen + AGENT_GRACE;
            }
        }
    }

    /// Writes down that the node is lost and waits until it is back. False when the Node is gone
    /// or the server stops.
    async fn lose(&self, name: &str, pulse: &Pulse, seen: Instant) -> bool {
        pulse.lose();
        tracing::info!(node = name, "node lost");
        if !self.mark(name, pulse, seen).await {
            return true;
        }
        if !self.wait_until_back(name, pulse, seen).await {
            return false;
        }
        tracing::info!(node = name, "node is back");
        true
    }

    /// False when somebody else judges meanwhile, or the node is heard.
    async fn mark(&self, name: &str, pulse: &Pulse, seen: Instant) -> bool {
        let written = unknown::mark(&self.storage, self.clock.as_ref(), name, &self.stop);
        tokio::select! {
            () = written => true,
            () = self.deposed() => false,
            () = heard(pulse, seen) => false,
        }
    }

    /// A lost node needs no looking after until it pings, or writes its status by way of another
    /// server. False when the server stops, or when the Node is deleted.
    async fn wait_until_back(&self, name: &str, pulse: &Pulse, seen: Instant) -> bool {
        let Some(nodes) = self.registry.objects("", "nodes") else { return false };
        let mut changes = nodes.subscribe();
        let mut was_unknown = false;
        loop {
            if !self.exists(name) {
                return false;
            }
            let unknown = is_unknown(&self.registry, name);
            if was_unknown && !unknown {
                pulse.wait_anew();
                return true;
            }
            was_unknown |= unknown;
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = heard(pulse, seen) => return true,
                changed = changes.changed() => if changed.is_err() { return false },
            }
        }
    }

    fn leads(&self) -> bool {
        self.leads.as_ref().is_none_or(|leads| *leads.borrow())
    }

    /// Until this server leads. False when the Node is deleted or the server stops.
    async fn wait_to_lead(&self, name: &str) -> bool {
        let Some(mut leads) = self.leads.clone() else { return true };
        while self.exists(name) {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                changed = leads.wait_for(|leads| *leads) => return changed.is_ok(),
                () = tokio::time::sleep(SILENCE) => {}
            }
        }
        false
    }

    /// Until another server judges.
    async fn deposed(&self) {
        match self.leads.clone() {
            Some(mut leads) => drop(leads.wait_for(|leads| !*leads).await.ok()),
            None => std::future::pending().await,
        }
    }

    fn exists(&self, name: &str) -> bool {
        self.registry.objects("", "nodes").is_some_and(|nodes| nodes.get("", name).is_some())
    }

    /// The revision of the node's Lease.
    fn lease(&self, name: &str) -> Option<Revision> {
        let leases = self.registry.objects("coordination.k8s.io", "leases")?;
        leases.get(LEASE_NAMESPACE, name).map(|entry| entry.revision)
    }

    /// False when the server stops.
    async fn sleep_until(&self, when: Instant) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(when) => true,
        }
    }
}

/// Until the node has pinged.
async fn heard(pulse: &Pulse, seen: Instant) {
    while pulse.state().seen <= seen {
        pulse.back.notified().await;
    }
}
