//! What is done next, at random but the same for both sides.
//!
//! Revisions are written as distances from where a side began, leases as places in a list.

use atoll_store::kv::{
    Compare, CompareTarget, KeyRange, Op, PutRequest, RangeRequest, Relation, Txn, UpdateRequest,
};
use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::side::Answer;

/// Few, so that they meet.
const KEYS: [&str; 8] = ["a", "a/", "a/1", "a/2", "a/22", "b", "b/1", "\u{7f}"];
const LEASES_MAX: usize = 4;
const WATCHES_MAX: usize = 4;
const DEPTH_MAX: usize = 3;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Range(RangeRequest),
    Txn(Txn),
    Compact(i64),
    Grant(i64),
    /// The lease at this place.
    Revoke(usize),
    KeepAlive(usize),
    LeaseInfo(usize),
    Watch {
        range: KeyRange,
        start: i64,
        prev_kv: bool,
    },
    End,
}

pub(crate) struct Plan {
    random: StdRng,
    revision: i64,
    compacted: i64,
    leases: usize,
    watches: usize,
}

impl Plan {
    pub(crate) fn new(random: StdRng) -> Self {
        Self { random, revision: 0, compacted: 0, leases: 0, watches: 0 }
    }

    pub(crate) fn learn(&mut self, answer: &Answer) {
        match answer {
            Answer::Txn(Ok(result)) => self.revision = self.revision.max(result.revision),
            Answer::Revision(revision) => self.revision = *revision,
            _ => {}
        }
    }

    pub(crate) fn next(&mut self) -> Step {
        match self.random.random_range(0..100) {
            0..25 => Step::Range(self.range()),
            25..60 => Step::Txn(self.write()),
            60..80 => Step::Txn(self.txn(0)),
            80..84 => self.compact(),
            84..88 if self.leases < LEASES_MAX => {
                self.leases += 1;
                Step::Grant(self.random.random_range(600..700))
            }
            88..90 => Step::Revoke(self.lease()),
            90..92 => Step::KeepAlive(self.lease()),
            92..95 => Step::LeaseInfo(self.lease()),
            95..98 if self.watches < WATCHES_MAX => {
                self.watches += 1;
                // Neither the present, where the two may differ by what is under way, nor the
                // compacted revision itself (etcd #19179), nor the future (#20221).
                let start = self.random.random_range(self.compacted..=self.revision) + 1;
                Step::Watch { range: self.keys_that_may_be(), start, prev_kv: false }
            }
            _ => Step::Txn(self.write()),
        }
    }

    fn lease(&mut self) -> usize {
        self.random.random_range(0..=self.leases)
    }

    fn compact(&mut self) -> Step {
        let at = self.random.random_range((self.compacted - 1).max(1)..=self.revision + 2);
        if at > self.compacted && at <= self.revision {
            self.compacted = at;
        }
        Step::Compact(at)
    }

    fn key(&mut self) -> Bytes {
        Bytes::from_static(KEYS.choose(&mut self.random).unwrap().as_bytes())
    }

    fn keys(&mut self) -> KeyRange {
        let key = self.key();
        match self.random.random_range(0..5) {
            0 | 1 => KeyRange::single(key),
            2 => KeyRange::prefix(key),
            3 => KeyRange { key, end: Some(Bytes::from_static(b"\0")) },
            _ => KeyRange { end: Some(self.key()), key },
        }
    }

    /// A watch of no keys is tried by the conformance suite; nothing tells when it has caught up.
    fn keys_that_may_be(&mut self) -> KeyRange {
        loop {
            let range = self.keys();
            if range.contains(&range.key) {
                return range;
            }
        }
    }

    fn past(&mut self) -> Option<i64> {
        // What was before the beginning is not the same on both sides.
        let around = (self.compacted - 2).max(1)..=self.revision + 2;
        self.random.random_bool(0.4).then(|| self.random.random_range(around))
    }

    fn range(&mut self) -> RangeRequest {
        RangeRequest {
            revision: self.past(),
            limit: self.random.random_range(0..4),
            keys_only: self.random.random_bool(0.2),
            count_only: self.random.random_bool(0.2),
            ..RangeRequest::new(self.keys())
        }
    }

    fn value(&mut self) -> Bytes {
        let length = self.random.random_range(0..4);
        (0..length).map(|_| self.random.random_range(b'0'..=b'3')).collect::<Vec<u8>>().into()
    }

    /// No lease mostly, one that there is, or one that there is not.
    fn lease_or_none(&mut self) -> i64 {
        if self.random.random_bool(0.7) {
            return 0;
        }
        i64::try_from(self.lease()).unwrap() + 1
    }

    fn write(&mut self) -> Txn {
        let success = vec![self.write_op()];
        Txn { success, ..Txn::default() }
    }

    fn write_op(&mut self) -> Op {
        let prev_kv = self.random.random_bool(0.5);
        match self.random.random_range(0..10) {
            0..6 => Op::Put(PutRequest {
                key: self.key(),
                value: self.value(),
                lease: self.lease_or_none(),
                prev_kv,
            }),
            6 => {
                let keeps_value = self.random.random_bool(0.5);
                Op::Update(UpdateRequest {
                    key: self.key(),
                    value: (!keeps_value).then(|| self.value()),
                    lease: keeps_value.then(|| self.lease_or_none()),
                    prev_kv,
                })
            }
            _ => Op::Delete { range: self.keys(), prev_kv },
        }
    }

    fn compare(&mut self) -> Compare {
        let near = self.random.random_range(-1..=self.revision + 1);
        let target = match self.random.random_range(0..5) {
            0 => CompareTarget::ModRevision(near),
            1 => CompareTarget::CreateRevision(near),
            2 => CompareTarget::Version(self.random.random_range(0..4)),
            3 => CompareTarget::Value(self.value()),
            _ => CompareTarget::Lease(self.lease_or_none()),
        };
        let relations = [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less];
        let relation = *relations.choose(&mut self.random).unwrap();
        Compare { range: self.keys(), relation, target }
    }

    fn txn(&mut self, depth: usize) -> Txn {
        let compares = self.random.random_range(0..3);
        Txn {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn ops(&mut self, depth: usize) -> Vec<Op> {
        let count = self.random.random_range(0..4);
        (0..count)
            .map(|_| match self.random.random_range(0..10) {
                0..4 => Op::Range(self.range()),
                4..6 if depth < DEPTH_MAX => Op::Txn(Box::new(self.txn(depth + 1))),
                _ => self.write_op(),
            })
            .collect()
    }
}
