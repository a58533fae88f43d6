//! This server's end of the connections to the other servers' stores.
//!
//! The peer port is opened when there is somebody to talk to: a server that stays alone opens
//! none. The certificate is issued here, by the authority of the peers, and renewed online.

use crate::keys::Keys;
use anyhow::{Context as _, Result};
use atoll_identity::{
    AuthorityKind, Leaf, MemberIdentity, certificates_from_pem, private_key_from_pem, renew_at,
};
use atoll_store::{
    cluster::{Inbox, Member, OutgoingSnapshot},
    consensus::{Net, PeerMessage},
    transport::{PeerMaterial, PeerStatus, PeerTls, PeerTransport, TransportConfig},
};
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::aws_lc_rs;
use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Renewed at two thirds of it.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// The wall clock is looked at no less often than this, since it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
const OWNER: &str = "the store's peers";
/// A port that another program has is tried again this often…
const OPEN_RETRY: Duration = Duration::from_millis(500);
/// …and told of this often.
const TELL_AGAIN: Duration = Duration::from_secs(60);

pub struct Peers {
    listen: SocketAddr,
    keys: PathBuf,
    runtime: Handle,
    stop: CancellationToken,
    /// Whom the store takes this server for.
    inbox: OnceLock<Arc<dyn Inbox>>,
    transport: Mutex<Option<PeerTransport>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Peers {
    /// `keys` is the folder of the cluster's keys.
    pub fn new(listen: SocketAddr, keys: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            listen,
            keys,
            runtime: Handle::current(),
            stop: CancellationToken::new(),
            inbox: OnceLock::new(),
            transport: Mutex::new(None),
        })
    }

    /// The store's way to its peers.
    pub fn net(self: &Arc<Self>, inbox: Arc<dyn Inbox>) -> Box<dyn Net> {
        self.inbox.get_or_init(|| inbox);
        Box::new(LazyNet { peers: self.clone(), net: None, failed_at: None, told_at: None })
    }

    /// Opens the peer port, if it is not open yet.
    pub fn open(&self) -> Result<PeerTransport> {
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*transport {
            return Ok(open.clone());
        }
        let listen = || {
            format!(
                "listening on {} for the other servers; another program may have the port, choose another with --peer-listen",
                self.listen
            )
        };
        let listener = std::net::TcpListener::bind(self.listen).with_context(listen)?;
        listener.set_nonblocking(true).with_context(listen)?;
        let _runtime = self.runtime.enter();
        let listener = TcpListener::from_std(listener).with_context(listen)?;
        let tls = self.tls(Timestamp::now())?;
        let config = TransportConfig::default();
        let started = PeerTransport::start(listener, tls, config, self.stop.clone())
            .context("starting the connections to the other servers")?;
        info!(listen = %started.local_address(), "other servers can call");
        *transport = Some(started.clone());
        Ok(started)
    }

    /// What is known of the connections; nothing while there are none.
    pub fn status(&self) -> Vec<PeerStatus> {
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.as_ref().map_or_else(Vec::new, PeerTransport::peers)
    }

    /// When the certificate in use ends.
    pub fn certificate_ends(&self) -> Option<Timestamp> {
        let transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.as_ref().map(PeerTransport::certificate_ends)
    }

    /// When it is replaced, or should have been.
    pub fn certificate_renewed_at(&self) -> Option<Timestamp> {
        self.certificate_ends().map(renewed_at)
    }

    fn tls(&self, now: Timestamp) -> Result<PeerTls> {
        let inbox = self.inbox.get().context("the store is not open yet")?;
        let own = inbox.hello(0);
        let identity = MemberIdentity { cluster_id: own.cluster_id, member_id: own.from };
        let cluster: String = own.cluster_id.iter().map(|byte| format!("{byte:02x}")).collect();
        let authority = Keys::open(&self.keys, &cluster)?.authority(AuthorityKind::Peer, now)?;
        let issued = authority
            .issue(&Leaf::member(identity, LIFE), now)
            .context("issuing this server's certificate for its peers")?;
        let material = PeerMaterial {
            authorities: vec![authority.certificate_der().clone()],
            chain: certificates_from_pem(OWNER, &issued.certificate_pem)?,
            key: private_key_from_pem(OWNER, issued.key_pem.as_deref().unwrap_or_default())?,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        PeerTls::new(material, provider).context("setting up TLS between servers")
    }

    /// Replaces the certificate when it is due, until the end.
    pub async fn renew(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            let open = self.transport.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(open) = open else { continue };
            let now = Timestamp::now();
            if renewed_at(open.certificate_ends()) > now {
                continue;
            }
            let renewed = self.tls(now).and_then(|tls| {
                open.set_tls(tls).context("replacing the certificate for the peers")
            });
            if let Err(error) = renewed {
                error!("renewing the certificate for the peers failed, will retry: {error:#}");
            }
        }
    }

    /// Closes what there is.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        let open = self.transport.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            open.stopped().await;
        }
    }
}

fn renewed_at(ends: Timestamp) -> Timestamp {
    renew_at(ends - LIFE, ends, OWNER)
}

/// Connects the store with the transport once there are peers.
#[derive(Debug)]
struct LazyNet {
    peers: Arc<Peers>,
    net: Option<Box<dyn Net>>,
    /// When the last attempt failed, and when that was last told.
    failed_at: Option<Instant>,
    told_at: Option<Instant>,
}

impl LazyNet {
    fn connected(&mut self) -> Option<&mut Box<dyn Net>> {
        if self.net.is_none() {
            if self.failed_at.is_some_and(|at| at.elapsed() < OPEN_RETRY) {
                return None;
            }
            let transport = match self.peers.open() {
                Ok(transport) => transport,
                Err(error) => {
                    self.failed_at = Some(Instant::now());
                    self.tell(&error);
                    return None;
                }
            };
            let inbox = self.peers.inbox.get()?.clone();
            self.net = Some(transport.net(inbox));
        }
        self.net.as_mut()
    }

    fn tell(&mut self, error: &anyhow::Error) {
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
            self.told_at = Some(Instant::now());
            warn!("no connection to the other servers: {error:#}");
        }
    }
}

impl Net for LazyNet {
    fn send(&mut self, message: PeerMessage) {
        if let Some(net) = self.connected() {
            net.send(message);
        }
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        if let Some(net) = self.connected() {
            net.send_snapshot(snapshot);
        }
    }

    fn set_peers(&mut self, peers: &[Member]) {
        if (!peers.is_empty() || self.net.is_some())
            && let Some(net) = self.connected()
        {
            net.set_peers(peers);
        }
    }
}
