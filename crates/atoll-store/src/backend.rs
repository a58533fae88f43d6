//! The state on disk: one redb file with the kept versions, the leases and how far it has come.
//!
//! Every transaction carries the applied index, so the file is always the state at one index.
//! It is written seldom; what makes a write durable is the log.

use std::fmt::Debug;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redb::{Durability, ReadOnlyTable, ReadableTableMetadata, TableDefinition, TableError};

use crate::clock::Clock;
use crate::codec::Malformed;
use crate::disk::Disk;
use crate::mvcc::{Pending, ReadFault, Record, RevKey, State, Version};
use crate::newer::Newer;
use crate::wal::Released;

mod checked;
mod file;
mod incoming;
mod meta;
mod pages;
mod rewrite;
mod sums;
mod writer;

pub(crate) use checked::without_mark;
pub(crate) use incoming::Incoming;
pub(crate) use meta::{Meta, Roster};
pub(crate) use writer::{Copied, Flushed, Rewriting, StateWriter};

use file::{Patience, PatientFile};
use pages::{Nonsense, Pages, guarded};
use sums::{Sums, write_meta};

type Versions = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Leases = TableDefinition<'static, i64, (i64, i64)>;

pub(crate) const KEYSPACES: usize = 2;
pub(crate) const STATE_FILE: &str = "state.redb";
const NEW_STATE_FILE: &str = "state.tmp";
const VERSIONS: [Versions; KEYSPACES] =
    [TableDefinition::new("cluster.versions"), TableDefinition::new("applications.versions")];
const LEASES: [Leases; KEYSPACES] =
    [TableDefinition::new("cluster.leases"), TableDefinition::new("applications.leases")];
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");
const META_KEY: &str = "state";
const PAGES_DAMAGED: &str = "the pages of the state file do not fit together";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error("{file}: {action}")]
    Redb { file: String, action: &'static str, source: Box<redb::Error> },
    #[error("{file}: {action}")]
    Io { file: String, action: &'static str, source: std::io::Error },
    #[error("the thread that writes {file} has ended")]
    ThreadEnded { file: String },
    #[error("{file} is damaged: its pages do not fit together")]
    Damaged { file: String },
    #[error("{0}")]
    Newer(#[source] Newer),
    #[error("{file} holds a record that cannot be read")]
    Malformed { file: String, source: Malformed },
}

impl BackendError {
    /// Which it is of.
    pub(crate) fn file(&self) -> Option<&str> {
        match self {
            Self::Redb { file, .. }
            | Self::Io { file, .. }
            | Self::ThreadEnded { file }
            | Self::Damaged { file }
            | Self::Malformed { file, .. } => Some(file),
            Self::Newer(_) => None,
        }
    }

    /// What says that the file was changed or lost behind the store's back, if so. A file that was
    /// cut shows as reads beyond its end; one of which the head was changed as of a kind that this
    /// program never wrote.
    pub(crate) fn damage(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } => Some(PAGES_DAMAGED),
            Self::Malformed { source, .. } => Some(source.0),
            Self::Redb { source, .. } => match &**source {
                redb::Error::Corrupted(_) => Some(PAGES_DAMAGED),
                redb::Error::UpgradeRequired(_) => Some("its head says that it is of another kind"),
                redb::Error::TableDoesNotExist(_) => Some("a table of the state file is missing"),
                redb::Error::TableTypeMismatch { .. } => {
                    Some("a table of the state file is another")
                }
                redb::Error::Io(error) => match error.kind() {
                    ErrorKind::UnexpectedEof => Some("it ends too early"),
                    ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                        Some("its head is not that of a state file")
                    }
                    _ => None,
                },
                _ => None,
            },
            Self::Io { .. } | Self::ThreadEnded { .. } | Self::Newer(_) => None,
        }
    }
}

/// One keyspace's versions as of a commit.
pub(crate) struct View {
    versions: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// A file that was replaced stays open as long as anybody reads. The store's own is closed when the
    /// store ends, whoever still reads: closing writes, and the next to open it may be there by then.
    _reader: Arc<()>,
}

impl Debug for View {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("View").finish_non_exhaustive()
    }
}

impl View {
    pub(crate) fn get(&self, at: RevKey) -> Result<Option<Record>, ReadFault> {
        guarded(|| self.find(at)).unwrap_or_else(|Nonsense| Err(nonsense()))
    }

