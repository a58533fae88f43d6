//! Entry points for fuzzers: bytes of a client become messages, and those requests of the store.

use bytes::Bytes;
use prost::Message;

use super::convert;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest,
};

/// Branches and compares of a transaction, as a server has it by default.
const OPERATIONS_MAX: usize = 128;

/// Whatever kind of message it is: it is decoded, and what was decoded is taken as a request.
pub fn request(encoded: &[u8]) {
    let encoded = Bytes::copy_from_slice(encoded);
    if let Ok(request) = TxnRequest::decode(encoded.clone()) {
        drop(convert::txn(&request, OPERATIONS_MAX));
    }
    if let Ok(request) = RangeRequest::decode(encoded.clone()) {
        drop(convert::range(&request));
    }
    if let Ok(request) = PutRequest::decode(encoded.clone()) {
        drop(convert::put(&request));
    }
    if let Ok(request) = DeleteRangeRequest::decode(encoded.clone()) {
        drop(convert::delete(&request));
    }
    drop(WatchRequest::decode(encoded));
}

/// Seeds for [`request`].
pub fn requests() -> Vec<Vec<u8>> {
    use crate::proto::etcdserverpb::compare::TargetUnion;
    use crate::proto::etcdserverpb::request_op::Request;
    use crate::proto::etcdserverpb::{Compare, RequestOp, WatchCreateRequest, watch_request};
    let range = RangeRequest {
        key: "a".into(),
        range_end: "z".into(),
        limit: 5,
        sort_order: 2,
        sort_target: 4,
        min_mod_revision: 3,
        ..RangeRequest::default()
    };
    let put = PutRequest { key: "a".into(), ignore_value: true, lease: 7, ..Default::default() };
    let delete =
        DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), ..Default::default() };
    let compare = Compare {
        key: "a".into(),
        target: 3,
        target_union: Some(TargetUnion::Value("v".into())),
        ..Compare::default()
    };
    let op = |request| RequestOp { request: Some(request) };
    let inner = TxnRequest {
        success: vec![op(Request::RequestDeleteRange(delete.clone()))],
        ..TxnRequest::default()
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![op(Request::RequestRange(range.clone())), op(Request::RequestTxn(inner))],
        failure: vec![op(Request::RequestPut(put.clone()))],
    };
    let watch = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(WatchCreateRequest {
            key: "a".into(),
            filters: vec![0, 1],
            watch_id: 9,
            ..WatchCreateRequest::default()
        })),
    };
    vec![
        txn.encode_to_vec(),
        range.encode_to_vec(),
        put.encode_to_vec(),
        delete.encode_to_vec(),
        watch.encode_to_vec(),
    ]
}
