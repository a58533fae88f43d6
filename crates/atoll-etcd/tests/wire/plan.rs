//! What is asked next, at random but the same of both sides: messages as no client would make
//! them, too.

use atoll_etcd::proto::etcdserverpb::compare::TargetUnion;
use atoll_etcd::proto::etcdserverpb::request_op::Request;
use atoll_etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// Few, so that they meet.
const KEYS: [&[u8]; 9] = [b"\0", b"a", b"a/", b"a/1", b"a/2", b"b", b"b/1", b"\x7f", b"\xff\xff"];
pub(crate) const LEASES: [i64; 3] = [0x51, 0x52, -0x53];
/// Nobody has it.
const NO_LEASE: i64 = 0x7777;
const DEPTH_MAX: usize = 3;
const WATCHES_MAX: usize = 5;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
    HashKv(i64),
    Watch(WatchCreateRequest),
    CancelWatch(i64),
    WatchProgress,
}

pub(crate) struct Plan {
    random: StdRng,
    /// Where the sequence began; nothing before is asked for.
    base: i64,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    watches: usize,
    /// An etcd tells the progress of a watch that has not begun (#20221), so a sequence has
    /// requests for progress or watches on the future, not both.
    pub(crate) has_future: bool,
}

impl Plan {
    pub(crate) fn new(mut random: StdRng, base: i64) -> Self {
        let has_future = random.random_bool(0.5);
        Self { random, base, revision: base, compacted: base, watches: 0, has_future }
    }

    pub(crate) fn next(&mut self) -> Step {
        match self.random.random_range(0..100) {
            0..26 => Step::Range(self.range_alone()),
            26..44 => Step::Put(self.put()),
            44..50 => Step::Delete(self.delete()),
            50..72 => Step::Txn(self.txn(0)),
            72..76 => self.compact(),
            76..80 => Step::Grant(self.grant()),
            80..82 => Step::Revoke(self.lease()),
            82..84 => Step::KeepAlive(self.lease()),
            84..87 => Step::TimeToLive(LeaseTimeToLiveRequest {
                id: self.lease(),
                keys: self.chance(0.5),
            }),
            87 => Step::Leases,
            // That of the compacted revision itself is refused by older releases.
            88 => Step::HashKv(Some(self.past()).filter(|at| *at > self.compacted).unwrap_or(0)),
            89..94 if self.watches < WATCHES_MAX => {
                self.watches += 1;
                Step::Watch(self.watch())
            }
            94..96 => Step::CancelWatch(self.watch_id()),
            96..98 if !self.has_future => Step::WatchProgress,
            _ => Step::Put(self.put()),
        }
    }

