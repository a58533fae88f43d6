//! One of the two stores: takes a step, and answers in words that both have in common.

use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::{
    Compare, CompareTarget, Error, Event, KeyRange, KeyValue, KvStore, LeaseInfo, Op, OpResult,
    PutRequest, RangeRequest, RangeResult, Result, Txn, TxnResult, UpdateRequest, WatchBatch,
    WatchRequest,
};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::plan::Step;

const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody has it.
const NO_LEASE: i64 = 0x7777;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Range(Result<RangeResult>),
    Txn(Result<TxnResult>),
    Done(Result<()>),
    /// Of what raises the revision and does not say so.
    Revision(i64),
    Seconds(Result<i64>),
    Lease(Result<LeaseInfo>),
    Watches(Vec<Result<Vec<Event>>>),
}

struct Watch {
    batches: BoxStream<'static, Result<WatchBatch>>,
    seen: Vec<Event>,
}

impl Watch {
    async fn until(&mut self, revision: i64) -> Result<()> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.batches.next()).await;
            let batch = next.expect("the watch moves").expect("the watch goes on")?;
            self.seen.extend(batch.events);
            if batch.revision >= revision {
                return Ok(());
            }
        }
    }
}

pub(crate) struct Side {
    kv: Arc<dyn KvStore>,
    /// The revision at which it began.
    base: i64,
    leases: Vec<i64>,
    watches: Vec<Watch>,
}

impl Side {
    pub(crate) async fn new(kv: Arc<dyn KvStore>) -> Self {
        let base = present(&kv).await;
        Self { kv, base, leases: Vec::new(), watches: Vec::new() }
    }

    pub(crate) async fn take(&mut self, step: &Step) -> Answer {
        match step {
            Step::Range(request) => {
                let found = self.kv.range(self.range_out(request)).await;
                Answer::Range(found.map(|found| self.range_in(found)).map_err(|e| self.error(e)))
            }
            Step::Txn(txn) => {
                let result = self.kv.txn(self.txn_out(txn)).await;
                Answer::Txn(result.map(|one| self.txn_in(one)).map_err(|e| self.error(e)))
            }
            Step::Compact(at) => {
                let done = self.kv.compact(self.base + at).await;
                Answer::Done(done.map_err(|error| self.error(error)))
            }
            Step::Grant(ttl) => {
                let granted = self.kv.lease_grant(0, *ttl).await;
                let granted = granted.map(|(id, ttl)| {
                    self.leases.push(id);
                    ttl
                });
                Answer::Seconds(granted)
            }
            Step::Revoke(place) => {
                let revoked = self.kv.lease_revoke(self.lease_at(*place)).await;
                match revoked {
                    Ok(()) => Answer::Revision(present(&self.kv).await - self.base),
                    Err(error) => Answer::Done(Err(self.error(error))),
                }
            }
            Step::KeepAlive(place) => {
                let kept = self.kv.lease_keep_alive(self.lease_at(*place)).await;
                Answer::Seconds(kept.map_err(|error| self.error(error)))
            }
            Step::LeaseInfo(place) => {
                let shown = self.kv.lease_info(self.lease_at(*place)).await;
                let shown = shown.map(|mut shown| {
                    shown.id = self.lease_in(shown.id);
                    // Both clocks run.
                    shown.remaining = 0;
                    shown
                });
                Answer::Lease(shown.map_err(|error| self.error(error)))
            }
            Step::Watch { range, start, prev_kv } => {
                self.open(range.clone(), *start, *prev_kv).await;
                Answer::Revision(present(&self.kv).await - self.base)
            }
            Step::End => self.end().await,
        }
    }

    /// One that has not caught up before the next compaction would be ended by it, or not, as
    /// the threads run; so this waits until it sees a write of its own.
    async fn open(&mut self, range: KeyRange, start: i64, prev_kv: bool) {
        let request =
            WatchRequest { range: range.clone(), start_revision: Some(self.base + start), prev_kv };
        let mut watch = Watch { batches: self.kv.watch(request), seen: Vec::new() };
        let (key, value) = (range.key, Bytes::from_static(b"w"));
        let put = PutRequest { key, value, lease: 0, prev_kv: false };
        let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
        let written = self.kv.txn(txn).await.unwrap();
        watch.until(written.revision).await.unwrap();
        self.watches.push(watch);
    }

    /// Everything that the watches saw up to now.
    async fn end(&mut self) -> Answer {
        let present = self.kv.request_progress().await.unwrap();
        let mut all = Vec::new();
        for mut watch in std::mem::take(&mut self.watches) {
            let result = watch.until(present).await.map_err(|error| self.error(error));
            let seen = watch.seen;
            all.push(result.map(|()| seen.into_iter().map(|event| self.event_in(event)).collect()));
        }
        Answer::Watches(all)
    }

    // === from the plan ===

    fn lease_at(&self, place: usize) -> i64 {
        self.leases.get(place).copied().unwrap_or(NO_LEASE)
    }

