//! Tells the servers that this node lives: a ping to each twice a second, a Lease now and then.
//!
//! The server that leads judges. When this node hears servers but not that one, it renews its Lease
//! with every ping, by way of a server that it hears: the judge sees that, too.

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Context;

const PING_PERIOD: Duration = Duration::from_millis(500);
/// A ping without an answer by then has failed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// While servers answer pings, which are what a node's health hangs on. Each renewal is a write to
/// the disk of every server, the greater part of what an idle cluster writes. All nodes renew at
/// the same times, so that a log and a file system that gather what comes together write once.
const LEASE_PERIOD: Duration = Duration::from_secs(150);
/// Nodes are spread over this much, so that no server meets all of them in one moment.
const LEASE_SPREAD: Duration = Duration::from_secs(2);
/// What the Lease says while servers answer. An unchanged status is written less often than that,
/// which clients take for a rule of kubelets.
pub(crate) const LEASE_SECONDS: i32 = 240;
/// A kubelet's, where no server knows of pings or none answers them.
const UNHEARD_PERIOD: Duration = Duration::from_secs(10);
const UNHEARD_SECONDS: i32 = 40;
/// One that failed is tried again well within [`UNHEARD_SECONDS`].
const LEASE_RETRY: Duration = Duration::from_secs(5);
/// Between two renewals by way of other servers: with every ping.
const LEASE_GAP: Duration = PING_PERIOD.saturating_sub(Duration::from_millis(100));
/// Without a word of the one that leads for so long the Lease is renewed: two pings, and half of the
/// silence after which it would take this node for lost.
const LEADER_SILENCE: Duration = Duration::from_secs(1);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// A client of one server alone.
#[derive(Clone)]
pub struct ServerClient {
    pub address: String,
    pub client: Client,
    /// Another client for the same server has another number.
    pub number: u64,
}

/// The servers of the cluster, as this node reaches them.
pub trait Servers: Send + Sync {
    fn clients(&self) -> watch::Receiver<Vec<ServerClient>>;
    /// What a server answered to a ping; `None` when it did not.
    fn pinged(&self, server: &str, answer: Option<&Value>);
}

/// Who answers.
struct Ears {
    state: Mutex<Heard>,
    /// Woken when a server answers after all were silent, or when one says that it had given
    /// this node up.
    back: Arc<Notify>,
    /// Whether any server answered the last ping.
    answered: watch::Sender<bool>,
}

struct Heard {
    /// Whether each server answered the last ping.
    servers: BTreeMap<String, bool>,
    /// When the one that leads answered last.
    leader_at: Instant,
    /// When the Lease was last renewed because it did not.
    went_round_at: Option<Instant>,
}

/// Pings every server until stopped: each of them may have to judge whether this node lives.
pub async fn ping(
    cx: Arc<Context>,
    back: Arc<Notify>,
    answered: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let ears = Arc::new(Ears::new(back, answered));
    let Some(servers) = cx.config.servers.clone() else {
        let client = cx.client.clone();
        let own = ServerClient { address: String::new(), client, number: 0 };
        return ping_one(cx.clone(), own, ears, stop).await;
    };
    let mut clients = servers.clients();
    let mut pinged: BTreeMap<(String, u64), CancellationToken> = BTreeMap::new();
    loop {
        let wanted = clients.borrow_and_update().clone();
        pinged.retain(|(server, number), token| {
            let stays = wanted.iter().any(|one| one.address == *server && one.number == *number);
            if !stays {
                token.cancel();
                ears.forget(server);
            }
            stays
        });
        for server in wanted {
            let token = stop.child_token();
            let key = (server.address.clone(), server.number);
            if let Entry::Vacant(free) = pinged.entry(key) {
                free.insert(token.clone());
                cx.tasks.spawn(ping_one(cx.clone(), server, ears.clone(), token));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = clients.changed() => if changed.is_err() { return },
        }
    }
}

async fn ping_one(
    cx: Arc<Context>,
    server: ServerClient,
    ears: Arc<Ears>,
    stop: CancellationToken,
) {
    let path = format!("/atoll/v1/nodes/{}/ping", cx.config.node_name);
    let mut tick = tokio::time::interval(PING_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let answer =
            match tokio::time::timeout(PING_TIMEOUT, ping_once(&server.client, &path)).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_elapsed) => Err("no answer in time".to_owned()),
            };
        if let Some(servers) = &cx.config.servers {
            servers.pinged(&server.address, answer.as_ref().ok());
        }
        if ears.note(&server.address, answer, Instant::now()) {
            cx.tasks.spawn(go_round(cx.clone(), server.clone()));
        }
    }
}

