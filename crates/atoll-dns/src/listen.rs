//! The sockets: UDP and TCP, with bounded work behind each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind,
    listen, setsockopt, socket, sockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::answer::{Answerer, First, Transport};

/// Questions by UDP that wait for upstreams; beyond it they are not answered, and the
/// client asks again.
const WAITING_MAX: usize = 512;

/// Open connections; beyond it new ones wait to be accepted.
const CONNECTIONS_MAX: usize = 128;

/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// No question is longer; EDNS options may make them long.
const QUESTION_BYTES_MAX: usize = 4_096;

const BACKLOG: i32 = 128;

/// The sockets of one address. The address may come up later than the socket: the
/// agent puts it on the node.
pub(crate) fn open(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp: std::net::UdpSocket = bound(address, SockType::Datagram)?.into();
    let stream = bound(address, SockType::Stream)?;
    listen(&stream, Backlog::new(BACKLOG)?)?;
    let tcp: std::net::TcpListener = stream.into();
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

fn bound(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let (family, place): (_, Box<dyn SockaddrLike>) = match address {
        SocketAddr::V4(v4) => (AddressFamily::Inet, Box::new(SockaddrIn::from(v4))),
        SocketAddr::V6(v6) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(v6))),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpFreebind, &true)?;
    if kind == SockType::Stream {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &*place)?;
    Ok(fd)
}

/// Answers datagrams until told to stop.
pub(crate) async fn serve_udp(
    socket: UdpSocket,
    answerer: Arc<Answerer>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(WAITING_MAX));
    let mut buffer = vec![0; QUESTION_BYTES_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = stop.cancelled() => return,
        };
        let (length, client) = match received {
            Ok(received) => received,
            // An ICMP error for an earlier answer; the socket goes on.
            Err(error) => {
                debug!(%error, "receiving a question");
                continue;
            }
        };
        match answerer.first(&buffer[..length], Transport::Udp) {
            First::Nothing => {}
            First::Answer(answer) => send(&socket, &answer, client).await,
            First::Wait(question) => {
                let Ok(permit) = Arc::clone(&waiting).try_acquire_owned() else {
                    continue;
                };
                let (answerer, socket) = (Arc::clone(&answerer), Arc::clone(&socket));
                tasks.spawn(async move {
                    let answer = answerer.second(&question, Transport::Udp).await;
                    send(&socket, &answer, client).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(answer, client).await {
        debug!(%client, %error, "sending an answer");
    }
}

/// Accepts connections until told to stop.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    answerer: Arc<Answerer>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let (answerer, stop) = (Arc::clone(&answerer), stop.clone());
                tasks.spawn(async move {
                    let ended = tokio::select! {
                        ended = converse(stream, &answerer) => ended,
                        () = stop.cancelled() => Ok(()),
                    };
                    if let Err(error) = ended {
                        debug!(%client, %error, "connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors: wait for some to be closed rather than spin.
                debug!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, answerer: &Answerer) -> io::Result<()> {
    loop {
        let Some(question) = next_question(&mut stream).await? else {
            return Ok(());
        };
        let answer = match answerer.first(&question, Transport::Tcp) {
            First::Nothing => return Ok(()),
            First::Answer(answer) => answer,
            First::Wait(question) => answerer.second(&question, Transport::Tcp).await,
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// `None` when the client has no more to ask.
async fn next_question(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match timeout(IDLE, stream.read_u16()).await {
        Ok(Ok(length)) if usize::from(length) <= QUESTION_BYTES_MAX => usize::from(length),
        _ => return Ok(None),
    };
    let mut question = vec![0; length];
    timeout(IDLE, stream.read_exact(&mut question)).await??;
    Ok(Some(question))
}
