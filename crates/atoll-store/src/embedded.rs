//! The store in this process, over one folder.
//!
//! Whoever brings something runs the core if nobody does; threads of its own write the log, the
//! state file and what is due by the clock, and sleep while nothing happens. Reads run on the
//! caller's thread.

use std::error::Error;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::backend::KEYSPACES;
use crate::clock::MonotonicClock;
use crate::cluster::{ClusterControl, Inbox, MemberStart};
use crate::consensus::Net;
use crate::core::{Arrivals, Core, CoreOpenError};
use crate::disk::{RealDisk, is_full};
use crate::folder::{self, FolderLock, LockError};
use crate::kv::KvStore;
use crate::newer::Newer;
use crate::retention::{KeyspaceLimits, Retention};
use crate::shared::{LEVEL, Shared};
use crate::sync::lock;

mod backup;
mod cluster;
mod damage;
mod driver;
mod history;
mod keyspace;
mod queue;

pub use backup::{Snapshots, StoreSnapshot};
use cluster::{ClusterHandle, StoreInbox};
use driver::Threads;
use keyspace::KeyspaceHandle;
use queue::Queue;

/// The two stores in one: each has its own revisions, compaction and quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keyspace {
    /// The cluster's objects.
    Cluster,
    /// The keys of applications.
    Applications,
}

impl Keyspace {
    pub const ALL: [Self; KEYSPACES] = [Self::Cluster, Self::Applications];

    pub(crate) fn code(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Applications => 1,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Made when it does not exist. One store at a time may have it open.
    pub dir: PathBuf,
    /// Of the cluster's objects.
    pub cluster: KeyspaceLimits,
    /// Of the applications' keys.
    pub applications: KeyspaceLimits,
    /// Keys and values of one transaction.
    pub request_bytes_max: u64,
    /// Compares, and operations of each branch, of one transaction.
    pub txn_operations_max: usize,
    /// A call that takes longer ends with `Timeout`.
    pub request_timeout: Duration,
    /// The state file's cache.
    pub cache_bytes: usize,
    /// The log goes on in a new file after this much. Less than a few requests of the largest
    /// size makes no sense.
    pub segment_bytes: u64,
    /// Entries of the log kept in memory for other members, and their bytes. One that is further
    /// behind gets the whole state.
    pub log_entries_max: usize,
    pub log_bytes_max: usize,
    /// Recent events kept in memory for watches.
    pub watch_ring_bytes: usize,
    /// Bytes of events that a watch may be behind before it is ended.
    pub watch_behind_bytes_max: u64,
    /// The state file is written when the oldest change is this old…
    pub flush_every: Duration,
    /// …or the changes have this many bytes…
    pub flush_bytes: usize,
    /// …or there are this many of them. Few changes wait longer:
    pub flush_operations: usize,
    /// the log has them, and each time costs several pages however few they are. An idle
    /// cluster's leases alone would wear out an SD card. After half of this they go with a write
    /// of the log, for which the file system writes its journal anyway.
    pub flush_few_every: Duration,
    /// The state file is written anew, and takes less, when it has this many bytes and most of
    /// them are of no use.
    pub shrink_from_bytes: u64,
    /// Copied of it at once; flushes wait that long.
    pub shrink_step_bytes: usize,
    /// The version of this program, which the other servers are told.
    pub release: String,
    /// The format level of what is replicated that this server supports at most. Held lower than
    /// it could be, nothing is written that the release before does not read.
    pub level_max: u32,
}

/// Of one keyspace: twice etcd's, half of what a store is made for.
const QUOTA_BYTES: u64 = 4 << 30;

impl StoreConfig {
    pub(crate) fn limits(&self, code: usize) -> &KeyspaceLimits {
        if code == Keyspace::Cluster.code() { &self.cluster } else { &self.applications }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/lib/atoll/store"),
            // Lists that page more slowly begin anew.
            cluster: KeyspaceLimits {
                quota_bytes: QUOTA_BYTES,
                retention: Retention::Period(Duration::from_secs(300)),
                few_revisions: 500,
            },
            applications: KeyspaceLimits {
                quota_bytes: QUOTA_BYTES,
                retention: Retention::WhileRoom,
                few_revisions: 0,
            },
            request_bytes_max: 1_572_864,
            txn_operations_max: 128,
            request_timeout: Duration::from_secs(10),
            cache_bytes: 16 << 20,
            segment_bytes: 64 << 20,
            log_entries_max: 20_000,
            log_bytes_max: 64 << 20,
            watch_ring_bytes: 4 << 20,
            watch_behind_bytes_max: 64 << 20,
            flush_every: Duration::from_secs(10),
            flush_bytes: 16 << 20,
            flush_operations: 10_000,
            flush_few_every: Duration::from_secs(1800),
            shrink_from_bytes: 64 << 20,
            shrink_step_bytes: 4 << 20,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            level_max: LEVEL,
        }
    }
}

