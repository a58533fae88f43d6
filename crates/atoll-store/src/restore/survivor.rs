//! What is left of a cluster whose majority is lost: the folder of one member that is stopped.
//!
//! All of its log counts, also what it never heard to be committed: the majority that is gone may
//! have acknowledged it. The folder is only looked at.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::backend::{Backend, KEYSPACES, Meta, Roster};
use crate::clock::MonotonicClock;
use crate::cluster::Member;
use crate::consensus::raft::decode_change;
use crate::consensus::{EntryKind, LogEntry, MemberChange, Position};
use crate::core::{SystemCommand, decode_context, decode_system, is_system};
use crate::disk::{Disk, Overlay, RealDisk};
use crate::embedded::StoreConfig;
use crate::folder::{self, FolderLock, LockError};
use crate::kv;
use crate::kv::Revision;
use crate::mvcc::{Origin, State, decode_batch};
use crate::shared::LEVEL;
use crate::snapshot::whole::WholeCopy;
use crate::wal::{Base, Identity, Wal};

type BoxError = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    #[error("there is no store in {dir}; name the data folder of a server")]
    NoStore { dir: String },
    #[error("the store in {dir} is in use by {holder}; stop that server first")]
    Locked { dir: String, holder: String },
    #[error(
        "the store in {dir} holds nothing: its server had not received the cluster's state yet"
    )]
    Empty { dir: String },
    #[error(
        "the store in {dir} cannot be read; take the folder of another server that is left, or the newest backup"
    )]
    Damaged { dir: String, source: BoxError },
}

/// How far a member came, and what it belonged to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    pub member_id: u64,
    /// The end of its log. Of several survivors, the one with the highest term has everything
    /// that any of them has; among equal terms the one with the highest index.
    pub last: Position,
    /// The last entry that it knew to be committed. It may be older than what was acknowledged.
    pub committed: u64,
    /// When it wrote last, by the machine's clock.
    pub written_at: Option<SystemTime>,
    pub cluster_revision: Revision,
    pub applications_revision: Revision,
    /// As its whole log makes them.
    pub members: Vec<Member>,
    /// It was taken out of the cluster, which went on without it.
    pub is_removed: bool,
}

/// A member's folder, read to the end of its log. Nobody else opens it meanwhile.
pub struct Survivor {
    found: Found,
    meta: Meta,
    states: [State; KEYSPACES],
    _backend: Backend,
    _lock: Option<FolderLock>,
}

impl std::fmt::Debug for Survivor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Survivor").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Survivor {
    /// `dir` is the store's own folder.
    pub fn read(dir: &Path) -> Result<Self, SurvivorError> {
        let name = dir.display().to_string();
        if !dir.is_dir() {
            return Err(SurvivorError::NoStore { dir: name });
        }
        let lock = folder::lock(dir).map_err(|error| match error {
            LockError::Held { pid } => SurvivorError::Locked {
                dir: name.clone(),
                holder: pid.map_or("another process".to_owned(), |pid| format!("process {pid}")),
            },
            LockError::Io(source) => {
                SurvivorError::Damaged { dir: name.clone(), source: source.into() }
            }
        })?;
        let mut survivor = Self::of_disk(Arc::new(RealDisk::new(dir)), name.clone())?;
        survivor.found.written_at = written_at(dir)
            .map_err(|source| SurvivorError::Damaged { dir: name, source: source.into() })?;
        survivor._lock = Some(lock);
        Ok(survivor)
    }

    pub(crate) fn of_disk(disk: Arc<dyn Disk>, dir: String) -> Result<Self, SurvivorError> {
        match look(Arc::new(Overlay::new(disk))) {
            Ok(Some(survivor)) => Ok(survivor),
            Ok(None) => Err(SurvivorError::Empty { dir }),
            Err(source) => Err(SurvivorError::Damaged { dir, source }),
        }
    }

    #[cfg(test)]
    pub(crate) fn state(&self, code: usize) -> &State {
        &self.states[code]
    }

    pub fn found(&self) -> &Found {
        &self.found
    }

    /// What [`super::Restore`] takes. Reads the folder as it goes.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Bytes, kv::Error>> {
        WholeCopy::of(self.meta.encode(), &self.states).chunks()
    }
}

