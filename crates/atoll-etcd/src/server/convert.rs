//! From etcd's messages to the store's requests, and from its answers back.
//!
//! What can be refused without the store is refused here, in etcd's order.

use atoll_store::kv::{
    self, CompareTarget, Consistency, KeyRange, Op, OpResult, Relation, Revision, UpdateRequest,
};
use bytes::Bytes;
use tonic::Status;

use super::{error, order};
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget as Target, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb;

pub(super) fn key_range(key: &Bytes, range_end: &Bytes) -> KeyRange {
    let end = (!range_end.is_empty()).then(|| range_end.clone());
    KeyRange { key: key.clone(), end }
}

pub(super) fn range(request: &RangeRequest) -> Result<kv::RangeRequest, Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY.into());
    }
    let known = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    if !known {
        return Err(error::INVALID_SORT.into());
    }
    // Below zero is no limit, as in etcd.
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let limit = if order::needs_all(request) {
        0
    } else if limit > 0 && order::needs_sorting(request) {
        limit.saturating_add(1)
    } else {
        limit
    };
    let consistency =
        if request.serializable { Consistency::Serializable } else { Consistency::Linearizable };
    Ok(kv::RangeRequest {
        range: key_range(&request.key, &request.range_end),
        revision: Some(request.revision).filter(|revision| *revision > 0),
        limit,
        keys_only: request.keys_only && !order::sorts_by_value(request),
        count_only: request.count_only,
        consistency,
    })
}

pub(super) fn put(request: &PutRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY.into());
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::VALUE_PROVIDED.into());
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::LEASE_PROVIDED.into());
    }
    let PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease, .. } = request;
    if *ignore_value || *ignore_lease {
        return Ok(Op::Update(UpdateRequest {
            key: key.clone(),
            value: (!ignore_value).then(|| value.clone()),
            lease: (!ignore_lease).then_some(*lease),
            prev_kv: *prev_kv,
        }));
    }
    Ok(Op::Put(kv::PutRequest {
        key: key.clone(),
        value: value.clone(),
        lease: *lease,
        prev_kv: *prev_kv,
    }))
}

pub(super) fn delete(request: &DeleteRangeRequest) -> Result<Op, Status> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY.into());
    }
    let range = key_range(&request.key, &request.range_end);
    Ok(Op::Delete { range, prev_kv: request.prev_kv })
}

pub(super) fn txn(request: &TxnRequest, operations_max: usize) -> Result<kv::Txn, Status> {
    let TxnRequest { compare: compares, success, failure } = request;
    let operations = compares.len().max(success.len()).max(failure.len());
    // What this one takes is not left for those within.
    let Some(left) = operations_max.checked_sub(operations) else {
        return Err(error::TOO_MANY_OPERATIONS.into());
    };
    let compare = compares.iter().map(compare).collect::<Result<_, _>>()?;
    let branch = |ops: &[RequestOp]| -> Result<Vec<Op>, Status> {
        ops.iter().map(|op| operation(op, left)).collect()
    };
    Ok(kv::Txn { compare, success: branch(success)?, failure: branch(failure)? })
}

fn operation(op: &RequestOp, operations_max: usize) -> Result<Op, Status> {
    match op.request.as_ref().ok_or(error::KEY_NOT_FOUND)? {
        Request::RequestRange(request) => Ok(Op::Range(range(request)?)),
        Request::RequestPut(request) => put(request),
        Request::RequestDeleteRange(request) => delete(request),
        Request::RequestTxn(request) => Ok(Op::Txn(Box::new(txn(request, operations_max)?))),
    }
}

