//! The etcd v3 API over a [`KvStore`].
//!
//! It takes connections and a TLS configuration and reads no files. What is answered, codes and
//! texts included, is what etcd answers; [`ETCD_VERSION`] is the one it says it is.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::cluster::{ClusterControl, Membership};
use atoll_store::kv::{Consistency, KeyRange, KvStore, RangeRequest, Revision};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::proto::etcdserverpb::ResponseHeader;

mod auth;
mod authority;
mod calls;
mod cluster;
mod connection;
mod convert;
mod counters;
mod deadline;
mod election;
mod error;
mod fuzz;
mod gateway;
mod grpc_health;
mod hash;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod metrics;
mod order;
mod plain;
mod records;
mod router;
mod snapshot;
mod tls;
mod waiting;
mod watch_stream;

#[doc(hidden)]
pub use authority::fuzz::{connection as fuzz_connection, connections as fuzz_connections};
#[doc(hidden)]
pub use fuzz::{request as fuzz_request, requests as fuzz_requests};
#[doc(hidden)]
pub use gateway::fuzz::{bodies as fuzz_gateway_bodies, body as fuzz_gateway_body};
pub(crate) use hash::{stored_key, stored_value};
pub use tls::{CurrentTls, TlsError, tls_config};

/// What `Maintenance.Status` reports: clients look for features by it.
pub const ETCD_VERSION: &str = "3.6.8";

/// What a server is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub cluster_id: u64,
    pub member_id: u64,
    /// Where clients reach this API, as URLs: the other members are told. Empty when the members'
    /// own URLs are to be shown.
    pub client_urls: Vec<String>,
    /// This process as the system sees it, for its metrics.
    pub process: fn() -> Process,
    /// A request that writes, as it would stand in etcd's log.
    pub request_bytes_max: usize,
    /// Compares, and operations of each branch, of one transaction.
    pub txn_operations_max: usize,
    /// A watch that asked for it hears this often how far it has come.
    pub progress_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_id: 0,
            member_id: 0,
            client_urls: Vec::new(),
            process: Process::default,
            request_bytes_max: 1_572_864,
            txn_operations_max: 128,
            progress_every: Duration::from_secs(600),
        }
    }
}

/// A process as its system sees it; what cannot be told is left out.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    /// In user mode and in the kernel.
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub open_files_max: Option<u64>,
    /// When it began, in seconds since 1970.
    pub start_seconds: Option<f64>,
}

/// gRPC messages may be this much larger than requests.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;

/// Streams that ask for a leader end after this long without one: an election may come between.
const LEADERLESS_MAX: Duration = Duration::from_secs(3);

/// The API, ready to serve connections. Clones are the same server.
#[derive(Clone)]
pub struct EtcdServer {
    core: Shared,
    router: router::Router,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl EtcdServer {
    /// Over the keyspace `store`; what is to be remembered besides its keys goes to `cluster`.
    pub fn new(
        store: Arc<dyn KvStore>,
        cluster: Arc<dyn KvStore>,
        control: Arc<dyn ClusterControl>,
        config: Config,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let core = Shared(Arc::new(Core {
            store,
            cluster,
            membership: control.watch_membership(),
            control,
            config,
            records: records::unknown(),
            counters: Arc::default(),
            places: waiting::Places::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        }));
        let router = router::Router::new(&core);
        Self { core, router, stop, tasks }
    }

    /// What goes on beside the calls, until the server stops.
    async fn keep_up(core: Shared) {
        tokio::select! {
            () = core.stop.cancelled() => {}
            ((), ()) = async { tokio::join!(core.keep_records(), core.count_leaders()) } => {}
        }
    }
}

/// The services are written on this, so that streams can outlive the call that began them.
#[derive(Clone)]
struct Shared(Arc<Core>);

impl Deref for Shared {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.0
    }
}

/// What all services share.
struct Core {
    store: Arc<dyn KvStore>,
    /// The keyspace of the records.
    cluster: Arc<dyn KvStore>,
    control: Arc<dyn ClusterControl>,
    membership: watch::Receiver<Membership>,
    config: Config,
    records: watch::Sender<records::Records>,
    counters: Arc<counters::Counters>,
    places: waiting::Places,
    /// Connections, and what goes on beside them.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Core {
    /// 0 leaves the revision out, as etcd does in some answers.
    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision,
            raft_term: self.membership.borrow().term,
        })
    }

    /// The keyspace's revision as this member knows it.
    async fn revision(&self) -> Result<Revision, Status> {
        self.read_nothing(Consistency::Serializable).await
    }

    /// A read for its own sake; returns the revision that it saw.
    async fn read_nothing(&self, consistency: Consistency) -> Result<Revision, Status> {
        let mut nothing = RangeRequest::new(KeyRange::single(&b"\0"[..]));
        nothing.count_only = true;
        nothing.consistency = consistency;
        let read = self.store.range(nothing).await;
        Ok(read.map_err(|error| error::status(&error))?.revision)
    }

    /// For answers of calls that do not say at which revision they were done.
    async fn current_header(&self) -> Result<Option<ResponseHeader>, Status> {
        Ok(self.header(self.revision().await?))
    }

    fn has_leader(&self) -> bool {
        self.membership.borrow().leader.is_some()
    }

    async fn count_leaders(&self) {
        let (mut membership, mut known) = (self.membership.clone(), None);
        loop {
            let now = membership.borrow_and_update().leader;
            if now.is_some() && now != known {
                self.counters.leader_changes.add(1);
            }
            known = now;
            if membership.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Comes when a stream has to end: it asked for a leader and has been without one for too
    /// long, or its client waits no longer.
    fn stream_ends(&self, metadata: &MetadataMap) -> BoxFuture<'static, Status> {
        let timeout = deadline::of(metadata.as_ref()).ok().flatten();
        let leader_lost = self.leader_lost(metadata);
        async move {
            let Some(timeout) = timeout else {
                leader_lost.await;
                return error::NO_LEADER.into();
            };
            match tokio::time::timeout(timeout, leader_lost).await {
                Ok(()) => error::NO_LEADER.into(),
                Err(_elapsed) => deadline::exceeded(),
            }
        }
        .boxed()
    }

    fn leader_lost(&self, metadata: &MetadataMap) -> BoxFuture<'static, ()> {
        if !router::requires_leader(metadata.as_ref()) {
            return std::future::pending().boxed();
        }
        let mut membership = self.membership.clone();
        async move {
            loop {
                if membership.wait_for(|now| now.leader.is_none()).await.is_err() {
                    return std::future::pending().await;
                }
                let found = membership.wait_for(|now| now.leader.is_some());
                if tokio::time::timeout(LEADERLESS_MAX, found).await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }

    fn is_learner(&self) -> bool {
        let membership = self.membership.borrow();
        membership.member(self.config.member_id).is_some_and(|member| member.is_learner)
    }
}
