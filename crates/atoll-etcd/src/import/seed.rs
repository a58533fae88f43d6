//! States as an etcd has them, for tests and fuzzers.

use atoll_store::kv::{HistoryRecord, KeyValue};
use prost::Message;

use super::StoredLease;
use crate::bolt::write::{self, Tree};
use crate::server::{stored_key, stored_value};

pub(super) const LEASE: i64 = 7;
pub(super) const COMPACTED: i64 = 3;

/// `count` keys, each written twice, every third deleted, one large.
pub(super) fn records(count: i64) -> Vec<HistoryRecord> {
    let mut records = Vec::new();
    let mut revision = 1;
    for round in 0..3 {
        for number in 0..count {
            revision += 1;
            let deletion = round == 2 && number % 3 == 0;
            if round == 2 && !deletion {
                continue;
            }
            let size = if number == 1 { 9000 } else { 20 };
            let mut kv = KeyValue {
                key: format!("key/{number:05}").into(),
                mod_revision: revision,
                ..KeyValue::default()
            };
            if !deletion {
                kv.value = vec![b'v'; size].into();
                kv.create_revision = 2 + number;
                kv.version = round + 1;
                kv.lease = if number % 2 == 0 { LEASE } else { 0 };
            }
            records.push(HistoryRecord { kv, sub: 0, deletion });
        }
    }
    records
}

/// A file with the buckets that matter.
pub(super) fn state(count: i64) -> Vec<u8> {
    let entries = records(count).into_iter();
    let keys = entries.map(|record| (stored_key(&record), stored_value(record))).collect();
    let lease = StoredLease { id: LEASE, ttl: 60 }.encode_to_vec();
    let mut compacted = COMPACTED.to_be_bytes().to_vec();
    compacted.extend_from_slice(b"_\0\0\0\0\0\0\0\0");
    file(&[
        ("auth", vec![(b"authEnabled".to_vec(), vec![1])]),
        ("authUsers", vec![(b"root".to_vec(), Vec::new())]),
        ("key", keys),
        ("lease", vec![(LEASE.to_be_bytes().to_vec(), lease)]),
        ("meta", vec![(b"finishedCompactRev".to_vec(), compacted)]),
    ])
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Names and keys are in order.
pub(super) fn file(buckets: &[(&str, Entries)]) -> Vec<u8> {
    let (mut pages, mut next_page, mut roots) = (Vec::new(), write::FIRST_PAGE, Vec::new());
    for (name, entries) in buckets {
        let mut tree = Tree::new(next_page);
        for (key, value) in entries {
            pages.extend(tree.push(key.clone(), value.clone()).unwrap_or_default());
        }
        let (rest, root, end) = tree.finish();
        pages.extend(rest);
        next_page = end;
        roots.push((*name, root));
    }
    let (rest, root, end) = write::root(next_page, &roots);
    let mut out = write::head(root, end);
    out.extend(pages);
    out.extend(rest);
    out
}
