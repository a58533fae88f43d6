//! What the log carries: commands of clients and of the store itself, and their encoding.
//!
//! An entry is a header (format, who proposed it) and commands until its end, so that
//! transactions of many clients share one entry; each still gets its own revision.

use bytes::Bytes;

use super::import;
use crate::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use crate::kv::{
    Compare, CompareTarget, Consistency, ImportPiece, KeyRange, LeaseId, Op, PutRequest,
    RangeRequest, Relation, Revision, Txn, TxnResult, UpdateRequest,
};

/// Version of the entry's encoding.
pub(crate) const ENTRY_FORMAT: u8 = 1;
/// Deeper transactions are refused when proposed, so a decoder never recurses further.
pub(super) const DEPTH_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Txn(Txn),
    Compact {
        revision: Revision,
    },
    LeaseGrant {
        id: LeaseId,
        ttl: i64,
    },
    /// Also deletes the lease's keys.
    LeaseRevoke {
        id: LeaseId,
    },
    /// Remaining seconds, for the next leader or start; 0 is the full time again.
    LeaseCheckpoint {
        id: LeaseId,
        remaining: i64,
    },
    /// Since format level 2.
    Import(ImportPiece),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    Txn(TxnResult),
    Done,
}

/// Who proposed an entry, so that the proposer finds those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

pub(crate) fn encode_batch_header(out: &mut Vec<u8>, origin: Origin) {
    out.push(ENTRY_FORMAT);
    put_u64(out, origin.member_id);
    put_u64(out, origin.epoch);
    put_u64(out, origin.number);
}

/// Appends one command of the keyspace with this code.
pub(crate) fn encode_command(out: &mut Vec<u8>, keyspace: u8, command: &Command) {
    out.push(keyspace);
    match command {
        Command::Txn(txn) => {
            out.push(1);
            encode_txn(out, txn);
        }
        Command::Compact { revision } => {
            out.push(2);
            put_i64(out, *revision);
        }
        Command::LeaseGrant { id, ttl } => {
            out.push(3);
            put_i64(out, *id);
            put_i64(out, *ttl);
        }
        Command::LeaseRevoke { id } => {
            out.push(4);
            put_i64(out, *id);
        }
        Command::LeaseCheckpoint { id, remaining } => {
            out.push(5);
            put_i64(out, *id);
            put_i64(out, *remaining);
        }
        Command::Import(piece) => {
            out.push(6);
            import::encode(out, piece);
        }
    }
}

/// The commands of an entry with the codes of their keyspaces.
/// Who proposed a batch.
pub(crate) fn decode_origin(payload: Bytes) -> Result<Origin, Malformed> {
    read_origin(&mut Reader::new(payload))
}

fn read_origin(reader: &mut Reader) -> Result<Origin, Malformed> {
    if reader.u8()? != ENTRY_FORMAT {
        return Err(Malformed("an entry has a format that this release does not read"));
    }
    Ok(Origin { member_id: reader.u64()?, epoch: reader.u64()?, number: reader.u64()? })
}

pub(crate) fn decode_batch(payload: Bytes) -> Result<(Origin, Vec<(u8, Command)>), Malformed> {
    let mut reader = Reader::new(payload);
    let origin = read_origin(&mut reader)?;
    let mut commands = Vec::new();
    while !reader.is_empty() {
        let keyspace = reader.u8()?;
        commands.push((keyspace, decode_command(&mut reader)?));
    }
    Ok((origin, commands))
}

fn decode_command(reader: &mut Reader) -> Result<Command, Malformed> {
    Ok(match reader.u8()? {
        1 => Command::Txn(decode_txn(reader, 0)?),
        2 => Command::Compact { revision: reader.i64()? },
        3 => Command::LeaseGrant { id: reader.i64()?, ttl: reader.i64()? },
        4 => Command::LeaseRevoke { id: reader.i64()? },
        5 => Command::LeaseCheckpoint { id: reader.i64()?, remaining: reader.i64()? },
        6 => Command::Import(import::decode(reader)?),
        _ => return Err(Malformed("an unknown command")),
    })
}

fn encode_txn(out: &mut Vec<u8>, txn: &Txn) {
    put_u64(out, txn.compare.len() as u64);
    for compare in &txn.compare {
        encode_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        put_u64(out, branch.len() as u64);
        for op in branch {
            encode_op(out, op);
        }
    }
}

fn decode_txn(reader: &mut Reader, depth: usize) -> Result<Txn, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed("a transaction is nested too deeply"));
    }
    let mut txn = Txn::default();
    for _ in 0..reader.u64()? {
        txn.compare.push(decode_compare(reader)?);
    }
    for branch in [&mut txn.success, &mut txn.failure] {
        for _ in 0..reader.u64()? {
            branch.push(decode_op(reader, depth)?);
        }
    }
    Ok(txn)
}

