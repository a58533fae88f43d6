//! What callers read directly while the store's thread writes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, RwLock};

use crate::backend::KEYSPACES;
use crate::kv::Error;
use crate::lease::LeaseClock;
use crate::mvcc::{ReadFault, State};
use crate::sync::{lock, read, write};
use crate::times::Times;
use crate::watch::Hub;

mod cluster;

pub(crate) use cluster::{ClusterShared, LEVEL, LEVEL_MIN, Reached, Said};

#[derive(Debug)]
pub(crate) struct KeyspaceShared {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Hub,
    pub(crate) leases: Mutex<LeaseClock>,
    /// What the last write would have added that was refused for its size; 0 when it would fit now.
    pub(crate) refused_bytes: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) keyspaces: [std::sync::Arc<KeyspaceShared>; KEYSPACES],
    pub(crate) cluster: ClusterShared,
    /// Why nothing can be written any more.
    failure: RwLock<Option<String>>,
    /// Why nothing of what is here may be believed any more.
    unfit: OnceLock<String>,
    stopped: AtomicBool,
    pub(crate) raft_term: AtomicU64,
    pub(crate) raft_index: AtomicU64,
    pub(crate) applied_index: AtomicU64,
    pub(crate) log_bytes_written: AtomicU64,
    pub(crate) log_times: Times,
    pub(crate) state_times: Times,
    pub(crate) is_leader: AtomicBool,
    /// A sole member that leads: whatever was acknowledged has been applied here.
    pub(crate) is_alone: AtomicBool,
}

impl Shared {
    pub(crate) fn new(
        keyspaces: [std::sync::Arc<KeyspaceShared>; KEYSPACES],
        cluster: ClusterShared,
    ) -> Self {
        Self {
            keyspaces,
            cluster,
            failure: RwLock::new(None),
            unfit: OnceLock::new(),
            stopped: AtomicBool::new(false),
            raft_term: AtomicU64::new(0),
            raft_index: AtomicU64::new(0),
            applied_index: AtomicU64::new(0),
            log_bytes_written: AtomicU64::new(0),
            log_times: Times::default(),
            state_times: Times::default(),
            is_leader: AtomicBool::new(false),
            is_alone: AtomicBool::new(false),
        }
    }

    /// Refuses everything that needs the disk from now on. The first reason stays.
    pub(crate) fn fail(&self, detail: String) {
        write(&self.failure).get_or_insert_with(|| {
            tracing::error!(detail, "the store stops writing");
            detail
        });
        self.is_leader.store(false, Ordering::Release);
    }

    /// What is here is another thing than what the cluster agreed on: no reads either, and
    /// watches end.
    pub(crate) fn condemn(&self, detail: String) {
        self.unfit.get_or_init(|| detail.clone());
        self.fail(detail);
        for keyspace in &self.keyspaces {
            keyspace.hub.stop();
        }
    }

    /// The state file does not hold what it should, or cannot be read.
    pub(crate) fn distrust(&self, fault: ReadFault) -> Error {
        self.condemn(fault.to_string());
        fault.into()
    }

    pub(crate) fn failure(&self) -> Option<String> {
        read(&self.failure).clone()
    }

    pub(crate) fn unfit(&self) -> Option<String> {
        self.unfit.get().cloned()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*read(&self.failure) {
            Some(detail) => Err(Error::Unavailable { detail: detail.clone() }),
            None => Ok(()),
        }
    }

    /// A store that can no longer write still answers reads, unless what it has is wrong.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if let Some(detail) = self.unfit() {
            return Err(Error::Unavailable { detail });
        }
        if self.stopped.load(Ordering::Acquire) {
            return Err(Error::Unavailable { detail: "the store was shut down".to_owned() });
        }
        Ok(())
    }

    /// The end: no reads either, and watches end.
    pub(crate) fn stop(&self) {
        write(&self.failure).get_or_insert("the store was shut down".to_owned());
        self.stopped.store(true, Ordering::Release);
        self.is_leader.store(false, Ordering::Release);
        for keyspace in &self.keyspaces {
            keyspace.hub.stop();
        }
    }

    pub(crate) fn with_leases<T>(
        &self,
        code: usize,
        act: impl FnOnce(&mut LeaseClock) -> T,
    ) -> Option<T> {
        self.keyspaces.get(code).map(|keyspace| act(&mut lock(&keyspace.leases)))
    }
}
