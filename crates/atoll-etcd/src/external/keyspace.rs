//! [`KvStore`] for one keyspace that stands under a prefix of an etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use atoll_store::kv::{
    CompareTarget, Error, KeyRange, KvStore, LeaseId, LeaseInfo, Op, RangeRequest, RangeResult,
    Result, Revision, Status, Txn, TxnResult, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use futures::stream::BoxStream;

use super::caller::{COMPACT, Caller, RANGE, STATUS, TXN};
use super::convert;
use super::lease::Leases;
use super::prefix::Prefix;
use super::progress::Progress;
use super::verdict::{Effect, Failure, Subject};
use super::watch;
use crate::proto::etcdserverpb as pb;

/// In the errors of an etcd that takes no more.
const NO_SPACE_ALARM: &str = "NOSPACE";

#[derive(Debug)]
pub(super) struct ExternalKeyspace {
    pub(super) caller: Arc<Caller>,
    pub(super) prefix: Prefix,
    /// Of the whole cluster.
    pub(super) root: Prefix,
    pub(super) leases: Leases,
    pub(super) progress: Arc<Progress>,
    /// Whether the etcd's history is ours to forget.
    pub(super) compacts: bool,
    pub(super) watch_queue_bytes_max: usize,
    /// The newest compaction that we know of.
    pub(super) compacted: AtomicI64,
}

impl ExternalKeyspace {
    /// What a refusal means. Those about revisions do not say which; that costs another call.
    async fn explain(&self, failure: Failure, subject: Subject) -> Error {
        let known = if failure.is_compacted() {
            watch::compacted_revision(&self.caller, self.progress.key()).await
        } else if failure.is_future() {
            self.progress.present(&self.caller).await.ok()
        } else {
            None
        };
        if let Some(compacted) = known.filter(|_| failure.is_compacted()) {
            self.compacted.fetch_max(compacted, Ordering::AcqRel);
        }
        failure.into_error(&subject, known)
    }

    /// The oldest revision that can be read; 0 when all can.
    async fn oldest_kept(&self) -> Result<Revision> {
        let known = self.compacted.load(Ordering::Acquire);
        let request = pb::RangeRequest {
            key: self.progress.key().clone(),
            revision: known.max(1),
            count_only: true,
            serializable: true,
            ..pb::RangeRequest::default()
        };
        let answer: std::result::Result<pb::RangeResponse, Failure> =
            self.caller.call(Effect::Repeatable, RANGE, request).await;
        match answer {
            Ok(_) => Ok(known),
            Err(failure) => match self.explain(failure, Subject::default()).await {
                Error::Compacted { compacted, .. } => Ok(compacted),
                // Not even the first revision has happened.
                Error::Future { .. } => Ok(known),
                other => Err(other),
            },
        }
    }
}

