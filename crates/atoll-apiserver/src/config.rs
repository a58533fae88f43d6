//! What an API server needs to know to start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::KvStore;
use jiff::Timestamp;

use crate::audit::AuditConfig;
use crate::backup::BackupSource;
use crate::encryption::Encryption;
use crate::encryption::sealed::Sealed;
use crate::servers::ServersConfig;
use crate::trust::Trust;

/// Time of day. Tests own it.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// An IPv4 network: addresses of Services, pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// How long clients may take to say what they want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the TLS handshake, and for the headers of a request; a connection that is silent for
    /// as long between two requests is closed.
    pub headers: Duration,
    /// For the whole body of a request.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { headers: Duration::from_secs(30), body: Duration::from_secs(30) }
    }
}

/// Where and how this server reaches the outside, and what it hands out.
#[derive(Clone)]
pub struct Config {
    /// The cluster's keyspace.
    pub store: Arc<dyn KvStore>,
    /// What is sealed before it reaches the store; `None` seals nothing.
    pub encryption: Option<Arc<Encryption>>,
    /// The store below the sealing; set by the start.
    pub(crate) unsealed: Option<Arc<dyn KvStore>>,
    /// Whether the store is told to forget old revisions: an etcd does not by itself, Atoll's own
    /// does.
    pub compacts: bool,
    pub clock: Arc<dyn Clock>,
    /// Addresses of Services.
    pub service_cidr: Cidr,
    pub node_ports: RangeInclusive<u16>,
    /// Addresses of pods, and the prefix of each node's share of them.
    pub pod_cidr: Cidr,
    pub node_prefix: u8,
    /// Where pods reach this server: the endpoint of the Service `default/kubernetes`.
    pub advertise: SocketAddr,
    /// The keys of this server; `None` in tests, where nothing is issued.
    pub trust: Option<Arc<Trust>>,
    /// This server among others; `None` when it stands by itself, as in tests.
    pub servers: Option<Arc<ServersConfig>>,
    /// How the server speaks to kubelets; `None` makes logs and exec answer an error.
    pub kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    /// Begins a backup; `None` where there is nothing to back up.
    pub backup: Option<BackupSource>,
    /// Seats: requests in flight, watches aside. Those that find none wait, or are answered 429.
    pub requests_in_flight_max: usize,
    pub patience: Patience,
    /// What is kept of who asked for what; `None` for nothing.
    pub audit: Option<AuditConfig>,
    /// How long `readyz` fails before a server that ends takes no more connections.
    pub shutdown_delay: Duration,
}

impl Config {
    /// Atoll's defaults over a store.
    pub fn new(store: Arc<dyn KvStore>) -> Self {
        Self {
            store,
            encryption: None,
            unsealed: None,
            compacts: false,
            clock: Arc::new(SystemClock),
            service_cidr: Cidr { address: Ipv4Addr::new(10, 43, 0, 0), prefix: 16 },
            node_ports: 30_000..=32_767,
            pod_cidr: Cidr { address: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 },
            node_prefix: 24,
            advertise: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6443),
            trust: None,
            servers: None,
            kubelet_tls: None,
            backup: None,
            requests_in_flight_max: 600,
            patience: Patience::default(),
            audit: None,
            shutdown_delay: Duration::ZERO,
        }
    }
}

impl Config {
    /// From here on the store seals and opens.
    pub(crate) fn seal(&mut self) {
        if let Some(encryption) = &self.encryption {
            let raw = self.store.clone();
            self.store = Arc::new(Sealed::new(raw.clone(), encryption.clone()));
            self.unsealed = Some(raw);
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    /// The address this many places after the network's own; `None` past its end.
    pub fn nth(&self, offset: u32) -> Option<Ipv4Addr> {
        if u64::from(offset) >= self.size() {
            return None;
        }
        self.network().checked_add(offset).map(Ipv4Addr::from)
    }

    /// How many addresses there are, the network's own and broadcast included.
    pub fn size(&self) -> u64 {
        1u64 << 32u8.saturating_sub(self.prefix)
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(self.network());
        u64::from(offset) < self.size()
    }

    /// Place of an address after the network's own.
    pub fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| u32::from(address) - self.network())
    }

    fn network(&self) -> u32 {
        let mask = u32::MAX.checked_shl(u32::from(32 - self.prefix.min(32))).unwrap_or(0);
        u32::from(self.address) & mask
    }
}
