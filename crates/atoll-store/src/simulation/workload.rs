//! Draws what clients ask for: few keys, so that they meet; mostly small values, some large.

use super::{Bytes, Command, KeyRange, Model, Op, PutRequest, RangeRequest, Rng, StdRng, Txn};
use crate::kv::{Compare, CompareTarget, Relation};

const KEYS: u32 = 24;
const LEASES: i64 = 4;
/// Longer than any run, so that only a revocation ends a lease: when the store ends one by itself
/// is for its own tests.
const LEASE_TTL: i64 = 1_000_000;

pub(super) fn draw_batch(random: &mut StdRng, model: &Model) -> Vec<(usize, Command)> {
    let count = random.random_range(1..6);
    (0..count)
        .map(|_| {
            let keyspace = usize::from(random.random_bool(0.25));
            (keyspace, draw(random, &model.keyspaces[keyspace]))
        })
        .collect()
}

/// Zero for what a full disk still lets through.
pub(super) fn added_bytes(command: &Command) -> u64 {
    match command {
        Command::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .map(|op| match op {
                Op::Put(put) => (put.key.len() + put.value.len()) as u64,
                _ => 0,
            })
            .sum(),
        _ => 0,
    }
}

fn draw(random: &mut StdRng, keyspace: &super::model::KeyspaceModel) -> Command {
    match random.random_range(0..100) {
        0..55 => single(put(random, 0)),
        55..65 => single(delete(random)),
        65..80 => Command::Txn(conditional(random, keyspace)),
        80..85 => Command::LeaseGrant { id: random.random_range(1..=LEASES), ttl: LEASE_TTL },
        85..90 => {
            let lease = random.random_range(1..=LEASES);
            single(put(random, lease))
        }
        90..93 => Command::LeaseRevoke { id: random.random_range(1..=LEASES) },
        _ => Command::Compact {
            revision: random.random_range(keyspace.compacted..=keyspace.revision + 1),
        },
    }
}

fn single(op: Op) -> Command {
    Command::Txn(Txn { success: vec![op], ..Txn::default() })
}

fn key(random: &mut StdRng) -> Bytes {
    Bytes::from(format!("key/{:02}", random.random_range(0..KEYS)))
}

fn put(random: &mut StdRng, lease: i64) -> Op {
    let length = match random.random_range(0..20) {
        0 => 0,
        1 => random.random_range(4_000..40_000),
        _ => random.random_range(1..200),
    };
    let value: Vec<u8> = (0..length).map(|_| random.random()).collect();
    let prev_kv = random.random_bool(0.3);
    Op::Put(PutRequest { key: key(random), value: Bytes::from(value), lease, prev_kv })
}

fn delete(random: &mut StdRng) -> Op {
    let range = if random.random_bool(0.2) {
        KeyRange::prefix(Bytes::from(format!("key/{}", random.random_range(0..3))))
    } else {
        KeyRange::single(key(random))
    };
    Op::Delete { range, prev_kv: random.random_bool(0.5) }
}

/// An update as the API server makes it: only if nobody else has changed the key.
fn conditional(random: &mut StdRng, keyspace: &super::model::KeyspaceModel) -> Txn {
    let key = key(random);
    let current = keyspace.live.get(&key).map_or(0, |kv| kv.mod_revision);
    let wanted = if random.random_bool(0.7) { current } else { current + 1 };
    let target = match random.random_range(0..3) {
        0 => CompareTarget::Version(i64::from(current > 0)),
        1 => CompareTarget::Value(
            keyspace.live.get(&key).map_or_else(Bytes::new, |kv| kv.value.clone()),
        ),
        _ => CompareTarget::ModRevision(wanted),
    };
    let range = KeyRange::single(key.clone());
    let value = Bytes::from(vec![b'u'; random.random_range(1..300)]);
    Txn {
        compare: vec![Compare { range: range.clone(), relation: Relation::Equal, target }],
        success: vec![
            Op::Put(PutRequest { key, value, lease: 0, prev_kv: true }),
            Op::Range(RangeRequest::new(KeyRange::prefix(Bytes::from_static(b"key/1")))),
        ],
        failure: vec![Op::Range(RangeRequest::new(range))],
    }
}
