//! A store's snapshot becomes the folder of a new, sole member.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::backend::{KEYSPACES, Meta, Roster, STATE_FILE};
use crate::clock::MonotonicClock;
use crate::consensus::Position;
use crate::disk::{Disk, RealDisk};
use crate::embedded::{StoreConfig, make_folder};
use crate::folder::{self, Member};
use crate::kv::Revision;
use crate::shared::LEVEL;
use crate::snapshot::whole::{ImportError, Imported, Importer, Nowhere};
use crate::wal::format::HardState;
use crate::wal::{Base, Identity, Room, Wal};

mod survivor;

pub use survivor::{Found, Survivor, SurvivorError};

const INCOMING_FILE: &str = "state.incoming";

/// Added to the revisions of what was restored. Clients may have seen revisions that the snapshot
/// does not have; none comes again with another content, and who watches from one learns that it
/// is compacted and reads everything anew.
pub const REVISIONS_SKIPPED: Revision = 1_000_000_000;

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Snapshot(SnapshotError),
    #[error("{dir} holds something already; choose a folder that is empty or not there")]
    NotEmpty { dir: String },
    #[error("{dir}: {action}")]
    Io { dir: String, action: &'static str, source: io::Error },
    #[error("the revision is at its end")]
    Revision,
}

/// The snapshot is none, or not whole, or could not be written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SnapshotError(ImportError);

impl RestoreError {
    fn snapshot(error: ImportError) -> Self {
        Self::Snapshot(SnapshotError(error))
    }
}

/// What a snapshot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    pub cluster_revision: Revision,
    pub applications_revision: Revision,
    /// Kept versions of both keyspaces.
    pub records: u64,
}

impl Contents {
    fn of(imported: &Imported) -> Self {
        let [(cluster_revision, _), (applications_revision, _)] = imported.keyspaces;
        Self { cluster_revision, applications_revision, records: imported.records }
    }
}

/// What a folder became that was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub contents: Contents,
    /// Of the new cluster, and of its only member.
    pub cluster_id: String,
    pub member_id: u64,
}

/// Reads a snapshot to its end without writing anything.
pub struct SnapshotCheck(Importer<Nowhere>);

impl Default for SnapshotCheck {
    fn default() -> Self {
        Self(Importer::into(Nowhere))
    }
}

impl std::fmt::Debug for SnapshotCheck {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SnapshotCheck")
    }
}

impl SnapshotCheck {
    /// Any number of the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.0.push(bytes).map_err(SnapshotError)
    }

    pub fn finish(self) -> Result<Contents, SnapshotError> {
        self.0.end().map(|(_, imported)| Contents::of(&imported)).map_err(SnapshotError)
    }
}

/// A folder that is being filled. Dropping it leaves one that no store opens.
pub struct Restore {
    dir: String,
    disk: Arc<dyn Disk>,
    importer: Importer,
}

impl std::fmt::Debug for Restore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Restore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Restore {
    /// `dir` is made; it may be there if it is empty.
    pub fn begin(dir: &Path) -> Result<Self, RestoreError> {
        let name = dir.display().to_string();
        let failed = |action| {
            let dir = name.clone();
            move |source| RestoreError::Io { dir, action, source }
        };
        make_folder(dir).map_err(failed("making it failed"))?;
        let mut entries = std::fs::read_dir(dir).map_err(failed("reading it failed"))?;
        if entries.next().is_some() {
            return Err(RestoreError::NotEmpty { dir: name });
        }
        Self::onto(Arc::new(RealDisk::new(dir)), name)
    }

    pub(crate) fn onto(disk: Arc<dyn Disk>, dir: String) -> Result<Self, RestoreError> {
        let importer = Importer::new(disk.clone(), Arc::new(MonotonicClock::new()), INCOMING_FILE)
            .map_err(RestoreError::snapshot)?;
        Ok(Self { dir, disk, importer })
    }

    /// Any number of the snapshot's next bytes. Blocks: it writes to disk.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        self.importer.push(bytes).map_err(RestoreError::snapshot)
    }

    /// The folder is a store's when this returns: that of the only member of a new cluster, with
    /// an id of its own, so that members of the old one that still run somewhere are strangers.
    pub fn finish(self) -> Result<Restored, RestoreError> {
        let Self { dir, disk, importer } = self;
        let failed = |action| {
            let dir = dir.clone();
            move |source| RestoreError::Io { dir, action, source }
        };
        let member = folder::enter(&*disk, &mut rand::rng(), None)
            .map_err(|error| failed("naming its member failed")(io::Error::other(error)))?;
        let mut keyspaces = [(1, 0); KEYSPACES];
        let imported = importer
            .finish_as(|imported| {
                keyspaces = imported.keyspaces.map(|(revision, _)| skip(revision));
                restored_meta(&member, keyspaces).encode()
            })
            .map_err(RestoreError::snapshot)?;
        if keyspaces.iter().any(|(revision, _)| *revision == Revision::MAX) {
            return Err(RestoreError::Revision);
        }
        begin_log(disk.clone(), &member)
            .map_err(|error| failed("beginning its log failed")(io::Error::other(error)))?;
        disk.rename(INCOMING_FILE, STATE_FILE)
            .and_then(|()| disk.sync_folder(""))
            .map_err(failed("naming its state failed"))?;
        let Member { cluster_id, member_id, .. } = member;
        Ok(Restored { contents: Contents::of(&imported), cluster_id, member_id })
    }
}

/// The new revision, up to which everything counts as compacted.
fn skip(revision: Revision) -> (Revision, Revision) {
    let skipped = revision.saturating_add(REVISIONS_SKIPPED);
    (skipped, skipped)
}

/// Stands for everything that was restored, so that a server that joins is sent the state: it
/// can never be had from the log.
const RESTORED: Position = Position { index: 1, term: 1 };

fn restored_meta(member: &Member, keyspaces: [(Revision, Revision); KEYSPACES]) -> Meta {
    let roster = Roster::sole(member.record(), LEVEL);
    Meta { applied: RESTORED, chain: 0, installed: false, roster, keyspaces }
}

/// The log begins behind the restored state.
fn begin_log(disk: Arc<dyn Disk>, member: &Member) -> Result<(), Box<dyn Error + Send + Sync>> {
    let identity = Identity {
        cluster_id: member.cluster_bytes(),
        member_id: member.member_id,
        epoch: member.epoch,
    };
    let segment_bytes = StoreConfig::default().segment_bytes;
    let mut wal = Wal::open(disk, identity, segment_bytes, Base::default())?.wal;
    wal.reserve(0, Room::Vital)?;
    let voted = HardState { term: RESTORED.term, vote: 0, commit: RESTORED.index };
    wal.restart(RESTORED, Some(voted))?;
    Ok(())
}