/// `None` for a member that had nothing yet.
fn look(disk: Arc<dyn Disk>) -> Result<Option<Survivor>, BoxError> {
    let Some(member) = folder::read(&*disk)? else { return Ok(None) };
    let config = StoreConfig::default();
    let backend = Backend::open(&*disk, Arc::new(MonotonicClock::new()), config.cache_bytes)?;
    let loaded = backend.load()?;
    let (base, mut roster, mut states) = match loaded.meta {
        Some(meta) => {
            let base = Base { applied: meta.applied, installed: meta.installed };
            (base, meta.roster, loaded.states)
        }
        // A member that joined begins with a state of others: it has none yet.
        None if member.has_joined => return Ok(None),
        None => (Base::default(), Roster::sole(member.record(), 0), loaded.states),
    };
    let (cluster_id, member_id, epoch) = (member.cluster_bytes(), member.member_id, member.epoch);
    let identity = Identity { cluster_id, member_id, epoch };
    check_level(&roster)?;
    let recovered = Wal::open(disk, identity, config.segment_bytes, base)?;
    for entry in &recovered.entries {
        apply(&mut states, &mut roster, entry)
            .map_err(|error| format!("entry {} of its log: {error}", entry.index))?;
    }
    let last = recovered.last(base.applied);
    let [cluster, applications] = states.each_ref().map(|state| (state.revision, state.compacted));
    let found = Found {
        cluster_id: member.cluster_id,
        member_id: member.member_id,
        last,
        committed: recovered.hard_state.commit.max(base.applied.index).min(last.index),
        written_at: None,
        cluster_revision: cluster.0,
        applications_revision: applications.0,
        members: roster.members.values().cloned().collect(),
        is_removed: roster.removed.contains(&member.member_id),
    };
    let keyspaces = [cluster, applications];
    let meta = Meta { applied: last, chain: 0, installed: false, roster, keyspaces };
    Ok(Some(Survivor { found, meta, states, _backend: backend, _lock: None }))
}

fn check_level(roster: &Roster) -> Result<(), BoxError> {
    if roster.level <= LEVEL {
        return Ok(());
    }
    let level = roster.level;
    Err(format!("it is of format level {level}, this release reads up to {LEVEL}; use the release that wrote it").into())
}

/// What a member does with a committed entry, without anybody who waits for it.
fn apply(
    states: &mut [State; KEYSPACES],
    roster: &mut Roster,
    entry: &LogEntry,
) -> Result<(), BoxError> {
    let payload = entry.payload.clone();
    if entry.kind != EntryKind::Normal {
        let (change, context) = decode_change(&payload)?;
        let (origin, added) = decode_context(context)?;
        change_members(roster, change, origin, added);
        return Ok(());
    }
    if payload.is_empty() {
        return Ok(());
    }
    if is_system(&payload) {
        // Names and addresses are the new cluster's own; the number must count.
        let (origin, command) = decode_system(payload)?;
        if roster.accept(origin)
            && let SystemCommand::RaiseLevel(level) = command
        {
            roster.level = roster.level.max(level);
        }
        return check_level(roster);
    }
    let (origin, commands) = decode_batch(payload)?;
    if !roster.accept(origin) {
        return Ok(());
    }
    for (keyspace, command) in &commands {
        let state = states.get_mut(usize::from(*keyspace)).ok_or("it names no keyspace")?;
        // Whether it was refused is decided anew, as everywhere else.
        drop(state.apply(command, &|_| false)?.response);
    }
    Ok(())
}

fn change_members(
    roster: &mut Roster,
    change: MemberChange,
    origin: Origin,
    added: Option<Member>,
) {
    roster.accept(origin);
    let mut configuration = roster.configuration.clone();
    let (MemberChange::AddLearner(id) | MemberChange::Promote(id) | MemberChange::Remove(id)) =
        change;
    configuration.voters.retain(|voter| *voter != id);
    configuration.learners.retain(|learner| *learner != id);
    match change {
        MemberChange::AddLearner(_) => configuration.learners.push(id),
        MemberChange::Promote(_) => configuration.voters.push(id),
        MemberChange::Remove(_) => {}
    }
    roster.change(change, configuration, added);
}

/// The last change of any file of the log.
fn written_at(dir: &Path) -> io::Result<Option<SystemTime>> {
    let mut latest = None;
    let entries = match fs::read_dir(dir.join("wal")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        latest = latest.max(Some(entry?.metadata()?.modified()?));
    }
    Ok(latest)
}
