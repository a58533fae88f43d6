//! A [`KvStore`] over an etcd that somebody else runs.
//!
//! Everything of a cluster stands under `/atoll/<cluster-id>/`, each keyspace under a prefix of
//! its own in there. Revisions are those of the etcd, which others raise too: a keyspace may be
//! empty at any revision. The etcd's history is forgotten by its owner, unless it was given to
//! us whole.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use atoll_store::Keyspace;
use atoll_store::kv::KvStore;

mod address;
mod caller;
mod claim;
mod connection;
mod convert;
mod keyspace;
mod lease;
mod outlet;
mod prefix;
mod progress;
mod verdict;
mod version;
mod watch;

pub use address::ExternalTls;
pub use version::EtcdVersion;

use caller::Caller;
use keyspace::ExternalKeyspace;
use lease::Leases;
use prefix::Prefix;
use progress::Progress;
use verdict::{Failure, Subject};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalConfig {
    /// `https://host:port` of each member, or `http://` for an etcd that speaks in plain.
    pub endpoints: Vec<String>,
    pub tls: Option<ExternalTls>,
    /// Names our keys: 32 hexadecimal digits.
    pub cluster_id: String,
    /// The cluster was there when this was last opened, so it must not begin anew.
    pub is_known: bool,
    /// The etcd is ours alone: old revisions are forgotten as in a store of our own.
    pub compact: bool,
    /// A call that takes longer ends with `Timeout`.
    pub request_timeout: Duration,
    /// How long an endpoint is looked for that answers at all.
    pub retry_for: Duration,
    /// Received events that a watch's user has not taken; a watch with more is ended.
    pub watch_queue_bytes_max: usize,
}

impl ExternalConfig {
    pub fn new(endpoints: Vec<String>, cluster_id: String) -> Self {
        Self {
            endpoints,
            tls: None,
            cluster_id,
            is_known: false,
            compact: false,
            request_timeout: Duration::from_secs(10),
            retry_for: Duration::from_secs(5),
            watch_queue_bytes_max: 64 << 20,
        }
    }
}

/// Why an etcd cannot be the store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no endpoint of the etcd is given")]
    NoEndpoint,
    #[error("{endpoint:?} is no endpoint of an etcd: {reason}; write https://host:2379")]
    Endpoint { endpoint: String, reason: &'static str },
    #[error("{endpoint} speaks TLS, but no CA is given that signs its certificate")]
    NoCa { endpoint: String },
    #[error("the {what} certificate for the etcd cannot be used: {reason}")]
    Certificate { what: &'static str, reason: String },
    #[error("{cluster:?} cannot name a cluster in an etcd: 32 hexadecimal digits are wanted")]
    ClusterId { cluster: String },
    #[error("the etcd at {endpoints} cannot be used: {reason}")]
    Etcd { endpoints: String, reason: String },
    #[error("the etcd at {endpoints} does not answer: {reason}")]
    Away { endpoints: String, reason: String },
    #[error(
        "the etcd at {endpoints} is {found}; 3.5 or later is wanted, and 3.4 the oldest that works"
    )]
    TooOld { endpoints: String, found: String },
    #[error(
        "the keys under {prefix} in the etcd are not of this cluster; nothing was changed: give \
         another etcd, or remove them if nobody needs them"
    )]
    NotOurs { prefix: String },
    #[error(
        "under {prefix} in the etcd stand keys of somebody else: {keys}; nothing was changed: \
         remove them or move them away"
    )]
    ForeignKeys { prefix: String, keys: String },
    #[error(
        "the keys under {prefix} in the etcd have format {found}; this release reads {known}: use a newer one"
    )]
    Newer { prefix: String, found: u32, known: u32 },
    #[error(
        "the etcd at {endpoints} has lost the cluster {cluster}, or is another one; nothing was \
         changed: give the right endpoints or restore it; to begin anew move this server's data \
         folder away"
    )]
    Gone { cluster: String, endpoints: String },
}

impl OpenError {
    /// A call that failed: what is away may come back, what is refused is refused again.
    fn of(failure: Failure, caller: &Caller) -> Self {
        let endpoints = caller.endpoints();
        let is_refused = matches!(failure, Failure::Refused(_));
        let reason = failure.into_error(&Subject::default(), None).to_string();
        if is_refused { Self::Etcd { endpoints, reason } } else { Self::Away { endpoints, reason } }
    }
}

