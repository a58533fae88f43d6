//! Whose the keys under a cluster's prefix are.
//!
//! `/atoll/<cluster-id>/format` names cluster and format. It is written once, when nothing else
//! stands under the prefix; what is found there later and is not of the format belongs to
//! somebody else, and then nothing of it is touched.

use atoll_store::kv::prefix_end;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::OpenError;
use super::caller::{Caller, TXN};
use super::prefix::Prefix;
use super::verdict::{Effect, Failure};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;

/// The keys' layout. A release reads what the one before it wrote.
const FORMAT: u32 = 1;
/// Foreign keys that a refusal names.
const NAMED_MAX: i64 = 3;

pub(super) const APPLICATIONS: &str = "applications/";
pub(super) const CLUSTER: &str = "cluster/";
/// A key for each lease whose id a client chose.
pub(super) const LEASES: &str = "leases/";
/// Written to learn how far watches are.
pub(super) const PROGRESS: &str = "progress";
const MARKER: &str = "format";

/// What stands under a prefix, in the order of keys; what ends with a slash are many keys.
const LAYOUT: [&str; 5] = [APPLICATIONS, CLUSTER, MARKER, LEASES, PROGRESS];

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    cluster: String,
    format: u32,
}

/// All keys of this cluster.
pub(super) fn root(cluster_id: &str) -> Prefix {
    Prefix::new(format!("/atoll/{cluster_id}/"))
}

/// Makes sure that what stands under the prefix is ours. `known` says that it was before, so
/// that an etcd that has lost it is not taken for a new one.
pub(super) async fn claim(caller: &Caller, cluster_id: &str, known: bool) -> Result<(), OpenError> {
    let root = root(cluster_id);
    let marker = root.add(MARKER.as_bytes());
    let value =
        serde_json::to_vec(&Marker { cluster: cluster_id.to_owned(), format: FORMAT }).map_err(
            |error| OpenError::Etcd { endpoints: caller.endpoints(), reason: error.to_string() },
        )?;
    let put = pb::PutRequest {
        key: marker.clone(),
        value: Bytes::from(value),
        ..pb::PutRequest::default()
    };
    let looks = gaps(&root).into_iter().map(|(key, range_end)| {
        Request::RequestRange(pb::RangeRequest {
            key,
            range_end,
            limit: NAMED_MAX,
            keys_only: true,
            ..pb::RangeRequest::default()
        })
    });
    let look =
        Request::RequestRange(pb::RangeRequest { key: marker, ..pb::RangeRequest::default() });
    let op = |request| pb::RequestOp { request: Some(request) };
    let request = pb::TxnRequest {
        compare: vec![nothing_in(&root)],
        // What was there and is not any more must not begin anew by itself.
        success: if known { Vec::new() } else { vec![op(Request::RequestPut(put))] },
        failure: std::iter::once(look).chain(looks).map(op).collect(),
    };
    // Tried again, it finds its own marker.
    let answer: Result<pb::TxnResponse, Failure> =
        caller.call(Effect::Repeatable, TXN, request).await;
    let answer = answer.map_err(|failure| OpenError::of(failure, caller))?;
    if answer.succeeded && known {
        return Err(OpenError::Gone {
            cluster: cluster_id.to_owned(),
            endpoints: caller.endpoints(),
        });
    }
    if answer.succeeded { Ok(()) } else { check(cluster_id, &root, answer) }
}

/// Holds when no key stands in the range: only then do its keys' zeros compare equal.
fn nothing_in(root: &Prefix) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: root.start().clone(),
        range_end: root.end().clone(),
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

/// The ranges under the prefix in which nothing of ours stands.
fn gaps(root: &Prefix) -> Vec<(Bytes, Bytes)> {
    let mut from = root.start().clone();
    let mut gaps = Vec::new();
    for name in LAYOUT {
        let start = root.add(name.as_bytes());
        let behind = if name.ends_with('/') {
            prefix_end(&start)
        } else {
            let mut next = start.to_vec();
            next.push(0);
            Bytes::from(next)
        };
        gaps.push((from, start));
        from = behind;
    }
    gaps.push((from, root.end().clone()));
    gaps
}

fn check(cluster_id: &str, root: &Prefix, answer: pb::TxnResponse) -> Result<(), OpenError> {
    let mut found = answer.responses.into_iter().map(|response| match response.response {
        Some(Response::ResponseRange(range)) => range.kvs,
        _ => Vec::new(),
    });
    let marker = found.next().and_then(|kvs| kvs.into_iter().next());
    let prefix = || String::from_utf8_lossy(root.start()).into_owned();
    let foreign: Vec<String> =
        found.flatten().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect();
    let Some(marker) = marker else {
        return Err(OpenError::NotOurs { prefix: prefix() });
    };
    let read = read_marker(&marker.value).ok_or_else(|| OpenError::NotOurs { prefix: prefix() })?;
    if read.cluster != cluster_id {
        return Err(OpenError::NotOurs { prefix: prefix() });
    }
    if read.format > FORMAT {
        return Err(OpenError::Newer { prefix: prefix(), found: read.format, known: FORMAT });
    }
    if foreign.is_empty() {
        Ok(())
    } else {
        Err(OpenError::ForeignKeys { prefix: prefix(), keys: foreign.join(", ") })
    }
}

fn read_marker(value: &[u8]) -> Option<Marker> {
    serde_json::from_slice(value).ok()
}

/// For the fuzzer: whatever stands in the marker's place is read or refused.
pub(super) fn fuzz(input: &[u8]) {
    if let Some(marker) = read_marker(input) {
        let again = serde_json::to_vec(&marker).ok().and_then(|text| read_marker(&text));
        assert!(again.is_some_and(|again| again.cluster == marker.cluster));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_under_the_prefix_is_ours_or_in_a_gap() {
        let root = root("c");
        let gaps = gaps(&root);
        let in_gap = |name: &str| {
            let key = root.add(name.as_bytes());
            gaps.iter().filter(|(start, end)| start <= &key && key < *end).count()
        };
        for ours in ["applications/", "applications/x", "cluster//registry/", "format", "progress"]
        {
            assert_eq!(in_gap(ours), 0, "{ours}");
        }
        for foreign in ["", "app", "applications0", "clusters", "format/", "formats", "z", "\u{ff}"]
        {
            assert_eq!(in_gap(foreign), 1, "{foreign}");
        }
    }

    #[test]
    fn the_layout_is_in_order() {
        assert!(LAYOUT.is_sorted());
    }
}
