//! A new key for everything that is sealed.
//!
//! A record in the store says how far it is; each server says in one of its own which keys it
//! knows and which it seals with. The server that leads goes on to the next phase when all
//! members have said what the phase asks for, those that are down too: one that came back
//! without the key could read nothing. Any server can die at any time; whoever leads next goes on
//! from the record.
//!
//! The new key travels in the record, sealed under a key that all servers derive from one that
//! they got when they joined. The record is removed at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{
    Compare, CompareTarget, KeyRange, KeyValue, KvStore, Op, PutRequest, RangeRequest, Relation,
    Revision, Txn, WatchBatch, WatchRequest,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::Encryption;
use super::envelope::{self, EnvelopeError, SecretKey};
use crate::core::Core;
use crate::status::Status;
use crate::storage::ROOT;

/// Everything about it stands under this prefix, which no resource has.
const PREFIX: &str = "/registry/encryption/";
const RECORD: &str = "/registry/encryption/rotation";
const SERVERS: &str = "/registry/encryption/servers/";
/// Values that are sealed anew between two words of how far it is.
const PAGE: usize = 200;
/// While a rotation is under way it is looked at this often, whatever the watch says: who is a
/// member does not stand in the store's keys.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Without one, this often: who leads may change.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// Every server learns the key.
    Spread,
    /// Every server seals with it.
    Use,
    /// What is sealed with others, or not at all, is sealed with it.
    Rewrite,
    /// Every server forgets the others.
    Drop,
}

/// How far a rotation is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub id: String,
    wrapped: String,
    pub phase: Phase,
    pub started_at: String,
    /// Values sealed anew so far.
    pub rewritten: u64,
}

/// What one server has said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Said {
    pub keys: Vec<String>,
    pub primary: String,
}

/// What stands in the store.
#[derive(Debug, Default)]
pub(crate) struct Stand {
    pub record: Option<(Revision, Record)>,
    pub said: BTreeMap<String, Said>,
}

impl Stand {
    pub(crate) async fn read(core: &Core) -> Result<Self, Status> {
        let kvs = range(core, KeyRange::prefix(PREFIX)).await?;
        let mut stand = Self::default();
        for kv in kvs {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            if key == RECORD {
                stand.record = Some((kv.mod_revision, decode(&kv.value)?));
            } else if let Some(name) = key.strip_prefix(SERVERS) {
                stand.said.insert(name.to_owned(), decode(&kv.value)?);
            }
        }
        Ok(stand)
    }

    /// Servers of which what the phase asks for is not known yet.
    pub(crate) fn missing(&self, members: &[String]) -> Vec<String> {
        let Some((_, record)) = &self.record else { return Vec::new() };
        let done = |said: &Said| match record.phase {
            Phase::Spread => said.keys.contains(&record.id),
            Phase::Use => said.primary == record.id,
            Phase::Rewrite => true,
            Phase::Drop => said.keys == [record.id.clone()],
        };
        members.iter().filter(|name| !self.said.get(*name).is_some_and(done)).cloned().collect()
    }
}

/// Names of all servers of the cluster, those that are down too.
pub(crate) fn members(core: &Core) -> Vec<String> {
    let servers = core.config.servers.as_ref();
    let cluster = servers.and_then(|servers| servers.cluster.as_ref());
    match cluster {
        Some(cluster) => {
            cluster.membership().members.into_iter().map(|member| member.name).collect()
        }
        None => vec![own_name(core)],
    }
}

fn own_name(core: &Core) -> String {
    core.config.servers.as_ref().map_or_else(|| "server".to_owned(), |one| one.name.clone())
}

fn leads(core: &Core) -> bool {
    core.config.servers.as_ref().is_none_or(|servers| *servers.leads.borrow())
}

/// Begins a rotation; one that is under way goes on instead.
pub(crate) async fn begin(core: &Core, encryption: &Encryption) -> Result<Record, Status> {
    if let Some((_, record)) = Stand::read(core).await?.record {
        return Ok(record);
    }
    let (id, key) = super::ring::new_key().map_err(Status::internal)?;
    let wrapped = envelope::seal(&encryption.exchange, &id, RECORD.as_bytes(), key.bytes());
    let record = Record {
        wrapped: STANDARD.encode(wrapped.map_err(Status::internal)?),
        id,
        phase: Phase::Spread,
        started_at: core.now_text(),
        rewritten: 0,
    };
    let absent = Compare {
        range: KeyRange::single(RECORD),
        relation: Relation::Equal,
        target: CompareTarget::Version(0),
    };
    if write(core, absent, RECORD, &record).await? {
        tracing::info!(key = record.id, "a new key for what is sealed");
        return Ok(record);
    }
    let stand = Stand::read(core).await?;
    stand.record.map(|(_, record)| record).ok_or_else(|| Status::internal("the rotation ended"))
}

