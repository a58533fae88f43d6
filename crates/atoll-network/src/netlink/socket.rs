//! A blocking netlink socket that sends a batch and collects its answers.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::NetlinkError;
use super::wire::{Message, Received, messages, ne_u32};

/// The kernel answers at once; this ends a wait that a kernel fault would make endless.
const ANSWER_SECONDS_MAX: i64 = 10;

/// Dumps arrive in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// A batch of rules is one send, so the socket must take it whole.
const SEND_BYTES_MIN: usize = 1024 * 1024;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const NOOP: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

/// What was listed changed meanwhile, so the list may lack something.
const INTERRUPTED: u16 = 0x10;

/// Tries to list what changes all the time, before that is an error.
const DUMPS_MAX: usize = 16;

/// Which part of the kernel the socket speaks to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Family {
    Route,
    Netfilter,
}

/// Speaks to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// Of the next request's first message.
    sequence: u32,
}

/// The messages that an answer may be for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    first: u32,
    count: u32,
}

impl Socket {
    pub(crate) fn open(family: Family) -> Result<Self, NetlinkError> {
        let protocol = match family {
            Family::Route => SockProtocol::NetlinkRoute,
            Family::Netfilter => SockProtocol::NetlinkNetFilter,
        };
        let open = || -> Result<OwnedFd, Errno> {
            let fd =
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS_MAX))?;
            Ok(fd)
        };
        let fd = open().map_err(|errno| NetlinkError::Open { source: errno.into() })?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BYTES], sequence: 0 })
    }

    /// Sends the batch; every message but the last may go unacknowledged.
    pub(crate) fn send(&mut self, message: &mut Message) -> Result<Sent, NetlinkError> {
        self.drain();
        let sent = Sent { first: self.sequence, count: message.count() };
        self.sequence = self.sequence.wrapping_add(sent.count);
        let bytes = message.encode(sent.first)?;
        self.make_room(bytes.len())?;
        match retry(|| send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())) {
            Ok(_) => Ok(sent),
            Err(errno) => Err(NetlinkError::Send { bytes: bytes.len(), source: errno.into() }),
        }
    }

    /// One request, one acknowledgement.
    pub(crate) fn request(&mut self, message: &mut Message) -> Result<(), NetlinkError> {
        message.flag(ACK);
        let last = message.count().saturating_sub(1);
        let sent = self.send(message)?;
        self.acknowledged(sent, last)
    }

    /// Waits until message `last` is acknowledged. The first refusal is the answer.
    pub(crate) fn acknowledged(&mut self, sent: Sent, last: u32) -> Result<(), NetlinkError> {
        let mut refused = None;
        let mut done = false;
        while !done {
            self.receive(sent, |index, message| {
                if message.kind != ERROR && message.kind != DONE {
                    return Ok(());
                }
                if let Err(error) = verdict(index, message) {
                    refused.get_or_insert(error);
                    done = true;
                }
                done |= index == last;
                Ok(())
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Asks for all objects; what `read` makes of each.
    pub(crate) fn dump<T>(
        &mut self,
        message: &mut Message,
        mut read: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        message.flag(DUMP);
        for _ in 0..DUMPS_MAX {
            let mut found = Vec::new();
            if self.objects(message, |kind, body| found.extend(read(kind, body)))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsteady)
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        message: &mut Message,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        message.flag(ACK);
        self.objects(message, each).map(|_whole| ())
    }

    /// Returns whether nothing changed while the kernel answered.
    fn objects(
        &mut self,
        message: &mut Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let sent = self.send(message)?;
        let mut done = false;
        let mut whole = true;
        while !done {
            self.receive(sent, |index, message| {
                whole &= message.flags & INTERRUPTED == 0;
                match message.kind {
                    NOOP => {}
                    // Its body is an error number, where there was an error half-way.
                    DONE | ERROR => {
                        done = true;
                        verdict(index, message)?;
                    }
                    kind => each(kind, message.body),
                }
                Ok(())
            })?;
        }
        Ok(whole)
    }

    fn receive(
        &mut self,
        sent: Sent,
        mut each: impl FnMut(u32, &Received<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let length = retry(|| recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()))
            .map_err(|errno| NetlinkError::Receive { source: errno.into() })?;
        for message in messages(&self.buffer[..length]) {
            let message = message?;
            let index = message.sequence.wrapping_sub(sent.first);
            // Else it is a late answer to a request that was given up.
            if index < sent.count {
                each(index, &message)?;
            }
        }
        Ok(())
    }

    /// A refused batch may leave more answers; they take room from the next one's.
    fn drain(&mut self) {
        while recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
    }

    fn make_room(&self, bytes: usize) -> Result<(), NetlinkError> {
        let wanted = (bytes * 2).max(SEND_BYTES_MIN);
        if bytes < 64 * 1024 {
            return Ok(());
        }
        setsockopt(&self.fd, sockopt::SndBufForce, &wanted)
            .map_err(|errno| NetlinkError::Send { bytes, source: errno.into() })
    }
}

fn verdict(index: u32, message: &Received<'_>) -> Result<(), NetlinkError> {
    let code = ne_u32(message.body, 0).unwrap_or(0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    Err(NetlinkError::Refused { index, source })
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