    fn find(&self, at: RevKey) -> Result<Option<Record>, ReadFault> {
        let key = at.encode();
        let found = self.versions.get(key.as_slice()).map_err(|error| fault(&error))?;
        let Some(found) = found else { return Ok(None) };
        let mut record = Vec::new();
        checked::opened(&key, found.value(), &mut record).map_err(|error| fault_at(at, error))?;
        Record::decode(Bytes::from(record)).map(Some).map_err(|error| fault_at(at, error))
    }

    /// Every encoded record from `start` on until `visit` says no; whether it never did.
    pub(crate) fn scan(
        &self,
        start: RevKey,
        mut visit: impl FnMut(RevKey, &[u8]) -> Result<bool, ReadFault>,
    ) -> Result<bool, ReadFault> {
        let start = start.encode();
        let range = guarded(|| self.versions.range(start.as_slice()..));
        let range = range.map_err(|Nonsense| nonsense())?;
        let mut range = range.map_err(|error| fault(&error))?;
        let mut record = Vec::new();
        let mut next = |record: &mut Vec<u8>| {
            let Some(item) = range.next() else { return Ok(None) };
            let (key, value) = item.map_err(|error| fault(&error))?;
            let at = RevKey::decode(key.value()).map_err(|error| fault(&error))?;
            checked::opened(key.value(), value.value(), record)
                .map_err(|error| fault_at(at, error))?;
            Ok(Some(at))
        };
        loop {
            let found = guarded(|| next(&mut record)).unwrap_or_else(|Nonsense| Err(nonsense()));
            let Some(at) = found? else { return Ok(true) };
            if !visit(at, &record)? {
                return Ok(false);
            }
        }
    }
}

fn nonsense() -> ReadFault {
    ReadFault { detail: format!("{STATE_FILE}: {PAGES_DAMAGED}") }
}

fn fault_at(at: RevKey, error: Malformed) -> ReadFault {
    let RevKey { main, sub } = at;
    ReadFault { detail: format!("{STATE_FILE}, revision {main}.{sub}: {}", error.0) }
}

fn fault(error: &dyn std::error::Error) -> ReadFault {
    ReadFault { detail: error.to_string() }
}

#[derive(Debug)]
pub(crate) struct Backend {
    database: Pages,
    /// Everybody who reads has one of it.
    readers: Arc<()>,
    file: String,
    patience: Arc<Patience>,
}

/// What [`Backend::load`] found.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) meta: Option<Meta>,
    pub(crate) states: [State; KEYSPACES],
}

/// One transaction's worth of changes.
#[derive(Debug)]
pub(crate) struct FlushJob {
    /// What it is to be written to.
    pub(crate) backend: Arc<Backend>,
    pub(crate) meta: Meta,
    pub(crate) pending: [Arc<Pending>; KEYSPACES],
    /// What the log no longer needs to keep once this is durable.
    pub(crate) released: Released,
    /// The file is to be written anew from then on if it is not already: what that may take.
    pub(crate) rewrite: Option<u64>,
    /// What was replaced since the job before.
    pub(crate) retired: Option<Arc<Backend>>,
}

impl Backend {
    pub(crate) fn open(
        disk: &dyn Disk,
        clock: Arc<dyn Clock>,
        cache_bytes: usize,
    ) -> Result<Self, BackendError> {
        rewrite::remove(disk);
        Self::open_file(disk, clock, cache_bytes, STATE_FILE)
    }

    /// The same under another name.
    pub(crate) fn open_file(
        disk: &dyn Disk,
        clock: Arc<dyn Clock>,
        cache_bytes: usize,
        state_file: &str,
    ) -> Result<Self, BackendError> {
        let name = disk.describe(state_file);
        let failed = |action| {
            let file = name.clone();
            move |source| BackendError::Io { file, action, source }
        };
        // A crash while redb makes its file would leave one that it does not open again.
        let exists = disk.exists(state_file).map_err(failed("opening failed"))?;
        let opened = if exists { state_file } else { NEW_STATE_FILE };
        let file = disk.open(opened, true).map_err(failed("opening failed"))?;
        if !exists {
            file.set_length(0).map_err(failed("emptying failed"))?;
        }
        let patience = Arc::new(Patience::default());
        // Whoever opens a store on a full disk wants to hear so, not to wait.
        patience.closing.store(true, Ordering::Release);
        let patient = PatientFile::new(file, clock, patience.clone());
        let database = unless_damaged(&name, || {
            redb::Builder::new()
                .set_cache_size(cache_bytes)
                .create_with_backend(patient)
                .map_err(|error| redb_error(&name, "opening failed", error))
        })?;
        if !exists {
            disk.rename(NEW_STATE_FILE, state_file).map_err(failed("renaming failed"))?;
        }
        patience.closing.store(false, Ordering::Release);
        Ok(Self { database: Pages::new(database), readers: Arc::default(), file: name, patience })
    }

