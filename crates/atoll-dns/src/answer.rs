//! From a question's bytes to an answer's: checks, zone, upstreams, size.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use crate::cache::{Cache, Question};
use crate::forward::Upstream;
use crate::zone::{Outcome, TTL_SECONDS, Zone, plain};

/// Without EDNS a client takes no more by UDP.
const PLAIN_BYTES_MAX: usize = 512;

/// More would be fragmented on some path, whatever the client says.
const DATAGRAM_BYTES_MAX: u16 = 1_232;

const HEADER_BYTES: usize = 12;

/// Questions at the upstreams at one time; beyond it the answer is SERVFAIL at once.
const FORWARDED_MAX: usize = 256;

/// What is served now. Replaced as a whole when a snapshot comes.
#[derive(Debug)]
pub(crate) struct Served {
    /// `None` until there is a first snapshot.
    pub(crate) zone: Option<Zone>,
    pub(crate) upstreams: Vec<SocketAddr>,
}

/// Answers questions; shared by all listeners.
#[derive(Debug)]
pub(crate) struct Answerer {
    domain: Name,
    served: watch::Receiver<Arc<Served>>,
    cache: std::sync::Mutex<Cache>,
    forwarded: Semaphore,
    upstreams: Upstream,
    turn: AtomicUsize,
}

/// How the question came, and so how large the answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// What can be said of a question without waiting.
pub(crate) enum First {
    /// No question at all: nothing is answered.
    Nothing,
    Answer(Vec<u8>),
    /// Somebody else has to be asked.
    Wait(Box<Message>),
}

impl Answerer {
    pub(crate) fn new(domain: Name, served: watch::Receiver<Arc<Served>>) -> Self {
        Self {
            domain,
            served,
            cache: std::sync::Mutex::default(),
            forwarded: Semaphore::new(FORWARDED_MAX),
            upstreams: Upstream::default(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Answers from the zone, or says that the upstreams must be asked.
    pub(crate) fn first(&self, bytes: &[u8], transport: Transport) -> First {
        let question = match Message::from_vec(bytes) {
            Ok(message) if message.message_type == MessageType::Query => message,
            Ok(_response) => return First::Nothing,
            Err(_malformed) => return malformed(bytes),
        };
        let mut reply = reply_to(&question);
        let query = match checked(&question) {
            Ok(query) => query,
            Err(code) => {
                reply.metadata.response_code = code;
                if question.queries.len() > 1 {
                    // Hundreds of questions sent back would not fit a datagram.
                    reply.queries.clear();
                }
                return encoded(&question, reply, transport);
            }
        };
        let served = Arc::clone(&self.served.borrow());
        let Some(zone) = &served.zone else {
            if !self.domain.zone_of(query.name()) {
                return First::Wait(Box::new(question));
            }
            // Nothing is known yet, so nothing may be denied either.
            reply.metadata.response_code = ResponseCode::ServFail;
            return encoded(&question, reply, transport);
        };
        match zone.look_up(query.name(), query.query_type()) {
            Outcome::Foreign | Outcome::Alias(_) => return First::Wait(Box::new(question)),
            outcome => self.fill(&mut reply, zone, outcome),
        }
        encoded(&question, reply, transport)
    }

    /// The answer to a question that has to wait for others.
    pub(crate) async fn second(&self, question: &Message, transport: Transport) -> Vec<u8> {
        let mut reply = reply_to(question);
        if let Some(query) = question.queries.first() {
            self.resolve(question, query, &mut reply).await;
        }
        fitted(question, reply, transport)
    }

    async fn resolve(&self, question: &Message, query: &Query, reply: &mut Message) {
        let served = Arc::clone(&self.served.borrow());
        let outcome = served.zone.as_ref().map(|z| z.look_up(query.name(), query.query_type()));
        let Some(Outcome::Alias(target)) = outcome else {
            match self.ask(&served.upstreams, question, query).await {
                Some(answer) => take_over(reply, answer),
                None => reply.metadata.response_code = ResponseCode::ServFail,
            }
            return;
        };
        let alias = RData::CNAME(CNAME(target.clone()));
        reply.metadata.authoritative = true;
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECONDS, alias));
        if query.query_type() == RecordType::CNAME {
            return;
        }
        self.follow(&served, question, query, target, reply).await;
    }

    /// Adds what the alias leads to: stub resolvers do not ask again themselves.
    async fn follow(
        &self,
        served: &Served,
        question: &Message,
        query: &Query,
        target: Name,
        reply: &mut Message,
    ) {
        let next = Query::query(target, query.query_type());
        match served.zone.as_ref().map(|zone| zone.look_up(next.name(), next.query_type())) {
            Some(Outcome::Records { answers, .. }) => {
                reply.add_answers(answers);
            }
            Some(Outcome::Foreign) | None => {
                let mut asked = question.clone();
                asked.queries = vec![next.clone()];
                match self.ask(&served.upstreams, &asked, &next).await {
                    Some(answer) => {
                        // The code speaks of the end of the chain (RFC 6604).
                        reply.metadata.response_code = answer.response_code;
                        reply.add_answers(answer.answers);
                        reply.add_authorities(answer.authorities);
                    }
                    None => reply.metadata.response_code = ResponseCode::ServFail,
                }
            }
            Some(outcome @ (Outcome::NoName | Outcome::NoData)) => {
                if outcome == Outcome::NoName {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                reply.authorities.extend(served.zone.as_ref().map(Zone::authority));
            }
            // An alias of an alias: the client sees the first.
            Some(Outcome::Alias(_)) => {}
        }
    }

    async fn ask(&self, to: &[SocketAddr], question: &Message, query: &Query) -> Option<Message> {
        let key = Question {
            name: plain(query.name()),
            kind: query.query_type(),
            dnssec: question.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            unchecked: question.checking_disabled,
        };
        let now = Instant::now();
        if let Ok(cache) = self.cache.lock()
            && let Some(kept) = cache.get(&key, now)
        {
            return Some(kept);
        }
        let Ok(_permit) = self.forwarded.try_acquire() else {
            debug!("too many questions wait for the upstream resolvers");
            return None;
        };
        match self.upstreams.ask(to, question).await {
            Ok((bytes, answer)) => {
                if let Ok(mut cache) = self.cache.lock() {
                    cache.put(key, &bytes, &answer, Instant::now());
                }
                Some(answer)
            }
            Err(error) => {
                debug!(name = %query.name(), %error, "question not answered upstream");
                None
            }
        }
    }

    fn fill(&self, reply: &mut Message, zone: &Zone, outcome: Outcome) {
        reply.metadata.authoritative = true;
        match outcome {
            Outcome::Records { mut answers, additionals } => {
                // Clients take the first: everyone gets a turn.
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % answers.len().max(1);
                answers.rotate_left(turn);
                reply.add_answers(answers);
                reply.add_additionals(additionals);
            }
            Outcome::NoName => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.add_authority(zone.authority());
            }
            _ => {
                reply.add_authority(zone.authority());
            }
        }
    }
}

fn checked(question: &Message) -> Result<&Query, ResponseCode> {
    if question.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if question.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Err(ResponseCode::BADVERS);
    }
    match question.queries.as_slice() {
        // Nobody may have the whole zone, and it is no question to send on.
        [query] if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) => {
            Err(ResponseCode::Refused)
        }
        [query] if query.query_class() == DNSClass::IN => Ok(query),
        [_] => Err(ResponseCode::Refused),
        _ => Err(ResponseCode::FormErr),
    }
}

