//! Passes accepted connections from the supervisor of `atoll dev` to a server.
//!
//! The supervisor listens on the host's loopback, the server lives in a namespace of its
//! own; a descriptor crosses where packets would need a relay. Each message is one byte
//! with one descriptor, over a SOCK_SEQPACKET socket.

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::TcpStream,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Servers waiting to be accepted; there is one.
const BACKLOG: i32 = 4;

/// The server's end: it listens, since a supervisor may go and come back.
pub struct Receiver {
    listener: AsyncFd<OwnedFd>,
}

/// The supervisor's end.
pub struct Sender {
    socket: AsyncFd<OwnedFd>,
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[allow(unsafe_code, reason = "the descriptor is owned by what watches it")]
fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the socket, and nothing replaces it while it is registered.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

impl Receiver {
    /// Listens at `path`, replacing what a former server left there.
    pub fn bind(path: &Path) -> Result<Self> {
        let name = path.display();
        if path.exists() {
            std::fs::remove_file(path).with_context(|| format!("removing the old {name}"))?;
        }
        let listener = socket().context("making a socket")?;
        let address = SocketAddrUnix::new(path).with_context(|| format!("the path {name}"))?;
        rustix::net::bind(&listener, &address).with_context(|| format!("listening at {name}"))?;
        rustix::net::listen(&listener, BACKLOG).with_context(|| format!("listening at {name}"))?;
        Ok(Self { listener: watch(listener).context("watching a socket")? })
    }

    /// The next supervisor that connects.
    pub async fn accept(&self) -> io::Result<Incoming> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = self
            .listener
            .async_io(Interest::READABLE, |fd| Ok(rustix::net::accept_with(fd, flags)?))
            .await?;
        Ok(Incoming { socket: watch(accepted)? })
    }
}

/// Connections from one supervisor.
pub struct Incoming {
    socket: AsyncFd<OwnedFd>,
}

impl Incoming {
    /// `None` when the supervisor has gone.
    pub async fn next(&self) -> io::Result<Option<TcpStream>> {
        self.socket.async_io(Interest::READABLE, receive).await
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<TcpStream>> {
    let mut byte = [0u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let received =
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(Some(TcpStream::from(descriptor)));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a message without a descriptor"))
}

impl Sender {
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket: watch(socket)? })
    }

    /// Hands `stream` over; our copy of it closes.
    pub async fn send(&self, stream: &TcpStream) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, |fd| send(fd, stream)).await
    }
}

fn send(socket: &OwnedFd, stream: &TcpStream) -> io::Result<()> {
    let descriptors = [stream.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let slices = [IoSlice::new(&[0])];
    rustix::net::sendmsg(socket, &slices, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[tokio::test]
    async fn a_connection_crosses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handoff");
        let receiver = Receiver::bind(&path).unwrap();
        let sender = Sender::connect(&path).unwrap();
        let incoming = receiver.accept().await.unwrap();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        sender.send(&accepted).await.unwrap();
        drop(accepted);

        let mut crossed = incoming.next().await.unwrap().unwrap();
        client.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        crossed.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");

        drop(sender);
        assert!(incoming.next().await.unwrap().is_none());
    }
}
