//! Several members as one store: each call goes to the next of them.
//!
//! What a member says of itself alone (a stale read, its status) may be behind what another has
//! acknowledged; so that one statement holds for all stores, it catches up before it is asked, and
//! a watch of the present begins after the newest revision that any of them has answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use atoll_store::kv::{
    Consistency, Error, History, KeyRange, KvStore, LeaseId, LeaseInfo, RangeRequest, RangeResult,
    Result, Revision, Status, Txn, TxnResult, WatchBatch, WatchRequest,
};
use bytes::Bytes;
use futures::stream::BoxStream;

pub(crate) struct Spread {
    members: Vec<Arc<dyn KvStore>>,
    calls: AtomicUsize,
    /// The newest revision of all answers.
    newest: AtomicI64,
}

impl Spread {
    pub(crate) fn over(members: Vec<Arc<dyn KvStore>>) -> Arc<dyn KvStore> {
        Arc::new(Self { members, calls: AtomicUsize::new(0), newest: AtomicI64::new(0) })
    }

    fn next(&self) -> &Arc<dyn KvStore> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        &self.members[call % self.members.len()]
    }

    fn saw(&self, revision: Revision) {
        self.newest.fetch_max(revision, Ordering::AcqRel);
    }

    async fn caught_up(&self) -> Result<&Arc<dyn KvStore>> {
        let member = self.next();
        let mut nothing = RangeRequest::new(KeyRange::single("nothing"));
        nothing.count_only = true;
        member.range(nothing).await?;
        Ok(member)
    }
}

#[async_trait]
impl KvStore for Spread {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult> {
        let member = match request.consistency {
            Consistency::Linearizable => self.next(),
            Consistency::Serializable => self.caught_up().await?,
        };
        member.range(request).await.inspect(|found| self.saw(found.revision))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        self.next().txn(txn).await.inspect(|done| self.saw(done.revision))
    }

    fn watch(&self, mut request: WatchRequest) -> BoxStream<'static, Result<WatchBatch>> {
        let newest = self.newest.load(Ordering::Acquire);
        if request.start_revision.is_none_or(|start| start <= 0) && newest > 0 {
            request.start_revision = Some(newest + 1);
        }
        self.next().watch(request)
    }

    /// A watch may be on any of them. The least: every one has reached that.
    async fn request_progress(&self) -> Result<Revision> {
        let mut least = Revision::MAX;
        for member in &self.members {
            least = least.min(member.request_progress().await?);
        }
        Ok(least)
    }

    /// The others hear of it a little later.
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.next().compact(revision).await?;
        for _ in &self.members {
            self.caught_up().await?;
        }
        Ok(())
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        self.next().lease_grant(id, ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        self.next().lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.next().lease_revoke(id).await
    }

    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo> {
        self.next().lease_info(id).await
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.next().leases().await
    }

    async fn status(&self) -> Result<Status> {
        self.caught_up().await?.status().await
    }

    async fn snapshot(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.next().snapshot().await
    }

    async fn history(&self) -> Result<History> {
        Err(Error::Unavailable { detail: "no statement asks for it".to_owned() })
    }
}
