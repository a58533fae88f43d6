//! Brings a folder back to where it was: its member, its state, its log, and every entry that the
//! log has beyond the state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use rand::RngCore;

use super::journal::Journal;
use super::space::keepers;
use super::{Asks, Chains, Core, Health, Reads, Shrink, decode_system, is_system};
use crate::backend::{Backend, BackendError, Meta, Roster};
use crate::clock::Clock;
use crate::cluster::MemberStart;
use crate::consensus::raft::{RaftConsensus, Start};
use crate::consensus::{ConsensusError, EntryKind, LogEntry, NoPeers, Position, Standing};
use crate::disk::Disk;
use crate::embedded::StoreConfig;
use crate::folder::{self, FolderError};
use crate::lease::LeaseClock;
use crate::mvcc::{State, decode_origin};
use crate::newer::Newer;
use crate::shared::{ClusterShared, KeyspaceShared, LEVEL_MIN, Said, Shared};
use crate::sync::read;
use crate::wal::{Base, Identity, Room, Wal, WalError, WalOpenError};
use crate::watch::Hub;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreOpenError {
    #[error(transparent)]
    Folder(FolderError),
    #[error(
        "the disk is full: the epoch of this start cannot be written, without which its writes could \
         be taken for those of an earlier one; make room on the disk and start again"
    )]
    Epoch,
    #[error(transparent)]
    Backend(BackendError),
    #[error(transparent)]
    Wal(WalOpenError),
    #[error("the log cannot be written")]
    Write(#[source] WalError),
    #[error(transparent)]
    Consensus(ConsensusError),
    #[error("the log could not be applied: {detail}")]
    Replay { detail: String },
    #[error("{0}")]
    Level(String),
    #[error("a later release has written it")]
    Newer(#[source] Newer),
}

impl CoreOpenError {
    /// What a later release has written, if that is why.
    pub(crate) fn newer(&self) -> Option<Newer> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(newer) = error.downcast_ref::<Newer>() {
                return Some(newer.clone());
            }
            cause = error.source();
        }
        None
    }
}

/// A core and who it is.
pub(crate) struct Opened {
    pub(crate) core: Core,
    pub(crate) cluster_id: String,
    pub(crate) member_id: u64,
}

impl Core {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
        random: &mut dyn RngCore,
        start: Option<&MemberStart>,
    ) -> Result<Opened, CoreOpenError> {
        let mut opened = Self::prepare(disk, clock, config, random, start)?;
        opened.core.replay()?;
        Ok(opened)
    }

    /// [`Self::replay`] must follow.
    pub(crate) fn prepare(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        config: StoreConfig,
        random: &mut dyn RngCore,
        start: Option<&MemberStart>,
    ) -> Result<Opened, CoreOpenError> {
        super::level::check_configured(config.level_max).map_err(CoreOpenError::Level)?;
        let member = folder::enter(&*disk, random, start).map_err(CoreOpenError::Folder)?;
        let backend = Backend::open(&*disk, clock.clone(), config.cache_bytes)
            .map_err(CoreOpenError::Backend)?;
        let loaded = backend.load().map_err(CoreOpenError::Backend)?;
        let (base, chain, roster) = beginning(&member, loaded.meta);
        let supported = config.level_max;
        Newer::check(disk.describe(""), roster.level, supported).map_err(CoreOpenError::Newer)?;
        let applied = base.applied;
        let recovered = Wal::open(disk.clone(), identity(&member), config.segment_bytes, base)
            .map_err(CoreOpenError::Wal)?;
        super::level::check_entries(&recovered.entries, supported).map_err(CoreOpenError::Newer)?;
        let last = recovered.last(applied);
        let epoch = epoch_above(&member, &roster, &recovered.entries)?;
        let mut wal = recovered.wal;
        // A new term is an entry; without room for it nothing could be confirmed.
        wal.reserve(0, Room::Vital).map_err(CoreOpenError::Write)?;
        let consensus = RaftConsensus::new(Start {
            member_id: member.member_id,
            configuration: roster.configuration.clone(),
            applied,
            hard_state: recovered.hard_state,
            entries: recovered.entries,
            seed: random.next_u64(),
            kept_max: (config.log_entries_max, config.log_bytes_max),
        })
        .map_err(CoreOpenError::Consensus)?;
        let keyspaces = loaded.states.map(|state| share(state, &config, &*clock));
        let cluster = share_cluster(&member, &config, last, &roster);
        cluster.set_acknowledged(&recovered.acknowledged);
        let keepers = keepers(&config, clock.now(), &keyspaces);
        let dirty_since = (base == Base::default() || base.installed).then(|| clock.now());
        let core = Self {
            clock,
            config,
            record: member.record(),
            member_id: member.member_id,
            epoch,
            shared: Arc::new(Shared::new(keyspaces, cluster)),
            disk,
            backend: Arc::new(backend),
            retired: None,
            consensus: Box::new(consensus),
            net: Box::new(NoPeers),
            journal: Journal::new(wal),
            waiting: VecDeque::new(),
            next_number: 1,
            parked: Vec::new(),
            again: Vec::new(),
            applied,
            withheld: VecDeque::new(),
            withheld_until: None,
            chain,
            unsaved: base == Base::default() || base.installed,
            roster,
            standing: Standing::default(),
            reads: Reads::default(),
            asks: Asks::default(),
            health: Health::default(),
            chains: Chains::default(),
            introduced: BTreeMap::new(),
            acknowledged: recovered.acknowledged,
            arrived: None,
            written_at: None,
            // Once the state says how far it came, a log that is gone is missed.
            dirty_since,
            flushing: false,
            shrink: Shrink::default(),
            level_open: false,
            keepers,
        };
        Ok(Opened { core, cluster_id: member.cluster_id, member_id: member.member_id })
    }

    /// A sole voter leads at once, so everything in its log is committed and applied here. With
    /// others, what is known to be committed is; if that leaves it alone, it leads after a while.
    pub(crate) fn replay(&mut self) -> Result<(), CoreOpenError> {
        let was_alone = self.writes_here();
        self.run();
        if let Err(error) = self.shared.check() {
            return Err(CoreOpenError::Replay { detail: error.to_string() });
        }
        let (applied, last) = (self.applied.index, self.standing.last_index);
        if was_alone && self.writes_here() && (!self.standing.is_leader || applied != last) {
            let detail = if self.journal.is_full() {
                "the disk is full; make room on it and start again".to_owned()
            } else {
                format!("entry {applied} of {last} was reached")
            };
            return Err(CoreOpenError::Replay { detail });
        }
        self.tend_level_alone();
        Ok(())
    }
}

