//! Servers for the tests: a real transport, and a store that notes what it is told.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use atoll_identity::{
    Authority, AuthorityKind, Leaf, MemberIdentity, certificates_from_pem, private_key_from_pem,
};
use atoll_store::cluster::{Hello, Inbox, Lane, Member, PEER_FORMAT, Refusal, SnapshotSink};
use atoll_store::consensus::{Net, PeerMessage, Position};
use atoll_store::transport::{PeerMaterial, PeerStatus, PeerTls, PeerTransport, TransportConfig};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) const CLUSTER: [u8; 16] = [0xc1; 16];
const DEADLINE: Duration = Duration::from_secs(20);

/// The hellos of all stores are numbered, so that their order is known.
static HELLOS: AtomicU64 = AtomicU64::new(1);

/// What a store was told.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) delivered: Vec<(u64, Bytes)>,
    pub(crate) unreachable: Vec<u64>,
    pub(crate) gone: Vec<u64>,
    pub(crate) refused_by: Vec<(u64, Refusal)>,
    pub(crate) sent: Vec<(u64, bool)>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Hellos that were made before this store had said its own.
    pub(crate) checked_too_late: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) from: u64,
    pub(crate) message: Bytes,
    pub(crate) content: Vec<u8>,
    pub(crate) is_finished: bool,
}

/// How a store behaves.
#[derive(Debug, Default)]
pub(crate) struct Manners {
    pub(crate) refuses: BTreeMap<u64, Refusal>,
    pub(crate) has_no_room: bool,
    pub(crate) sink_fails_at: Option<usize>,
    pub(crate) format: Option<u32>,
    pub(crate) claims_to_be: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Store {
    me: MemberIdentity,
    seen: Arc<Mutex<Seen>>,
    pub(crate) manners: Mutex<Manners>,
    is_held: Mutex<bool>,
    released: Condvar,
}

impl Store {
    fn new(me: MemberIdentity) -> Self {
        Self {
            me,
            seen: Arc::default(),
            manners: Mutex::default(),
            is_held: Mutex::new(false),
            released: Condvar::new(),
        }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// While it is held, a message that arrives stops the transport's thread.
    pub(crate) fn hold(&self, held: bool) {
        *self.is_held.lock().unwrap() = held;
        self.released.notify_all();
    }
}

impl Inbox for Store {
    fn hello(&self, peer: u64) -> Hello {
        let manners = self.manners.lock().unwrap();
        Hello {
            format: manners.format.unwrap_or(PEER_FORMAT),
            level: 1,
            cluster_id: self.me.cluster_id,
            from: manners.claims_to_be.unwrap_or(self.me.member_id),
            to: peer,
            epoch: HELLOS.fetch_add(1, Ordering::SeqCst),
            last: Position { index: 10, term: 1 },
            acknowledged: (0, 0),
            release: String::new(),
        }
    }

    fn check(&self, mine: &Hello, hello: &Hello) -> Result<(), Refusal> {
        if hello.epoch < mine.epoch {
            self.seen.lock().unwrap().checked_too_late += 1;
        }
        let manners = self.manners.lock().unwrap();
        manners.refuses.get(&hello.from).map_or(Ok(()), |refusal| Err(refusal.clone()))
    }

    fn deliver(&self, from: u64, message: Bytes) -> bool {
        let held = self.is_held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
        if self.manners.lock().unwrap().has_no_room {
            return false;
        }
        self.seen.lock().unwrap().delivered.push((from, message));
        true
    }

    fn unreachable(&self, peer: u64) {
        self.seen.lock().unwrap().unreachable.push(peer);
    }

    fn gone(&self, peer: u64) {
        self.seen.lock().unwrap().gone.push(peer);
    }

    fn refused_by(&self, peer: u64, refusal: &Refusal) {
        self.seen.lock().unwrap().refused_by.push((peer, refusal.clone()));
    }

    fn begin_snapshot(&self, from: u64, message: Bytes) -> io::Result<Box<dyn SnapshotSink>> {
        let mut seen = self.seen.lock().unwrap();
        let at = seen.snapshots.len();
        seen.snapshots.push(Snapshot { from, message, content: Vec::new(), is_finished: false });
        let fails_at = self.manners.lock().unwrap().sink_fails_at;
        Ok(Box::new(Sink { seen: self.seen.clone(), at, fails_at }))
    }

