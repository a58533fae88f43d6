//! Messages with descriptors over SOCK_SEQPACKET sockets.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::FRAME_BYTES_MAX;

/// Descriptors in one message.
const FDS_MAX: usize = 4;

pub(crate) fn pair(flags: SocketFlags) -> io::Result<(OwnedFd, OwnedFd)> {
    let (a, b) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags | SocketFlags::CLOEXEC,
        None,
    )?;
    Ok((a, b))
}

fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags | SocketFlags::CLOEXEC,
        None,
    )?)
}

pub(crate) fn listen(path: &std::path::Path) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::NONBLOCK)?;
    rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&fd, 64)?;
    Ok(fd)
}

pub(crate) fn connect(path: &std::path::Path) -> io::Result<OwnedFd> {
    let fd = socket(SocketFlags::empty())?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

pub(crate) fn send<T: Serialize>(
    fd: impl AsFd,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {} bytes is longer than {FRAME_BYTES_MAX}", bytes.len()),
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    rustix::net::sendmsg(fd, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A message with its descriptors; `None` when the other side is gone.
pub(crate) fn recv<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let fd = fd.as_fd();
    // The length comes first, so that a shim's memory stays at what a message needs.
    let (_, length) = rustix::net::recv(fd, &mut [0u8; 0], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    if length == 0 {
        // Either the end, or an empty message, which nobody sends.
        return Ok(None);
    }
    let mut bytes = vec![0u8; length.min(FRAME_BYTES_MAX)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let value = serde_json::from_slice(&bytes[..message.bytes])?;
    Ok(Some((value, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_descriptors_and_the_end_is_told() {
        let (a, b) = pair(SocketFlags::empty()).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&a, &"hello", &[write.as_fd()]).unwrap();
        drop(write);
        let (text, fds) = recv::<String>(&b).unwrap().unwrap();
        assert_eq!(text, "hello");
        rustix::io::write(&fds[0], b"x").unwrap();
        let mut buffer = [0u8; 4];
        assert_eq!(rustix::io::read(&read, &mut buffer).unwrap(), 1);
        drop(a);
        assert!(recv::<String>(&b).unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_sent() {
        let (a, _b) = pair(SocketFlags::empty()).unwrap();
        let error = send(&a, &"x".repeat(FRAME_BYTES_MAX), &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
