//! The calling side of a connection: address, TCP, TLS, greeting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::frame::FrameReader;
use super::greeting::{self, Greeting, GreetingError, Purpose};
use super::session::Session;
use super::tls::{CertificateRefusal, PeerTls, cluster_hex, explain};
use crate::cluster::{Hello, PEER_FORMAT, PEER_FORMAT_MIN, Refusal};

/// Ciphertext is read in pieces of this size; rustls alone would read 4 KiB at a time.
const READ_BYTES: usize = 64 << 10;
/// Ciphertext that rustls holds: what is written at once becomes one system call.
const TLS_BUFFER_BYTES: usize = 256 << 10;
/// Bytes that the kernel holds and has not sent yet: what an urgent message waits for on a slow
/// line.
const UNSENT_BYTES: u32 = 64 << 10;
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);

pub(super) type Tls = TlsStream<BufReader<TcpStream>>;

/// A connection on which both sides have greeted.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: FrameReader<ReadHalf<Tls>>,
    pub(super) writer: WriteHalf<Tls>,
}

/// Why a peer was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{address:?} is no address: it must read HOST:PORT")]
    Address { address: String },
    #[error("the name {host:?} leads to no address: {reason}")]
    Resolve { host: String, reason: String },
    #[error("{address} cannot be reached: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} did not answer in {seconds} s")]
    Late { address: String, seconds: u64 },
    #[error("{address}: {reason}")]
    Tls { address: SocketAddr, reason: String },
    #[error("the server at {address} is not the one that was called: {source}")]
    Certificate { address: SocketAddr, source: CertificateRefusal },
    #[error("the server at {address}: {source}")]
    Greeting { address: SocketAddr, source: GreetingError },
    #[error("the server at {address} refuses this server: {refusal}")]
    RefusedBy { address: SocketAddr, refusal: Refusal },
    #[error("this server refuses the one at {address}: {refusal}")]
    Refused { address: SocketAddr, refusal: Refusal },
}

pub(super) async fn connect(
    session: &Session,
    to: u64,
    address: &str,
    purpose: Purpose,
) -> Result<Connection, DialError> {
    let limit = session.shared.config.handshake_max;
    let dialled = tokio::time::timeout(limit, connect_in_time(session, to, address, purpose)).await;
    dialled.unwrap_or_else(|_elapsed| {
        Err(DialError::Late { address: address.to_owned(), seconds: limit.as_secs() })
    })
}

async fn connect_in_time(
    session: &Session,
    to: u64,
    address: &str,
    purpose: Purpose,
) -> Result<Connection, DialError> {
    let tcp = tcp(address).await?;
    let unreachable = |source| DialError::Connect { address: unspecified(), source };
    let address = tcp.peer_addr().map_err(unreachable)?;
    prepare(&tcp);
    let tls = session.shared.tls.load_full();
    // Not sent, not checked: the member's id is what counts.
    let name = ServerName::from(address.ip());
    let connector = TlsConnector::from(tls.client.clone());
    let stream = connector
        .connect(name, buffered(tcp))
        .await
        .map_err(|error| DialError::Tls { address, reason: explain(&error) })?;
    greet(session, to, purpose, address, &tls, Tls::from(stream)).await
}

