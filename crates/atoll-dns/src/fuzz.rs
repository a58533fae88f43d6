//! Entry points for the fuzzer: questions of anybody, answers of upstreams, the snapshot.

use std::sync::Arc;
use std::time::Instant;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::watch;

use crate::answer::{Answerer, First, Served, Transport};
use crate::cache::{Cache, Question};
use crate::snapshot::Snapshot;
use crate::zone::{Zone, plain};

/// Answers questions from a zone, without sockets.
pub struct Server {
    answerer: Answerer,
    _replace: watch::Sender<Arc<Served>>,
}

impl Server {
    /// `None` when the snapshot or the domain is no such thing.
    pub fn new(snapshot: &[u8]) -> Option<Self> {
        let domain = Name::from_ascii("cluster.local.").ok()?;
        let zone = Zone::new(&domain, Snapshot::decode("fuzz", snapshot).ok()?);
        let served = Arc::new(Served { zone: Some(zone), upstreams: Vec::new() });
        let (replace, served) = watch::channel(served);
        Some(Self { answerer: Answerer::new(domain, served), _replace: replace })
    }

    /// A datagram and a message by TCP. What is answered can be read and is no longer than
    /// the transport allows.
    pub fn answer(&self, question: &[u8]) {
        for (transport, bytes_max) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
            if let First::Answer(answer) = self.answerer.first(question, transport) {
                assert!(answer.len() <= bytes_max, "an answer of {} bytes", answer.len());
                assert!(Message::from_vec(&answer).is_ok(), "an answer that cannot be read");
            }
        }
    }
}

/// What an upstream resolver says.
pub fn upstream_answer(bytes: &[u8]) {
    let Ok(name) = Name::from_ascii("example.com.") else { return };
    let mut asked = Message::query();
    asked.add_query(Query::query(name, RecordType::A));
    let Ok(message) = Message::from_vec(bytes) else { return };
    let key = message.queries.first().map(|query| Question {
        name: plain(query.name()),
        kind: query.query_type(),
        dnssec: false,
        unchecked: false,
    });
    crate::forward::fitting(bytes, &asked);
    if let Some(key) = key {
        let mut cache = Cache::default();
        cache.put(key.clone(), bytes, &message, Instant::now());
        cache.get(&key, Instant::now());
    }
}

/// The snapshot and `resolv.conf`.
pub fn files(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::decode("fuzz", bytes)
        && let Ok(domain) = Name::from_ascii("cluster.local.")
    {
        let zone = Zone::new(&domain, snapshot);
        for name in ["a.b.svc.cluster.local.", "4.3.2.1.in-addr.arpa."] {
            if let Ok(name) = Name::from_ascii(name) {
                zone.look_up(&name, RecordType::ANY);
            }
        }
    }
    crate::resolv::parse(&String::from_utf8_lossy(bytes));
}
