//! Tells the server that this node lives: a ping twice a second, a Lease every ten.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

const PING_PERIOD: Duration = Duration::from_millis(500);
/// A ping without an answer by then has failed.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Pings until stopped. `back` is woken when the server answers again after a silence, or
/// when it says that it had given this node up.
pub async fn ping(cx: Arc<Context>, back: Arc<Notify>, stop: CancellationToken) {
    let path = format!("/atoll/v1/nodes/{}/ping", cx.config.node_name);
    let mut tick = tokio::time::interval(PING_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match tokio::time::timeout(PING_TIMEOUT, ping_once(&cx, &path)).await {
            Ok(Ok(given_up)) => {
                if !heard {
                    tracing::info!("the server answers again");
                }
                if !heard || given_up {
                    back.notify_one();
                }
                heard = true;
            }
            Ok(Err(error)) => {
                if heard {
                    tracing::warn!(%error, "the server does not answer pings");
                }
                heard = false;
            }
            Err(_elapsed) => {
                if heard {
                    tracing::warn!("the server does not answer pings in time");
                }
                heard = false;
            }
        }
    }
}

/// Whether the server wants this node's status anew, for it had taken it for lost.
async fn ping_once(cx: &Context, path: &str) -> Result<bool, kube::Error> {
    let request = Request::post(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    let answer: serde_json::Value = cx.client.request(request).await?;
    Ok(answer["republish"] == true)
}

/// Renews the node's Lease, the fall-back for when no server keeps pings.
pub async fn lease(cx: Arc<Context>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LEASE_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(error) = renew(&cx).await {
            tracing::warn!(%error, "node lease not renewed; will retry");
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