    /// 0 is none, others are places from 1.
    fn lease_out(&self, lease: i64) -> i64 {
        match usize::try_from(lease) {
            Ok(0) | Err(_) => 0,
            Ok(place) => self.lease_at(place - 1),
        }
    }

    fn range_out(&self, request: &RangeRequest) -> RangeRequest {
        let revision = request.revision.map(|revision| self.base + revision);
        RangeRequest { revision, ..request.clone() }
    }

    fn txn_out(&self, txn: &Txn) -> Txn {
        let ops = |ops: &[Op]| ops.iter().map(|op| self.op_out(op)).collect();
        Txn {
            compare: txn.compare.iter().map(|compare| self.compare_out(compare)).collect(),
            success: ops(&txn.success),
            failure: ops(&txn.failure),
        }
    }

    fn compare_out(&self, compare: &Compare) -> Compare {
        // Zero says that there is no such key.
        let revision = |at: i64| if at > 0 { self.base + at } else { 0 };
        let target = match &compare.target {
            CompareTarget::ModRevision(at) => CompareTarget::ModRevision(revision(*at)),
            CompareTarget::CreateRevision(at) => CompareTarget::CreateRevision(revision(*at)),
            // Ids differ, so only whether it is the same can be compared.
            CompareTarget::Lease(lease) => CompareTarget::Lease(self.lease_out(*lease)),
            other => other.clone(),
        };
        let is_ordered = matches!(target, CompareTarget::Lease(id) if id != 0);
        let relation = match compare.relation {
            atoll_store::kv::Relation::Greater if is_ordered => atoll_store::kv::Relation::Equal,
            atoll_store::kv::Relation::Less if is_ordered => atoll_store::kv::Relation::NotEqual,
            relation => relation,
        };
        Compare { range: compare.range.clone(), relation, target }
    }

    fn op_out(&self, op: &Op) -> Op {
        match op {
            Op::Range(request) => Op::Range(self.range_out(request)),
            Op::Put(put) => Op::Put(PutRequest { lease: self.lease_out(put.lease), ..put.clone() }),
            Op::Update(update) => Op::Update(UpdateRequest {
                lease: update.lease.map(|lease| self.lease_out(lease)),
                ..update.clone()
            }),
            Op::Delete { .. } => op.clone(),
            Op::Txn(inner) => Op::Txn(Box::new(self.txn_out(inner))),
        }
    }

    // === to what both have in common ===

    fn lease_in(&self, id: i64) -> i64 {
        let place = self.leases.iter().position(|lease| *lease == id);
        place.map_or(if id == 0 { 0 } else { -1 }, |place| i64::try_from(place).unwrap() + 1)
    }

    fn kv_in(&self, mut kv: KeyValue) -> KeyValue {
        kv.mod_revision -= self.base;
        if kv.create_revision != 0 {
            kv.create_revision -= self.base;
        }
        kv.lease = self.lease_in(kv.lease);
        kv
    }

    fn range_in(&self, mut found: RangeResult) -> RangeResult {
        found.revision -= self.base;
        found.kvs = found.kvs.into_iter().map(|kv| self.kv_in(kv)).collect();
        found
    }

    fn txn_in(&self, mut result: TxnResult) -> TxnResult {
        result.revision -= self.base;
        let inward = |response| match response {
            OpResult::Range(found) => OpResult::Range(self.range_in(found)),
            OpResult::Put { prev_kv } => {
                OpResult::Put { prev_kv: prev_kv.map(|kv| self.kv_in(kv)) }
            }
            OpResult::Delete { deleted, prev_kvs } => {
                let prev_kvs = prev_kvs.into_iter().map(|kv| self.kv_in(kv)).collect();
                OpResult::Delete { deleted, prev_kvs }
            }
            OpResult::Txn(inner) => OpResult::Txn(self.txn_in(inner)),
        };
        result.responses = result.responses.into_iter().map(inward).collect();
        result
    }

    fn event_in(&self, event: Event) -> Event {
        let prev_kv = event.prev_kv.map(|kv| self.kv_in(kv));
        Event { kind: event.kind, kv: self.kv_in(event.kv), prev_kv }
    }

    /// An etcd does not say which revision of a transaction, or which of its leases, it refuses.
    fn error(&self, error: Error) -> Error {
        match error {
            Error::Compacted { compacted, .. } => {
                Error::Compacted { requested: 0, compacted: compacted - self.base }
            }
            Error::Future { current, .. } => {
                Error::Future { requested: 0, current: current - self.base }
            }
            Error::LeaseNotFound { .. } => Error::LeaseNotFound { id: 0 },
            other => other,
        }
    }
}

async fn present(kv: &Arc<dyn KvStore>) -> i64 {
    let mut request = RangeRequest::new(KeyRange::single("nothing"));
    request.count_only = true;
    kv.range(request).await.unwrap().revision
}
