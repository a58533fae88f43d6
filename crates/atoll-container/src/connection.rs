//! The agent's side of a connection to a shim.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use tokio::io::unix::AsyncFd;

use crate::frame::{Op, Reply, Request};
use crate::seqpacket;

/// Hands a non-blocking descriptor to tokio.
#[allow(unsafe_code, reason = "tokio asks for a promise that the types already keep")]
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, and `AsyncFd` gives out no mutable access
    // by which it could be replaced or closed here.
    unsafe { AsyncFd::register(fd) }.map_err(|error| error.into_parts().1)
}

#[derive(Debug)]
pub(crate) struct Connection {
    fd: AsyncFd<OwnedFd>,
}

impl Connection {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Connection> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Connection { fd: register(fd)? })
    }

    pub(crate) fn connect(socket: &Path) -> io::Result<Connection> {
        Connection::new(seqpacket::connect(socket)?)
    }

    pub(crate) async fn send(&self, op: Op, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let request = Request::new(op);
        loop {
            let mut guard = self.fd.writable().await?;
            match guard.try_io(|fd| seqpacket::send(fd, &request, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// The next message; `None` when the shim is gone.
    pub(crate) async fn recv(&self) -> io::Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(seqpacket::recv::<Reply>) {
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}