/// An open connection to an etcd. Dropping it ends its watches.
#[derive(Debug)]
pub struct ExternalStore {
    caller: Arc<Caller>,
    version: EtcdVersion,
    cluster_id: String,
    keyspaces: [Arc<ExternalKeyspace>; 2],
}

impl ExternalStore {
    /// Connects, and claims the cluster's keys if nobody has.
    pub async fn open(config: ExternalConfig) -> Result<Self, OpenError> {
        let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id(&config.cluster_id) {
            return Err(OpenError::ClusterId { cluster: config.cluster_id });
        }
        let addresses = address::addresses(&config.endpoints, config.tls.as_ref())?;
        let caller = Arc::new(Caller::new(addresses, config.request_timeout, config.retry_for));
        let opened = Self::open_with(caller.clone(), config).await;
        if opened.is_err() {
            caller.stop.cancel();
        }
        opened
    }

    async fn open_with(caller: Arc<Caller>, config: ExternalConfig) -> Result<Self, OpenError> {
        let version = version(&caller).await?;
        claim::claim(&caller, &config.cluster_id, config.is_known).await?;
        let root = claim::root(&config.cluster_id);
        let keyspaces = Keyspace::ALL.map(|keyspace| {
            let name = match keyspace {
                Keyspace::Cluster => claim::CLUSTER,
                Keyspace::Applications => claim::APPLICATIONS,
            };
            let prefix = Prefix::new(root.add(name.as_bytes()));
            let chosen = Prefix::new(root.add(format!("{}{name}", claim::LEASES).as_bytes()));
            let progress =
                Progress::new(root.add(claim::PROGRESS.as_bytes()), version.reports_progress());
            Arc::new(ExternalKeyspace {
                caller: caller.clone(),
                leases: Leases::new(&prefix, chosen),
                prefix,
                root: root.clone(),
                progress: Arc::new(progress),
                compacts: config.compact && keyspace == Keyspace::Cluster,
                watch_queue_bytes_max: config.watch_queue_bytes_max,
                compacted: AtomicI64::new(0),
            })
        });
        Ok(Self { caller, version, cluster_id: config.cluster_id, keyspaces })
    }

    pub fn keyspace(&self, keyspace: Keyspace) -> Arc<dyn KvStore> {
        match keyspace {
            Keyspace::Cluster => self.keyspaces[0].clone(),
            Keyspace::Applications => self.keyspaces[1].clone(),
        }
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The oldest among the endpoints that answered.
    pub fn version(&self) -> EtcdVersion {
        self.version
    }

    /// What this etcd lacks of what we would like, each in a sentence without its end.
    pub fn lacks(&self) -> Vec<&'static str> {
        self.version.lacks()
    }

    /// Ends the watches and the connections.
    pub async fn shutdown(&self) {
        self.caller.stop.cancel();
        self.caller.tasks.close();
        self.caller.tasks.wait().await;
    }
}

impl Drop for ExternalStore {
    fn drop(&mut self) {
        self.caller.stop.cancel();
    }
}

async fn version(caller: &Caller) -> Result<EtcdVersion, OpenError> {
    let oldest = caller.oldest_version().await;
    let oldest = oldest.map_err(|failure| OpenError::of(failure, caller))?;
    let too_old = |found: String| OpenError::TooOld { endpoints: caller.endpoints(), found };
    let version = oldest.ok_or_else(|| too_old("of a version that cannot be read".to_owned()))?;
    if version < EtcdVersion::OLDEST { Err(too_old(version.to_string())) } else { Ok(version) }
}

#[doc(hidden)]
pub mod fuzz {
    //! For the fuzzer.

    pub fn markers() -> Vec<Vec<u8>> {
        vec![br#"{"cluster":"0123456789abcdef0123456789abcdef","format":1}"#.to_vec()]
    }

    pub fn versions() -> Vec<Vec<u8>> {
        ["3.5.1", "3.6.0-rc.1", "3.4.23+git"].map(|text| text.as_bytes().to_vec()).to_vec()
    }

    /// What stands in the etcd in the marker's place.
    pub fn marker(input: &[u8]) {
        super::claim::fuzz(input);
    }

    /// What an etcd says its version is.
    pub fn version(input: &[u8]) {
        if let Ok(text) = std::str::from_utf8(input)
            && let Some(version) = super::EtcdVersion::parse(text)
        {
            assert_eq!(super::EtcdVersion::parse(&version.to_string()), Some(version));
        }
    }
}
