//! Reads what `etcdctl snapshot save` and `etcdutl` wrote: an etcd's state, so that its keys can be
//! taken over with their history, revisions and leases.
//!
//! Everything is read and judged before anything is done with it; see [`EtcdSnapshot::survey`].

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use atoll_store::kv::{HistoryRecord, LeaseId, Revision};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::bolt::read::Bolt;
use crate::proto::mvccpb;

pub use crate::bolt::read::{BoltError, Source};

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(
        "it has no checksum at its end: a snapshot that etcdctl or etcdutl saved has one, a copy of an etcd's db file has not; take that with --skip-hash-check if its etcd was stopped"
    )]
    NoHash,
    #[error("its checksum is wrong: it was cut or changed")]
    Hash,
    #[error("it is damaged")]
    Bolt(#[source] BoltError),
    #[error("it is damaged: {what}")]
    Malformed { what: String },
    #[error("reading it failed")]
    Read(#[source] std::io::Error),
}

impl From<BoltError> for SnapshotError {
    fn from(error: BoltError) -> Self {
        match error {
            BoltError::Read(source) => Self::Read(source),
            other => Self::Bolt(other),
        }
    }
}

/// A piece of the file at a time.
const HASHED_BYTES: usize = 1 << 20;
const HASH_BYTES: u64 = 32;
/// bbolt's files have whole sectors.
const SECTOR_BYTES: u64 = 512;
/// What etcd's raft layer and its operators put besides keys.
const KEYS: &str = "key";
const LEASES: &str = "lease";
const META: &str = "meta";
const AUTH: &str = "auth";
const USERS: &str = "authUsers";

/// What etcd keeps for a lease.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct StoredLease {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
    #[prost(int64, tag = "2")]
    pub(crate) ttl: i64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    pub keys: u64,
    /// Versions and deletions of keys.
    pub records: u64,
    /// Of keys and values of all of them.
    pub bytes: u64,
    pub revision: Revision,
    pub compacted_revision: Revision,
    /// Id and seconds, as granted.
    pub leases: Vec<(LeaseId, i64)>,
    pub users: u64,
    /// Authentication was enabled.
    pub has_auth: bool,
}

#[derive(Debug)]
pub struct EtcdSnapshot<S> {
    bolt: Bolt<S>,
}

impl<S: Source> EtcdSnapshot<S> {
    /// Reads all of it for its checksum, unless that is to be skipped; `progress` hears of bytes.
    pub fn open(
        source: S,
        skip_hash_check: bool,
        progress: impl FnMut(usize),
    ) -> Result<Self, SnapshotError> {
        let length = source.length().map_err(SnapshotError::Read)?;
        let has_hash = length % SECTOR_BYTES == HASH_BYTES;
        if !has_hash && !skip_hash_check {
            return Err(SnapshotError::NoHash);
        }
        let state_bytes = if has_hash { length - HASH_BYTES } else { length };
        if !skip_hash_check {
            check_hash(&source, state_bytes, progress)?;
        }
        Ok(Self { bolt: Bolt::open(source, state_bytes)? })
    }

    /// Reads all of it, so that nothing of a file that is damaged is ever taken over.
    pub fn survey(&self, mut progress: impl FnMut(usize)) -> Result<Survey, SnapshotError> {
        let mut survey = Survey { leases: self.leases()?, ..Survey::default() };
        let (hashes, mut live) = (RandomState::new(), HashSet::new());
        self.for_each(|record| {
            let key = hashes.hash_one(&record.kv.key);
            if record.deletion {
                live.remove(&key)
            } else {
                live.insert(key)
            };
            let bytes = record.kv.key.len() + record.kv.value.len();
            survey.records += 1;
            survey.bytes += bytes as u64;
            survey.revision = record.kv.mod_revision;
            progress(bytes);
            Ok::<_, SnapshotError>(())
        })?;
        survey.keys = live.len() as u64;
        survey.compacted_revision = self.compacted()?;
        survey.revision = survey.revision.max(survey.compacted_revision).max(1);
        survey.users = self.count(USERS)?;
        survey.has_auth = self.is_enabled()?;
        Ok(survey)
    }

