//! What this server says of itself to `atoll check`, which asks every server.

use std::sync::Arc;
use std::time::Duration;

use atoll_identity::PeerIdentity;
use atoll_store::kv;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde_json::{Value, json};

use super::{ServersConfig, members, rejoin};
use crate::body::Body;
use crate::core::{Core, timestamp};
use crate::extension::PlainRequest;
use crate::join::answer;
use crate::status::Status;

/// A store that takes longer to answer is not well.
const STORE_MAX: Duration = Duration::from_secs(2);

/// `GET /atoll/v1/check`
pub(crate) fn serve<'a>(
    core: &'a Core,
    _request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move { answer(&document(core).await?) }.boxed()
}

async fn document(core: &Core) -> Result<Value, Status> {
    let config = core.servers_config()?.clone();
    let machine = machine(&config).await;
    let (store, problem) = store(core).await;
    let mut document = json!({
        "server": config.name,
        "memberId": format!("{:x}", config.member_id),
        "clusterId": config.cluster_id,
        "version": env!("CARGO_PKG_VERSION"),
        "leads": *config.leads.borrow(),
        "store": store,
        "problem": problem,
        "machine": machine,
        "certificates": certificates(core),
        "servers": core.servers.live.borrow().iter().map(|(name, live)| {
            json!({ "name": name, "address": live.address })
        }).collect::<Vec<Value>>(),
    });
    if let Some(applications) = &config.applications {
        let status = applications.status().await.ok();
        document["applications"] = status.as_ref().map_or(Value::Null, numbers);
    }
    if let Some(cluster) = &config.cluster {
        document["cluster"] = members::document(core, &cluster.membership());
        let progress = cluster.progress().into_iter().map(|one| {
            json!({
                "id": format!("{:x}", one.id),
                "matchedIndex": one.matched_index,
                "isActive": one.is_active,
            })
        });
        document["progress"] = progress.collect();
        document["rejoins"] = rejoin::document(core);
    }
    Ok(document)
}

async fn machine(config: &Arc<ServersConfig>) -> Value {
    let examine = config.examine.clone();
    tokio::task::spawn_blocking(move || examine()).await.unwrap_or(Value::Null)
}

/// Its numbers, and why it does not do its work, if so.
async fn store(core: &Core) -> (Value, Option<String>) {
    let numbers = match tokio::time::timeout(STORE_MAX, core.storage.kv().status()).await {
        Ok(Ok(status)) => numbers(&status),
        Ok(Err(error)) => return (Value::Null, Some(error.to_string())),
        Err(_) => return (Value::Null, Some("the store does not answer".to_owned())),
    };
    let problem = match tokio::time::timeout(STORE_MAX, core.storage.revision()).await {
        Ok(Ok(_)) => None,
        Ok(Err(status)) => Some(status.message().to_owned()),
        Err(_) => Some("the store does not answer".to_owned()),
    };
    (numbers, problem)
}

fn numbers(status: &kv::Status) -> Value {
    json!({
        "revision": status.revision,
        "compactedRevision": status.compacted_revision,
        "term": status.raft_term,
        "index": status.raft_index,
        "appliedIndex": status.applied_index,
        "liveBytes": status.live_bytes,
        "quotaBytes": status.quota_bytes,
        "noSpace": status.no_space,
        "diskBytes": status.disk_bytes,
        "isLeader": status.is_leader,
    })
}

/// Until when the authorities live, and when this server's own certificates are renewed.
fn certificates(core: &Core) -> Value {
    let Ok(trust) = core.trust() else { return Value::Null };
    let authorities = [&trust.client, &trust.serving, &trust.kubelet].map(|authority| {
        let until = PeerIdentity::from_der(authority.certificate_der()).map(|life| life.not_after);
        json!({
            "name": format!("{} authority", authority.kind().name()),
            "until": until.ok().map(timestamp),
        })
    });
    let own =
        [("API server", &trust.certificate), ("client of kubelets", &trust.kubelet_certificate)];
    let own = own.map(|(name, certificate)| {
        json!({ "name": name, "renewedAt": timestamp(certificate.renew_at()) })
    });
    authorities.into_iter().chain(own).collect()
}