fn encode_range(out: &mut Vec<u8>, range: &KeyRange) {
    put_bytes(out, &range.key);
    out.push(u8::from(range.end.is_some()));
    if let Some(end) = &range.end {
        put_bytes(out, end);
    }
}

fn decode_range(reader: &mut Reader) -> Result<KeyRange, Malformed> {
    let key = reader.bytes()?;
    let end = if reader.bool()? { Some(reader.bytes()?) } else { None };
    Ok(KeyRange { key, end })
}

fn encode_compare(out: &mut Vec<u8>, compare: &Compare) {
    encode_range(out, &compare.range);
    out.push(match compare.relation {
        Relation::Equal => 0,
        Relation::NotEqual => 1,
        Relation::Greater => 2,
        Relation::Less => 3,
    });
    let (code, number) = match &compare.target {
        CompareTarget::ModRevision(number) => (0, *number),
        CompareTarget::CreateRevision(number) => (1, *number),
        CompareTarget::Version(number) => (2, *number),
        CompareTarget::Lease(number) => (3, *number),
        CompareTarget::Value(value) => {
            out.push(4);
            put_bytes(out, value);
            return;
        }
    };
    out.push(code);
    put_i64(out, number);
}

fn decode_compare(reader: &mut Reader) -> Result<Compare, Malformed> {
    let range = decode_range(reader)?;
    let relation = match reader.u8()? {
        0 => Relation::Equal,
        1 => Relation::NotEqual,
        2 => Relation::Greater,
        3 => Relation::Less,
        _ => return Err(Malformed("an unknown relation")),
    };
    let target = match reader.u8()? {
        0 => CompareTarget::ModRevision(reader.i64()?),
        1 => CompareTarget::CreateRevision(reader.i64()?),
        2 => CompareTarget::Version(reader.i64()?),
        3 => CompareTarget::Lease(reader.i64()?),
        4 => CompareTarget::Value(reader.bytes()?),
        _ => return Err(Malformed("an unknown compare target")),
    };
    Ok(Compare { range, relation, target })
}

fn encode_op(out: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Range(request) => {
            out.push(1);
            encode_range(out, &request.range);
            put_i64(out, request.revision.unwrap_or(0));
            put_u64(out, request.limit as u64);
            out.push(u8::from(request.keys_only));
            out.push(u8::from(request.count_only));
        }
        Op::Put(put) => {
            out.push(2);
            put_bytes(out, &put.key);
            put_bytes(out, &put.value);
            put_i64(out, put.lease);
            out.push(u8::from(put.prev_kv));
        }
        Op::Delete { range, prev_kv } => {
            out.push(3);
            encode_range(out, range);
            out.push(u8::from(*prev_kv));
        }
        Op::Txn(txn) => {
            out.push(4);
            encode_txn(out, txn);
        }
        Op::Update(update) => {
            out.push(5);
            put_bytes(out, &update.key);
            out.push(u8::from(update.value.is_some()));
            if let Some(value) = &update.value {
                put_bytes(out, value);
            }
            out.push(u8::from(update.lease.is_some()));
            put_i64(out, update.lease.unwrap_or(0));
            out.push(u8::from(update.prev_kv));
        }
    }
}

fn decode_op(reader: &mut Reader, depth: usize) -> Result<Op, Malformed> {
    Ok(match reader.u8()? {
        1 => Op::Range(RangeRequest {
            range: decode_range(reader)?,
            revision: Some(reader.i64()?).filter(|revision| *revision != 0),
            limit: reader.usize()?,
            keys_only: reader.bool()?,
            count_only: reader.bool()?,
            consistency: Consistency::Linearizable,
        }),
        2 => Op::Put(PutRequest {
            key: reader.bytes()?,
            value: reader.bytes()?,
            lease: reader.i64()?,
            prev_kv: reader.bool()?,
        }),
        3 => Op::Delete { range: decode_range(reader)?, prev_kv: reader.bool()? },
        4 => Op::Txn(Box::new(decode_txn(reader, depth + 1)?)),
        5 => Op::Update(decode_update(reader)?),
        _ => return Err(Malformed("an unknown operation")),
    })
}

fn decode_update(reader: &mut Reader) -> Result<UpdateRequest, Malformed> {
    let key = reader.bytes()?;
    let value = if reader.bool()? { Some(reader.bytes()?) } else { None };
    let with_lease = reader.bool()?;
    let lease = Some(reader.i64()?).filter(|_| with_lease);
    Ok(UpdateRequest { key, value, lease, prev_kv: reader.bool()? })
}
