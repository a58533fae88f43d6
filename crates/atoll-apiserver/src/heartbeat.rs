//! Who is alive: pings of nodes, and what follows when they stay away.
//!
//! An agent pings every server, so that each knows how long a node has been silent, and the one
//! that leads judges ([`watcher`]): also one that has just begun to lead, by its own record.
//!
//! Time is monotonic here; nobody's wall clock counts.

mod probe;
mod unknown;
mod watcher;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::authz::Attributes;
use crate::body::Body;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::registry::Registry;
use crate::status::Status;
use crate::user::MASTERS;
use watcher::Watcher;

/// Without a ping for this long a node whose machine does not answer is lost. Four intervals of
/// the agent.
const SILENCE: Duration = Duration::from_secs(2);
/// A death and an election take no longer. A server that begins to lead and has not heard a node
/// for more than this never hears it, whatever the reason; the server that led before did.
const RECORD_MAX: Duration = Duration::from_secs(4);
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

/// `POST /atoll/v1/nodes/{name}/ping`
///
/// Answers `{"republish": true}` when the node was declared lost in between: its agent then
/// posts its whole status again; as `servers` where the API of each server is reached; as `leads`
/// whether this one judges; and `{"cutOff": true}` when it sees no majority of them.
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
    let republish = was_lost && is_unknown(&core.registry, name);
    let servers = core.config.servers.as_ref();
    let leads = servers.is_none_or(|servers| *servers.leads.borrow());
    let mut answer =
        json!({"republish": republish, "servers": core.server_addresses(), "leads": leads});
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
fn is_unknown(registry: &Registry, name: &str) -> bool {
    let Some(row) = kinds::find("", "v1", "nodes") else { return false };
    let Some(entry) = registry.cache(row).and_then(|cache| cache.get("", name)) else {
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
    let watcher = Watcher::new(core, trust);
    let (trust, node, watched) = (trust.clone(), name.to_owned(), pulse.clone());
    core.tasks.spawn(async move {
        watcher.watch(&node, &watched).await;
        let mut nodes = trust.heartbeats.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.remove(&node);
    });
    Ok(pulse)
}

// === impl Heartbeats ===

impl Heartbeats {
    /// Whether any node is heard: a server that hears none of several is deaf itself.
    fn hear_any(&self, now: Instant) -> bool {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let is_heard = |state: State| state.heard && state.seen + SILENCE > now;
        nodes.len() < 2 || nodes.values().any(|pulse| is_heard(pulse.state()))
    }
}

// === impl Pulse ===

impl Pulse {
    fn new() -> Self {
        let state = State { seen: Instant::now(), heard: false, lost: false };
        Self { state: Mutex::new(state), back: Notify::new() }
    }

    fn state(&self) -> State {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a ping; whether the node counts as lost.
    fn beat(&self) -> bool {
        let mut state = self.lock();
        state.seen = Instant::now();
        state.heard = true;
        if state.lost {
            self.back.notify_one();
        }
        state.lost
    }

    /// Gives the node a full period from now on.
    fn wait_anew(&self) {
        self.lock().seen = Instant::now();
    }

    /// This server begins to judge. What it knows of the node counts, if it knows anything.
    fn begin(&self, now: Instant) {
        let mut state = self.lock();
        if !state.heard || state.seen + RECORD_MAX < now {
            state.seen = now;
        }
    }

    fn found(&self) {
        self.lock().lost = false;
    }

    fn lose(&self) {
        self.lock().lost = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_goes_by_what_it_has_heard_lately() {
        let began = Instant::now();
        let [never, lately, long_ago] = [Pulse::new(), Pulse::new(), Pulse::new()];
        long_ago.beat();
        lately.beat();
        lately.lock().seen = began + Duration::from_secs(8);
        // The node dies together with the leader, and the election takes a while.
        let now = began + Duration::from_millis(9_700);
        for pulse in [&never, &lately, &long_ago] {
            pulse.begin(now);
        }
        assert_eq!(lately.state().seen, began + Duration::from_secs(8));
        assert_eq!(never.state().seen, now);
        assert_eq!(long_ago.state().seen, now, "the former leader heard it");
    }

    #[test]
    fn who_hears_none_of_several_nodes_is_deaf() {
        let heartbeats = Heartbeats::default();
        let [one, two] = [Arc::new(Pulse::new()), Arc::new(Pulse::new())];
        let add = |name: &str, pulse: &Arc<Pulse>| {
            heartbeats.nodes.lock().unwrap().insert(name.to_owned(), pulse.clone());
        };
        add("one", &one);
        let now = Instant::now();
        assert!(heartbeats.hear_any(now), "its only node may be gone");
        add("two", &two);
        assert!(!heartbeats.hear_any(now));
        two.beat();
        assert!(heartbeats.hear_any(now));
        assert!(!heartbeats.hear_any(Instant::now() + SILENCE));
    }
}
