//! What etcd does with a range after it was read: filters by revision, sorting, the limit.

use std::cmp::Ordering;

use atoll_store::kv::{KeyValue, RangeResult};

use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};

/// Whether what is read has to be looked at whole before the limit cuts it.
pub(super) fn needs_all(request: &RangeRequest) -> bool {
    request.sort_order() != SortOrder::None || has_filter(request)
}

/// As in etcd, a target without an order sorts what the limit has left, upwards.
pub(super) fn needs_sorting(request: &RangeRequest) -> bool {
    request.sort_order() != SortOrder::None || request.sort_target() != SortTarget::Key
}

pub(super) fn sorts_by_value(request: &RangeRequest) -> bool {
    request.sort_target() == SortTarget::Value
}

fn has_filter(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

pub(super) fn finish(request: &RangeRequest, read: &mut RangeResult) {
    if request.count_only {
        return;
    }
    if has_filter(request) {
        read.kvs.retain(|kv| {
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(
                    kv.create_revision,
                    request.min_create_revision,
                    request.max_create_revision,
                )
        });
    }
    if needs_sorting(request) {
        let target = request.sort_target();
        // What was read is in the order of keys.
        match request.sort_order() {
            SortOrder::Descend if target == SortTarget::Key => read.kvs.reverse(),
            SortOrder::Descend => read.kvs.sort_by(|a, b| compare(target, b, a)),
            SortOrder::None | SortOrder::Ascend => read.kvs.sort_by(|a, b| compare(target, a, b)),
        }
    }
    let limit = usize::try_from(request.limit).unwrap_or(0);
    if limit > 0 {
        read.more = read.more || read.kvs.len() > limit;
        read.kvs.truncate(limit);
    }
    if request.keys_only && sorts_by_value(request) {
        for kv in &mut read.kvs {
            kv.value.clear();
        }
    }
}

/// 0 is no bound.
fn within(revision: i64, min: i64, max: i64) -> bool {
    (min == 0 || revision >= min) && (max == 0 || revision <= max)
}

fn compare(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}