fn reply_to(question: &Message) -> Message {
    let mut reply = Message::response(question.id, question.op_code);
    reply.metadata.recursion_desired = question.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = question.checking_disabled;
    reply.queries.clone_from(&question.queries);
    if let Some(asked) = &question.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(DATAGRAM_BYTES_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

fn take_over(reply: &mut Message, answer: Message) {
    reply.metadata.response_code = answer.response_code;
    reply.metadata.authentic_data = answer.authentic_data;
    reply.answers = answer.answers;
    reply.authorities = answer.authorities;
    reply.additionals = answer.additionals;
}

/// Enough of a header to say so; otherwise silence.
fn malformed(bytes: &[u8]) -> First {
    const RESPONSE: u8 = 0x80;
    match bytes {
        [high, low, flags, ..] if bytes.len() >= HEADER_BYTES && flags & RESPONSE == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            reply.to_vec().map_or(First::Nothing, First::Answer)
        }
        _ => First::Nothing,
    }
}

fn encoded(question: &Message, reply: Message, transport: Transport) -> First {
    First::Answer(fitted(question, reply, transport))
}

/// The answer's bytes; what does not fit into a datagram is left out and said to be.
fn fitted(question: &Message, mut reply: Message, transport: Transport) -> Vec<u8> {
    let room = match (transport, &question.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_BYTES_MAX,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.max_payload().min(DATAGRAM_BYTES_MAX)).max(PLAIN_BYTES_MAX)
        }
    };
    loop {
        match reply.to_vec() {
            Ok(bytes) if bytes.len() <= room => return bytes,
            _ if !reply.additionals.is_empty() => reply.additionals.clear(),
            _ if !reply.answers.is_empty() => {
                reply.metadata.truncation = true;
                reply.answers.truncate(reply.answers.len() * 3 / 4);
            }
            _ if !reply.authorities.is_empty() => {
                reply.metadata.truncation = true;
                reply.authorities.clear();
            }
            Ok(bytes) => return bytes,
            Err(error) => {
                debug!(%error, "an answer cannot be encoded");
                reply.queries.clear();
                reply.edns = None;
                reply.metadata.response_code = ResponseCode::ServFail;
                return reply.to_vec().unwrap_or_default();
            }
        }
    }
}