/// The epoch of what is proposed from now on. The member file's may have been used before: a start
/// on a full disk does not write it, and batches that look older than applied ones do not count.
///
/// One that has or had others may have proposed in an epoch through them what it has not seen yet:
/// with the same epoch again it would take the one for the other.
fn epoch_above(
    member: &folder::Member,
    roster: &Roster,
    entries: &[LogEntry],
) -> Result<u64, CoreOpenError> {
    let was_alone = roster.is_alone(member.member_id)
        && entries.iter().all(|entry| entry.kind == EntryKind::Normal);
    if !member.is_written && !was_alone {
        return Err(CoreOpenError::Epoch);
    }
    let applied = roster.origins.get(&member.member_id).map_or(0, |(epoch, _)| *epoch);
    let logged = entries.iter().filter_map(|entry| match entry.kind {
        EntryKind::Normal if is_system(&entry.payload) => {
            decode_system(entry.payload.clone()).ok().map(|(origin, _)| origin)
        }
        EntryKind::Normal => decode_origin(entry.payload.clone()).ok(),
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => None,
    });
    let own = logged.filter(|origin| origin.member_id == member.member_id);
    let used = own.map(|origin| origin.epoch).max().unwrap_or(0).max(applied);
    Ok(member.epoch.max(used + 1))
}

fn identity(member: &folder::Member) -> Identity {
    Identity {
        cluster_id: member.cluster_bytes(),
        member_id: member.member_id,
        epoch: member.epoch,
    }
}

/// How far the state has come, with its chain and its members.
fn beginning(member: &folder::Member, meta: Option<Meta>) -> (Base, u32, Roster) {
    match meta {
        Some(meta) => {
            let base = Base { applied: meta.applied, installed: meta.installed };
            (base, meta.chain, meta.roster)
        }
        None => (Base::default(), 0, first_roster(member)),
    }
}

/// Of a folder without a state: a cluster of one, or whom it is about to join.
fn first_roster(member: &folder::Member) -> Roster {
    // What follows is in the log: the same whoever reads it from its beginning.
    let mut roster = Roster::sole(member.record(), LEVEL_MIN);
    if member.has_joined {
        roster.configuration.voters.clear();
        roster.level = 0;
        roster.members.extend(member.joined.iter().map(|one| (one.id, one.clone())));
    }
    roster
}

fn share_cluster(
    member: &folder::Member,
    config: &StoreConfig,
    last: Position,
    roster: &Roster,
) -> ClusterShared {
    let own =
        Said { epoch: member.epoch, level: config.level_max, release: config.release.clone() };
    let cluster = ClusterShared::new(member.cluster_bytes(), member.member_id, own);
    cluster.set_last(last);
    cluster.set_removed(&roster.removed);
    cluster.set_formats(roster.level, &roster.releases);
    cluster
}

fn share(state: State, config: &StoreConfig, clock: &dyn Clock) -> Arc<KeyspaceShared> {
    let mut leases = LeaseClock::default();
    for (id, lease) in &state.leases {
        leases.start(*id, lease.ttl, lease.remaining, clock.now());
    }
    let hub = Hub::new(state.revision, config.watch_ring_bytes, config.watch_behind_bytes_max);
    let shared = KeyspaceShared {
        state: RwLock::new(state),
        hub,
        leases: Mutex::new(leases),
        refused_bytes: AtomicU64::new(0),
    };
    debug_assert!(read(&shared.state).revision >= 1);
    Arc::new(shared)
}