#[async_trait]
impl KvStore for ExternalKeyspace {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult> {
        if request.range.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        let asked = convert::range_request(&self.prefix, &request);
        let answer: std::result::Result<pb::RangeResponse, Failure> =
            self.caller.call(Effect::Repeatable, RANGE, asked).await;
        match answer {
            Ok(answer) => {
                let current = convert::revision(answer.header.as_ref());
                convert::range_result(&self.prefix, answer, current)
            }
            Err(failure) => {
                let requested = request.revision.unwrap_or(0);
                Err(self.explain(failure, Subject { requested, ..Subject::default() }).await)
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let shape = Shape::of(&txn);
        if shape.has_empty_key {
            return Err(Error::EmptyKey);
        }
        let asked = convert::txn_request(&self.prefix, &txn);
        let effect = if shape.writes { Effect::Once } else { Effect::Repeatable };
        let answer: std::result::Result<pb::TxnResponse, Failure> =
            self.caller.call(effect, TXN, asked).await;
        match answer {
            Ok(answer) => {
                let current = convert::revision(answer.header.as_ref());
                convert::txn_result(&self.prefix, &txn, answer, current)
            }
            Err(failure) => Err(self.explain(failure, shape.subject()).await),
        }
    }

    /// A watch without a start begins after the newest revision that this store has seen: it
    /// misses nothing that is acknowledged after the call, and may show what others wrote just
    /// before.
    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchBatch>> {
        watch::open(self, request)
    }

    async fn request_progress(&self) -> Result<Revision> {
        let asked = self.progress.request(&self.caller).await;
        asked.map_err(|failure| failure.into_error(&Subject::default(), None))
    }

    /// Compaction is of the whole etcd, others' keys included. It is left to the etcd's owner
    /// unless the etcd was given to us, and then the cluster's keyspace alone decides.
    async fn compact(&self, revision: Revision) -> Result<()> {
        if !self.compacts {
            return Ok(());
        }
        let request = pb::CompactionRequest { revision, physical: false };
        let answer: std::result::Result<pb::CompactionResponse, Failure> =
            self.caller.call(Effect::Once, COMPACT, request).await;
        if let Err(failure) = answer {
            let subject = Subject { requested: revision, ..Subject::default() };
            return Err(self.explain(failure, subject).await);
        }
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        Ok(())
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        self.leases.grant(&self.caller, id, ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        self.leases.keep_alive(&self.caller, id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.leases.revoke(&self.caller, id).await
    }

    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo> {
        self.leases.info(&self.caller, &self.prefix, id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.leases.all(&self.caller).await
    }

    /// As the member that answers sees it. Sizes are those of the whole etcd.
    async fn status(&self) -> Result<Status> {
        let answer: pb::StatusResponse = self
            .caller
            .call(Effect::Repeatable, STATUS, pb::StatusRequest {})
            .await
            .map_err(|failure| failure.into_error(&Subject::default(), None))?;
        let present = self.progress.present(&self.caller).await;
        let revision = present.map_err(|failure| failure.into_error(&Subject::default(), None))?;
        let member = answer.header.map_or(0, |header| header.member_id);
        let bytes = |count: i64| count.max(0).cast_unsigned();
        Ok(Status {
            revision,
            compacted_revision: self.oldest_kept().await?,
            raft_term: answer.raft_term,
            raft_index: answer.raft_index,
            applied_index: answer.raft_applied_index,
            live_bytes: bytes(answer.db_size_in_use),
            quota_bytes: bytes(answer.db_size_quota),
            no_space: answer.errors.iter().any(|error| error.contains(NO_SPACE_ALARM)),
            disk_bytes: bytes(answer.db_size),
            state_bytes: bytes(answer.db_size),
            is_leader: answer.leader != 0 && answer.leader == member,
            ..Status::default()
        })
    }

    async fn snapshot(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        Err(Error::Unavailable {
            detail: "the store is an external etcd, which is backed up by its own means: \
                     etcdctl snapshot save"
                .to_owned(),
        })
    }
}

/// What a transaction is made of, without looking at the store.
#[derive(Debug, Default)]
struct Shape {
    writes: bool,
    has_empty_key: bool,
    bytes: u64,
    /// The longest list in it.
    operations: usize,
}

impl Shape {
    fn of(txn: &Txn) -> Self {
        let mut shape = Self::default();
        shape.add(txn);
        shape
    }

    fn subject(&self) -> Subject {
        Subject { bytes: self.bytes, operations: self.operations, ..Subject::default() }
    }

    fn add(&mut self, txn: &Txn) {
        let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
        self.operations = self.operations.max(longest);
        for compare in &txn.compare {
            self.range(&compare.range);
            if let CompareTarget::Value(value) = &compare.target {
                self.bytes += value.len() as u64;
            }
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(request) => self.range(&request.range),
                Op::Put(put) => self.write(&put.key, put.value.len()),
                Op::Update(update) => {
                    self.write(&update.key, update.value.as_ref().map_or(0, Bytes::len));
                }
                Op::Delete { range, .. } => {
                    self.writes = true;
                    self.range(range);
                }
                Op::Txn(inner) => self.add(inner),
            }
        }
    }

    fn range(&mut self, range: &KeyRange) {
        self.has_empty_key |= range.key.is_empty();
        self.bytes += (range.key.len() + range.end.as_ref().map_or(0, Bytes::len)) as u64;
    }

    fn write(&mut self, key: &Bytes, value_bytes: usize) {
        self.writes = true;
        self.has_empty_key |= key.is_empty();
        self.bytes += (key.len() + value_bytes) as u64;
    }
}
