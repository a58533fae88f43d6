//! Tells the server that this node lives: a ping twice a second, a Lease every ten.

use std::collections::{BTreeMap, btree_map::Entry};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

const PING_PERIOD: Duration = Duration::from_millis(500);
/// A ping without an answer by then has failed.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Twice as long as a kubelet's: pings are what a node's health hangs on, and each renewal is two
/// synced blocks of the store's log, the greater part of what an idle cluster writes.
const LEASE_PERIOD: Duration = Duration::from_secs(20);
/// One that failed is tried again well within [`LEASE_SECONDS`].
const LEASE_RETRY: Duration = Duration::from_secs(5);
const LEASE_SECONDS: i32 = 40;
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
    heard: Mutex<BTreeMap<String, bool>>,
    /// Woken when a server answers after all were silent, or when one says that it had given
    /// this node up.
    back: Arc<Notify>,
}

/// Pings every server until stopped: each of them may have to judge whether this node lives.
pub async fn ping(cx: Arc<Context>, back: Arc<Notify>, stop: CancellationToken) {
    let ears = Arc::new(Ears { heard: Mutex::default(), back });
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
        ears.note(&server.address, answer);
    }
}

async fn ping_once(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = Request::post(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

impl Ears {
    fn note(&self, server: &str, answer: Result<Value, String>) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the first ping nothing was missed.
        let none_before = !heard.is_empty() && heard.values().all(|heard| !heard);
        let before = heard.insert(server.to_owned(), answer.is_ok());
        match answer {
            // The server wants this node's status anew, for it had taken it for lost.
            Ok(answer) if answer["republish"] == true => self.back.notify_one(),
            Ok(_) if none_before => self.back.notify_one(),
            Ok(_) => {}
            Err(error) if before.unwrap_or(true) => {
                tracing::warn!(server, error, "a server does not answer pings");
                return;
            }
            Err(_) => return,
        }
        if before == Some(false) {
            tracing::info!(server, "a server answers again");
        }
    }

    fn forget(&self, server: &str) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(server);
    }
}

/// Renews the node's Lease, the fall-back for when no server keeps pings.
pub async fn lease(cx: Arc<Context>, stop: CancellationToken) {
    loop {
        let wait = match renew(&cx).await {
            Ok(()) => LEASE_PERIOD,
            Err(error) => {
                tracing::warn!(%error, "node lease not renewed; will retry");
                LEASE_RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn renew(cx: &Context) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(cx.client.clone(), LEASE_NAMESPACE);
    let name = &cx.config.node_name;
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(cx.now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(json!({ "spec": spec }));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            api.create(&PostParams::default(), &lease).await.map(drop)
        }
        Err(error) => Err(error),
    }
}