/// Takes part in rotations until the server stops, and leads them where this server leads.
pub(crate) async fn run(core: Arc<Core>, encryption: Arc<Encryption>) {
    let mut looked = false;
    loop {
        let mut changes = core.storage.kv().watch(WatchRequest {
            range: KeyRange::prefix(PREFIX),
            start_revision: None,
            prev_kv: false,
        });
        let mut wait = IDLE;
        match pass(&core, &encryption, &mut looked).await {
            Ok(under_way) if under_way => wait = LOOK_AGAIN,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "a look at the keys of what is sealed failed, will retry");
                wait = LOOK_AGAIN;
            }
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            changed = change(&mut changes) => {
                // A watch that ended is begun again, but not at once.
                if !changed {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
}

/// The next change; false when the watch has ended. Words of progress are none: every consistent
/// list makes one.
async fn change(changes: &mut BoxStream<'static, atoll_store::kv::Result<WatchBatch>>) -> bool {
    while let Some(Ok(batch)) = changes.next().await {
        if !batch.events.is_empty() {
            return true;
        }
    }
    false
}

/// One look; returns whether a rotation is under way.
async fn pass(core: &Core, encryption: &Encryption, looked: &mut bool) -> Result<bool, Status> {
    let stand = Stand::read(core).await?;
    if let Some((_, record)) = &stand.record {
        follow(encryption, record).map_err(Status::internal)?;
    }
    say(core, encryption, &stand).await?;
    if !leads(core) {
        *looked = false;
        return Ok(stand.record.is_some());
    }
    let Some((revision, record)) = stand.record.clone() else {
        return first_look(core, encryption, looked).await;
    };
    lead(core, encryption, &stand, revision, record).await?;
    Ok(true)
}

/// Whoever begins to lead sees to what was never sealed: a cluster of a former release has no
/// key at all, and other resources may be asked for than before.
async fn first_look(
    core: &Core,
    encryption: &Encryption,
    looked: &mut bool,
) -> Result<bool, Status> {
    if std::mem::replace(looked, true) || encryption.prefixes().is_empty() {
        return Ok(false);
    }
    if encryption.ring.primary().is_empty() {
        begin(core, encryption).await?;
        return Ok(true);
    }
    let mut count = 0;
    for prefix in encryption.prefixes() {
        count += rewrite(core, encryption, prefix, |_| async { Ok(()) }).await?;
    }
    if count > 0 {
        tracing::info!(count, "values sealed that were not");
    }
    Ok(false)
}

/// What every server does in a phase.
fn follow(encryption: &Encryption, record: &Record) -> Result<(), String> {
    let ring = &encryption.ring;
    if !ring.ids().contains(&record.id) {
        ring.add(&record.id, unwrap(encryption, record)?)?;
    }
    if record.phase >= Phase::Use && ring.primary() != record.id {
        ring.promote(&record.id)?;
    }
    if record.phase == Phase::Drop && ring.ids().len() > 1 {
        ring.keep_only(&record.id)?;
    }
    Ok(())
}

fn unwrap(encryption: &Encryption, record: &Record) -> Result<SecretKey, String> {
    let sealed = STANDARD.decode(&record.wrapped).map_err(|error| error.to_string())?;
    let bytes = envelope::open(&encryption.exchange, RECORD.as_bytes(), &sealed)
        .map_err(|error| format!("the new key: {error}"))?;
    SecretKey::from_bytes(&bytes).ok_or_else(|| "the new key has no 32 bytes".to_owned())
}

/// Tells the others what this server knows, when that has changed.
async fn say(core: &Core, encryption: &Encryption, stand: &Stand) -> Result<(), Status> {
    let own = Said { keys: encryption.ring.ids(), primary: encryption.ring.primary() };
    let name = own_name(core);
    if stand.said.get(&name) == Some(&own) {
        return Ok(());
    }
    let key = format!("{SERVERS}{name}");
    let always = Compare {
        range: KeyRange::single(key.clone()),
        relation: Relation::Greater,
        target: CompareTarget::Version(-1),
    };
    write(core, always, &key, &own).await.map(drop)
}

async fn lead(
    core: &Core,
    encryption: &Encryption,
    stand: &Stand,
    revision: Revision,
    mut record: Record,
) -> Result<(), Status> {
    let missing = stand.missing(&members(core));
    if !missing.is_empty() {
        tracing::debug!(phase = ?record.phase, servers = missing.join(","), "waiting for servers");
        return Ok(());
    }
    record.phase = match record.phase {
        Phase::Spread => Phase::Use,
        Phase::Use => Phase::Rewrite,
        Phase::Rewrite => {
            let before = record.rewritten;
            // Everything: what was sealed before may be of resources that no longer are.
            let count = rewrite(core, encryption, ROOT, |count| {
                let mut so_far = record.clone();
                so_far.rewritten = before + count;
                async move { replace(core, None, &so_far).await.map(drop) }
            })
            .await?;
            record.rewritten = before + count;
            tracing::info!(count = record.rewritten, "values sealed with the new key");
            record.phase = Phase::Drop;
            return replace(core, None, &record).await.map(drop);
        }
        Phase::Drop => {
            // A write that was sealed before and took long is found by looking once more.
            let late = rewrite(core, encryption, ROOT, |_| async { Ok(()) }).await?;
            if late > 0 {
                record.rewritten += late;
                return replace(core, Some(revision), &record).await.map(drop);
            }
            tracing::info!(key = record.id, "the former keys are dropped");
            return remove(core, revision).await;
        }
    };
    replace(core, Some(revision), &record).await.map(drop)
}

/// Writes anew whatever under `prefix` is sealed with another than the primary key, or not at all
/// though it should be; returns how many values that were. `progress` is told now and then.
async fn rewrite<F>(
    core: &Core,
    encryption: &Encryption,
    prefix: &str,
    progress: impl Fn(u64) -> F,
) -> Result<u64, Status>
where
    F: Future<Output = Result<(), Status>>,
{
    let mut count = 0;
    let mut range = KeyRange::prefix(prefix.to_owned());
    loop {
        let mut request = RangeRequest::new(range.clone());
        request.limit = PAGE;
        let raw = raw(core)?.range(request).await.map_err(|error| Status::store(&error))?;
        let before = count;
        for kv in raw.kvs.iter().filter(|kv| is_due(encryption, kv)) {
            if rewrite_one(core, encryption, kv).await? {
                count += 1;
            }
        }
        let Some(last) = raw.kvs.last().filter(|_| raw.more) else { return Ok(count) };
        range.key = Bytes::from([&last.key[..], b"\0"].concat());
        if count > before {
            progress(count).await?;
        }
    }
}

/// Whether a value would be lost with the former keys, or should be sealed and is not.
fn is_due(encryption: &Encryption, kv: &KeyValue) -> bool {
    if envelope::is_sealed(&kv.value) {
        envelope::key_id(&kv.value) != Some(encryption.ring.primary().as_str())
    } else {
        encryption.covers(&kv.key)
    }
}

/// The store below the sealing.
fn raw(core: &Core) -> Result<&Arc<dyn KvStore>, Status> {
    core.config.unsealed.as_ref().ok_or_else(|| Status::internal("nothing is sealed here"))
}

/// Sealed where it is to be, in clear where it no longer is.
async fn rewrite_one(core: &Core, encryption: &Encryption, kv: &KeyValue) -> Result<bool, Status> {
    let name = || String::from_utf8_lossy(&kv.key).into_owned();
    let value = match encryption.ring.open(&kv.key, kv.value.clone()) {
        Ok(value) => value,
        // Lost to an earlier rotation; dropping keys loses no more of it.
        Err(error @ EnvelopeError::UnknownKey { .. }) => {
            tracing::error!(key = name(), %error, "a value that no key opens is left as it is");
            return Ok(false);
        }
        Err(error) => return Err(Status::internal(format!("{}: {error}", name()))),
    };
    let put = PutRequest { key: kv.key.clone(), value, lease: kv.lease, prev_kv: false };
    let unchanged = Compare {
        range: KeyRange::single(kv.key.clone()),
        relation: Relation::Equal,
        target: CompareTarget::ModRevision(kv.mod_revision),
    };
    let txn = Txn { compare: vec![unchanged], success: vec![Op::Put(put)], failure: Vec::new() };
    // Whoever wrote in between has sealed it with the new key.
    let done = core.storage.kv().txn(txn).await.map_err(|error| Status::store(&error))?;
    Ok(done.succeeded)
}

async fn replace(core: &Core, expected: Option<Revision>, record: &Record) -> Result<bool, Status> {
    let (relation, target) = match expected {
        Some(revision) => (Relation::Equal, CompareTarget::ModRevision(revision)),
        // Not if it has been removed.
        None => (Relation::Greater, CompareTarget::Version(0)),
    };
    write(core, Compare { range: KeyRange::single(RECORD), relation, target }, RECORD, record).await
}

async fn remove(core: &Core, expected: Revision) -> Result<(), Status> {
    let unchanged = Compare {
        range: KeyRange::single(RECORD),
        relation: Relation::Equal,
        target: CompareTarget::ModRevision(expected),
    };
    let delete = Op::Delete { range: KeyRange::single(RECORD), prev_kv: false };
    let txn = Txn { compare: vec![unchanged], success: vec![delete], failure: Vec::new() };
    core.storage.kv().txn(txn).await.map(drop).map_err(|error| Status::store(&error))
}

async fn write(
    core: &Core,
    compare: Compare,
    key: &str,
    value: &impl Serialize,
) -> Result<bool, Status> {
    let value = serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)?;
    let put = PutRequest { key: Bytes::from(key.to_owned()), value, lease: 0, prev_kv: false };
    let txn = Txn { compare: vec![compare], success: vec![Op::Put(put)], failure: Vec::new() };
    let done = core.storage.kv().txn(txn).await.map_err(|error| Status::store(&error))?;
    Ok(done.succeeded)
}

async fn range(core: &Core, range: KeyRange) -> Result<Vec<KeyValue>, Status> {
    let read = core.storage.kv().range(RangeRequest::new(range)).await;
    read.map(|result| result.kvs).map_err(|error| Status::store(&error))
}

fn decode<T: for<'a> Deserialize<'a>>(value: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(value)
        .map_err(|error| Status::internal(format!("a record of encryption: {error}")))
}
