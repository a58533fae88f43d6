//! The store of a server: opened, told who this server is, handed over at the end.

use super::{Server, join, peers::Peers, remembered::Remembered};
use anyhow::{Context as _, Result};
use atoll_apiserver::servers::join::MemberRecord;
use atoll_store::{
    EmbeddedStore, OpenError, StoreConfig,
    cluster::{ClusterControl, MemberStart, Start},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// A former server that is ending needs no longer than that, and a little.
const FORMER_MAX: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A server is of no use this long after its store has stopped writing, or must not be believed.
const FAILURE_LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a leader that ends may take to hand over.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to tell the others of a new address.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// Who this server is to the others.
pub fn member(server: &Server, remembered: &Remembered) -> Result<MemberStart> {
    let start = match remembered.joined.as_ref().map(|joined| (joined, &joined.member_id)) {
        Some((joined, Some(id))) => Start::Join {
            cluster_id: joined.cluster_id.clone(),
            member_id: u64::from_str_radix(id, 16).context("the remembered id of this server")?,
            members: joined.members.iter().filter_map(MemberRecord::to_member).collect(),
        },
        _ => Start::New,
    };
    Ok(MemberStart {
        name: remembered.name.clone(),
        peer_address: join::peer_advertise(server, remembered)?,
        client_urls: vec![join::client_url(server)],
        start,
    })
}

/// The format level that this server says it supports.
pub fn level_max(server: &Server) -> u32 {
    server.format_level_max.unwrap_or(StoreConfig::default().level_max)
}

pub async fn open(server: &Server, own: MemberStart, peers: &Arc<Peers>) -> Result<EmbeddedStore> {
    let dir = server.data_dir.join("store");
    let deadline = Instant::now() + FORMER_MAX;
    let mut said = false;
    loop {
        let mut config = StoreConfig { dir: dir.clone(), ..StoreConfig::default() };
        config.level_max = level_max(server);
        config.applications = server.etcd.space.limits(config.applications)?;
        let net = peers.clone();
        let opened =
            EmbeddedStore::open_member(config, own.clone(), move |inbox| net.net(inbox)).await;
        match opened {
            // The server of a killed supervisor is about to end.
            Err(OpenError::Locked { holder, .. })
                if server.supervised && Instant::now() < deadline =>
            {
                if !said {
                    info!(holder, "waiting for the former server to end");
                    said = true;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => {
                return opened.with_context(|| format!("opening the store {}", dir.display()));
            }
        }
    }
}

/// What is damaged of a store that did not open, if that is why.
pub fn damage(error: &anyhow::Error) -> Option<String> {
    match error.downcast_ref::<OpenError>()? {
        OpenError::Corrupt { file, offset, reason } => {
            Some(format!("{file} is damaged at offset {offset}: {reason}"))
        }
        _ => None,
    }
}

/// Ends when the store no longer writes, with why. After a sync that failed nobody knows what
/// is on the disk but a process that reads it anew; whoever supervises this one starts that.
pub async fn failed(store: &EmbeddedStore) -> anyhow::Error {
    loop {
        if let Some(why) = store.failure() {
            return anyhow::anyhow!(why).context("the server ends to open its store again");
        }
        tokio::time::sleep(FAILURE_LOOK_EVERY).await;
    }
}

/// Tells the others of this server's name and addresses, where they know others.
pub async fn say_who(
    cluster: Arc<dyn ClusterControl>,
    member_id: u64,
    own: MemberStart,
    stop: CancellationToken,
) {
    loop {
        let known = cluster.membership().member(member_id).cloned();
        let Some(known) = known else { return };
        let mut wanted = known.clone();
        wanted.name.clone_from(&own.name);
        wanted.peer_address.clone_from(&own.peer_address);
        wanted.client_urls.clone_from(&own.client_urls);
        if wanted == known {
            return;
        }
        match cluster.update(wanted).await {
            Ok(()) => {
                info!(
                    name = own.name,
                    address = own.peer_address,
                    "the others know this server's name and address"
                );
                return;
            }
            Err(error) => debug!(%error, "the others do not know of this server's new address"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TELL_AGAIN) => {}
        }
    }
}

/// A leader that ends gives leadership away, so that the others need no election.
pub async fn hand_over(store: &EmbeddedStore) {
    let cluster = store.cluster();
    let membership = cluster.membership();
    let leads = membership.leader == Some(store.member_id());
    if !leads || membership.voters().count() < 2 {
        return;
    }
    match tokio::time::timeout(HAND_OVER_MAX, cluster.transfer_leadership(None)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "leadership was not handed over"),
        Err(_elapsed) => debug!("leadership was not handed over in time"),
    }
}