/// Renews the Lease by way of this server: the node's own client may still wait for the one that
/// leads.
async fn go_round(cx: Arc<Context>, server: ServerClient) {
    match tokio::time::timeout(PING_TIMEOUT, renew(&cx, &server.client, true)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(server = server.address, %error, "lease not renewed"),
        Err(_elapsed) => tracing::debug!(server = server.address, "lease not renewed in time"),
    }
}

async fn ping_once(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = Request::post(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

impl Ears {
    fn new(back: Arc<Notify>, answered: watch::Sender<bool>) -> Self {
        let heard =
            Heard { servers: BTreeMap::new(), leader_at: Instant::now(), went_round_at: None };
        Self { state: Mutex::new(heard), back, answered }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this server is to tell the one that leads that the node lives.
    fn note(&self, server: &str, answer: Result<Value, String>, now: Instant) -> bool {
        let mut heard = self.heard();
        // Before the first ping nothing was missed.
        let none_before = !heard.servers.is_empty() && heard.servers.values().all(|heard| !heard);
        let before = heard.servers.insert(server.to_owned(), answer.is_ok());
        self.tell_answered(&heard);
        match answer {
            Ok(answer) => {
                // The server wants this node's status anew, for it had taken it for lost.
                if answer["republish"] == true || none_before {
                    self.back.notify_one();
                }
                if before == Some(false) {
                    tracing::info!(server, "a server answers again");
                }
                heard.is_astray(&answer, now)
            }
            Err(error) => {
                if before.unwrap_or(true) {
                    tracing::warn!(server, error, "a server does not answer pings");
                }
                false
            }
        }
    }

    fn forget(&self, server: &str) {
        let mut heard = self.heard();
        heard.servers.remove(server);
        self.tell_answered(&heard);
    }

    fn tell_answered(&self, heard: &Heard) {
        let now = heard.servers.values().any(|heard| *heard);
        self.answered.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

impl Heard {
    /// Whether servers answer and the one that leads has not for a while. Those who see no majority
    /// could not pass anything on. A server of an earlier release does not say whether it leads,
    /// and is taken at its best.
    fn is_astray(&mut self, answer: &Value, now: Instant) -> bool {
        if answer["leads"] != false {
            self.leader_at = now;
            return false;
        }
        let recently = self.went_round_at.is_some_and(|at| at + LEASE_GAP > now);
        if answer["cutOff"] == true || recently || self.leader_at + LEADER_SILENCE > now {
            return false;
        }
        self.went_round_at = Some(now);
        true
    }
}

/// Renews the node's Lease, the fall-back for when no server keeps pings.
pub async fn lease(cx: Arc<Context>, mut answered: watch::Receiver<bool>, stop: CancellationToken) {
    // What the first renewal says does not have to be taken back at once.
    drop(tokio::time::timeout(PING_TIMEOUT, answered.wait_for(|heard| *heard)).await);
    loop {
        let is_heard = *answered.borrow_and_update();
        let wait = match renew(&cx, &cx.client, is_heard).await {
            Ok(()) if is_heard => until_next_period(cx.now()),
            Ok(()) => UNHEARD_PERIOD,
            Err(error) => {
                tracing::warn!(%error, "node lease not renewed; will retry");
                LEASE_RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = is_otherwise(is_heard, &mut answered, UNHEARD_PERIOD) => {}
        }
    }
}

/// Until what the last renewal said of the next one is no longer true.
async fn is_otherwise(is_heard: bool, answered: &mut watch::Receiver<bool>, patience: Duration) {
    loop {
        if answered.wait_for(|heard| *heard != is_heard).await.is_err() {
            return std::future::pending().await;
        }
        if !is_heard {
            return;
        }
        // One ping that is lost is no reason to write.
        let back = tokio::time::timeout(patience, answered.wait_for(|heard| *heard)).await;
        if back.is_err() {
            return;
        }
    }
}

/// Periods begin at the same time on all nodes, as far as their clocks agree.
pub(super) fn until_next_period(now: Timestamp) -> Duration {
    let since = Duration::from_secs(now.as_second().unsigned_abs() % LEASE_PERIOD.as_secs());
    LEASE_PERIOD.saturating_sub(since) + LEASE_SPREAD.mul_f64(rand::random::<f64>())
}

async fn renew(cx: &Context, client: &Client, is_heard: bool) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let name = &cx.config.node_name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(if is_heard { LEASE_SECONDS } else { UNHEARD_SECONDS }),
        renew_time: Some(MicroTime(cx.now())),
        ..LeaseSpec::default()
    };
    let owner = owner(cx, client).await;
    let mut patch = json!({ "spec": spec });
    if let Some(owner) = &owner {
        patch["metadata"] = json!({ "ownerReferences": [owner] });
    }
    let patch = Patch::Merge(patch);
    match api.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                owner_references: owner.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            };
            let lease = Lease { metadata, spec: Some(spec) };
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// The Node, with which the Lease goes; none while there is no Node.
async fn owner(cx: &Context, client: &Client) -> Option<OwnerReference> {
    let name = &cx.config.node_name;
    let uid = match cx.node() {
        Some(node) => node.metadata.uid.clone(),
        None => Api::<Node>::all(client.clone()).get(name).await.ok()?.metadata.uid,
    };
    Some(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.clone(),
        uid: uid?,
        ..OwnerReference::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn nodes_renew_at_the_same_times() {
        for (second, period) in [(1_000_000_200, 150), (1_000_000_201, 149), (1_000_000_349, 1)] {
            let wait = until_next_period(Timestamp::from_second(second).unwrap());
            let period = Duration::from_secs(period);
            assert!(wait >= period && wait <= period + LEASE_SPREAD, "{second}: {wait:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_ping_is_no_reason_to_renew_and_silence_is() {
        let ears = Ears::new(Arc::default(), watch::Sender::new(false));
        let mut answered = ears.answered.subscribe();
        let hear = || ears.note("one", Ok(json!({})), Instant::now());
        let miss = || ears.note("one", Err("no answer in time".to_owned()), Instant::now());
        let hour = Duration::from_secs(3600);
        hear();
        is_otherwise(false, &mut answered, hour).await;
        // It is heard again before its patience ends.
        miss();
        let silence = is_otherwise(true, &mut answered, hour);
        let mut silence = std::pin::pin!(silence);
        assert!(silence.as_mut().now_or_never().is_none());
        hear();
        assert!(silence.as_mut().now_or_never().is_none());
        let mut answered = ears.answered.subscribe();
        miss();
        is_otherwise(true, &mut answered, Duration::from_millis(1)).await;
    }

    #[test]
    fn a_node_that_hears_servers_but_not_the_one_that_leads_goes_round() {
        let ears = Ears::new(Arc::new(Notify::new()), watch::Sender::new(false));
        let begun = Instant::now();
        let note = |server: &str, answer: Value, ms| {
            ears.note(server, Ok(answer), begun + Duration::from_millis(ms))
        };
        let (leads, follows) = (json!({ "leads": true }), json!({ "leads": false }));
        assert!(!note("one", leads.clone(), 0));
        assert!(!note("two", follows.clone(), 900));
        assert!(!ears.note("one", Err("no answer in time".to_owned()), begun));
        assert!(note("two", follows.clone(), 1_000));
        assert!(!note("three", follows.clone(), 1_100), "one of them is enough");
        assert!(note("three", follows.clone(), 1_600));
        let cut_off = json!({ "leads": false, "cutOff": true });
        assert!(!note("two", cut_off, 2_000), "one of a minority could not pass it on");
        assert!(!note("two", leads, 2_000));
        assert!(!note("three", follows, 2_100));
        assert!(!note("two", json!({ "republish": false }), 9_000), "of an earlier release");
    }
}
