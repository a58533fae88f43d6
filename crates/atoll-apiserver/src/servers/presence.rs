//! Each server says that it is there by a key on a lease of the store, which it keeps alive.
//!
//! Keeping a lease alive writes nothing to disk. When the lease ends the key goes, and the other
//! servers take this one out of the endpoints of the Service `default/kubernetes`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{
    Error as StoreError, EventKind, KeyRange, KeyValue, Op, PutRequest, RangeRequest, Txn,
    WatchRequest,
};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::{Live, ServersConfig, endpoints};
use crate::core::Core;
use crate::storage;

/// Where the keys stand. Upstream's servers use the same place.
const PLACE: &str = "masterleases/";
/// A server that is silent for this long is gone for the others.
const LIFE: Duration = Duration::from_secs(3);
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts on a store that does not answer.
const RETRY: Duration = Duration::from_millis(500);
/// How long a server that ends may take to say so.
const LEAVE_MAX: Duration = Duration::from_secs(1);

fn prefix() -> String {
    format!("{}{PLACE}", storage::ROOT)
}

/// Until the server stops; then the others are told at once.
pub(crate) async fn run(core: Arc<Core>, config: Arc<ServersConfig>) {
    loop {
        let ended = tokio::select! {
            () = core.stop.cancelled() => break,
            ended = attend(&core, &config) => ended,
        };
        core.servers.session.send_replace(None);
        tracing::debug!(error = %ended, "the other servers do not know of this one, trying again");
        tokio::select! {
            () = core.stop.cancelled() => break,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    let session = core.servers.session.send_replace(None);
    if let Some(lease) = session {
        let revoked = core.storage.kv().lease_revoke(lease);
        match tokio::time::timeout(LEAVE_MAX, revoked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "this server's key stays until its lease ends")
            }
            Err(_) => tracing::debug!("this server's key stays until its lease ends"),
        }
    }
}

/// Holds one lease for as long as it can.
async fn attend(core: &Core, config: &ServersConfig) -> StoreError {
    let kv = core.storage.kv();
    let begun = Instant::now();
    let seconds = i64::try_from(LIFE.as_secs()).unwrap_or(i64::MAX);
    let (lease, granted) = match kv.lease_grant(0, seconds).await {
        Ok(granted) => granted,
        Err(error) => return error,
    };
    let life = Duration::from_secs(u64::try_from(granted).unwrap_or(0));
    let value = json!({ "address": core.config.advertise }).to_string();
    let key = Bytes::from(format!("{}{}", prefix(), config.name));
    let put = Op::Put(PutRequest { key, value: value.into(), lease, prev_kv: false });
    let txn = Txn { success: vec![put], ..Txn::default() };
    if let Err(error) = kv.txn(txn).await {
        return error;
    }
    let mut good_until = begun + life;
    if Instant::now() < good_until {
        core.servers.session.send_replace(Some(lease));
    }
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        let asked = Instant::now();
        let kept = tokio::time::timeout_at(good_until, kv.lease_keep_alive(lease)).await;
        match kept {
            Ok(Ok(_)) => good_until = asked + life,
            Ok(Err(error @ StoreError::LeaseNotFound { .. })) => return error,
            Ok(Err(error)) if Instant::now() >= good_until => return error,
            Ok(Err(_)) => {}
            Err(_) => return StoreError::Timeout { maybe_applied: false },
        }
    }
}

/// Knows the servers that are there, and keeps the endpoints of the API's own Service true.
pub(crate) async fn follow(core: Arc<Core>) {
    loop {
        let ended = tokio::select! {
            () = core.stop.cancelled() => return,
            ended = follow_once(&core) => ended,
        };
        tracing::debug!(?ended, "the watch of the servers ended, starting it again");
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn follow_once(core: &Core) -> Option<StoreError> {
    let kv = core.storage.kv();
    let range = KeyRange::prefix(prefix());
    let present = match kv.range(RangeRequest::new(range.clone())).await {
        Ok(present) => present,
        Err(error) => return Some(error),
    };
    let mut live: BTreeMap<String, Live> = present.kvs.iter().filter_map(read).collect();
    if !publish(core, &live).await {
        return None;
    }
    let start_revision = Some(present.revision + 1);
    let mut batches = kv.watch(WatchRequest { range, start_revision, prev_kv: false });
    while let Some(batch) = batches.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Some(error),
        };
        let before = live.clone();
        for event in &batch.events {
            match (event.kind, read(&event.kv)) {
                (EventKind::Put, Some((name, one))) => {
                    live.insert(name, one);
                }
                _ => {
                    if let Some(name) = name_of(&event.kv.key) {
                        live.remove(name);
                    }
                }
            }
        }
        if live != before && !publish(core, &live).await {
            return None;
        }
    }
    None
}

/// False when the endpoints could not be written.
async fn publish(core: &Core, live: &BTreeMap<String, Live>) -> bool {
    core.servers.live.send_replace(Arc::new(live.clone()));
    // A server that ends does not take the last endpoint with it.
    if live.is_empty() {
        return true;
    }
    let written = endpoints::write(core).await;
    if let Err(error) = &written {
        tracing::debug!(%error, "the endpoints of the API's own Service were not written, will retry");
    }
    written.is_ok()
}

/// The servers that the store tells of.
pub(crate) async fn present(core: &Core) -> Result<BTreeMap<String, Live>, crate::status::Status> {
    let answer = core.storage.range(RangeRequest::new(KeyRange::prefix(prefix()))).await?;
    Ok(answer.kvs.iter().filter_map(read).collect())
}

fn name_of(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok()?.strip_prefix(storage::ROOT)?.strip_prefix(PLACE)
}

fn read(kv: &KeyValue) -> Option<(String, Live)> {
    let name = name_of(&kv.key)?;
    let value = storage::parse(&kv.value).ok()?;
    let address = value["address"].as_str()?.parse().ok()?;
    Some((name.to_owned(), Live { address }))
}
