//! Members with real folders and real connections, to be started, dropped and moved.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use atoll_identity::{
    Authority, AuthorityKind, Leaf, MemberIdentity, certificates_from_pem, private_key_from_pem,
};
use atoll_store::cluster::{Inbox, Member, MemberStart, Start};
use atoll_store::consensus::Net;
use atoll_store::kv::KvStore;
use atoll_store::transport::{PeerMaterial, PeerTls, PeerTransport, TransportConfig};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster's folder and authority; servers are known by small numbers.
pub(crate) struct Servers {
    folder: TempDir,
    authority: Arc<Authority>,
    pub(crate) config: StoreConfig,
}

/// One that runs.
pub(crate) struct Server {
    pub(crate) number: usize,
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) transport: PeerTransport,
    stop: CancellationToken,
}

impl Servers {
    pub(crate) fn new() -> Self {
        let authority = Authority::create(AuthorityKind::Peer, "c1", Timestamp::now()).unwrap();
        let config =
            StoreConfig { request_timeout: Duration::from_secs(5), ..StoreConfig::default() };
        Self { folder: TempDir::new().unwrap(), authority: Arc::new(authority), config }
    }

    /// As many, all with a vote.
    pub(crate) async fn start(&self, count: usize) -> Vec<Server> {
        let mut servers = vec![self.open(0, any_port(), Start::New).await];
        for number in 1..count {
            let server = self.join(number, &servers[0]).await;
            servers.push(server);
        }
        for server in &servers {
            server.until_voters(count).await;
        }
        servers
    }

    /// Adds a new server through one that is there.
    pub(crate) async fn join(&self, number: usize, through: &Server) -> Server {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let member = Member {
            name: format!("m{number}"),
            peer_address: address.to_string(),
            ..Member::default()
        };
        let added = through.store.cluster().add_learner(member).await.unwrap();
        let start = Start::Join {
            cluster_id: through.store.cluster_id().to_owned(),
            member_id: added.id,
            members: through.store.cluster().membership().members,
        };
        self.open_on(number, listener, start).await
    }

    /// Starts a folder again; with another port its address has changed.
    pub(crate) async fn open(&self, number: usize, address: SocketAddr, start: Start) -> Server {
        let begun = Instant::now();
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{address}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.open_on(number, listener, start).await
    }

    async fn open_on(&self, number: usize, listener: TcpListener, start: Start) -> Server {
        let address = listener.local_addr().unwrap();
        let start = MemberStart {
            name: format!("m{number}"),
            peer_address: address.to_string(),
            client_urls: Vec::new(),
            start,
        };
        let config = StoreConfig { dir: self.dir(number), ..self.config.clone() };
        let (stop, made) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let (authority, ends, transport) = (self.authority.clone(), stop.clone(), made.clone());
        let make_net = move |inbox: Arc<dyn Inbox>| -> Box<dyn Net> {
            let tls = certificate(&authority, &*inbox);
            let config = TransportConfig::default();
            let started = PeerTransport::start(listener, tls, config, ends).unwrap();
            let net = started.net(inbox);
            transport.set(started).unwrap();
            net
        };
        let store = EmbeddedStore::open_member(config, start, make_net).await.unwrap();
        let transport = made.get().unwrap().clone();
        Server { number, address, store: Arc::new(store), transport, stop }
    }

    pub(crate) fn dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("m{number}"))
    }
}

/// Who it is, a member learns from its folder.
fn certificate(authority: &Authority, inbox: &dyn Inbox) -> PeerTls {
    let hello = inbox.hello(0);
    let me = MemberIdentity { cluster_id: hello.cluster_id, member_id: hello.from };
    let leaf = Leaf::member(me, SignedDuration::from_hours(1));
    let issued = authority.issue(&leaf, Timestamp::now()).unwrap();
    let material = PeerMaterial {
        authorities: vec![authority.certificate_der().clone()],
        chain: certificates_from_pem("m", &issued.certificate_pem).unwrap(),
        key: private_key_from_pem("m", &issued.key_pem.unwrap()).unwrap(),
    };
    PeerTls::new(material, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Server {
    pub(crate) fn kv(&self) -> Arc<dyn KvStore> {
        self.store.keyspace(Keyspace::Applications)
    }

    pub(crate) fn id(&self) -> u64 {
        self.store.member_id()
    }

    pub(crate) fn leads(&self) -> bool {
        self.store.cluster().membership().leader == Some(self.id())
    }

    /// Its connections break first, so that the others do not hear that it goes.
    pub(crate) async fn kill(self) {
        self.stop.cancel();
        self.transport.stopped().await;
        self.store.shutdown().await;
    }

    /// In order.
    pub(crate) async fn shut_down(self) {
        self.store.shutdown().await;
        self.stop.cancel();
        self.transport.stopped().await;
    }

    pub(crate) async fn until_voters(&self, count: usize) {
        until(&format!("{} knows {count} voters", self.number), || {
            let known = self.store.cluster().membership();
            (known.voters().count() == count && known.leader.is_some())
                .then_some(())
                .ok_or(format!("{known:?} {:?}", self.transport.peers()))
        })
        .await;
    }
}

/// The one that leads, of those that run.
pub(crate) async fn leader(servers: &[Server]) -> usize {
    let found = std::cell::Cell::new(0);
    until("one leads", || {
        let leading: Vec<_> = (0..servers.len()).filter(|at| servers[*at].leads()).collect();
        found.set(leading.first().copied().unwrap_or(0));
        if leading.len() == 1 { Ok(()) } else { Err(format!("{leading:?}")) }
    })
    .await;
    found.get()
}

/// Waits until it is so; what is in the way is shown when it never is.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while let Err(problem) = is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}; {problem}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
