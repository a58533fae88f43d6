//! Asks the upstream resolvers: one after the other, each for a bounded time.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// For one try with one resolver. Clients give up after 5 s in all.
const TRY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Each resolver is asked so often before the client hears of failure.
const ROUNDS: usize = 2;

/// The most that a resolver may answer by UDP.
const DATAGRAM_BYTES_MAX: usize = 4_096;

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

/// The first answer that fits the question, as bytes and decoded.
pub(crate) async fn ask(
    upstreams: &[SocketAddr],
    question: &Message,
) -> Result<(Vec<u8>, Message), ForwardError> {
    let mut last = ForwardError::None;
    for _ in 0..ROUNDS {
        for upstream in upstreams {
            match timeout(TRY_TIMEOUT, ask_one(*upstream, question)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = ForwardError::Silent { upstream: *upstream },
            }
        }
    }
    Err(last)
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
    asked.edns.clone_from(&question.edns);
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
