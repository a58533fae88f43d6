//! `/atoll/v1/etcd`: the applications' keyspace takes over what an etcd had, piece by piece, for
//! those who may post there. Whoever reads the etcd's file and divides it is the client.

use std::collections::BTreeSet;
use std::sync::Arc;

use atoll_store::kv::{
    Error as StoreError, HistoryRecord, ImportEnd, ImportPiece, KeyRange, KeyValue, KvStore, Op,
    PutRequest, RangeRequest, Txn,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::join::answer;
use crate::status::Status;

const NO_STORE: &str = "this server has no keyspace for applications: its cluster stands in an \
                        etcd; restore the snapshot there, with `etcdctl snapshot restore`";
/// As the first key and as the end.
const ALL: &[u8] = b"\0";

/// How the keyspace stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdStanding {
    /// 1 where nothing was ever written.
    pub revision: i64,
    pub keys: u64,
    pub leases: u64,
    /// What its quota has room for.
    pub room_bytes: u64,
}

/// Bytes as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Bytes);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// Some of a history, to be continued at its own revisions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdPiece {
    /// The keyspace's revision before.
    pub after: i64,
    pub records: Vec<EtcdRecord>,
    pub end: Option<EtcdEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdRecord {
    pub key: Base64,
    #[serde(default)]
    pub value: Base64,
    #[serde(default)]
    pub create_revision: i64,
    pub mod_revision: i64,
    #[serde(default)]
    pub sub: u32,
    #[serde(default)]
    pub version: i64,
    #[serde(default)]
    pub lease: i64,
    #[serde(default)]
    pub deletion: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdEnd {
    pub revision: i64,
    pub compacted_revision: i64,
    /// Id and seconds.
    pub leases: Vec<(i64, i64)>,
}

/// Leases, then keys, as new revisions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdPuts {
    /// Id and seconds; one that is there already stays as it is.
    pub leases: Vec<(i64, i64)>,
    /// Put in one transaction. Of a record its key, value and lease count.
    pub records: Vec<EtcdRecord>,
}

impl From<HistoryRecord> for EtcdRecord {
    fn from(record: HistoryRecord) -> Self {
        let HistoryRecord { kv, sub, deletion } = record;
        let KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
        let (key, value) = (Base64(key), Base64(value));
        Self { key, value, create_revision, mod_revision, sub, version, lease, deletion }
    }
}

impl From<EtcdRecord> for HistoryRecord {
    fn from(record: EtcdRecord) -> Self {
        let EtcdRecord { create_revision, mod_revision, version, lease, .. } = record;
        let (key, value) = (record.key.0, record.value.0);
        let kv = KeyValue { key, value, create_revision, mod_revision, version, lease };
        Self { kv, sub: record.sub, deletion: record.deletion }
    }
}

impl From<EtcdPiece> for ImportPiece {
    fn from(piece: EtcdPiece) -> Self {
        let end = piece.end.map(|end| {
            let EtcdEnd { revision, compacted_revision, leases } = end;
            ImportEnd { revision, compacted_revision, leases }
        });
        let records = piece.records.into_iter().map(HistoryRecord::from).collect();
        Self { after: piece.after, records, end }
    }
}

impl Core {
    fn applications(&self) -> Result<&Arc<dyn KvStore>, Status> {
        let servers = self.config.servers.as_ref();
        let keyspace = servers.and_then(|servers| servers.applications.as_ref());
        keyspace.ok_or_else(|| Status::bad_request(NO_STORE))
    }
}

fn read<T: DeserializeOwned>(request: &PlainRequest<'_>) -> Result<T, Status> {
    serde_json::from_slice(&request.body).map_err(|error| Status::bad_request(error.to_string()))
}

/// `GET /atoll/v1/etcd`
pub(crate) fn stand<'a>(
    core: &'a Core,
    _request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move { answer(&standing(&**core.applications()?).await?) }.boxed()
}

async fn standing(keyspace: &dyn KvStore) -> Result<EtcdStanding, Status> {
    let all = KeyRange { key: Bytes::from_static(ALL), end: Some(Bytes::from_static(ALL)) };
    let counting = RangeRequest { count_only: true, ..RangeRequest::new(all) };
    let found = keyspace.range(counting).await.map_err(|error| Status::store(&error))?;
    let leases = keyspace.leases().await.map_err(|error| Status::store(&error))?.len() as u64;
    let status = keyspace.status().await.map_err(|error| Status::store(&error))?;
    let room_bytes = match status.quota_bytes {
        0 => u64::MAX,
        quota_bytes => quota_bytes.saturating_sub(status.live_bytes),
    };
    Ok(EtcdStanding { revision: found.revision, keys: found.count, leases, room_bytes })
}

/// `POST /atoll/v1/etcd/import`
pub(crate) fn import<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let keyspace = core.applications()?;
        let piece: EtcdPiece = read(&request)?;
        keyspace.import(piece.into()).await.map_err(|error| Status::store(&error))?;
        answer(&standing(&**keyspace).await?)
    }
    .boxed()
}

/// `POST /atoll/v1/etcd/put`
pub(crate) fn put<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let keyspace = core.applications()?;
        let puts: EtcdPuts = read(&request)?;
        put_all(&**keyspace, puts).await.map_err(|error| Status::store(&error))?;
        answer(&standing(&**keyspace).await?)
    }
    .boxed()
}

async fn put_all(keyspace: &dyn KvStore, puts: EtcdPuts) -> Result<(), StoreError> {
    let there: BTreeSet<i64> = keyspace.leases().await?.into_iter().collect();
    for (id, ttl) in puts.leases.iter().filter(|(id, _)| !there.contains(id)) {
        keyspace.lease_grant(*id, *ttl).await?;
    }
    let put = |record: EtcdRecord| {
        let (key, value, lease) = (record.key.0, record.value.0, record.lease);
        Op::Put(PutRequest { key, value, lease, prev_kv: false })
    };
    let success: Vec<_> = puts.records.into_iter().map(put).collect();
    if !success.is_empty() {
        keyspace.txn(Txn { success, ..Txn::default() }).await?;
    }
    Ok(())
}