/// Why a folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the store in {dir} is in use by {holder}; stop it first, or choose another data folder"
    )]
    Locked { dir: String, holder: String },
    #[error(
        "{file} is damaged at offset {offset}: {reason}; nothing was changed: restore the newest backup, or move the folder away to start empty"
    )]
    Corrupt { file: String, offset: u64, reason: &'static str },
    #[error("{newer}")]
    Newer { newer: Newer },
    #[error("the store in {dir} cannot be opened: there is no space on its disk; make some room")]
    NoSpace { dir: String, source: Box<dyn Error + Send + Sync> },
    #[error("the store in {dir} cannot be opened")]
    Folder { dir: String, source: Box<dyn Error + Send + Sync> },
}

/// An open store. Dropping it stops it; [`Self::shutdown`] also says when it has stopped.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    threads: Mutex<Option<Threads>>,
    handles: [Arc<KeyspaceHandle>; KEYSPACES],
    cluster: Arc<ClusterHandle>,
    cluster_id: String,
    member_id: u64,
}

/// Makes the transport to the other members from what it hands its messages to.
type MakeNet = Box<dyn FnOnce(Arc<dyn Inbox>) -> Box<dyn Net> + Send>;

impl EmbeddedStore {
    /// A folder on its own: a cluster of one, made when it does not exist.
    pub async fn open(config: StoreConfig) -> Result<Self, OpenError> {
        Self::open_elsewhere(config, None).await
    }

    /// A member of a cluster that may have others. A folder that exists goes on as what it is.
    pub async fn open_member(
        config: StoreConfig,
        start: MemberStart,
        make_net: impl FnOnce(Arc<dyn Inbox>) -> Box<dyn Net> + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_elsewhere(config, Some((start, Box::new(make_net)))).await
    }

    async fn open_elsewhere(
        config: StoreConfig,
        member: Option<(MemberStart, MakeNet)>,
    ) -> Result<Self, OpenError> {
        let dir = config.dir.display().to_string();
        let opened = tokio::task::spawn_blocking(move || Self::open_folder(config, member)).await;
        opened.unwrap_or_else(|error| Err(OpenError::Folder { dir, source: error.into() }))
    }

    /// The same as [`Self::open`] outside of an asynchronous runtime.
    pub fn open_blocking(config: StoreConfig) -> Result<Self, OpenError> {
        Self::open_folder(config, None)
    }

    fn open_folder(
        config: StoreConfig,
        member: Option<(MemberStart, MakeNet)>,
    ) -> Result<Self, OpenError> {
        let dir = config.dir.display().to_string();
        let failed = |source| refused(&dir, source);
        make_folder(&config.dir).map_err(|error| failed(error.into()))?;
        let folder_lock = lock_folder(&config.dir)?;
        let disk = Arc::new(RealDisk::new(&config.dir));
        let clock = Arc::new(MonotonicClock::new());
        let start = member.as_ref().map(|(start, _)| start);
        let mut random = rand::rng();
        let opened = Core::open(disk.clone(), clock.clone(), config.clone(), &mut random, start)
            .map_err(|error| open_error(&dir, error))?;
        let mut core = opened.core;
        let shared = core.shared.clone();
        let queue = Arc::new(Queue::new());
        if let Some((_, make_net)) = member {
            let arrivals = Arrivals::new(disk.clone(), clock.clone(), &config);
            let inbox = StoreInbox { shared: shared.clone(), queue: queue.clone(), arrivals };
            core.set_net(make_net(Arc::new(inbox)));
        }
        let threads = Threads::start(core, queue.clone(), clock.clone(), folder_lock)
            .map_err(|error| failed(error.into()))?;
        let cluster = ClusterHandle::new(shared.clone(), queue.clone(), config.request_timeout);
        let cluster = Arc::new(cluster);
        let handles = Keyspace::ALL.map(|keyspace| {
            Arc::new(KeyspaceHandle::new(
                keyspace.code(),
                shared.clone(),
                (queue.clone(), cluster.clone()),
                (disk.clone(), clock.clone()),
                &config,
            ))
        });
        Ok(Self {
            shared,
            queue,
            threads: Mutex::new(Some(threads)),
            handles,
            cluster,
            cluster_id: opened.cluster_id,
            member_id: opened.member_id,
        })
    }

