//! Who is alive: pings of nodes, and what follows when they stay away.
//!
//! An agent pings every server, so that each knows how long a node has been silent, and the one
//! that leads judges: also one that has just begun to lead. A node that this server has never
//! heard gets a full period from then on.
//!
//! Time is monotonic here; nobody's wall clock counts. A node that was silent for
//! [`SILENCE`] is asked at its kubelet port: a machine that answers, if only with a refusal,
//! has lost its agent and keeps its pods for [`AGENT_GRACE`]; one that does not answer is
//! lost at once, and its condition Ready becomes Unknown.

mod probe;
mod unknown;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds;
use atoll_policy::node::node_of;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::authz::Attributes;
use crate::body::Body;
use crate::config::Clock;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::registry::Registry;
use crate::status::Status;
use crate::storage::Storage;
use crate::user::MASTERS;
use probe::Answer;

/// Without a ping for this long a node is looked after. Four intervals of the agent.
const SILENCE: Duration = Duration::from_secs(2);
/// How long the pods of a node that answers without its agent keep their endpoints.
const AGENT_GRACE: Duration = Duration::from_secs(10);
/// Between two looks at such a node: it may still go down.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A timer that fires this late tells that this process itself stood still; then nodes get
/// another full period, for their pings may be waiting.
const STALL: Duration = Duration::from_millis(500);
/// Nodes that are watched. Pings of more are refused.
const NODES_MAX: usize = 10_000;

/// All nodes that are watched.
#[derive(Default)]
pub struct Heartbeats {
    nodes: Mutex<HashMap<String, Arc<Pulse>>>,
}

/// One node.
struct Pulse {
    state: Mutex<State>,
    /// Wakes the watch of a lost node.
    back: Notify,
}

#[derive(Clone, Copy)]
struct State {
    seen: Instant,
    /// It has pinged this server; `seen` is the beginning of its watch otherwise.
    heard: bool,
    /// Declared lost since it was last seen.
    lost: bool,
}

/// What a watching task needs, without the server around it.
#[derive(Clone)]
struct Watcher {
    registry: Arc<Registry>,
    storage: Storage,
    clock: Arc<dyn Clock>,
    /// Whether this server judges; always, when there is no other.
    leads: Option<watch::Receiver<bool>>,
    stop: CancellationToken,
}

/// `POST /atoll/v1/nodes/{name}/ping`
///
/// Answers `{"republish": true}` when the node was declared lost in between: its agent then
/// posts its whole status again; as `servers` where the API of each server is reached; and
/// `{"cutOff": true}` when this one sees no majority of them.
pub fn ping<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    let answered = on_ping(core, &request);
    async move { answered }.boxed()
}

/// Watches every node that is known at start; each gets a full period.
pub fn start(core: &Core) {
    let Some(row) = kinds::find("", "v1", "nodes") else { return };
    let Some(cache) = core.registry.cache(row) else { return };
    for entry in cache.list("") {
        if let Err(error) = pulse(core, entry.name()) {
            tracing::warn!(%error, node = entry.name(), "node is not watched");
        }
    }
}

