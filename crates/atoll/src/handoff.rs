//! Passes accepted connections from the supervisor of `atoll dev` to a server.
//!
//! The supervisor listens on the host's loopback, the server lives in a namespace of its
//! own; a descriptor crosses where packets would need a relay, over a SOCK_SEQPACKET socket.
//!
//! The supervisor offers a connection, the server says that it would take it, and with the third
//! message it is the server's. So a server that has been stopped, or ends, costs no connection:
//! what it did not take in time goes to another, and it must not touch it later.

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
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Doors waiting to be accepted.
const BACKLOG: i32 = 4;
/// A server that takes longer to answer an offer does not answer.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// An offer that was accepted and is not confirmed by then has gone to another server.
const CONFIRM_MAX: Duration = Duration::from_secs(1);

/// A message is one of these and the number of the offer; an offer has a descriptor with it.
const OFFER: u8 = 0;
const TAKE: u8 = 1;
const YOURS: u8 = 2;
const MESSAGE_BYTES: usize = 9;

/// The server's end: it listens, since a supervisor may go and come back.
pub struct Receiver {
    listener: AsyncFd<OwnedFd>,
}

/// The supervisor's end.
pub struct Sender {
    socket: AsyncFd<OwnedFd>,
    /// The number of the last offer.
    offered: u64,
    /// The server has said that it would take it.
    answered: bool,
}

#[derive(Debug)]
enum Message {
    Offer(u64, TcpStream),
    Take(u64),
    Yours(u64),
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

    /// The next door of a supervisor that is opened.
    pub async fn accept(&self) -> io::Result<Incoming> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = self
            .listener
            .async_io(Interest::READABLE, |fd| Ok(rustix::net::accept_with(fd, flags)?))
            .await?;
        Ok(Incoming { socket: watch(accepted)? })
    }
}

/// Connections by one door of a supervisor.
pub struct Incoming {
    socket: AsyncFd<OwnedFd>,
}

impl Incoming {
    /// `None` when the supervisor has gone.
    pub async fn next(&self) -> io::Result<Option<TcpStream>> {
        let mut offer = None;
        loop {
            let message = self.socket.async_io(Interest::READABLE, receive);
            let message = match offer {
                None => message.await?,
                Some(_) => match tokio::time::timeout(CONFIRM_MAX, message).await {
                    Ok(message) => message?,
                    Err(_elapsed) => {
                        offer = None;
                        continue;
                    }
                },
            };
            match message {
                None => return Ok(None),
                Some(Message::Offer(number, stream)) => {
                    say(&self.socket, TAKE, number, None).await?;
                    offer = Some((number, stream));
                }
                Some(Message::Yours(number)) => match offer.take() {
                    Some((offered, stream)) if offered == number => return Ok(Some(stream)),
                    // It came too late, and the supervisor has not noticed: nobody has it now.
                    _ => {}
                },
                Some(Message::Take(_)) => return Err(misplaced()),
            }
        }
    }
}

impl Sender {
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket: watch(socket)?, offered: 0, answered: true })
    }

    /// Hands `stream` over, after which our copy of it is to be closed. False when the server does
    /// not answer: then it will not touch the connection.
    pub async fn send(&mut self, stream: &TcpStream) -> io::Result<bool> {
        match tokio::time::timeout(ANSWER_MAX, self.hand_over(stream)).await {
            Ok(handed) => handed.map(|()| true),
            Err(_elapsed) => Ok(false),
        }
    }

    async fn hand_over(&mut self, stream: &TcpStream) -> io::Result<()> {
        // While it stands still it gets no second one.
        self.wait_for_answer().await?;
        let number = self.offered + 1;
        say(&self.socket, OFFER, number, Some(stream)).await?;
        (self.offered, self.answered) = (number, false);
        self.wait_for_answer().await?;
        say(&self.socket, YOURS, number, None).await
    }

    async fn wait_for_answer(&mut self) -> io::Result<()> {
        while !self.answered {
            match self.socket.async_io(Interest::READABLE, receive).await? {
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Message::Take(number)) => self.answered = number == self.offered,
                Some(_) => return Err(misplaced()),
            }
        }
        Ok(())
    }
}

fn misplaced() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message that only the other side sends")
}

/// `None` when the other side has gone.
fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    let mut bytes = [0u8; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received =
        rustix::net::recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let [kind, number @ ..] = bytes;
    let number = u64::from_le_bytes(number);
    match (kind, descriptor) {
        (OFFER, Some(descriptor)) => Ok(Some(Message::Offer(number, TcpStream::from(descriptor)))),
        (TAKE, None) => Ok(Some(Message::Take(number))),
        (YOURS, None) => Ok(Some(Message::Yours(number))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a message of no kind that is known")),
    }
}

async fn say(
    socket: &AsyncFd<OwnedFd>,
    kind: u8,
    number: u64,
    stream: Option<&TcpStream>,
) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, |fd| send(fd, kind, number, stream)).await
}

fn send(socket: &OwnedFd, kind: u8, number: u64, stream: Option<&TcpStream>) -> io::Result<()> {
    let mut bytes = [kind; MESSAGE_BYTES];
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    let descriptors = stream.map(|stream| [stream.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[tokio::test]
    async fn a_connection_crosses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handoff");
        let receiver = Receiver::bind(&path).unwrap();
        let mut sender = Sender::connect(&path).unwrap();
        let incoming = receiver.accept().await.unwrap();

        let (mut client, accepted) = pair();
        let (handed, crossed) = tokio::join!(sender.send(&accepted), incoming.next());
        assert!(handed.unwrap());
        drop(accepted);
        let mut crossed = crossed.unwrap().unwrap();
        client.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        crossed.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");

        drop(sender);
        assert!(incoming.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_a_stopped_server_did_not_take_is_never_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handoff");
        let receiver = Receiver::bind(&path).unwrap();
        let mut sender = Sender::connect(&path).unwrap();
        let incoming = receiver.accept().await.unwrap();
        let [first, second, third] = [pair(), pair(), pair()];
        assert!(!sender.send(&first.1).await.unwrap());
        assert!(!sender.send(&second.1).await.unwrap());
        // It goes on, and takes what it is offered now.
        let (handed, taken) = tokio::join!(sender.send(&third.1), incoming.next());
        assert!(handed.unwrap());
        let taken = taken.unwrap().unwrap();
        assert_eq!(taken.peer_addr().unwrap(), third.0.local_addr().unwrap());
        // One that nobody confirms is let go.
        let (_client, late) = pair();
        say(&sender.socket, OFFER, 9, Some(&late)).await.unwrap();
        drop(late);
        let nothing = tokio::time::timeout(CONFIRM_MAX * 2, incoming.next()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
}
