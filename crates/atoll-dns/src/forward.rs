//! Asks the upstream resolvers: one after the other, each for a bounded time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// For one try with one resolver. Clients give up after 5 s in all.
const TRY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Each resolver is asked so often before the client hears of failure.
const ROUNDS: usize = 2;

/// The most that a resolver may answer by UDP.
const DATAGRAM_BYTES_MAX: usize = 4_096;

/// What we say that we take: more would be fragmented on some path.
const PAYLOAD_BYTES: u16 = 1_232;

/// No resolver gave an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("there is no upstream resolver; name one in the configuration")]
    None,
    #[error("the upstream resolver {upstream} does not answer")]
    Silent { upstream: SocketAddr },
    #[error("asking the upstream resolver {upstream}")]
    Io { upstream: SocketAddr, source: io::Error },
    #[error("the question cannot be encoded")]
    Encode { source: hickory_proto::ProtoError },
}

/// Whom to ask first: the one that answered last, so that a dead resolver costs one client its
/// time and not everybody.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    first: AtomicUsize,
}

impl Upstream {
    /// The first answer that fits the question, as bytes and decoded. One that says that it
    /// cannot answer counts only when no other does better.
    pub(crate) async fn ask(
        &self,
        upstreams: &[SocketAddr],
        question: &Message,
    ) -> Result<(Vec<u8>, Message), ForwardError> {
        let mut last = Err(ForwardError::None);
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..ROUNDS * upstreams.len() {
            let position = (first + turn) % upstreams.len();
            let upstream = upstreams[position];
            match timeout(TRY_TIMEOUT, ask_one(upstream, question)).await {
                Ok(Ok(answer)) if is_refusal(&answer.1) => last = Ok(answer),
                Ok(Ok(answer)) => {
                    self.first.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) if last.is_err() => last = Err(error),
                Err(_elapsed) if last.is_err() => last = Err(ForwardError::Silent { upstream }),
                _ => {}
            }
            if last.is_ok() && turn + 1 == upstreams.len() {
                break;
            }
        }
        last
    }
}

fn is_refusal(answer: &Message) -> bool {
    matches!(
        answer.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

async fn ask_one(
    upstream: SocketAddr,
    question: &Message,
) -> Result<(Vec<u8>, Message), ForwardError> {
    let fault = |source| ForwardError::Io { upstream, source };
    // A fresh number and, with a fresh socket, a fresh port for every try.
    let mut asked = Message::query();
    asked.metadata.recursion_desired = true;
    asked.metadata.checking_disabled = question.checking_disabled;
    asked.metadata.authentic_data = question.authentic_data;
    asked.queries.clone_from(&question.queries);
    if let Some(theirs) = &question.edns {
        // Options such as cookies are between two neighbours and are not passed on.
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_BYTES);
        edns.set_dnssec_ok(theirs.flags().dnssec_ok);
        asked.set_edns(edns);
    }
    let bytes = asked.to_vec().map_err(|source| ForwardError::Encode { source })?;
    let (answer, message) = by_udp(upstream, &bytes, &asked).await.map_err(fault)?;
    if message.truncation {
        return by_tcp(upstream, &bytes, &asked).await.map_err(fault);
    }
    Ok((answer, message))
}

async fn by_udp(
    upstream: SocketAddr,
    bytes: &[u8],
    asked: &Message,
) -> io::Result<(Vec<u8>, Message)> {
    let any: SocketAddr = if upstream.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    // What does not fit the question may be forged: wait on for the real answer.
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(message) = fitting(&buffer[..length], asked) {
            buffer.truncate(length);
            return Ok((buffer, message));
        }
    }
}

async fn by_tcp(
    upstream: SocketAddr,
    bytes: &[u8],
    asked: &Message,
) -> io::Result<(Vec<u8>, Message)> {
    let mut stream = TcpStream::connect(upstream).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match fitting(&answer, asked) {
        Some(message) => Ok((answer, message)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is for no question")),
    }
}

pub(crate) fn fitting(bytes: &[u8], asked: &Message) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    (message.id == asked.id && message.queries == asked.queries).then_some(message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::opt::EdnsOption;
    use hickory_proto::rr::{Name, RecordType};

    use super::*;

    /// A resolver that gives this code to everything, and counts.
    async fn resolver(code: ResponseCode) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        drop(tokio::task::spawn_local(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let options = question.edns.as_ref().map(|edns| edns.options().as_ref().len());
                assert_eq!(options, Some(0), "an option of the client was passed on");
                let mut answer = Message::response(question.id, question.op_code);
                answer.queries.clone_from(&question.queries);
                answer.metadata.response_code = code;
                socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
            }
        }));
        (address, asked)
    }

    #[tokio::test]
    async fn who_refuses_is_passed_over_and_then_asked_last() {
        let work = async {
            let (bad, asked_bad) = resolver(ResponseCode::ServFail).await;
            let (good, asked_good) = resolver(ResponseCode::NXDomain).await;
            let mut question = Message::query();
            let name = Name::from_ascii("example.test.").unwrap();
            question.add_query(Query::query(name, RecordType::A));
            let mut edns = Edns::new();
            edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
            question.set_edns(edns);
            let upstreams = Upstream::default();
            for _ in 0..3 {
                let (_, answer) = upstreams.ask(&[bad, good], &question).await.unwrap();
                assert_eq!(answer.response_code, ResponseCode::NXDomain);
            }
            let asked = [asked_bad, asked_good].map(|count| count.load(Ordering::Relaxed));
            assert_eq!(asked, [1, 3]);
            let (_, refused) = upstreams.ask(&[bad], &question).await.unwrap();
            assert_eq!(refused.response_code, ResponseCode::ServFail);
        };
        tokio::task::LocalSet::new().run_until(work).await;
    }
}
