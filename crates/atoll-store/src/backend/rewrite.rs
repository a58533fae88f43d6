//! The state written into a new file, a bounded step at a time, because redb's file does not shrink.
//!
//! It begins from the file as of a flush. What later flushes write goes into both, and the flush
//! after the last step goes into the new one alone, which then takes the name. Until then it does
//! not say how far it has come: whoever finds one deletes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use redb::Durability;

use super::sums::Sums;
use super::{Backend, BackendError, FlushJob, KEYSPACES, LEASES, META, STATE_FILE, VERSIONS, View};
use super::{checked, pages};
use crate::clock::Clock;
use crate::codec::Malformed;
use crate::disk::Disk;
use crate::mvcc::{ReadFault, RevKey};

pub(super) const REWRITE_FILE: &str = "rewrite.tmp";
/// Versions that went while they had not been copied yet. Beyond it the copy is given up: it would
/// copy little that stays.
const REMOVED_MAX: usize = 1 << 20;

/// Why there will be no new file this time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("{0} bytes are free on the disk, and up to {1} are needed for the time being")]
    NoRoom(u64, u64),
    #[error("more than {REMOVED_MAX} versions went meanwhile")]
    Removed,
    /// What is there is not what was written.
    #[error(transparent)]
    Fault(#[from] ReadFault),
}

/// Why a whole copy did not take the place.
#[derive(Debug)]
pub(super) enum Kept {
    /// The file that was there is still the one.
    Old(BackendError),
    /// Nobody can say which is there after a crash.
    Unknown(BackendError),
}

pub(super) struct Rewrite {
    source: Arc<Backend>,
    views: [View; KEYSPACES],
    target: Backend,
    /// Where the next step begins; `None` when all has been copied.
    next: Option<(usize, RevKey)>,
    /// Versions that are not to be copied any more.
    removed: [BTreeSet<RevKey>; KEYSPACES],
    has_checksums: bool,
}

impl Rewrite {
    /// Of the state as `job` has just left it.
    pub(super) fn begin(
        disk: &dyn Disk,
        clock: Arc<dyn Clock>,
        cache_bytes: usize,
        job: &FlushJob,
        room_bytes: u64,
    ) -> Result<Self, Stop> {
        let source = job.backend.clone();
        if let Some(free) = disk.free_bytes().ok().flatten().filter(|free| *free < room_bytes) {
            return Err(Stop::NoRoom(free, room_bytes));
        }
        remove(disk);
        let mut target = Backend::open_file(disk, clock, cache_bytes, REWRITE_FILE)?;
        // What it is called when anybody hears of it.
        target.file = disk.describe(STATE_FILE);
        // A full disk ends the copy at once.
        target.stop_waiting();
        let start = RevKey { main: 0, sub: 0 };
        let rewrite = Self {
            views: source.views()?,
            source,
            target,
            next: Some((0, start)),
            removed: [BTreeSet::new(), BTreeSet::new()],
            has_checksums: job.meta.roster.level >= checked::LEVEL,
        };
        rewrite.copy_leases()?;
        Ok(rewrite)
    }

    pub(super) fn is_of(&self, backend: &Arc<Backend>) -> bool {
        Arc::ptr_eq(&self.source, backend)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.next.is_none()
    }

    fn copy_leases(&self) -> Result<(), Stop> {
        let failed = |error: redb::Error| self.source.failed("reading failed", error);
        let reads = self.source.database.begin_read().map_err(failed)?;
        let meta = reads.open_table(META).map_err(|error| failed(error.into()))?;
        let sums = Sums::read(&meta).map_err(|error| failed(error.into()))?;
        let writes = self.target.begin_write()?;
        let writing = |error: redb::Error| self.target.failed("writing failed", error);
        for (code, name) in LEASES.into_iter().enumerate() {
            let from = reads.open_table(name).map_err(|error| failed(error.into()))?;
            let mut to = writes.open_table(name).map_err(|error| writing(error.into()))?;
            let mut sum = 0;
            for item in from.range::<i64>(..).map_err(|error| failed(error.into()))? {
                let (id, lease) = item.map_err(|error| failed(error.into()))?;
                sum = checked::add_lease(sum, id.value(), lease.value());
                to.insert(id.value(), lease.value()).map_err(|error| writing(error.into()))?;
            }
            if sums.as_ref().is_some_and(|sums| sums.leases[code] != sum) {
                return Err(
                    ReadFault::from(Malformed("its leases are not what was written")).into()
                );
            }
            // Made even for nothing: a state file has all its tables.
            writes.open_table(VERSIONS[code]).map_err(|error| writing(error.into()))?;
        }
        Ok(self.target.commit(writes)?)
    }

