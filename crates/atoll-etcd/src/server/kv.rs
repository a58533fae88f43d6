//! The KV service: reads, writes, transactions and compaction.

use std::time::Duration;

use atoll_store::kv::{Error, Op, OpResult, Txn, TxnResult};
use prost::Message;
use tonic::{Request, Response, Status};

use super::maintenance::Effect;
use super::{Core, Shared, convert, error};
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::request_op;
use crate::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// What etcd's log adds to a request before it looks at the size.
const LOG_OVERHEAD_BYTES: usize = 18;
/// How often a caller who waits for a compaction's end looks whether it has come.
const COMPACTED_LOOK_EVERY: Duration = Duration::from_millis(5);

impl Core {
    fn check_size(&self, request: &impl Message) -> Result<(), Status> {
        if request.encoded_len() + LOG_OVERHEAD_BYTES > self.config.request_bytes_max {
            return Err(error::TOO_LARGE.into());
        }
        Ok(())
    }

    /// Waits until what was compacted has been dropped.
    async fn compacted(&self) -> Result<(), Status> {
        loop {
            let looked = self.store.status().await;
            if !looked.map_err(|error| error::status(&error))?.compacting {
                return Ok(());
            }
            tokio::time::sleep(COMPACTED_LOOK_EVERY).await;
        }
    }

    async fn transact(&self, txn: Txn) -> Result<TxnResult, Error> {
        let _pending = self.counters.proposals_pending.hold();
        let done = self.store.txn(txn).await;
        self.counters.count(&done);
        done
    }

    async fn one(&self, op: Op) -> Result<(TxnResult, Option<OpResult>), Error> {
        let txn = Txn { success: vec![op], ..Txn::default() };
        let mut result = self.transact(txn).await?;
        let answer = result.responses.pop();
        Ok((result, answer))
    }

    /// Why a put was refused. In a transaction an etcd looks for the key first, in a put of its
    /// own for the lease.
    async fn put_refusal(&self, error: &Error, lease: i64) -> Status {
        if lease != 0
            && *error == Error::KeyNotFound
            && let Err(missing @ Error::LeaseNotFound { .. }) = self.store.lease_info(lease).await
        {
            return error::status(&missing);
        }
        error::status(error)
    }
}

#[tonic::async_trait]
impl Kv for Shared {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        if !request.serializable && self.is_learner() {
            return Err(error::NOT_FOR_LEARNER.into());
        }
        let read = self.store.range(convert::range(&request)?).await;
        let read = read.map_err(|error| error::status(&error))?;
        self.counters.ranges.add(1);
        let header = self.header(read.revision);
        Ok(Response::new(convert::range_response(&request, read, header)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        let op = convert::put(&request)?;
        self.check_size(&request)?;
        self.check_alarms(Effect::Grows)?;
        let (result, answer) = match self.one(op).await {
            Ok(done) => done,
            Err(error) => return Err(self.put_refusal(&error, request.lease).await),
        };
        let prev_kv = match answer {
            Some(OpResult::Put { prev_kv }) => prev_kv,
            _ => None,
        };
        Ok(Response::new(convert::put_response(prev_kv, self.header(result.revision))))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        let op = convert::delete(&request)?;
        self.check_size(&request)?;
        self.check_alarms(Effect::Changes)?;
        let done = self.one(op).await;
        let (result, answer) = done.map_err(|error| error::status(&error))?;
        let deleted = match answer {
            Some(OpResult::Delete { deleted, prev_kvs }) => (deleted, prev_kvs),
            _ => (0, Vec::new()),
        };
        let header = self.header(result.revision);
        Ok(Response::new(convert::delete_response(deleted, header)))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let request = request.into_inner();
        let txn = convert::txn(&request, self.config.txn_operations_max)?;
        if writes(&request) {
            self.check_size(&request)?;
            let effect = if puts(&request) { Effect::Grows } else { Effect::Changes };
            self.check_alarms(effect)?;
        }
        let done = self.transact(txn).await;
        let result = done.map_err(|error| error::status(&error))?;
        let header = self.header(result.revision);
        Ok(Response::new(convert::txn_response(&request, result, header)))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let request = request.into_inner();
        self.check_alarms(Effect::Changes)?;
        let done = self.store.compact(request.revision).await;
        done.map_err(|error| error::status(&error))?;
        if request.physical {
            self.compacted().await?;
        }
        Ok(Response::new(CompactionResponse { header: self.current_header().await? }))
    }
}

/// Only what goes into etcd's log is measured against the limit.
fn writes(request: &TxnRequest) -> bool {
    any(request, |op| !matches!(op, request_op::Request::RequestRange(_)))
}

fn puts(request: &TxnRequest) -> bool {
    any(request, |op| matches!(op, request_op::Request::RequestPut(_)))
}

/// Of both branches, and of the transactions within.
fn any(request: &TxnRequest, is_meant: fn(&request_op::Request) -> bool) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(request_op::Request::RequestTxn(inner)) => any(inner, is_meant),
        Some(op) => is_meant(op),
        None => false,
    })
}