fn compare(compare: &Compare) -> Result<kv::Compare, Status> {
    if compare.key.is_empty() {
        return Err(error::EMPTY_KEY.into());
    }
    let result = CompareResult::try_from(compare.result);
    let target = Target::try_from(compare.target);
    let (Ok(result), Ok(target)) = (result, target) else {
        return Err(error::INVALID_COMPARE.into());
    };
    let relation = match result {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    // A target without its value, or with another's, is compared with zero, as in etcd.
    let target = match (target, &compare.target_union) {
        (Target::Version, Some(TargetUnion::Version(number))) => CompareTarget::Version(*number),
        (Target::Version, _) => CompareTarget::Version(0),
        (Target::Create, Some(TargetUnion::CreateRevision(number))) => {
            CompareTarget::CreateRevision(*number)
        }
        (Target::Create, _) => CompareTarget::CreateRevision(0),
        (Target::Mod, Some(TargetUnion::ModRevision(number))) => {
            CompareTarget::ModRevision(*number)
        }
        (Target::Mod, _) => CompareTarget::ModRevision(0),
        (Target::Value, Some(TargetUnion::Value(value))) => CompareTarget::Value(value.clone()),
        (Target::Value, _) => CompareTarget::Value(Bytes::new()),
        (Target::Lease, Some(TargetUnion::Lease(id))) => CompareTarget::Lease(*id),
        (Target::Lease, _) => CompareTarget::Lease(0),
    };
    let range = key_range(&compare.key, &compare.range_end);
    Ok(kv::Compare { range, relation, target })
}

pub(super) fn key_value(kv: kv::KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value,
        lease: kv.lease,
    }
}

/// `read` as the request asked for it.
pub(super) fn range_response(
    request: &RangeRequest,
    mut read: kv::RangeResult,
    header: Option<ResponseHeader>,
) -> RangeResponse {
    order::finish(request, &mut read);
    RangeResponse {
        header,
        kvs: read.kvs.into_iter().map(key_value).collect(),
        more: read.more,
        count: i64::try_from(read.count).unwrap_or(i64::MAX),
    }
}

pub(super) fn put_response(
    prev_kv: Option<kv::KeyValue>,
    header: Option<ResponseHeader>,
) -> PutResponse {
    PutResponse { header, prev_kv: prev_kv.map(key_value) }
}

pub(super) fn delete_response(
    (deleted, prev_kvs): (u64, Vec<kv::KeyValue>),
    header: Option<ResponseHeader>,
) -> DeleteRangeResponse {
    DeleteRangeResponse {
        header,
        deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
        prev_kvs: prev_kvs.into_iter().map(key_value).collect(),
    }
}

pub(super) fn txn_response(
    request: &TxnRequest,
    result: kv::TxnResult,
    header: Option<ResponseHeader>,
) -> TxnResponse {
    let wrote = result.responses.iter().any(writes);
    let mut at = result.revision - Revision::from(wrote);
    let end = result.revision;
    TxnResponse {
        header,
        succeeded: result.succeeded,
        responses: responses(request, result.succeeded, result.responses, &mut at, end),
    }
}

fn writes(result: &OpResult) -> bool {
    match result {
        OpResult::Put { .. } => true,
        OpResult::Delete { deleted, .. } => *deleted > 0,
        OpResult::Range(_) => false,
        OpResult::Txn(inner) => inner.responses.iter().any(writes),
    }
}

/// `at` is the revision that each operation saw: it moves to `end` with the first write.
fn responses(
    request: &TxnRequest,
    succeeded: bool,
    results: Vec<OpResult>,
    at: &mut Revision,
    end: Revision,
) -> Vec<ResponseOp> {
    let ops = if succeeded { &request.success } else { &request.failure };
    let pairs = ops.iter().zip(results);
    pairs.map(|(op, result)| ResponseOp { response: response(op, result, at, end) }).collect()
}

fn response(
    op: &RequestOp,
    result: OpResult,
    at: &mut Revision,
    end: Revision,
) -> Option<Response> {
    if !matches!(result, OpResult::Txn(_)) && writes(&result) {
        *at = end;
    }
    let header = Some(ResponseHeader { revision: *at, ..ResponseHeader::default() });
    match (result, op.request.as_ref()?) {
        (OpResult::Range(read), Request::RequestRange(request)) => {
            Some(Response::ResponseRange(range_response(request, read, header)))
        }
        (OpResult::Put { prev_kv }, _) => {
            Some(Response::ResponsePut(put_response(prev_kv, header)))
        }
        (OpResult::Delete { deleted, prev_kvs }, _) => {
            Some(Response::ResponseDeleteRange(delete_response((deleted, prev_kvs), header)))
        }
        (OpResult::Txn(inner), Request::RequestTxn(request)) => {
            Some(Response::ResponseTxn(TxnResponse {
                // As in etcd, the inner one has a header, which says nothing.
                header: Some(ResponseHeader::default()),
                succeeded: inner.succeeded,
                responses: responses(request, inner.succeeded, inner.responses, at, end),
            }))
        }
        // The store answers each operation with its own kind.
        _ => None,
    }
}
