//! Brings a folder back to where it was: its member, its state, its log, and every entry that the
//! log has beyond the state.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, RwLock};

use rand::RngCore;

use super::Core;
use crate::backend::{Backend, BackendError};
use crate::clock::Clock;
use crate::cluster::{MemberStart, Membership};
use crate::consensus::raft::{RaftConsensus, Start};
use crate::consensus::{Consensus, ConsensusError, NoPeers, Position};
use crate::disk::Disk;
use crate::embedded::StoreConfig;
use crate::folder::{self, FolderError};
use crate::lease::LeaseClock;
use crate::mvcc::State;
use crate::shared::{ClusterShared, KeyspaceShared, Shared};
use crate::sync::read;
use crate::wal::{Identity, Room, Wal, WalError, WalOpenError};
use crate::watch::Hub;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreOpenError {
    #[error(transparent)]
    Folder(FolderError),
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
        let member = folder::enter(&*disk, random, start).map_err(CoreOpenError::Folder)?;
        let backend = Backend::open(&*disk, clock.clone(), config.cache_bytes)
            .map_err(CoreOpenError::Backend)?;
        let loaded = backend.load().map_err(CoreOpenError::Backend)?;
        let is_new = loaded.meta.is_none();
        let (applied, chain, voters) = match loaded.meta {
            Some(meta) => (meta.applied, meta.chain, meta.voters),
            None => (Position::default(), 0, vec![member.member_id]),
        };
        let identity = Identity {
            cluster_id: member.cluster_bytes(),
            member_id: member.member_id,
            epoch: member.epoch,
        };
        let recovered =
            Wal::open(disk, identity, config.segment_bytes, applied).map_err(CoreOpenError::Wal)?;
        let mut wal = recovered.wal;
        // A new term is an entry; without room for it nothing could be confirmed.
        wal.reserve(0, Room::Vital).map_err(CoreOpenError::Write)?;
        let consensus = RaftConsensus::new(Start {
            member_id: member.member_id,
            voters: voters.clone(),
            applied,
            hard_state: recovered.hard_state,
            entries: recovered.entries,
        })
        .map_err(CoreOpenError::Consensus)?;
        let keyspaces = loaded.states.map(|state| share(state, &config, &*clock));
        let cluster = ClusterShared::new(member.cluster_bytes(), member.member_id, member.epoch);
        cluster.set_membership(Membership {
            members: vec![member.record()],
            leader: Some(member.member_id),
            term: consensus.term(),
        });
        let mut core = Self {
            clock,
            config,
            member_id: member.member_id,
            epoch: member.epoch,
            shared: Arc::new(Shared::new(keyspaces, cluster)),
            backend: Arc::new(backend),
            consensus: Box::new(consensus),
            net: Box::new(NoPeers),
            wal,
            waiting: VecDeque::new(),
            next_number: 1,
            applied,
            chain,
            voters,
            unwritten_hard_state: None,
            written_at: None,
            dirty_since: None,
            flushing: false,
        };
        core.replay()?;
        if is_new {
            // Once the state says how far it came, a log that is gone is missed.
            core.dirty_since = Some(core.clock.now());
        }
        Ok(Opened { core, cluster_id: member.cluster_id, member_id: member.member_id })
    }

    /// A sole voter leads at once, so everything in its log is committed and applied here.
    fn replay(&mut self) -> Result<(), CoreOpenError> {
        self.run();
        if let Err(error) = self.shared.check() {
            return Err(CoreOpenError::Replay { detail: error.to_string() });
        }
        if !self.consensus.is_leader() || self.applied.index != self.consensus.last_index() {
            let detail = format!(
                "entry {} of {} was reached",
                self.applied.index,
                self.consensus.last_index()
            );
            return Err(CoreOpenError::Replay { detail });
        }
        Ok(())
    }
}

fn share(state: State, config: &StoreConfig, clock: &dyn Clock) -> Arc<KeyspaceShared> {
    let mut leases = LeaseClock::default();
    for (id, lease) in &state.leases {
        leases.start(*id, lease.ttl, lease.remaining, clock.now());
    }
    let hub = Hub::new(state.revision, config.watch_ring_bytes, config.watch_behind_bytes_max);
    let shared = KeyspaceShared { state: RwLock::new(state), hub, leases: Mutex::new(leases) };
    debug_assert!(read(&shared.state).revision >= 1);
    Arc::new(shared)
}