    /// The members and who leads them; changes of them.
    pub fn cluster(&self) -> Arc<dyn ClusterControl> {
        self.cluster.clone()
    }

    pub fn keyspace(&self, keyspace: Keyspace) -> Arc<dyn KvStore> {
        self.handles[keyspace.code()].clone()
    }

    /// 32 hexadecimal digits, made with the folder.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn member_id(&self) -> u64 {
        self.member_id
    }

    /// Why the store no longer writes, if it does not. Reads go on; the way out is to open the
    /// folder again.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Why its folder must not be used any more, if so: it is an old copy, has lost what it had
    /// acknowledged, or holds another state than the majority. Nothing is served from it; the way
    /// out is a new member.
    pub fn unfit(&self) -> Option<String> {
        self.shared.unfit()
    }

    /// Bytes written to the log since the store was opened.
    pub fn log_bytes_written(&self) -> u64 {
        self.shared.log_bytes_written.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends the watches, writes the state file and frees the folder. Calls under way end with an
    /// error if they were not done.
    pub async fn shutdown(&self) {
        self.queue.stop();
        let Some(threads) = lock(&self.threads).take() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || threads.join()).await {
            tracing::error!(%error, "the store's threads could not be waited for");
        }
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("EmbeddedStore")
            .field("cluster_id", &self.cluster_id)
            .field("member_id", &self.member_id)
            .finish_non_exhaustive()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue.stop();
        if let Some(threads) = lock(&self.threads).take() {
            threads.join();
        }
    }
}

fn lock_folder(dir: &Path) -> Result<FolderLock, OpenError> {
    let name = dir.display().to_string();
    folder::lock(dir).map_err(|error| match error {
        LockError::Held { pid } => OpenError::Locked {
            dir: name,
            holder: pid.map_or("another process".to_owned(), |pid| format!("the process {pid}")),
        },
        LockError::Io(source) => refused(&name, source.into()),
    })
}

/// The store holds secrets, so its folder is nobody else's; its name must survive a power cut.
pub(crate) fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let existing = dir.ancestors().skip(1).find(|ancestor| ancestor.is_dir());
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Each folder that was made has its name in the one above.
    for parent in dir.ancestors().skip(1) {
        let path = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(path)?.sync_all()?;
        if existing == Some(parent) {
            break;
        }
    }
    Ok(())
}

/// A folder's core without any threads, as nobody but tests wants it.
pub(crate) fn open_as_is(
    disk: Arc<RealDisk>,
    clock: Arc<MonotonicClock>,
    config: StoreConfig,
) -> Result<(Core, FolderLock), OpenError> {
    let dir = config.dir.display().to_string();
    let folder_lock = lock_folder(&config.dir)?;
    let opened = Core::open(disk, clock, config, &mut rand::rng(), None);
    Ok((opened.map_err(|error| open_error(&dir, error))?.core, folder_lock))
}

fn open_error(dir: &str, error: CoreOpenError) -> OpenError {
    if let Some(newer) = error.newer() {
        return OpenError::Newer { newer };
    }
    damage::damage(&error).unwrap_or_else(|| refused(dir, Box::new(error)))
}

pub(crate) fn refused(dir: &str, source: Box<dyn Error + Send + Sync>) -> OpenError {
    let dir = dir.to_owned();
    if is_no_space(&*source) {
        return OpenError::NoSpace { dir, source };
    }
    OpenError::Folder { dir, source }
}

/// Whether a full disk is among the causes.
fn is_no_space(error: &(dyn Error + 'static)) -> bool {
    let redb = error
        .downcast_ref::<redb::Error>()
        .or_else(|| error.downcast_ref::<Box<redb::Error>>().map(|boxed| &**boxed));
    let io_error = match redb {
        Some(redb::Error::Io(io_error)) => Some(io_error),
        _ => error.downcast_ref::<io::Error>(),
    };
    let here = io_error.is_some_and(is_full);
    here || error.source().is_some_and(is_no_space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendError;

    #[test]
    fn a_full_disk_is_recognised_behind_redb_too() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let behind_redb = BackendError::Redb {
            file: "state.redb".to_owned(),
            action: "committing failed",
            source: Box::new(redb::Error::Io(full())),
        };
        assert!(is_no_space(&CoreOpenError::Backend(behind_redb)));
        let other = io::Error::other("a broken disk");
        let file = "state.redb".to_owned();
        let broken = BackendError::Io { file, action: "reading failed", source: other };
        assert!(!is_no_space(&CoreOpenError::Backend(broken)));
    }
}
