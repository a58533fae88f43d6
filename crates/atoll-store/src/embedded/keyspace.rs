//! [`KvStore`] for one keyspace of an embedded store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::cluster::ClusterHandle;
use super::queue::{Event, Queue, stopped};
use super::{StoreConfig, history};
use crate::backend::STATE_FILE;
use crate::clock::Clock;
use crate::core::{Ask, Proposal, Reply, Told};
use crate::disk::Disk;
use crate::kv::{
    CompareTarget, Consistency, Error, History, ImportPiece, KeyRange, KvStore, LeaseId, LeaseInfo,
    Op, RangeRequest, RangeResult, Result, Revision, Status, Txn, TxnResult, WatchBatch,
    WatchRequest,
};
use crate::mvcc::{Command, LEASE_BYTES, Response, check_txn, is_read_only, piece_bytes};
use crate::retention::KeyspaceLimits;
use crate::shared::{KeyspaceShared, Shared};
use crate::snapshot;
use crate::sync::{lock, read};
use crate::times::DiskTimes;
use crate::watch::WatchStream;

/// Shorter leases would end between two of a client's keep-alives.
const LEASE_TTL_MIN: i64 = 2;
const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// Members below it do not know what an import is.
const IMPORT_LEVEL: u32 = 2;
/// Of one piece: an entry of the log.
const IMPORT_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct KeyspaceHandle {
    code: usize,
    shared: Arc<Shared>,
    keyspace: Arc<KeyspaceShared>,
    queue: Arc<Queue>,
    cluster: Arc<ClusterHandle>,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    limits: KeyspaceLimits,
    request_bytes_max: u64,
    txn_operations_max: usize,
    request_timeout: Duration,
}

impl KeyspaceHandle {
    pub(super) fn new(
        code: usize,
        shared: Arc<Shared>,
        (queue, cluster): (Arc<Queue>, Arc<ClusterHandle>),
        (disk, clock): (Arc<dyn Disk>, Arc<dyn Clock>),
        config: &StoreConfig,
    ) -> Self {
        Self {
            code,
            keyspace: shared.keyspaces[code].clone(),
            shared,
            queue,
            cluster,
            disk,
            clock,
            limits: *config.limits(code),
            request_bytes_max: config.request_bytes_max,
            txn_operations_max: config.txn_operations_max,
            request_timeout: config.request_timeout,
        }
    }

    /// Waits until everything acknowledged before this call, anywhere, has been applied here.
    async fn wait_readable(&self) -> Result<()> {
        self.shared.check_open()?;
        // A sole member's applied state holds every acknowledged write.
        if self.shared.is_alone.load(Ordering::Acquire) {
            return Ok(());
        }
        let deadline = Instant::now() + self.request_timeout;
        let (sender, answer) = oneshot::channel();
        self.queue.push_read(sender)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Error::Timeout { maybe_applied: false }),
        }
    }

    /// What the leader's clock says of a lease.
    async fn ask_lease(&self, ask: Ask) -> Result<i64> {
        match self.cluster.ask(ask).await? {
            Told::Seconds(seconds) => Ok(seconds),
            _ => Err(Error::Unavailable { detail: "a misplaced answer".to_owned() }),
        }
    }

    fn keyspace_code(&self) -> u8 {
        u8::try_from(self.code).unwrap_or(u8::MAX)
    }

    async fn propose(&self, command: Command, added_bytes: u64, bytes: u64) -> Result<Response> {
        self.shared.check()?;
        let deadline = Instant::now() + self.request_timeout;
        let room = timeout_at(deadline, self.queue.room(bytes)).await;
        let permit = Some(room.unwrap_or(Err(Error::Timeout { maybe_applied: false }))?);
        let (sender, answer) = oneshot::channel();
        let reply = Some(Reply { sender, permit });
        self.queue.push(Proposal { keyspace: self.code, command, added_bytes, reply })?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            // Taken from the queue and never answered: the thread has ended in the middle.
            Ok(Err(_dropped)) => Err(Error::Timeout { maybe_applied: true }),
            Err(_elapsed) => Err(Error::Timeout { maybe_applied: true }),
        }
    }
}

