//! The store's words and etcd's messages, each into the other.

use atoll_store::kv::{
    Compare, CompareTarget, Consistency, Error, Event, EventKind, KeyValue, Op, OpResult,
    PutRequest, RangeRequest, RangeResult, Relation, Result, Txn, TxnResult, UpdateRequest,
};
use bytes::Bytes;

use super::prefix::Prefix;
use crate::proto::etcdserverpb::compare::{CompareResult, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::{etcdserverpb as pb, mvccpb};

// === to etcd ===

pub(super) fn range_request(prefix: &Prefix, request: &RangeRequest) -> pb::RangeRequest {
    let RangeRequest { range, revision, limit, keys_only, count_only, consistency } = request;
    let (key, range_end) = prefix.range(range);
    pb::RangeRequest {
        key,
        range_end,
        limit: i64::try_from(*limit).unwrap_or(i64::MAX),
        revision: revision.unwrap_or(0).max(0),
        serializable: *consistency == Consistency::Serializable,
        keys_only: *keys_only,
        count_only: *count_only,
        ..pb::RangeRequest::default()
    }
}

pub(super) fn txn_request(prefix: &Prefix, txn: &Txn) -> pb::TxnRequest {
    let Txn { compare, success, failure } = txn;
    let ops = |ops: &[Op]| ops.iter().map(|op| request_op(prefix, op)).collect();
    pb::TxnRequest {
        compare: compare.iter().map(|one| compare_request(prefix, one)).collect(),
        success: ops(success),
        failure: ops(failure),
    }
}

fn request_op(prefix: &Prefix, op: &Op) -> pb::RequestOp {
    let request = match op {
        Op::Range(request) => Request::RequestRange(range_request(prefix, request)),
        Op::Put(PutRequest { key, value, lease, prev_kv }) => Request::RequestPut(pb::PutRequest {
            key: prefix.add(key),
            value: value.clone(),
            lease: *lease,
            prev_kv: *prev_kv,
            ..pb::PutRequest::default()
        }),
        Op::Update(UpdateRequest { key, value, lease, prev_kv }) => {
            Request::RequestPut(pb::PutRequest {
                key: prefix.add(key),
                value: value.clone().unwrap_or_default(),
                lease: lease.unwrap_or(0),
                prev_kv: *prev_kv,
                ignore_value: value.is_none(),
                ignore_lease: lease.is_none(),
            })
        }
        Op::Delete { range, prev_kv } => {
            let (key, range_end) = prefix.range(range);
            let prev_kv = *prev_kv;
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, range_end, prev_kv })
        }
        Op::Txn(inner) => Request::RequestTxn(txn_request(prefix, inner)),
    };
    pb::RequestOp { request: Some(request) }
}

fn compare_request(prefix: &Prefix, compare: &Compare) -> pb::Compare {
    let Compare { range, relation, target } = compare;
    let (key, range_end) = prefix.range(range);
    let result = match relation {
        Relation::Equal => CompareResult::Equal,
        Relation::NotEqual => CompareResult::NotEqual,
        Relation::Greater => CompareResult::Greater,
        Relation::Less => CompareResult::Less,
    };
    use pb::compare::CompareTarget as Target;
    let (target, wanted) = match target {
        CompareTarget::ModRevision(number) => (Target::Mod, TargetUnion::ModRevision(*number)),
        CompareTarget::CreateRevision(number) => {
            (Target::Create, TargetUnion::CreateRevision(*number))
        }
        CompareTarget::Version(number) => (Target::Version, TargetUnion::Version(*number)),
        CompareTarget::Value(value) => (Target::Value, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(lease) => (Target::Lease, TargetUnion::Lease(*lease)),
    };
    pb::Compare {
        result: result.into(),
        target: target.into(),
        key,
        range_end,
        target_union: Some(wanted),
    }
}

// === from etcd ===

pub(super) fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

pub(super) fn key_value(prefix: &Prefix, kv: mvccpb::KeyValue) -> Result<KeyValue> {
    Ok(KeyValue {
        key: stripped(prefix, &kv.key)?,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    })
}

fn stripped(prefix: &Prefix, key: &Bytes) -> Result<Bytes> {
    prefix.strip(key).ok_or_else(|| strange("a key that was not asked for"))
}

pub(super) fn range_result(
    prefix: &Prefix,
    answer: pb::RangeResponse,
    current: i64,
) -> Result<RangeResult> {
    let kvs: Result<Vec<_>> = answer.kvs.into_iter().map(|kv| key_value(prefix, kv)).collect();
    Ok(RangeResult {
        revision: current,
        kvs: kvs?,
        count: answer.count.max(0).cast_unsigned(),
        more: answer.more,
    })
}

/// Each answer must fit the operation that it answers.
pub(super) fn txn_result(
    prefix: &Prefix,
    txn: &Txn,
    answer: pb::TxnResponse,
    current: i64,
) -> Result<TxnResult> {
    let ops = if answer.succeeded { &txn.success } else { &txn.failure };
    if ops.len() != answer.responses.len() {
        return Err(strange("another number of answers than there were operations"));
    }
    let mut responses = Vec::with_capacity(ops.len());
    for (op, response) in ops.iter().zip(answer.responses) {
        responses.push(op_result(prefix, op, response, current)?);
    }
    Ok(TxnResult { revision: current, succeeded: answer.succeeded, responses })
}

fn op_result(prefix: &Prefix, op: &Op, response: pb::ResponseOp, current: i64) -> Result<OpResult> {
    Ok(match (op, response.response) {
        (Op::Range(_), Some(Response::ResponseRange(answer))) => {
            // What was read before the first write is of the revision before.
            let own = Some(revision(answer.header.as_ref())).filter(|own| *own != 0);
            OpResult::Range(range_result(prefix, answer, own.unwrap_or(current))?)
        }
        (Op::Put(_) | Op::Update(_), Some(Response::ResponsePut(answer))) => {
            let prev_kv = answer.prev_kv.map(|kv| key_value(prefix, kv)).transpose()?;
            OpResult::Put { prev_kv }
        }
        (Op::Delete { .. }, Some(Response::ResponseDeleteRange(answer))) => {
            let prev_kvs: Result<Vec<_>> =
                answer.prev_kvs.into_iter().map(|kv| key_value(prefix, kv)).collect();
            OpResult::Delete { deleted: answer.deleted.max(0).cast_unsigned(), prev_kvs: prev_kvs? }
        }
        (Op::Txn(inner), Some(Response::ResponseTxn(answer))) => {
            OpResult::Txn(txn_result(prefix, inner, answer, current)?)
        }
        _ => return Err(strange("an answer of another kind than its operation")),
    })
}

/// A deletion carries its key and revision only, and what it deleted if that was asked for.
pub(super) fn event(prefix: &Prefix, event: mvccpb::Event) -> Result<Event> {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    let kv = event.kv.ok_or_else(|| strange("an event without a key"))?;
    let kv = key_value(prefix, kv)?;
    let prev_kv = event.prev_kv.map(|kv| key_value(prefix, kv)).transpose()?;
    Ok(Event { kind, kv, prev_kv })
}

pub(super) fn strange(what: &str) -> Error {
    Error::Unavailable { detail: format!("the etcd sent {what}; is it really an etcd?") }
}
