//! Builds a keyspace's memory from what the backend holds, and copies it out again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::compact::Change;
use super::{History, Lease, ReadFault, Record, RevKey, State, Version};
use crate::backend::View;
use crate::kv::{LeaseId, Revision};
use crate::snapshot::Header;

impl State {
    pub(crate) fn begin_load(&mut self, revision: Revision, compacted: Revision) {
        self.revision = revision;
        self.compacted = compacted;
    }

    pub(crate) fn load_lease(&mut self, id: LeaseId, ttl: i64, remaining: i64) {
        self.leases.insert(id, Lease { ttl, remaining, keys: BTreeSet::new() });
    }

    /// Records come in the order of their revisions.
    pub(crate) fn load_record(&mut self, key: &[u8], version: Version) {
        self.live_bytes += Self::record_bytes(key, version.value_bytes as usize);
        let change = if version.tombstone { Change::Deletion } else { Change::Overwrite };
        let at = version.at.main;
        if let Some(history) = self.index.get_mut(key) {
            history.push(version);
            self.note_garbage(at, key, change);
            return;
        }
        self.index.insert(Bytes::copy_from_slice(key), History::One(version));
        if version.tombstone {
            self.note_garbage(at, key, change);
        }
    }

    pub(crate) fn end_load(&mut self, view: View) {
        for (key, history) in &self.index {
            let Some(version) = history.live() else { continue };
            if let Some(lease) = self.leases.get_mut(&version.lease) {
                lease.keys.insert(key.clone());
            }
        }
        self.view = Some(Arc::new(view));
    }

    /// The same as is kept up to date in `live_bytes`, from the beginning.
    pub(crate) fn count_live_bytes(&self) -> u64 {
        self.index
            .iter()
            .flat_map(|(key, history)| history.versions().iter().map(move |one| (key, one)))
            .map(|(key, version)| Self::record_bytes(key, version.value_bytes as usize))
            .sum()
    }

    /// The newest version of a key gets another value, at the same revision; only for tests of what
    /// is done about such a thing.
    pub(crate) fn falsify(&mut self, key: &[u8], value: &Bytes) -> Result<(), ReadFault> {
        let missing = || ReadFault { detail: "there is no such key".to_owned() };
        let (key, history) = self.index.get_key_value(key).ok_or_else(missing)?;
        let version = *history.live().ok_or_else(missing)?;
        let kv = self.load(&key.clone(), &version)?;
        let record = Record {
            key: kv.key,
            value: value.clone(),
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            tombstone: false,
        };
        self.pending.records.insert(version.at, record);
        Ok(())
    }

    /// What a copy needs to go on without the lock.
    pub(crate) fn begin_copy(&self) -> Copy {
        let leases =
            self.leases.iter().map(|(id, lease)| (*id, lease.ttl, lease.remaining)).collect();
        let header = Header { revision: self.revision, compacted: self.compacted, leases };
        let mut newer = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for pending in self.flushing.as_deref().into_iter().chain([&self.pending]) {
            newer.extend(pending.records.iter().map(|(at, record)| (*at, record.clone())));
            removed.extend(pending.removed.iter().copied());
        }
        newer.retain(|at, _| !removed.contains(at));
        Copy { header, view: self.view.clone(), newer, removed }
    }
}

/// One keyspace as of one moment.
pub(crate) struct Copy {
    pub(crate) header: Header,
    view: Option<Arc<View>>,
    newer: BTreeMap<RevKey, Record>,
    removed: BTreeSet<RevKey>,
}

impl Copy {
    /// Every encoded record from `start` on, in the order of revisions, until `visit` says no;
    /// whether it never did.
    pub(crate) fn visit_from(
        &self,
        start: RevKey,
        mut visit: impl FnMut(RevKey, &[u8]) -> bool,
    ) -> Result<bool, ReadFault> {
        if let Some(view) = &self.view {
            let complete = view
                .scan(start, |at, encoded| Ok(self.removed.contains(&at) || visit(at, encoded)))?;
            if !complete {
                return Ok(false);
            }
        }
        let mut encoded = Vec::new();
        for (at, record) in self.newer.range(start..) {
            encoded.clear();
            record.encode(&mut encoded);
            if !visit(*at, &encoded) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every record in the order of revisions, until `visit` fails.
    pub(crate) fn for_each<E: From<ReadFault>>(
        &self,
        mut visit: impl FnMut(RevKey, &Record) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        self.visit_from(RevKey { main: 0, sub: 0 }, |at, encoded| {
            let record = Record::decode(Bytes::copy_from_slice(encoded)).map_err(ReadFault::from);
            outcome = match record {
                Ok(record) => visit(at, &record),
                Err(fault) => Err(fault.into()),
            };
            outcome.is_ok()
        })?;
        outcome
    }
}
