//! A new state file under another name, filled from records in order, bit by bit.
//!
//! It says how far it has come only in its last transaction: one that was given up is empty for
//! whoever opens it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::{Database, Durability, WriteTransaction};

use super::file::{Patience, PatientFile};
use super::sums::write_meta;
use super::{BackendError, KEYSPACES, LEASES, Meta, VERSIONS, checked, redb_error};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile};
use crate::kv::LeaseId;
use crate::mvcc::RevKey;

/// Records gathered before they are committed: as much memory as it takes.
const BATCH_BYTES: usize = 8 << 20;
/// Counted for each record besides its bytes, so that many small ones are bounded too.
const RECORD_OVERHEAD_BYTES: usize = 64;
const CACHE_BYTES: usize = 8 << 20;

pub(crate) struct Incoming {
    database: Database,
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    /// For messages.
    name: String,
    has_checksums: bool,
    batch: Batch,
}

#[derive(Default)]
struct Batch {
    records: [Vec<(RevKey, Bytes)>; KEYSPACES],
    leases: [Vec<(LeaseId, (i64, i64))>; KEYSPACES],
    bytes: usize,
}

impl Incoming {
    /// What stands under this name already is replaced. A full disk is an error at once.
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        file_name: &str,
    ) -> Result<Self, BackendError> {
        let name = disk.describe(file_name);
        let file = disk
            .open(file_name, true)
            .and_then(|file| file.set_length(0).map(|()| file))
            .map_err(|source| io_error(&name, "making it failed", source))?;
        let patience = Arc::new(Patience::default());
        patience.closing.store(true, Ordering::Release);
        let database = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(PatientFile::new(file.clone(), clock, patience))
            .map_err(|error| redb_error(&name, "making it failed", error))?;
        let has_checksums = false;
        Ok(Self { database, disk, file, name, has_checksums, batch: Batch::default() })
    }

    /// What is coming is of this; before anything else.
    pub(crate) fn begin(&mut self, meta: &[u8]) {
        let meta = Meta::decode(meta);
        self.has_checksums = meta.is_ok_and(|meta| meta.roster.level >= checked::LEVEL);
    }

    pub(crate) fn lease(
        &mut self,
        code: usize,
        id: LeaseId,
        times: (i64, i64),
    ) -> Result<(), BackendError> {
        self.batch.leases[code].push((id, times));
        self.counted(0)
    }

    /// `encoded` is a [`Record`](crate::mvcc::Record).
    pub(crate) fn record(
        &mut self,
        code: usize,
        at: RevKey,
        encoded: Bytes,
    ) -> Result<(), BackendError> {
        let bytes = encoded.len();
        self.batch.records[code].push((at, encoded));
        self.counted(bytes)
    }

    /// Makes the file whole and durable under the name it has.
    pub(crate) fn finish(mut self, meta: &[u8]) -> Result<(), BackendError> {
        self.commit(Some(meta))?;
        let Self { database, disk, file, name, .. } = self;
        // It may still write when it is closed.
        drop(database);
        file.sync()
            .and_then(|()| disk.sync_folder(""))
            .map_err(|source| io_error(&name, "making it durable failed", source))
    }

    fn counted(&mut self, bytes: usize) -> Result<(), BackendError> {
        self.batch.bytes += bytes + RECORD_OVERHEAD_BYTES;
        if self.batch.bytes < BATCH_BYTES { Ok(()) } else { self.commit(None) }
    }

    fn commit(&mut self, meta: Option<&[u8]>) -> Result<(), BackendError> {
        let batch = std::mem::take(&mut self.batch);
        let failed = |error| redb_error(&self.name, "writing failed", error);
        let mut writes = self.database.begin_write().map_err(|e| failed(e.into()))?;
        writes.set_durability(Durability::Immediate).map_err(|e| failed(e.into()))?;
        writes.set_quick_repair(meta.is_some());
        batch.write(&writes, self.has_checksums).map_err(failed)?;
        if let Some(meta) = meta {
            let level = Meta::decode(meta).map_or(0, |meta| meta.roster.level);
            write_meta(&writes, meta, level >= checked::LEVEL).map_err(failed)?;
        }
        writes.commit().map_err(|e| redb_error(&self.name, "committing failed", e))
    }
}

impl Batch {
    fn write(&self, writes: &WriteTransaction, has_checksums: bool) -> Result<(), redb::Error> {
        let mut sealed = Vec::new();
        for code in 0..KEYSPACES {
            // Opened even for nothing: a state file has all its tables.
            let mut versions = writes.open_table(VERSIONS[code])?;
            for (at, encoded) in &self.records[code] {
                let key = at.encode();
                if has_checksums {
                    sealed.clear();
                    sealed.extend_from_slice(encoded);
                    checked::seal(&key, &mut sealed);
                    versions.insert(key.as_slice(), sealed.as_slice())?;
                } else {
                    versions.insert(key.as_slice(), encoded.as_ref())?;
                }
            }
            let mut leases = writes.open_table(LEASES[code])?;
            for (id, times) in &self.leases[code] {
                leases.insert(id, times)?;
            }
        }
        Ok(())
    }
}

fn io_error(file: &str, action: &'static str, source: std::io::Error) -> BackendError {
    BackendError::Io { file: file.to_owned(), action, source }
}
