//! Serves the etcd API of a store, for trials: `serve FOLDER ADDRESS…`.
//!
//! With several addresses it is a cluster of as many members, each with a folder, a runtime and
//! connections to the others of its own, as if each were a process.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_etcd::server::{Config, EtcdServer};
use atoll_identity::{
    Authority, AuthorityKind, Leaf, MemberIdentity, certificates_from_pem, private_key_from_pem,
};
use atoll_store::cluster::{Inbox, Member, MemberStart, Start};
use atoll_store::consensus::Net;
use atoll_store::transport::{PeerMaterial, PeerTls, PeerTransport, TransportConfig};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: serve FOLDER ADDRESS…")?;
    let addresses: Vec<String> = arguments.collect();
    let authority = Arc::new(Authority::create(AuthorityKind::Peer, "trial", Timestamp::now())?);
    let mut members: Vec<(Runtime, Arc<EmbeddedStore>)> = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let folder = Path::new(&folder).join(number.to_string());
        let first = members.first().map(|(_, store)| store.clone());
        let store = runtime.block_on(open(&folder, first, authority.clone()))?;
        let store = Arc::new(store);
        runtime.spawn(serve(address.clone(), store.clone()));
        members.push((runtime, store));
    }
    let (runtime, _) = members.first().ok_or("usage: serve FOLDER ADDRESS…")?;
    runtime.block_on(std::future::pending())
}

async fn serve(address: String, store: Arc<EmbeddedStore>) -> Outcome<()> {
    let config = Config {
        cluster_id: 0x1234_5678_9abc_def0,
        member_id: store.member_id(),
        client_urls: vec![format!("http://{address}")],
        ..Config::default()
    };
    let (keys, records) =
        (store.keyspace(Keyspace::Applications), store.keyspace(Keyspace::Cluster));
    let server = EtcdServer::new(keys, records, store.cluster(), config);
    let listener = TcpListener::bind(&address).await?;
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let (stream, remote) = listener.accept().await.ok()?;
        Some(((stream, Some(remote)), listener))
    });
    server.serve(Box::pin(accepted), None, CancellationToken::new()).await;
    Ok(())
}

/// A member of a cluster of which the first is there already, or that first one. The authority
/// lives as long as this process, so a cluster of several is not started a second time.
async fn open(
    folder: &Path,
    first: Option<Arc<EmbeddedStore>>,
    authority: Arc<Authority>,
) -> Outcome<EmbeddedStore> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let peer_address = listener.local_addr()?.to_string();
    let name = folder.display().to_string();
    let mut start = Start::New;
    if let Some(first) = &first {
        let cluster = first.cluster();
        let member = Member { peer_address: peer_address.clone(), ..Member::default() };
        let member_id = cluster.add_learner(member).await?.id;
        let members = cluster.membership().members;
        start = Start::Join { cluster_id: first.cluster_id().to_owned(), member_id, members };
    }
    let start = MemberStart { name, peer_address, client_urls: Vec::new(), start };
    let config = StoreConfig { dir: folder.to_owned(), ..StoreConfig::default() };
    let make_net = move |inbox: Arc<dyn Inbox>| net(&authority, listener, inbox);
    let store = EmbeddedStore::open_member(config, start, make_net).await?;
    while first.is_some() && !has_vote(&store) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(store)
}

fn has_vote(store: &EmbeddedStore) -> bool {
    store.cluster().membership().voters().any(|member| member.id == store.member_id())
}

#[allow(clippy::expect_used, reason = "an example; without a network it cannot go on")]
fn net(authority: &Authority, listener: TcpListener, inbox: Arc<dyn Inbox>) -> Box<dyn Net> {
    let hello = inbox.hello(0);
    let me = MemberIdentity { cluster_id: hello.cluster_id, member_id: hello.from };
    let tls = certificate(authority, me).expect("a certificate");
    let (config, stop) = (TransportConfig::default(), CancellationToken::new());
    PeerTransport::start(listener, tls, config, stop).expect("a transport").net(inbox)
}

fn certificate(authority: &Authority, me: MemberIdentity) -> Outcome<PeerTls> {
    let issued =
        authority.issue(&Leaf::member(me, SignedDuration::from_hours(24)), Timestamp::now())?;
    let material = PeerMaterial {
        authorities: vec![authority.certificate_der().clone()],
        chain: certificates_from_pem("trial", &issued.certificate_pem)?,
        key: private_key_from_pem("trial", &issued.key_pem.ok_or("no key")?)?,
    };
    Ok(PeerTls::new(material, Arc::new(rustls::crypto::aws_lc_rs::default_provider()))?)
}
