//! What a message between two members costs: loopback, mutual TLS, both ends in this process.
//!
//! `cargo run --release -p atoll-store --example peers -- [SECONDS]`. `one by one` sends the next
//! message when the answer to the last has come; `under way` keeps so many unanswered.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use atoll_identity::{
    Authority, AuthorityKind, Leaf, MemberIdentity, certificates_from_pem, private_key_from_pem,
};
use atoll_store::cluster::{Hello, Inbox, Lane, Member, PEER_FORMAT, Refusal, SnapshotSink};
use atoll_store::consensus::{Net, PeerMessage, Position};
use atoll_store::transport::{PeerMaterial, PeerTls, PeerTransport, TransportConfig};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CLUSTER: [u8; 16] = [1; 16];

fn main() -> Outcome<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(2), |text| text.parse())?;
    let duration = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let now = Timestamp::now();
    let authority = Authority::create(AuthorityKind::Peer, "bench", now)?;
    let start = |id| runtime.block_on(Server::start(&authority, id, now));
    let (mut one, mut two) = (start(1)?, start(2)?);
    one.net.set_peers(&[two.as_member()]);
    two.net.set_peers(&[one.as_member()]);
    while !(one.is_connected() && two.is_connected()) {
        std::thread::yield_now();
    }
    // The second server's store is a thread of its own, as in life.
    let answering = std::thread::spawn(move || answer(&mut two));
    for bytes in [100, 1024] {
        for under_way in [1, 16, 256] {
            measure(&mut one, bytes, under_way, duration);
        }
    }
    one.send(Bytes::new());
    answering.join().map_err(|_panic| "the answering thread panicked")?;
    Ok(())
}

/// Answers each message with 50 bytes, until one is empty.
fn answer(server: &mut Server) {
    loop {
        for message in server.store.take() {
            if message.is_empty() {
                return;
            }
            server.send(Bytes::from_static(&[0; 50]));
        }
    }
}

fn measure(server: &mut Server, bytes: usize, under_way: u64, duration: Duration) {
    let message = Bytes::from(vec![7; bytes]);
    let (mut sent, mut answered) = (0_u64, 0_u64);
    let (start, cpu) = (Instant::now(), cpu_micros());
    while start.elapsed() < duration {
        while sent - answered < under_way {
            server.send(message.clone());
            sent += 1;
        }
        answered += server.store.take().len() as u64;
    }
    while answered < sent {
        answered += server.store.take().len() as u64;
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_micros() - cpu);
    println!(
        "{bytes:>5} B, {under_way:>3} under way: {:>9.0} messages and answers a second, {:>6.2} µs each, {:>6.2} µs of processor for both",
        sent as f64 / took,
        took * 1e6 / sent as f64,
        cpu as f64 / sent as f64,
    );
}

/// Of all threads of this process, from the kernel's counters.
fn cpu_micros() -> u64 {
    let nanos = |task: io::Result<std::fs::DirEntry>| -> Option<u64> {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    std::fs::read_dir("/proc/self/task").into_iter().flatten().filter_map(nanos).sum::<u64>() / 1000
}

struct Server {
    me: MemberIdentity,
    transport: PeerTransport,
    store: Arc<Store>,
    net: Box<dyn Net>,
}

impl Server {
    async fn start(authority: &Authority, member_id: u64, now: Timestamp) -> Outcome<Self> {
        let me = MemberIdentity { cluster_id: CLUSTER, member_id };
        let issued = authority.issue(&Leaf::member(me, SignedDuration::from_hours(1)), now)?;
        let material = PeerMaterial {
            authorities: vec![authority.certificate_der().clone()],
            chain: certificates_from_pem("bench", &issued.certificate_pem)?,
            key: private_key_from_pem("bench", &issued.key_pem.ok_or("no key")?)?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = PeerTls::new(material, provider)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (config, stop) = (TransportConfig::default(), CancellationToken::new());
        let transport = PeerTransport::start(listener, tls, config, stop)?;
        let store = Arc::new(Store { me, arrived: Mutex::default(), changed: Condvar::new() });
        let net = transport.net(store.clone());
        Ok(Self { me, transport, store, net })
    }

    fn as_member(&self) -> Member {
        let peer_address = self.transport.local_address().to_string();
        Member { id: self.me.member_id, peer_address, ..Member::default() }
    }

    fn is_connected(&self) -> bool {
        self.transport.peers().iter().any(|peer| peer.connected_since.is_some())
    }

    fn send(&mut self, content: Bytes) {
        self.net.send(PeerMessage { to: 3 - self.me.member_id, lane: Lane::Bulk, content });
    }
}

#[derive(Debug)]
struct Store {
    me: MemberIdentity,
    arrived: Mutex<Vec<Bytes>>,
    changed: Condvar,
}

impl Store {
    fn arrived(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for messages.
    fn take(&self) -> Vec<Bytes> {
        let waited = self.changed.wait_while(self.arrived(), |arrived| arrived.is_empty());
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inbox for Store {
    fn hello(&self, peer: u64) -> Hello {
        Hello {
            format: PEER_FORMAT,
            level: 1,
            cluster_id: CLUSTER,
            from: self.me.member_id,
            to: peer,
            epoch: 1,
            last: Position::default(),
            acknowledged: (0, 0),
            release: String::new(),
        }
    }

    fn check(&self, _mine: &Hello, _theirs: &Hello) -> Result<(), Refusal> {
        Ok(())
    }

    fn deliver(&self, _from: u64, message: Bytes) -> bool {
        self.arrived().push(message);
        self.changed.notify_one();
        true
    }

    fn unreachable(&self, _peer: u64) {}

    fn refused_by(&self, _peer: u64, _refusal: &Refusal) {}

    fn begin_snapshot(&self, _: u64, _: Bytes) -> io::Result<Box<dyn SnapshotSink>> {
        Err(io::Error::other("there are no snapshots here"))
    }

    fn snapshot_sent(&self, _to: u64, _arrived: bool) {}
}