    /// One that a server chose, or one that the sequence chose: they do not meet, for an etcd
    /// does not give away the id of a watch that it has ended for a compaction.
    fn watch_id(&mut self) -> i64 {
        let chosen = self.random.random_range(100..105);
        if self.chance(0.5) { chosen } else { self.random.random_range(-1..6) }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn key(&mut self) -> Bytes {
        if self.chance(0.01) {
            return Bytes::new();
        }
        Bytes::from_static(KEYS.choose(&mut self.random).unwrap())
    }

    /// None, to the end, or any key: before the first too.
    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.random_range(0..6) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(b"\0"),
            3 => atoll_store::kv::prefix_end(key),
            _ => self.key(),
        }
    }

    fn lease(&mut self) -> i64 {
        if self.chance(0.1) { NO_LEASE } else { *LEASES.choose(&mut self.random).unwrap() }
    }

    fn lease_or_none(&mut self) -> i64 {
        if self.chance(0.6) { 0 } else { self.lease() }
    }

    fn value(&mut self) -> Bytes {
        let length = self.random.random_range(0..4);
        (0..length).map(|_| self.random.random_range(b'0'..=b'3')).collect::<Vec<u8>>().into()
    }

    /// Around what there is, and nothing from before the sequence.
    fn past(&mut self) -> i64 {
        let first = (self.compacted - 2).max(self.base);
        self.random.random_range(first..=self.revision + 2)
    }

    fn bound(&mut self) -> i64 {
        if self.chance(0.85) { 0 } else { self.past() }
    }

    /// Below zero is the present; in a transaction an etcd takes it for what is compacted.
    fn range_alone(&mut self) -> RangeRequest {
        let range = self.range();
        if range.revision == 0 && self.chance(0.1) {
            return RangeRequest { revision: -1, ..range };
        }
        range
    }

    fn range(&mut self) -> RangeRequest {
        let sort_target = self.random.random_range(0..5);
        let mut key = self.key();
        let mut range_end = self.range_end(&key);
        if sort_target != 0 {
            // Up to six, an etcd leaves equals in the order of their keys.
            key = Bytes::from_static(if self.chance(0.7) { b"a" } else { b"b" });
            range_end = atoll_store::kv::prefix_end(&key);
        }
        RangeRequest {
            range_end,
            key,
            limit: self.random.random_range(-1..5),
            revision: match self.random.random_range(0..10) {
                0..7 => 0,
                _ => self.past(),
            },
            sort_order: self.random.random_range(0..3),
            sort_target,
            serializable: self.chance(0.3),
            keys_only: self.chance(0.2),
            count_only: self.chance(0.15),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.chance(0.15);
        let ignore_lease = self.chance(0.15);
        let keeps = |random: &mut StdRng, ignored: bool| ignored && random.random_bool(0.8);
        PutRequest {
            key: self.key(),
            value: if keeps(&mut self.random, ignore_value) { Bytes::new() } else { self.value() },
            lease: if keeps(&mut self.random, ignore_lease) { 0 } else { self.lease_or_none() },
            prev_kv: self.chance(0.5),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        DeleteRangeRequest { range_end: self.range_end(&key), key, prev_kv: self.chance(0.5) }
    }

    /// An etcd does not see that a deletion to the end meets a put of the same transaction.
    fn delete_within(&mut self) -> DeleteRangeRequest {
        let mut delete = self.delete();
        if delete.range_end == "\0" {
            delete.range_end = Bytes::from_static(b"\xff\xff\xff");
        }
        delete
    }

    fn compact(&mut self) -> Step {
        let revision = match self.random.random_range(0..8) {
            0 => self.revision + 1,
            1 => self.compacted,
            2 => -1,
            _ => self.random.random_range(self.compacted..=self.revision),
        };
        Step::Compact(CompactionRequest { revision, physical: self.chance(0.5) })
    }

    /// Long enough to live through the sequence.
    fn grant(&mut self) -> LeaseGrantRequest {
        LeaseGrantRequest { ttl: self.random.random_range(600..700), id: self.lease() }
    }

    fn watch(&mut self) -> WatchCreateRequest {
        let key = self.key();
        let start_revision = match self.random.random_range(0..4) {
            0 => 0,
            1 if self.has_future => self.revision + self.random.random_range(1..30),
            2 if self.compacted > self.base + 1 => self.compacted - 1,
            // Not the compacted revision itself (#19179).
            _ => self.random.random_range(self.compacted..=self.revision) + 1,
        };
        WatchCreateRequest {
            range_end: self.range_end(&key),
            key,
            start_revision,
            progress_notify: false,
            // Not both: nothing would show when an etcd has brought it up to date.
            filters: vec![[0, 1, 7, 9, 9, 9, 9, 9][self.random.random_range(0..8)]],
            prev_kv: self.random.random_bool(0.5),
            watch_id: if self.random.random_bool(0.5) {
                0
            } else {
                self.random.random_range(100..105)
            },
            fragment: self.random.random_bool(0.3),
        }
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let number = if self.chance(0.5) { self.past() } else { self.random.random_range(0..4) };
        let target = self.random.random_range(0..5);
        // Now and then another's value, or none.
        let of = if self.chance(0.9) { target } else { self.random.random_range(0..6) };
        Compare {
            result: self.random.random_range(0..4),
            target,
            range_end: if self.chance(0.6) { Bytes::new() } else { self.range_end(&key) },
            key,
            target_union: match of {
                0 => Some(TargetUnion::Version(self.random.random_range(0..4))),
                1 => Some(TargetUnion::CreateRevision(number)),
                2 => Some(TargetUnion::ModRevision(number)),
                3 => Some(TargetUnion::Value(self.value())),
                4 => Some(TargetUnion::Lease(self.lease_or_none())),
                _ => None,
            },
        }
    }

    fn txn(&mut self, depth: usize) -> TxnRequest {
        let compares = self.random.random_range(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.operations(depth),
            failure: self.operations(depth),
        }
    }

    fn operations(&mut self, depth: usize) -> Vec<RequestOp> {
        let count = self.random.random_range(0..4);
        (0..count).map(|_| RequestOp { request: self.operation(depth) }).collect()
    }

    fn operation(&mut self, depth: usize) -> Option<Request> {
        Some(match self.random.random_range(0..100) {
            0..35 => Request::RequestRange(self.range()),
            35..65 => Request::RequestPut(self.put()),
            65..80 => Request::RequestDeleteRange(self.delete_within()),
            80..99 if depth < DEPTH_MAX => Request::RequestTxn(self.txn(depth + 1)),
            99 => return None,
            _ => Request::RequestRange(self.range()),
        })
    }
}