#[async_trait]
impl KvStore for KeyspaceHandle {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult> {
        self.shared.check_open()?;
        if request.range.key.is_empty() {
            return Err(Error::EmptyKey);
        }
        if request.consistency == Consistency::Linearizable {
            self.wait_readable().await?;
        }
        let plan = {
            let state = read(&self.keyspace.state);
            state.check_revision(request.revision)?;
            state.plan(&request, state.revision)
        };
        if !plan.is_long() {
            return plan.finish().map_err(|fault| self.shared.distrust(fault));
        }
        match tokio::task::spawn_blocking(move || plan.finish()).await {
            Ok(found) => found.map_err(|fault| self.shared.distrust(fault)),
            Err(error) => {
                Err(Error::Unavailable { detail: format!("reading the state file: {error}") })
            }
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        check_txn(&txn, self.txn_operations_max)?;
        if is_read_only(&txn) {
            self.shared.check_open()?;
            if !is_serializable(&txn) {
                self.wait_readable().await?;
            }
            return read(&self.keyspace.state).read_only_txn(&txn);
        }
        let added_bytes = put_bytes(&txn);
        let bytes = request_bytes(&txn);
        if bytes > self.request_bytes_max {
            return Err(Error::TooLarge { bytes, limit_bytes: self.request_bytes_max });
        }
        match self.propose(Command::Txn(txn), added_bytes, bytes).await? {
            Response::Txn(result) => Ok(result),
            Response::Done => Err(Error::Unavailable { detail: "a misplaced answer".to_owned() }),
        }
    }

    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchBatch>> {
        WatchStream::new(self.keyspace.clone(), request).boxed()
    }

    async fn request_progress(&self) -> Result<Revision> {
        self.wait_readable().await?;
        Ok(self.keyspace.hub.request_progress(None))
    }

    fn watch_of(
        &self,
        request: WatchRequest,
        group: u64,
    ) -> BoxStream<'static, Result<WatchBatch>> {
        WatchStream::of(self.keyspace.clone(), request, group).boxed()
    }

    async fn request_progress_of(&self, group: u64) -> Result<Revision> {
        self.shared.check_open()?;
        Ok(self.keyspace.hub.request_progress(Some(group)))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.propose(Command::Compact { revision }, 0, 0).await.map(drop)
    }

    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)> {
        if ttl > LEASE_TTL_MAX {
            return Err(Error::LeaseTtlTooLarge { ttl });
        }
        let ttl = ttl.max(LEASE_TTL_MIN);
        let id = if id == 0 { (rand::random::<i64>() & i64::MAX).max(1) } else { id };
        self.propose(Command::LeaseGrant { id, ttl }, LEASE_BYTES, 0).await?;
        Ok((id, ttl))
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64> {
        self.shared.check()?;
        if !self.shared.is_alone.load(Ordering::Acquire) {
            return self.ask_lease(Ask::KeepAlive { keyspace: self.keyspace_code(), id }).await;
        }
        let kept = lock(&self.keyspace.leases).keep_alive(id, self.clock.now());
        let (ttl, take_back) = kept.ok_or(Error::LeaseNotFound { id })?;
        if take_back {
            self.propose(Command::LeaseCheckpoint { id, remaining: 0 }, 0, 0).await?;
            lock(&self.keyspace.leases).taken_back(id);
        }
        Ok(ttl)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.propose(Command::LeaseRevoke { id }, 0, 0).await.map(drop)
    }

    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo> {
        self.wait_readable().await?;
        let missing = Error::LeaseNotFound { id };
        let remaining = if self.shared.is_alone.load(Ordering::Acquire) {
            lock(&self.keyspace.leases).remaining(id, self.clock.now())
        } else {
            let ask = Ask::LeaseLeft { keyspace: self.keyspace_code(), id };
            Some(self.ask_lease(ask).await?)
        };
        let state = read(&self.keyspace.state);
        let lease = state.leases.get(&id).ok_or(missing)?;
        let keys = lease.keys.iter().cloned().collect();
        Ok(LeaseInfo { id, ttl: lease.ttl, remaining: remaining.unwrap_or(-1), keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.wait_readable().await?;
        let mut ids: Vec<_> = read(&self.keyspace.state).leases.keys().copied().collect();
        lock(&self.keyspace.leases).sort_by_end(&mut ids);
        Ok(ids)
    }

    async fn status(&self) -> Result<Status> {
        self.shared.check_open()?;
        let state_bytes = allocated_bytes(&*self.disk, STATE_FILE);
        let disk_bytes = state_bytes + log_bytes(&*self.disk);
        let refused = self.keyspace.refused_bytes.load(Ordering::Relaxed);
        let state = read(&self.keyspace.state);
        let used = state.used_bytes();
        Ok(Status {
            revision: state.revision,
            compacted_revision: state.compacted,
            raft_term: self.shared.raft_term.load(Ordering::Relaxed),
            raft_index: self.shared.raft_index.load(Ordering::Relaxed),
            applied_index: self.shared.applied_index.load(Ordering::Relaxed),
            live_bytes: used,
            quota_bytes: self.limits.quota_bytes,
            no_space: used + refused > self.limits.quota_bytes
                || self.limits.is_full(used, self.request_bytes_max),
            disk_bytes,
            state_bytes,
            is_leader: self.shared.is_leader.load(Ordering::Acquire),
            compacting: state.needs_sweep(),
        })
    }

    fn disk_times(&self) -> Option<DiskTimes> {
        let (log, state) = (self.shared.log_times.seen(), self.shared.state_times.seen());
        Some(DiskTimes { log, state })
    }

    async fn defragment(&self) -> Result<()> {
        self.shared.check()?;
        let (sender, answer) = oneshot::channel();
        self.queue.push_event(Event::Defragment(sender))?;
        answer.await.unwrap_or_else(|_dropped| Err(stopped()))
    }

    async fn snapshot(&self) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.shared.check_open()?;
        Ok(snapshot::export(self.keyspace.clone()))
    }

    async fn history(&self) -> Result<History> {
        self.shared.check_open()?;
        history::open(self.keyspace.clone(), self.request_timeout).await
    }

    async fn import(&self, piece: ImportPiece) -> Result<Revision> {
        let level = self.shared.cluster.formats().level;
        if level < IMPORT_LEVEL {
            let detail = format!(
                "the format level is {level}, and a history is taken from {IMPORT_LEVEL} on; upgrade all servers first"
            );
            return Err(Error::Unavailable { detail });
        }
        let bytes = piece_bytes(&piece);
        if bytes > IMPORT_BYTES_MAX {
            return Err(Error::TooLarge { bytes, limit_bytes: IMPORT_BYTES_MAX });
        }
        let last = piece.records.last().map_or(piece.after, |record| record.kv.mod_revision);
        let revision = piece.end.as_ref().map_or(last, |end| end.revision.max(last));
        self.propose(Command::Import(piece), bytes, bytes).await?;
        Ok(revision)
    }
}

/// Whether a transaction that only reads asks for no more than this member knows. One that only
/// compares has not said so (an etcd takes it as if it had).
fn is_serializable(txn: &Txn) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure).peekable();
    ops.peek().is_some()
        && ops.all(|op| match op {
            Op::Range(request) => request.consistency == Consistency::Serializable,
            Op::Txn(inner) => is_serializable(inner),
            Op::Put(_) | Op::Update(_) | Op::Delete { .. } => false,
        })
}

