//! A store that seals what is written under some prefixes, and opens whatever is sealed.

use std::sync::Arc;

use async_trait::async_trait;
use atoll_store::kv::{
    Error, Event, History, ImportPiece, KeyValue, KvStore, LeaseId, LeaseInfo, Op, OpResult,
    RangeRequest, RangeResult, Result, Revision, Status, Txn, TxnResult, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use super::Encryption;

pub(crate) struct Sealed {
    inner: Arc<dyn KvStore>,
    encryption: Arc<Encryption>,
}

impl Sealed {
    pub(crate) fn new(inner: Arc<dyn KvStore>, encryption: Arc<Encryption>) -> Self {
        Self { inner, encryption }
    }

    fn seal_txn(&self, mut txn: Txn) -> Result<Txn> {
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match op {
                Op::Put(put) => self.seal(&put.key, &mut put.value)?,
                Op::Update(update) => {
                    if let Some(value) = &mut update.value {
                        self.seal(&update.key, value)?;
                    }
                }
                Op::Txn(inner) => **inner = self.seal_txn(std::mem::take(inner))?,
                Op::Range(_) | Op::Delete { .. } => {}
            }
        }
        Ok(txn)
    }

    fn seal(&self, key: &[u8], value: &mut Bytes) -> Result<()> {
        if self.encryption.covers(key) {
            let sealed = self.encryption.ring.seal(key, std::mem::take(value));
            *value = sealed.map_err(|error| Error::Unavailable { detail: error.to_string() })?;
        }
        Ok(())
    }
}

/// What cannot be opened stays as it is: it is no JSON, so whoever reads the object is told, and
/// nobody else is kept from theirs.
fn open(encryption: &Encryption, kv: &mut KeyValue) {
    match encryption.ring.open(&kv.key, kv.value.clone()) {
        Ok(value) => kv.value = value,
        Err(error) => {
            let key = String::from_utf8_lossy(&kv.key);
            tracing::error!(%key, revision = kv.mod_revision, %error, "a value cannot be opened");
        }
    }
}

fn open_result(encryption: &Encryption, result: &mut OpResult) {
    match result {
        OpResult::Range(range) => range.kvs.iter_mut().for_each(|kv| open(encryption, kv)),
        OpResult::Put { prev_kv } => prev_kv.iter_mut().for_each(|kv| open(encryption, kv)),
        OpResult::Delete { prev_kvs, .. } => {
            prev_kvs.iter_mut().for_each(|kv| open(encryption, kv));
        }
        OpResult::Txn(inner) => {
            inner.responses.iter_mut().for_each(|one| open_result(encryption, one));
        }
    }
}

fn open_event(encryption: &Encryption, event: &mut Event) {
    open(encryption, &mut event.kv);
    event.prev_kv.iter_mut().for_each(|kv| open(encryption, kv));
}

fn open_batches(
    encryption: Arc<Encryption>,
    batches: BoxStream<'static, Result<WatchBatch>>,
) -> BoxStream<'static, Result<WatchBatch>> {
    let opened = batches.map(move |batch| {
        let mut batch = batch?;
        batch.events.iter_mut().for_each(|event| open_event(&encryption, event));
        Ok(batch)
    });
    opened.boxed()
}

#[async_trait]
impl KvStore for Sealed {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult> {
        let mut result = self.inner.range(request).await?;
        result.kvs.iter_mut().for_each(|kv| open(&self.encryption, kv));
        Ok(result)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let mut result = self.inner.txn(self.seal_txn(txn)?).await?;
        result.responses.iter_mut().for_each(|one| open_result(&self.encryption, one));
        Ok(result)
    }

    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchBatch>> {
        open_batches(self.encryption.clone(), self.inner.watch(request))
    }

    async fn request_progress(&self) -> Result<Revision> {
        self.inner.request_progress().await
    }

    fn watch_of(
        &self,
        request: WatchRequest,
        group: u64,
    ) -> BoxStream<'static, Result<WatchBatch>> {
        open_batches(self.encryption.clone(), self.inner.watch_of(request, group))
    }

    async fn request_progress_of(&self, group: u64) -> Result<Revision> {
        self.inner.request_progress_of(group).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        self.inner.lease_grant(id, ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.inner.lease_revoke(id).await
    }

    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo> {
        self.inner.lease_info(id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.inner.leases().await
    }

    async fn status(&self) -> Result<Status> {
        self.inner.status().await
    }

    async fn defragment(&self) -> Result<()> {
        self.inner.defragment().await
    }

    /// As it is stored: a backup carries the keys beside it.
    async fn snapshot(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.inner.snapshot().await
    }

    async fn history(&self) -> Result<History> {
        self.inner.history().await
    }

    async fn import(&self, piece: ImportPiece) -> Result<Revision> {
        self.inner.import(piece).await
    }
}
