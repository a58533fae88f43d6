//! Makes the Node object, keeps its status true, and learns the node's podCIDR from it.

use std::sync::Arc;
use std::time::Duration;

use atoll_informer::{Informer, Key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::node::extended;
use crate::node::heartbeat::{LEASE_SECONDS, until_next_period};
use crate::node::object::{self, Health};

/// An unchanged status that is older is written with every other renewal of the node's Lease: what
/// comes together costs the disk little more than one write.
const STATUS_AGE_MAX: Duration = Duration::from_secs(LEASE_SECONDS.unsigned_abs() as u64);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Creates the Node, or gives the one that is there this node's labels. Tries until it
/// works: without a Node no pod comes here.
pub async fn register(cx: &Context, stop: &CancellationToken) {
    let mut delay = RETRY_FIRST;
    loop {
        match try_register(cx).await {
            Ok(()) => return,
            Err(error) => {
                let node = &cx.config.node_name;
                tracing::warn!(%node, %error, "node not registered; will retry");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = RETRY_MAX.min(delay * 2);
    }
}

async fn try_register(cx: &Context) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(cx.client.clone());
    let name = &cx.config.node_name;
    let mut wanted = object::node(&cx.config, &cx.machine);
    wanted.status =
        Some(status(cx, &Health { not_ready: Some(STARTING.into()), ..Health::default() }, None));
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => {
            tracing::info!(node = %name, "node registered");
            return Ok(());
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error),
    }
    let labels = object::labels(&cx.config, &cx.machine);
    let patch = json!({ "metadata": { "labels": labels } });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

const STARTING: &str = "container runtime network not ready: NetworkReady=false \
                        reason:NetworkPluginNotReady message:the node has no podCIDR yet";

fn status(cx: &Context, health: &Health, old: Option<&NodeStatus>) -> NodeStatus {
    let images = cx.images.list().unwrap_or_else(|error| {
        tracing::warn!(%error, "images not listed");
        Vec::new()
    });
    object::status(&cx.config, &cx.machine, health, &images, old, cx.now())
}

/// Writes the status when it changed, when somebody else changed it, and every five
/// minutes.
pub async fn keep_status(
    cx: Arc<Context>,
    nodes: Arc<Informer<Node>>,
    mut health: watch::Receiver<Health>,
    nudge: Arc<Notify>,
    stop: CancellationToken,
) {
    let key = Key::new("", &cx.config.node_name);
    watch_own(&cx, &nodes, &nudge);
    let mut written: Option<(NodeStatus, Timestamp)> = None;
    let mut delay = RETRY_FIRST;
    loop {
        let current = health.borrow_and_update().clone();
        let known = nodes.get(&key).and_then(|node| node.status.clone());
        let wanted = status(&cx, &current, known.as_ref());
        let due = written.as_ref().is_none_or(|(last, at)| {
            let age = cx.now().duration_since(*at).unsigned_abs();
            age >= STATUS_AGE_MAX || !object::same(last, &wanted)
        }) || known.as_ref().is_some_and(|known| {
            !is_ready_as_wanted(known, &wanted) || !extended::is_offered(known)
        });
        let wait = if due {
            match write(&cx, &wanted, known.as_ref()).await {
                Ok(()) => {
                    written = Some((wanted, cx.now()));
                    delay = RETRY_FIRST;
                    until_next_period(cx.now())
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written; will retry");
                    delay = RETRY_MAX.min(delay * 2);
                    delay
                }
            }
        } else {
            until_next_period(cx.now())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = health.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = nudge.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A server that lost sight of this node calls it Unknown; it hears better at once. Who
/// announces a resource of the node hears at once that it is offered.
fn watch_own(cx: &Context, nodes: &Arc<Informer<Node>>, nudge: &Arc<Notify>) {
    let (name, nudge) = (cx.config.node_name.clone(), nudge.clone());
    nodes.on_change(move |change| {
        let Some(node) = change.new else { return };
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let unknown = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
        let offered = node.status.as_ref().is_none_or(extended::is_offered);
        if (unknown || !offered) && node.metadata.name.as_deref() == Some(&name) {
            nudge.notify_one();
        }
    });
}

fn is_ready_as_wanted(known: &NodeStatus, wanted: &NodeStatus) -> bool {
    let ready = |status: &NodeStatus| {
        let conditions = status.conditions.iter().flatten();
        conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status.clone())
    };
    ready(known) == ready(wanted)
}

async fn write(
    cx: &Context,
    status: &NodeStatus,
    known: Option<&NodeStatus>,
) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(cx.client.clone());
    let mut patch = json!({ "status": status });
    for name in known.into_iter().flat_map(extended::withdrawn) {
        patch["status"]["allocatable"][name] = Value::Null;
    }
    let patch = Patch::Strategic(patch);
    match api.patch_status(&cx.config.node_name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => try_register(cx).await,
        Err(error) => Err(error),
    }
}

/// The node's podCIDR, as soon as it has one.
pub async fn pod_cidr(
    cx: &Context,
    nodes: &Arc<Informer<Node>>,
    stop: &CancellationToken,
) -> Option<String> {
    let key = Key::new("", &cx.config.node_name);
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.on_change(move |_| wake.notify_one());
    loop {
        let cidr = nodes.get(&key).and_then(|node| node.spec.as_ref()?.pod_cidr.clone());
        if let Some(cidr) = cidr.filter(|cidr| !cidr.is_empty()) {
            return Some(cidr);
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = changed.notified() => {}
        }
    }
}
