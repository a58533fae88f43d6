//! The connections between the members of a store's cluster: mutual TLS over TCP.
//!
//! Each member dials every other and sends on the connection that it dialled; what it receives
//! comes on those that others dialled. A snapshot has a connection of its own. All of it runs on
//! one thread, apart from whatever else the process does: a busy API must not delay a heartbeat.
//! The transport proves who is at the other end and carries bytes; it knows nothing of Raft.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use atoll_identity::MemberIdentity;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Inbox, Lane, Member, OutgoingSnapshot, Refusal};
use crate::consensus::{Net, PeerMessage};
use peer::Peer;
use session::Session;

mod accept;
mod dial;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod greeting;
mod peer;
mod queue;
mod session;
mod snapshot;
mod stream;
pub mod tls;
mod warnings;

pub use frame::MESSAGE_BYTES_MAX;
pub use tls::{CertificateRefusal, PeerMaterial, PeerTls, Side, TlsError};

#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// How fast a snapshot is sent to one member, so that it does not crowd out the log.
    pub snapshot_bytes_per_second: NonZeroU64,
    /// Bytes of bulk messages that wait for one peer. What is more is dropped, and Raft sends it
    /// again.
    pub queue_bytes_max: usize,
    /// TLS and greetings take at most this long, on both sides.
    pub handshake_max: Duration,
    /// Callers that have not greeted yet. When another comes, the oldest of them is turned away.
    pub handshakes_max: usize,
    /// How often the dialling side asks whether the other is there.
    pub ping_every: Duration,
    /// A connection on which nothing arrives for this long is closed.
    pub silence_max: Duration,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            snapshot_bytes_per_second: const { NonZeroU64::new(64 << 20).unwrap() },
            queue_bytes_max: 64 << 20,
            handshake_max: Duration::from_secs(5),
            handshakes_max: 64,
            ping_every: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
        }
    }
}

/// What is known about the connections with one peer.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    pub id: u64,
    pub address: String,
    /// Since when this server can send to it.
    pub connected_since: Option<Instant>,
    /// Since when it can send to this server.
    pub receiving_since: Option<Instant>,
    /// Of the last ping, with what it waited behind.
    pub round_trip: Option<Duration>,
    pub sent_bytes: u64,
    pub sent_messages: u64,
    pub received_bytes: u64,
    pub received_messages: u64,
    pub waiting_bytes: usize,
    /// Messages that were not sent: no connection, or no room in the queue.
    pub dropped_messages: u64,
    /// Messages that the store had no room for.
    pub refused_messages: u64,
    pub is_sending_snapshot: bool,
    /// Why there is no connection, or why the last one ended; in words.
    pub last_problem: Option<String>,
    /// What the peer last said why it does not talk to this server.
    pub last_refusal: Option<Refusal>,
}

/// Callers of the peer port with whom no connection came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// Since the start.
    pub total: u64,
    /// Who was the last, and why.
    pub last: Option<(SocketAddr, String)>,
}

/// A transport that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("taking over the listener of the peer port")]
    Listener { source: std::io::Error },
    #[error("starting the thread of the peer connections")]
    Thread { source: std::io::Error },
}

/// The connections of one member. Clones are the same transport; it ends with the token that it
/// was started with.
#[derive(Debug, Clone)]
pub struct PeerTransport {
    shared: Arc<Shared>,
}

/// What all parts of a transport know.
#[derive(Debug)]
struct Shared {
    me: MemberIdentity,
    tls: ArcSwap<PeerTls>,
    config: TransportConfig,
    local_address: SocketAddr,
    runtime: Handle,
    stop: CancellationToken,
    /// Cancelled when the thread has ended.
    ended: CancellationToken,
    session: watch::Sender<Option<Arc<Session>>>,
    warnings: warnings::Warnings,
}