    fn snapshot_sent(&self, to: u64, arrived: bool) {
        self.seen.lock().unwrap().sent.push((to, arrived));
    }
}

struct Sink {
    seen: Arc<Mutex<Seen>>,
    at: usize,
    fails_at: Option<usize>,
}

impl SnapshotSink for Sink {
    fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        let content = &mut seen.snapshots[self.at].content;
        content.extend_from_slice(chunk);
        match self.fails_at {
            Some(limit) if content.len() >= limit => Err(io::Error::other("the disk is full")),
            _ => Ok(()),
        }
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.seen.lock().unwrap().snapshots[self.at].is_finished = true;
        Ok(())
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn authority() -> Authority {
    Authority::create(AuthorityKind::Peer, "c1", now()).unwrap()
}

pub(crate) fn material(trusted: &[&Authority], signer: &Authority, member_id: u64) -> PeerMaterial {
    material_of(trusted, signer, MemberIdentity { cluster_id: CLUSTER, member_id }, now())
}

pub(crate) fn material_of(
    trusted: &[&Authority],
    signer: &Authority,
    member: MemberIdentity,
    issued_at: Timestamp,
) -> PeerMaterial {
    let leaf = Leaf::member(member, SignedDuration::from_hours(24));
    let issued = signer.issue(&leaf, issued_at).unwrap();
    PeerMaterial {
        authorities: trusted.iter().map(|one| one.certificate_der().clone()).collect(),
        chain: certificates_from_pem("m", &issued.certificate_pem).unwrap(),
        key: private_key_from_pem("m", &issued.key_pem.unwrap()).unwrap(),
    }
}

pub(crate) fn tls(material: PeerMaterial) -> PeerTls {
    PeerTls::new(material, provider()).unwrap()
}

/// One server.
pub(crate) struct Server {
    pub(crate) id: u64,
    pub(crate) transport: PeerTransport,
    pub(crate) store: Arc<Store>,
    pub(crate) stop: CancellationToken,
    net: Option<Box<dyn Net>>,
}

impl Server {
    pub(crate) async fn start(authority: &Authority, id: u64) -> Self {
        Self::start_with(tls(material(&[authority], authority, id)), TransportConfig::default())
            .await
    }

    pub(crate) async fn start_with(tls: PeerTls, config: TransportConfig) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), tls, config).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        tls: PeerTls,
        config: TransportConfig,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let me = tls.identity();
        let stop = CancellationToken::new();
        let transport = PeerTransport::start(listener, tls, config, stop.clone()).unwrap();
        let store = Arc::new(Store::new(me));
        let net = Some(transport.net(store.clone()));
        Self { id: me.member_id, transport, store, stop, net }
    }

    /// Another store takes the place of the one before.
    pub(crate) fn connect_store(&mut self, store: Store) {
        self.store = Arc::new(store);
        self.net = Some(self.transport.net(self.store.clone()));
    }

    pub(crate) fn another_store(&self) -> Store {
        Store::new(self.store.me)
    }

    pub(crate) fn drop_net(&mut self) {
        self.net = None;
    }

    pub(crate) fn net(&mut self) -> &mut dyn Net {
        &mut **self.net.as_mut().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.transport.local_address()
    }

    pub(crate) fn set_peers(&mut self, peers: &[(u64, SocketAddr)]) {
        let members: Vec<Member> = peers
            .iter()
            .map(|(id, address)| Member {
                id: *id,
                peer_address: address.to_string(),
                ..Member::default()
            })
            .collect();
        self.net().set_peers(&members);
    }

    pub(crate) fn send(&mut self, to: u64, lane: Lane, content: impl Into<Bytes>) {
        self.net().send(PeerMessage { to, lane, content: content.into() });
    }

    pub(crate) fn status(&self, peer: u64) -> PeerStatus {
        self.transport.peers().into_iter().find(|status| status.id == peer).unwrap()
    }

    pub(crate) async fn until_connected(&self, peer: u64) {
        let id = self.id;
        eventually(&format!("{id} connects to {peer}"), || {
            self.status(peer).connected_since.is_some()
        })
        .await;
    }

    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.transport.stopped()).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.store.hold(false);
        self.stop.cancel();
    }
}

/// Two servers, 1 and 2, that know each other and are connected both ways.
pub(crate) async fn pair(config: TransportConfig) -> (Server, Server) {
    let authority = authority();
    let start =
        |id| Server::start_with(tls(material(&[&authority], &authority, id)), config.clone());
    let (mut one, mut two) = (start(1).await, start(2).await);
    introduce(&mut one, &mut two).await;
    (one, two)
}

pub(crate) async fn introduce(one: &mut Server, two: &mut Server) {
    one.set_peers(&[(two.id, two.address())]);
    two.set_peers(&[(one.id, one.address())]);
    one.until_connected(two.id).await;
    two.until_connected(one.id).await;
}

pub(crate) async fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(DEADLINE, what, condition).await;
}

pub(crate) async fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Tells the thread of a content's iterator to go on or to wait.
pub(crate) fn until_set(flag: &AtomicBool) {
    let start = Instant::now();
    while !flag.load(Ordering::Acquire) && start.elapsed() < DEADLINE {
        std::thread::yield_now();
    }
}
