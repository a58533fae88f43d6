//! One keyspace's state: every kept version of every key, and the leases.
//!
//! Changes come only through [`apply`](State::apply), which is deterministic: no clock, no
//! randomness. Values that the backend has written are read from it, newer ones from memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::View;
use crate::codec::{self, Malformed, Reader};
use crate::kv::{self, EventKind, KeyValue, LeaseId, Revision};

mod apply;
mod command;
mod compact;
mod history;
mod import;
mod load;
mod read;
mod txn;

pub(crate) use apply::{LeaseChange, StoredEvent};
pub(crate) use command::{
    Command, ENTRY_FORMAT, Origin, Response, decode_batch, decode_origin, encode_batch_header,
    encode_command,
};
pub(crate) use history::{History, Version};
pub(crate) use import::piece_bytes;
pub(crate) use load::Copy;
pub(crate) use txn::{check as check_txn, is_read_only};

/// Bytes that a kept version costs besides its key and value, for the quota.
const VERSION_OVERHEAD_BYTES: u64 = 64;
/// The same for a lease, without its keys.
pub(crate) const LEASE_BYTES: u64 = 64;

/// Nearly every record's flags, numbers and key fit in this.
const HEAD_MAX_BYTES: usize = 512;

/// A place in a keyspace's history: the revision and the position within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RevKey {
    pub(crate) main: Revision,
    pub(crate) sub: u32,
}

impl RevKey {
    pub(crate) const BYTES: usize = 12;

    /// The place right behind this one.
    pub(crate) fn next(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { sub, ..self },
            None => Self { main: self.main.saturating_add(1), sub: 0 },
        }
    }

    pub(crate) fn encode(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.main.cast_unsigned().to_be_bytes());
        out[8..].copy_from_slice(&self.sub.to_be_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (main, sub) = bytes
            .split_first_chunk::<8>()
            .and_then(|(main, rest)| Some((main, rest.first_chunk::<4>()?)))
            .ok_or(Malformed("a revision key is too short"))?;
        Ok(Self { main: u64::from_be_bytes(*main).cast_signed(), sub: u32::from_be_bytes(*sub) })
    }
}

/// One version of one key, as stored under its [`RevKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) tombstone: bool,
}

impl Record {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.tombstone));
        codec::put_i64(out, self.create_revision);
        codec::put_i64(out, self.version);
        codec::put_i64(out, self.lease);
        codec::put_bytes(out, &self.key);
        out.extend_from_slice(&self.value);
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let tombstone = reader.bool()?;
        let create_revision = reader.i64()?;
        let version = reader.i64()?;
        let lease = reader.i64()?;
        let key = reader.bytes()?;
        Ok(Self { key, value: reader.into_rest(), create_revision, version, lease, tombstone })
    }

    pub(crate) fn decode_key(bytes: &[u8]) -> Result<Bytes, Malformed> {
        Self::decode_head(bytes).map(|(record, _)| record.key)
    }

    /// Everything but the value, and the value's length.
    pub(crate) fn decode_head(bytes: &[u8]) -> Result<(Self, u32), Malformed> {
        // The head is short; a copy of it is cheaper than one of the value.
        let head = bytes.len().min(HEAD_MAX_BYTES);
        let (mut record, unread) = match Self::decode(unmarked(&bytes[..head])) {
            Ok(record) => (record, bytes.len() - head),
            // A long key: then the whole record it is.
            Err(_) if head < bytes.len() => (Self::decode(unmarked(bytes))?, 0),
            Err(error) => return Err(error),
        };
        let value_bytes = record.value.len() + unread;
        record.value = Bytes::new();
        Ok((record, u32::try_from(value_bytes).unwrap_or(u32::MAX)))
    }

    pub(crate) fn key_value(&self, mod_revision: Revision) -> KeyValue {
        KeyValue {
            key: self.key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }

    pub(crate) fn event_kind(&self) -> EventKind {
        if self.tombstone { EventKind::Delete } else { EventKind::Put }
    }
}

/// A copy, without what the state file says of checksums.
fn unmarked(bytes: &[u8]) -> Bytes {
    let mut copy = bytes.to_vec();
    if let Some(first) = copy.first_mut() {
        *first = crate::backend::without_mark(*first);
    }
    Bytes::from(copy)
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lease {
    /// Seconds, as granted.
    pub(crate) ttl: i64,
    /// Seconds left when last checkpointed; 0 is never.
    pub(crate) remaining: i64,
    pub(crate) keys: BTreeSet<Bytes>,
}

/// What the backend has to write so that it holds the same as memory.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) records: BTreeMap<RevKey, Record>,
    pub(crate) removed: BTreeSet<RevKey>,
    /// `None` is revoked.
    pub(crate) leases: BTreeMap<LeaseId, Option<(i64, i64)>>,
    pub(crate) bytes: usize,
}

impl Pending {
    pub(crate) fn operations(&self) -> usize {
        self.records.len() + self.removed.len() + self.leases.len()
    }
}

/// The backend could not be read. The state cannot go on applying.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the state file could not be read: {detail}")]
pub(crate) struct ReadFault {
    pub(crate) detail: String,
}

impl From<Malformed> for ReadFault {
    fn from(malformed: Malformed) -> Self {
        Self { detail: malformed.to_string() }
    }
}

impl From<ReadFault> for kv::Error {
    fn from(fault: ReadFault) -> Self {
        Self::Unavailable { detail: fault.to_string() }
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    /// Reads below this are refused.
    pub(crate) compacted: Revision,
    /// Keys, values and overhead of all kept versions.
    pub(crate) live_bytes: u64,
    index: BTreeMap<Bytes, History>,
    /// Keys whose older versions can go when this revision has been compacted, in its order.
    overwritten: VecDeque<(Revision, Bytes)>,
    /// Keys whose deletion can go when a later revision has been compacted.
    deleted: VecDeque<(Revision, Bytes)>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pending: Pending,
    flushing: Option<Arc<Pending>>,
    view: Option<Arc<View>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            live_bytes: 0,
            index: BTreeMap::new(),
            overwritten: VecDeque::new(),
            deleted: VecDeque::new(),
            leases: BTreeMap::new(),
            pending: Pending::default(),
            flushing: None,
            view: None,
        }
    }
}

impl State {
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending.bytes
    }

    pub(crate) fn pending_operations(&self) -> usize {
        self.pending.operations()
    }

    /// Hands what is pending to the backend; it stays readable until [`Self::end_flush`].
    pub(crate) fn begin_flush(&mut self) -> Arc<Pending> {
        let pending = Arc::new(std::mem::take(&mut self.pending));
        self.flushing = Some(pending.clone());
        pending
    }

    /// What was flushed is handed out, to be freed when nobody waits for the state.
    pub(crate) fn end_flush(&mut self, view: View) -> Option<Arc<Pending>> {
        self.view = Some(Arc::new(view));
        self.flushing.take()
    }

    /// What counts against the quota.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.live_bytes + self.leases.len() as u64 * LEASE_BYTES
    }

    fn record_bytes(key: &[u8], value_bytes: usize) -> u64 {
        (key.len() + value_bytes) as u64 + VERSION_OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests;