    /// Every kept version and deletion, in the order of revisions.
    pub fn for_each<E: From<SnapshotError>>(
        &self,
        mut visit: impl FnMut(HistoryRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut last = (0, 0);
        self.in_bucket(KEYS, |key, value| {
            let record = record(key, value).ok_or_else(|| E::from(no_record(key)))?;
            let at = (record.kv.mod_revision, record.sub + 1);
            // A deletion and a version can have one place as bytes, and not in a history.
            if at <= last {
                return Err(E::from(no_record(key)));
            }
            last = at;
            visit(record)
        })
    }

    fn in_bucket<E: From<SnapshotError>>(
        &self,
        bucket: &str,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let outcome =
            self.bolt.for_each(bucket, |key, value| visit(key, value).map_err(Stop::Visit));
        outcome.map_err(|stop| match stop {
            Stop::Visit(error) => error,
            Stop::Bolt(error) => SnapshotError::from(error).into(),
        })
    }

    fn leases(&self) -> Result<Vec<(LeaseId, i64)>, SnapshotError> {
        let mut leases = Vec::new();
        if !self.bolt.has_bucket(LEASES)? {
            return Ok(leases);
        }
        self.in_bucket(LEASES, |key, value| {
            let lease = StoredLease::decode(value).ok();
            let lease = lease.filter(|lease| lease.id.to_be_bytes() == key && lease.ttl > 0);
            let lease = lease.ok_or_else(|| malformed("a lease is none"))?;
            leases.push((lease.id, lease.ttl));
            Ok::<_, SnapshotError>(())
        })?;
        leases.sort_unstable();
        Ok(leases)
    }

    /// What an etcd compacts to, even if it was stopped in the middle.
    fn compacted(&self) -> Result<Revision, SnapshotError> {
        let mut compacted = 0;
        self.in_bucket(META, |key, value| {
            if [&b"finishedCompactRev"[..], b"scheduledCompactRev"].contains(&key) {
                let at = value.first_chunk().map(|bytes| i64::from_be_bytes(*bytes));
                let at = at.filter(|at| *at >= 0);
                compacted = compacted.max(at.ok_or_else(|| malformed("a compaction is none"))?);
            }
            Ok::<_, SnapshotError>(())
        })?;
        Ok(compacted)
    }

    fn count(&self, bucket: &str) -> Result<u64, SnapshotError> {
        let mut count = 0;
        if self.bolt.has_bucket(bucket)? {
            self.in_bucket(bucket, |_, _| {
                count += 1;
                Ok::<_, SnapshotError>(())
            })?;
        }
        Ok(count)
    }

    fn is_enabled(&self) -> Result<bool, SnapshotError> {
        let mut enabled = false;
        if self.bolt.has_bucket(AUTH)? {
            self.in_bucket(AUTH, |key, value| {
                enabled |= key == b"authEnabled" && value == [1];
                Ok::<_, SnapshotError>(())
            })?;
        }
        Ok(enabled)
    }
}

enum Stop<E> {
    Visit(E),
    Bolt(BoltError),
}

impl<E> From<BoltError> for Stop<E> {
    fn from(error: BoltError) -> Self {
        Self::Bolt(error)
    }
}

fn check_hash(
    source: &impl Source,
    state_bytes: u64,
    mut progress: impl FnMut(usize),
) -> Result<(), SnapshotError> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; HASHED_BYTES];
    let mut at = 0;
    while at < state_bytes {
        let length = usize::try_from(state_bytes - at).unwrap_or(HASHED_BYTES).min(HASHED_BYTES);
        source.read_at(at, &mut piece[..length]).map_err(SnapshotError::Read)?;
        hash.update(&piece[..length]);
        at += length as u64;
        progress(length);
    }
    let mut stored = [0; 32];
    source.read_at(state_bytes, &mut stored).map_err(SnapshotError::Read)?;
    if hash.finalize()[..] == stored { Ok(()) } else { Err(SnapshotError::Hash) }
}

/// A revision as its key (eight bytes, `_`, eight bytes, and `t` for a deletion), a key-value as
/// its value.
fn record(key: &[u8], value: &[u8]) -> Option<HistoryRecord> {
    let (main, rest) = key.split_first_chunk::<8>()?;
    let rest = rest.strip_prefix(b"_")?;
    let (sub, mark) = rest.split_first_chunk::<8>()?;
    let deletion = match mark {
        b"" => false,
        b"t" => true,
        _ => return None,
    };
    let mod_revision = i64::from_be_bytes(*main);
    let sub = u32::try_from(i64::from_be_bytes(*sub)).ok().filter(|sub| *sub < u32::MAX)?;
    let kv = mvccpb::KeyValue::decode(value).ok()?;
    let is_version = kv.mod_revision == mod_revision
        && (1..=mod_revision).contains(&kv.create_revision)
        && kv.version > 0;
    if mod_revision < 1 || kv.key.is_empty() || !(deletion || is_version) {
        return None;
    }
    let kv = if deletion {
        atoll_store::kv::KeyValue { key: kv.key, mod_revision, ..Default::default() }
    } else {
        atoll_store::kv::KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    };
    Some(HistoryRecord { kv, sub, deletion })
}

fn no_record(key: &[u8]) -> SnapshotError {
    let key: String = key.iter().take(18).map(|byte| format!("{byte:02x}")).collect();
    malformed(&format!("what stands under {key} is no version of a key, or not in its place"))
}

fn malformed(what: &str) -> SnapshotError {
    SnapshotError::Malformed { what: what.to_owned() }
}

/// What an etcd could have saved, without its checksum: buckets inline and in pages, deletions, a
/// large value.
#[doc(hidden)]
pub fn fuzz_seeds() -> Vec<Vec<u8>> {
    vec![seed::state(3), seed::state(400)]
}

/// For fuzzers: whatever the bytes are, there is an answer.
#[doc(hidden)]
pub fn fuzz(input: &[u8]) {
    let Ok(snapshot) = EtcdSnapshot::open(input, true, |_| {}) else { return };
    let Ok(survey) = snapshot.survey(|_| {}) else { return };
    assert!(survey.keys <= survey.records && survey.revision >= 1);
    let mut last = 0;
    let walked = snapshot.for_each(|record| {
        assert!(record.kv.mod_revision >= last && record.kv.mod_revision <= survey.revision);
        last = record.kv.mod_revision;
        Ok::<_, SnapshotError>(())
    });
    assert!(walked.is_ok(), "what was surveyed can be read");
}

mod seed;
#[cfg(test)]
mod tests;