fn log_bytes(disk: &dyn Disk) -> u64 {
    let names = disk.list("wal").unwrap_or_default();
    names.iter().map(|name| allocated_bytes(disk, &format!("wal/{name}"))).sum()
}

/// Zero when the disk cannot say; the figure is for people.
fn allocated_bytes(disk: &dyn Disk, name: &str) -> u64 {
    disk.open(name, false).and_then(|file| file.allocated_bytes()).unwrap_or(0)
}

/// What a transaction may add to the keyspace; at least one byte if it puts anything.
fn put_bytes(txn: &Txn) -> u64 {
    let branch = |ops: &[Op]| -> u64 {
        ops.iter()
            .map(|op| match op {
                Op::Put(put) => (put.key.len() + put.value.len()).max(1) as u64,
                // What it keeps is counted when it is written.
                Op::Update(update) => {
                    let value_bytes = update.value.as_ref().map_or(0, Bytes::len);
                    (update.key.len() + value_bytes).max(1) as u64
                }
                Op::Txn(inner) => put_bytes(inner),
                Op::Range(_) | Op::Delete { .. } => 0,
            })
            .sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

fn request_bytes(txn: &Txn) -> u64 {
    let ops = txn.success.iter().chain(&txn.failure);
    let in_ops: u64 = ops
        .map(|op| match op {
            Op::Put(put) => (put.key.len() + put.value.len()) as u64,
            Op::Update(update) => {
                (update.key.len() + update.value.as_ref().map_or(0, Bytes::len)) as u64
            }
            Op::Range(request) => range_bytes(&request.range),
            Op::Delete { range, .. } => range_bytes(range),
            Op::Txn(inner) => request_bytes(inner),
        })
        .sum();
    let in_compares: u64 = txn
        .compare
        .iter()
        .map(|compare| {
            let value = match &compare.target {
                CompareTarget::Value(value) => value.len() as u64,
                _ => 0,
            };
            range_bytes(&compare.range) + value
        })
        .sum();
    in_ops + in_compares
}

fn range_bytes(range: &KeyRange) -> u64 {
    (range.key.len() + range.end.as_ref().map_or(0, Bytes::len)) as u64
}