fn on_ping(core: &Core, request: &PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let path = request.head.uri.path();
    let name = path.trim_end_matches('/').rsplit('/').nth(1).unwrap_or_default();
    let user = request.user;
    if node_of(&user.name, &user.groups) != Some(name) && !user.in_group(MASTERS) {
        let attributes = Attributes { verb: "post", ..Attributes::empty(user, path) };
        return Err(attributes.forbidden("a node pings for itself only"));
    }
    let pulse = pulse(core, name)?;
    let was_lost = pulse.beat();
    let republish = was_lost && is_unknown(core, name);
    let mut answer = json!({"republish": republish, "servers": core.server_addresses()});
    if core.is_cut_off() {
        answer["cutOff"] = json!(true);
    }
    let mut response = Response::new(Body::from(Bytes::from(answer.to_string())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if was_lost && !republish {
        pulse.found();
    }
    Ok(response)
}

/// Whether the stored condition still says that nobody hears from the node.
fn is_unknown(core: &Core, name: &str) -> bool {
    let Some(row) = kinds::find("", "v1", "nodes") else { return false };
    let Some(entry) = core.registry.cache(row).and_then(|cache| cache.get("", name)) else {
        return false;
    };
    entry.object(row).is_ok_and(|node| {
        node["status"].items("conditions").iter().any(|condition| {
            condition.text("type") == "Ready" && condition.text("status") == "Unknown"
        })
    })
}

/// The node's pulse; the first one starts its watch.
fn pulse(core: &Core, name: &str) -> Result<Arc<Pulse>, Status> {
    let trust = core.trust()?;
    let mut nodes = trust.heartbeats.nodes.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pulse) = nodes.get(name) {
        return Ok(pulse.clone());
    }
    if nodes.len() >= NODES_MAX {
        return Err(Status::too_many_requests(
            format!("{NODES_MAX} nodes are watched already"),
            10,
        ));
    }
    let pulse = Arc::new(Pulse::new());
    nodes.insert(name.to_owned(), pulse.clone());
    drop(nodes);
    let watcher = Watcher {
        registry: core.registry.clone(),
        storage: core.storage.clone(),
        clock: core.config.clock.clone(),
        leads: core.config.servers.as_ref().map(|servers| servers.leads.clone()),
        stop: core.stop.clone(),
    };
    let (trust, node, watched) = (trust.clone(), name.to_owned(), pulse.clone());
    core.tasks.spawn(async move {
        watcher.watch(&node, &watched).await;
        let mut nodes = trust.heartbeats.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.remove(&node);
    });
    Ok(pulse)
}

// === impl Pulse ===

impl Pulse {
    fn new() -> Self {
        let state = State { seen: Instant::now(), heard: false, lost: false };
        Self { state: Mutex::new(state), back: Notify::new() }
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a ping; whether the node counts as lost.
    fn beat(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.seen = Instant::now();
        state.heard = true;
        if state.lost {
            self.back.notify_one();
        }
        state.lost
    }

    /// Gives a node that nobody has heard a full period from now on.
    fn wait_for_first(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.heard {
            state.seen = Instant::now();
        }
    }

    fn found(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lost = false;
    }

    fn lose(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lost = true;
    }
}

// === impl Watcher ===

/// What became of a silent node.
#[derive(Debug, PartialEq, Eq)]
enum Silence {
    /// It pinged again.
    Over,
    Lost,
    /// There is no such Node any more.
    Gone,
}

impl Watcher {
    /// Until the Node is gone or the server stops.
    async fn watch(&self, name: &str, pulse: &Pulse) {
        loop {
            let seen = pulse.state().seen;
            // One who has just begun to lead may be past the deadline already.
            let deadline = (seen + SILENCE).max(Instant::now());
            if !self.sleep_until(deadline).await {
                return;
            }
            if pulse.state().seen > seen {
                continue;
            }
            if deadline.elapsed() > STALL {
                tracing::warn!(node = name, late = ?deadline.elapsed(), "this server stood still");
                pulse.beat();
                continue;
            }
            if !self.leads() {
                if !self.exists(name) || !self.wait_to_lead().await {
                    return;
                }
                pulse.wait_for_first();
                continue;
            }
            match self.judge(name, pulse, seen).await {
                Silence::Over => {}
                Silence::Lost if !self.leads() => {}
                Silence::Gone => return,
                Silence::Lost => {
                    pulse.lose();
                    tracing::info!(node = name, "node lost");
                    if !self.mark(name).await {
                        continue;
                    }
                    if !self.wait_for_ping(name, pulse).await {
                        return;
                    }
                    tracing::info!(node = name, "node is back");
                }
            }
        }
    }

    /// Looks at a silent node until it pings, is lost, or is no more.
    async fn judge(&self, name: &str, pulse: &Pulse, seen: Instant) -> Silence {
        loop {
            let Some(address) = probe::address(&self.registry, name) else {
                return if self.exists(name) { Silence::Lost } else { Silence::Gone };
            };
            let answer = probe::dial(address).await;
            if pulse.state().seen > seen {
                return Silence::Over;
            }
            if answer == Answer::Nothing || seen.elapsed() >= AGENT_GRACE {
                return Silence::Lost;
            }
            let next = (Instant::now() + LOOK_AGAIN).min(seen + AGENT_GRACE);
            if !self.sleep_until(next).await {
                return Silence::Gone;
            }
            if pulse.state().seen > seen {
                return Silence::Over;
            }
        }
    }

    /// A lost node needs no looking after until it pings. False when the server stops, or
    /// when the Node is deleted.
    async fn wait_for_ping(&self, name: &str, pulse: &Pulse) -> bool {
        let Some(nodes) = self.registry.objects("", "nodes") else { return false };
        let mut changes = nodes.subscribe();
        loop {
            if !self.exists(name) {
                return false;
            }
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = pulse.back.notified() => return true,
                changed = changes.changed() => if changed.is_err() { return false },
            }
        }
    }

    fn leads(&self) -> bool {
        self.leads.as_ref().is_none_or(|leads| *leads.borrow())
    }

    /// Until this server leads, or for a while: the node may be heard meanwhile. False when the
    /// server stops.
    async fn wait_to_lead(&self) -> bool {
        let Some(mut leads) = self.leads.clone() else { return true };
        tokio::select! {
            () = self.stop.cancelled() => false,
            changed = leads.wait_for(|leads| *leads) => changed.is_ok(),
            () = tokio::time::sleep(SILENCE) => true,
        }
    }

    /// Writes down that the node is lost; false when somebody else judges meanwhile.
    async fn mark(&self, name: &str) -> bool {
        let written = unknown::mark(&self.storage, self.clock.as_ref(), name, &self.stop);
        let Some(mut leads) = self.leads.clone() else {
            written.await;
            return true;
        };
        tokio::select! {
            () = written => true,
            _ = leads.wait_for(|leads| !*leads) => false,
        }
    }

    fn exists(&self, name: &str) -> bool {
        self.registry.objects("", "nodes").is_some_and(|nodes| nodes.get("", name).is_some())
    }

    /// False when the server stops.
    async fn sleep_until(&self, when: Instant) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep_until(when) => true,
        }
    }
}
