//! What is asked and told, as messages of the etcd v3 API.

use atoll_etcd::proto::{
    etcdserverpb::{self as pb, compare, request_op::Request as Operation, response_op},
    mvccpb::{self, event::EventType},
};
use atoll_history::{Batch, Change, Found, How, Range};

/// What large values begin with, and what they are filled up with.
pub(super) const LARGE: &str = "large";
const PADDING: char = '_';
const LARGE_BYTES: usize = 500_000;

pub(super) fn range(range: &Range, how: How) -> pb::RangeRequest {
    let (key, range_end) = bounds(range);
    pb::RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        serializable: how == How::Stale,
        revision: if let How::At(revision) = how { revision } else { 0 },
        ..pb::RangeRequest::default()
    }
}

/// Key and end, as etcd takes them.
pub(super) fn bounds(range: &Range) -> (Vec<u8>, Vec<u8>) {
    match range {
        Range::Key(key) => (key.clone().into_bytes(), Vec::new()),
        Range::Prefix(prefix) if prefix.is_empty() => (vec![0], vec![0]),
        Range::Prefix(prefix) => {
            let mut end = prefix.clone().into_bytes();
            // Prefixes here end in letters or slashes.
            *end.last_mut().unwrap() += 1;
            (prefix.clone().into_bytes(), end)
        }
    }
}

pub(super) fn put(key: &str, value: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: padded(value).into(),
        lease,
        ..pb::PutRequest::default()
    }
}

pub(super) fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), ..pb::DeleteRangeRequest::default() }
}

pub(super) fn transaction(
    guard: Option<&(String, i64)>,
    puts: &[(String, String)],
    delete: Option<&str>,
    lease: i64,
) -> pb::TxnRequest {
    let compare = guard.map(|(key, at)| pb::Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone().into(),
        target_union: Some(compare::TargetUnion::ModRevision(*at)),
        ..pb::Compare::default()
    });
    let puts = puts.iter().map(|(key, value)| Operation::RequestPut(put(key, value, lease)));
    let delete = delete.map(|key| Operation::RequestDeleteRange(self::delete(key)));
    pb::TxnRequest {
        compare: compare.into_iter().collect(),
        success: puts.chain(delete).map(|one| pb::RequestOp { request: Some(one) }).collect(),
        failure: Vec::new(),
    }
}

/// How many keys a transaction deleted.
pub(super) fn deleted(answer: &pb::TxnResponse) -> u64 {
    let each = answer.responses.iter().map(|one| match &one.response {
        Some(response_op::Response::ResponseDeleteRange(delete)) => delete.deleted.unsigned_abs(),
        _ => 0,
    });
    each.sum()
}

pub(super) fn found(kv: &mvccpb::KeyValue) -> Found {
    Found { key: text(&kv.key), value: text(&kv.value), changed_at: kv.mod_revision }
}

/// Large values are written down without what makes them large.
fn text(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap();
    if text.starts_with(LARGE) { text.trim_end_matches(PADDING) } else { text }.to_owned()
}

fn padded(value: &str) -> String {
    let mut value = value.to_owned();
    if value.starts_with(LARGE) {
        value.extend(std::iter::repeat_n(PADDING, LARGE_BYTES));
    }
    value
}

/// What a watch is told: events, or how far it has come.
pub(super) fn batch(answer: &pb::WatchResponse, has_before: bool) -> Option<Batch> {
    let changes: Vec<Change> = answer
        .events
        .iter()
        .filter_map(|event| {
            let kv = event.kv.as_ref()?;
            let is_put = event.r#type() == EventType::Put;
            let value = is_put.then(|| text(&kv.value));
            Some(Change { revision: kv.mod_revision, key: text(&kv.key), value })
        })
        .collect();
    let told = || answer.events.iter().map(|event| event.prev_kv.as_ref().map(found)).collect();
    let before = has_before.then(told);
    let header = answer.header.map_or(0, |header| header.revision);
    match changes.last() {
        Some(last) => Some(Batch { revision: last.revision, changes, before }),
        None if answer.created || answer.canceled => None,
        None => Some(Batch { revision: header, changes, before: None }),
    }
}