    /// Copies about so many bytes.
    pub(super) fn step(&mut self, bytes_max: usize) -> Result<(), Stop> {
        let stepped = pages::guarded(|| self.copy(bytes_max));
        stepped.unwrap_or_else(|_nonsense| Err(self.target.damaged().into()))
    }

    fn copy(&mut self, bytes_max: usize) -> Result<(), Stop> {
        let Some((code, start)) = self.next else { return Ok(()) };
        let writes = self.target.begin_write()?;
        let mut next = start;
        let complete = {
            let mut versions = writes
                .open_table(VERSIONS[code])
                .map_err(|error| self.target.failed("writing failed", error))?;
            let (mut bytes, mut sealed, mut failure) = (0, Vec::new(), None);
            let removed = &self.removed[code];
            let complete = self.views[code].scan(start, |at, record| {
                next = at.next();
                if removed.contains(&at) {
                    return Ok(true);
                }
                let key = at.encode();
                sealed.clear();
                sealed.extend_from_slice(record);
                if self.has_checksums {
                    checked::seal(&key, &mut sealed);
                }
                failure = versions.insert(key.as_slice(), sealed.as_slice()).map(drop).err();
                bytes += key.len() + sealed.len();
                Ok(failure.is_none() && bytes < bytes_max)
            })?;
            if let Some(error) = failure {
                return Err(self.target.failed("writing failed", error).into());
            }
            complete
        };
        self.target.commit(writes)?;
        self.next = match complete {
            false => Some((code, next)),
            true if code + 1 < KEYSPACES => Some((code + 1, RevKey { main: 0, sub: 0 })),
            true => None,
        };
        // Those behind have been passed over.
        if complete {
            self.removed[code].clear();
        } else {
            self.removed[code] = self.removed[code].split_off(&next);
        }
        Ok(())
    }

    /// What the present file has been given, the new one has to have too.
    pub(super) fn follow(&mut self, job: &FlushJob) -> Result<(), Stop> {
        if let Some((at_code, start)) = self.next {
            for (code, pending) in job.pending.iter().enumerate().skip(at_code) {
                let from = if code == at_code { start } else { RevKey { main: 0, sub: 0 } };
                self.removed[code].extend(pending.removed.range(from..));
            }
        }
        if self.removed.iter().map(BTreeSet::len).sum::<usize>() > REMOVED_MAX {
            return Err(Stop::Removed);
        }
        let followed = pages::guarded(|| {
            let writes = self.target.begin_write()?;
            self.target.write_changes(&writes, job)?;
            self.target.commit(writes)
        });
        Ok(followed.unwrap_or_else(|_nonsense| Err(self.target.damaged()))?)
    }

    /// The last flush goes into the whole copy, which is the state file from then on.
    pub(super) fn replace(self, disk: &dyn Disk, job: &FlushJob) -> Result<Arc<Backend>, Kept> {
        let target = self.target;
        let written = pages::guarded(|| target.write(job));
        written.unwrap_or_else(|_nonsense| Err(target.damaged())).map_err(Kept::Old)?;
        disk.rename(REWRITE_FILE, STATE_FILE).and_then(|()| disk.sync_folder("")).map_err(
            |source| {
                let (file, action) = (disk.describe(STATE_FILE), "putting a new one there failed");
                Kept::Unknown(BackendError::Io { file, action, source })
            },
        )?;
        target.wait_again();
        Ok(Arc::new(target))
    }
}

/// A transaction of the new file before it takes the place.
impl Backend {
    fn begin_write(&self) -> Result<redb::WriteTransaction, BackendError> {
        let writing = "writing failed";
        let mut writes = self.database.begin_write().map_err(|e| self.failed(writing, e))?;
        // Without it redb would keep all that has been freed.
        writes.set_durability(Durability::Immediate).map_err(|e| self.failed(writing, e))?;
        Ok(writes)
    }

    fn commit(&self, writes: redb::WriteTransaction) -> Result<(), BackendError> {
        writes.commit().map_err(|error| self.failed("committing failed", error))
    }
}

/// One that was given up, or that a crash left. What cannot be removed is replaced or removed the
/// next time.
pub(super) fn remove(disk: &dyn Disk) {
    if !matches!(disk.exists(REWRITE_FILE), Ok(true)) {
        return;
    }
    if let Err(error) = disk.remove(REWRITE_FILE) {
        let file = disk.describe(REWRITE_FILE);
        tracing::warn!(%error, file, "a copy of the state that is of no use could not be removed");
    }
}