    /// As the state file, which it becomes: for messages.
    pub(crate) fn named_state(mut self, disk: &dyn Disk) -> Self {
        self.file = disk.describe(STATE_FILE);
        self
    }

    /// Whether anybody has it besides so many.
    fn is_read(self: &Arc<Self>, besides: usize) -> bool {
        Arc::strong_count(self) > besides || Arc::strong_count(&self.readers) > 1
    }

    /// For whoever waits for a flush that nobody does any more.
    pub(crate) fn thread_ended(&self) -> BackendError {
        BackendError::ThreadEnded { file: self.file.clone() }
    }

    /// A flush has met a full disk and waits.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.patience.waiting.load(Ordering::Acquire)
    }

    /// From now on a full disk fails a flush at once.
    pub(crate) fn stop_waiting(&self) {
        self.patience.closing.store(true, Ordering::Release);
    }

    fn wait_again(&self) {
        self.patience.closing.store(false, Ordering::Release);
    }

    pub(crate) fn load(&self) -> Result<Loaded, BackendError> {
        unless_damaged(&self.file, || self.load_all())
    }

    fn load_all(&self) -> Result<Loaded, BackendError> {
        let mut loaded = Loaded { meta: None, states: [State::default(), State::default()] };
        let reads = self.database.begin_read().map_err(|e| self.failed("reading failed", e))?;
        let table = match reads.open_table(META) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(loaded),
            Err(error) => return Err(self.failed("reading failed", error)),
        };
        let found = table.get(META_KEY).map_err(|e| self.failed("reading failed", e))?;
        let Some(found) = found else { return Ok(loaded) };
        Meta::check_format(&self.file, found.value()).map_err(BackendError::Newer)?;
        let sums = Sums::read(&table).map_err(|e| self.failed("reading failed", e))?;
        // Before it is read: a changed number of its format would look like a later release's.
        Sums::check_meta(sums.as_ref(), found.value()).map_err(|e| self.malformed(e))?;
        Meta::check_format(&self.file, found.value()).map_err(BackendError::Newer)?;
        let meta = Meta::decode(found.value()).map_err(|source| self.malformed(source))?;
        // Whoever has them writes them always.
        if sums.is_none() && meta.roster.level >= checked::LEVEL {
            return Err(self.malformed(Malformed("its checksums are missing")));
        }
        for (code, state) in loaded.states.iter_mut().enumerate() {
            let (revision, compacted) = meta.keyspaces[code];
            state.begin_load(revision, compacted);
            let leases = self.load_leases(&reads, code, state)?;
            if sums.as_ref().is_some_and(|sums| sums.leases[code] != leases) {
                return Err(self.malformed(Malformed("its leases are not what was written")));
            }
            self.load_versions(&reads, code, state)?;
        }
        loaded.meta = Some(meta);
        Ok(loaded)
    }

    fn load_leases(
        &self,
        reads: &redb::ReadTransaction,
        code: usize,
        state: &mut State,
    ) -> Result<u32, BackendError> {
        let leases =
            reads.open_table(LEASES[code]).map_err(|e| self.failed("reading failed", e))?;
        let mut sum = 0;
        for item in leases.range::<i64>(..).map_err(|e| self.failed("reading failed", e))? {
            let (id, lease) = item.map_err(|e| self.failed("reading failed", e))?;
            let (ttl, remaining) = lease.value();
            sum = checked::add_lease(sum, id.value(), (ttl, remaining));
            state.load_lease(id.value(), ttl, remaining);
        }
        Ok(sum)
    }

    fn load_versions(
        &self,
        reads: &redb::ReadTransaction,
        code: usize,
        state: &mut State,
    ) -> Result<(), BackendError> {
        let versions =
            reads.open_table(VERSIONS[code]).map_err(|e| self.failed("reading failed", e))?;
        let (mut count, mut last) = (0, None);
        for item in versions.range::<&[u8]>(..).map_err(|e| self.failed("reading failed", e))? {
            let (key, value) = item.map_err(|e| self.failed("reading failed", e))?;
            let at = RevKey::decode(key.value()).map_err(|source| self.malformed(source))?;
            count += 1;
            if last.replace(at).is_some_and(|last| last >= at) {
                return Err(self.malformed(Malformed("its records are not in their order")));
            }
            let record = checked::verified(key.value(), value.value())
                .map_err(|source| self.malformed(source))?;
            let (head, value_bytes) =
                Record::decode_head(record).map_err(|source| self.malformed(source))?;
            let version = Version {
                at,
                create_revision: head.create_revision,
                version: head.version,
                lease: head.lease,
                value_bytes,
                tombstone: head.tombstone,
            };
            state.load_record(&head.key, version);
        }
        let length = versions.len().map_err(|e| self.failed("reading failed", e))?;
        if length != count {
            return Err(self.malformed(Malformed("some of its records are missing")));
        }
        state.end_load(View { versions, _reader: self.readers.clone() });
        Ok(())
    }

    /// The state as of the last flush.
    fn views(&self) -> Result<[View; KEYSPACES], BackendError> {
        let views = guarded(|| {
            let reads = self.database.begin_read().map_err(|e| self.failed("reading failed", e))?;
            let view = |code: usize| {
                reads
                    .open_table(VERSIONS[code])
                    .map(|versions| View { versions, _reader: self.readers.clone() })
                    .map_err(|e| self.failed("reading failed", e))
            };
            Ok([view(0)?, view(1)?])
        });
        views.unwrap_or_else(|Nonsense| Err(self.damaged()))
    }

    fn write_guarded(&self, job: &FlushJob) -> Result<(), BackendError> {
        guarded(|| self.write(job)).unwrap_or_else(|Nonsense| Err(self.damaged()))
    }

    fn write(&self, job: &FlushJob) -> Result<(), BackendError> {
        let writing = "writing failed";
        let mut writes = self.database.begin_write().map_err(|e| self.failed(writing, e))?;
        writes.set_durability(Durability::Immediate).map_err(|e| self.failed(writing, e))?;
        // Opening after a crash then costs milliseconds, not a walk through the whole file.
        writes.set_quick_repair(true);
        self.write_changes(&writes, job)?;
        let has_checksums = job.meta.roster.level >= checked::LEVEL;
        write_meta(&writes, &job.meta.encode(), has_checksums)
            .map_err(|e| self.failed(writing, e))?;
        writes.commit().map_err(|e| self.failed("committing failed", e))
    }

    /// All but how far the state has come.
    fn write_changes(
        &self,
        writes: &redb::WriteTransaction,
        job: &FlushJob,
    ) -> Result<(), BackendError> {
        let has_checksums = job.meta.roster.level >= checked::LEVEL;
        for (code, pending) in job.pending.iter().enumerate() {
            self.write_keyspace(writes, code, pending, has_checksums)?;
        }
        Ok(())
    }

    fn write_keyspace(
        &self,
        writes: &redb::WriteTransaction,
        code: usize,
        pending: &Pending,
        has_checksums: bool,
    ) -> Result<(), BackendError> {
        let writing = "writing failed";
        let mut versions =
            writes.open_table(VERSIONS[code]).map_err(|e| self.failed(writing, e))?;
        let mut encoded = Vec::new();
        for (at, record) in &pending.records {
            encoded.clear();
            record.encode(&mut encoded);
            let key = at.encode();
            if has_checksums {
                checked::seal(&key, &mut encoded);
            }
            versions
                .insert(key.as_slice(), encoded.as_slice())
                .map_err(|e| self.failed(writing, e))?;
        }
        for at in &pending.removed {
            versions.remove(at.encode().as_slice()).map_err(|e| self.failed(writing, e))?;
        }
        let mut leases = writes.open_table(LEASES[code]).map_err(|e| self.failed(writing, e))?;
        for (id, lease) in &pending.leases {
            match lease {
                Some(times) => leases.insert(id, times).map(drop),
                None => leases.remove(id).map(drop),
            }
            .map_err(|e| self.failed(writing, e))?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, error: impl Into<redb::Error>) -> BackendError {
        redb_error(&self.file, action, error)
    }

    fn damaged(&self) -> BackendError {
        BackendError::Damaged { file: self.file.clone() }
    }

    fn malformed(&self, source: Malformed) -> BackendError {
        BackendError::Malformed { file: self.file.clone(), source }
    }
}

fn unless_damaged<T>(
    file: &str,
    act: impl FnOnce() -> Result<T, BackendError>,
) -> Result<T, BackendError> {
    guarded(act).unwrap_or_else(|Nonsense| Err(BackendError::Damaged { file: file.to_owned() }))
}

fn redb_error(file: &str, action: &'static str, error: impl Into<redb::Error>) -> BackendError {
    BackendError::Redb { file: file.to_owned(), action, source: Box::new(error.into()) }
}