async fn greet(
    session: &Session,
    to: u64,
    purpose: Purpose,
    address: SocketAddr,
    tls: &Arc<PeerTls>,
    mut stream: Tls,
) -> Result<Connection, DialError> {
    let failed = |source| DialError::Greeting { address, source };
    let found = tls.member_of(leaf_of(&stream));
    let called = found.and_then(|found| CertificateRefusal::unless(to, found));
    if let Err(source) = called {
        let refusal = Greeting::Refusal(Refusal::Other(source.to_string()));
        greeting::write(&mut stream, &refusal).await.map_err(failed)?;
        return Err(DialError::Certificate { address, source });
    }
    let hear = |said| match said {
        Greeting::Refusal(refusal) => Err(DialError::RefusedBy { address, refusal }),
        Greeting::Hello { hello, .. } => Ok(hello),
    };
    // The called side speaks first; see the greeting's header.
    hear(greeting::read(&mut stream).await.map_err(failed)?)?;
    let mine = session.inbox.hello(to);
    let said = Greeting::Hello { purpose, hello: mine.clone() };
    greeting::write(&mut stream, &said).await.map_err(failed)?;
    let theirs = hear(greeting::read(&mut stream).await.map_err(failed)?)?;
    match check(session, to, &mine, &theirs) {
        Ok(()) => Ok(Connection::new(stream)),
        Err(refusal) => {
            let mut connection = Connection::new(stream);
            super::stream::refuse(&mut connection, &refusal).await;
            Err(DialError::Refused { address, refusal })
        }
    }
}

/// Whether this server, which said `mine` before, talks to the one that said this and whose
/// certificate is of `certified`.
pub(super) fn check(
    session: &Session,
    certified: u64,
    mine: &Hello,
    hello: &Hello,
) -> Result<(), Refusal> {
    let me = session.shared.me;
    if hello.format.min(PEER_FORMAT) < PEER_FORMAT_MIN {
        return Err(Refusal::Format { theirs: hello.format, ours: PEER_FORMAT });
    }
    if hello.cluster_id != me.cluster_id {
        return Err(Refusal::OtherCluster {
            theirs: cluster_hex(&hello.cluster_id),
            ours: cluster_hex(&me.cluster_id),
        });
    }
    if hello.from != certified {
        return Err(Refusal::OtherMember { claimed: hello.from });
    }
    if hello.to != me.member_id {
        return Err(Refusal::NotAddressed { id: me.member_id });
    }
    session.inbox.check(mine, hello)
}

impl Connection {
    pub(super) fn new(mut stream: Tls) -> Self {
        match &mut stream {
            Tls::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
            Tls::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES)),
        }
        let (reader, writer) = tokio::io::split(stream);
        Self { reader: FrameReader::new(reader), writer }
    }
}

/// The certificate that the other side has shown and TLS has verified.
pub(super) fn leaf_of(stream: &Tls) -> &[u8] {
    let shown = stream.get_ref().1.peer_certificates();
    shown.and_then(|chain| chain.first()).map_or(&[], |leaf| leaf)
}

pub(super) fn buffered(tcp: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BYTES, tcp)
}

pub(super) fn prepare(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    let keepalive =
        socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_AFTER);
    let set = tcp
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_BYTES));
    if let Err(error) = set {
        tracing::debug!(%error, "socket options of a peer connection");
    }
}

async fn tcp(address: &str) -> Result<TcpStream, DialError> {
    let mut told: Option<(SocketAddr, io::Error)> = None;
    for address in resolve(address).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            // That a connection is refused tells something only if it is so at all addresses.
            Err(source) if told.is_some() && is_refused(&source) => {}
            Err(source) => told = Some((address, source)),
        }
    }
    let told = told.map(|(address, source)| DialError::Connect { address, source });
    Err(told.unwrap_or_else(|| DialError::Resolve {
        host: address.to_owned(),
        reason: "it has none".to_owned(),
    }))
}

pub(super) fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

fn unspecified() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

/// By the hosts file and DNS, anew each time: a name may lead elsewhere tomorrow.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let bad = || DialError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_not_a_number| bad())?;
    let addresses: Vec<IpAddr> = match host {
        "" => return Err(bad()),
        "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        host => {
            let failed = |reason: String| DialError::Resolve { host: host.to_owned(), reason };
            let resolver = hickory_resolver::TokioResolver::builder_tokio()
                .and_then(hickory_resolver::ResolverBuilder::build)
                .map_err(|error| failed(error.to_string()))?;
            let found =
                resolver.lookup_ip(host).await.map_err(|error| failed(error.to_string()))?;
            found.iter().collect()
        }
    };
    Ok(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}