impl PeerTransport {
    /// Starts the thread. Callers are answered once there is a store: see [`Self::net`].
    pub fn start(
        listener: TcpListener,
        tls: PeerTls,
        config: TransportConfig,
        stop: CancellationToken,
    ) -> Result<Self, TransportError> {
        let broken = |source| TransportError::Listener { source };
        let listener = listener.into_std().map_err(broken)?;
        let local_address = listener.local_addr().map_err(broken)?;
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| TransportError::Thread { source })?;
        let shared = Arc::new(Shared {
            me: tls.identity(),
            tls: ArcSwap::from_pointee(tls),
            config,
            local_address,
            runtime: runtime.handle().clone(),
            stop,
            ended: CancellationToken::new(),
            session: watch::Sender::new(None),
            warnings: warnings::Warnings::default(),
        });
        let ended = shared.ended.clone().drop_guard();
        let serving = shared.clone();
        std::thread::Builder::new()
            .name("atoll-peers".to_owned())
            .spawn(move || {
                let _ended = ended;
                runtime.block_on(accept::serve(serving, listener));
                runtime.shutdown_timeout(STOP_MAX);
            })
            .map_err(|source| TransportError::Thread { source })?;
        Ok(Self { shared })
    }

    /// Connects a store: what arrives goes to `inbox`, until the returned end is dropped. Of two
    /// stores the later one is connected.
    pub fn net(&self, inbox: Arc<dyn Inbox>) -> Box<dyn Net> {
        let session = Arc::new(Session::new(self.shared.clone(), inbox));
        if let Some(old) = self.shared.session.send_replace(Some(session.clone())) {
            old.stop.cancel();
        }
        Box::new(PeerNet { session, peers: BTreeMap::new() })
    }

    /// New connections use these certificates; those that are open stay.
    pub fn set_tls(&self, tls: PeerTls) -> Result<(), TlsError> {
        if tls.identity() != self.shared.me {
            return Err(TlsError::OtherIdentity {
                theirs: tls.identity().uri(),
                ours: self.shared.me.uri(),
            });
        }
        tracing::info!(not_after = %tls.not_after(), "peer certificate replaced");
        self.shared.tls.store(Arc::new(tls));
        Ok(())
    }

    /// When the certificate in use ends.
    pub fn certificate_ends(&self) -> jiff::Timestamp {
        self.shared.tls.load().not_after()
    }

    /// In the order of their ids; empty while no store is connected.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.session.borrow().as_ref().map_or_else(Vec::new, |session| session.status())
    }

    pub fn local_address(&self) -> SocketAddr {
        self.shared.local_address
    }

    pub fn turned_away(&self) -> TurnedAway {
        let warnings = &self.shared.warnings;
        TurnedAway { total: warnings.total(), last: warnings.last() }
    }

    /// Waits until all connections are closed, after the token was cancelled.
    pub async fn stopped(&self) {
        self.shared.ended.cancelled().await;
    }
}

/// A task that blocks on a disk is not waited for longer than this when all ends.
const STOP_MAX: Duration = Duration::from_secs(2);

/// The store's end of the transport.
#[derive(Debug)]
struct PeerNet {
    session: Arc<Session>,
    peers: BTreeMap<u64, Arc<Peer>>,
}

impl Net for PeerNet {
    fn send(&mut self, message: PeerMessage) {
        let PeerMessage { to, lane, content } = message;
        if let Some(peer) = self.peers.get(&to) {
            peer.queue.push(lane, content);
        } else {
            tracing::debug!(to, urgent = lane == Lane::Urgent, "no such peer; message dropped");
        }
    }

    fn send_snapshot(&mut self, outgoing: OutgoingSnapshot) {
        let peer = self.peers.get(&outgoing.to).cloned();
        self.session.spawn(snapshot::send(self.session.clone(), peer, outgoing));
    }

    fn set_peers(&mut self, peers: &[Member]) {
        let me = self.session.shared.me.member_id;
        let wanted: BTreeMap<u64, &str> = peers
            .iter()
            .filter(|member| member.id != me)
            .map(|member| (member.id, member.peer_address.as_str()))
            .collect();
        self.peers.retain(|id, peer| {
            let stays = wanted.contains_key(id);
            if !stays {
                self.session.forget(peer);
            }
            stays
        });
        for (id, address) in wanted {
            if let Some(peer) = self.peers.get(&id) {
                peer.set_address(address);
            } else {
                let peer = self.session.add(id, address);
                self.session.spawn(peer::run(self.session.clone(), peer.clone()));
                self.peers.insert(id, peer);
            }
        }
    }
}

impl Drop for PeerNet {
    fn drop(&mut self) {
        self.session.stop.cancel();
    }
}
