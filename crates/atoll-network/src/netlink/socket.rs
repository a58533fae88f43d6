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
        Ok(Self { fd, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Sends the batch; every message but the last may go unacknowledged.
    pub(crate) fn send(&mut self, message: &mut Message) -> Result<(), NetlinkError> {
        let bytes = message.encode()?;
        self.make_room(bytes.len())?;
        let sent = retry(|| send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()));
        match sent {
            Ok(_) => Ok(()),
            Err(errno) => Err(NetlinkError::Send { bytes: bytes.len(), source: errno.into() }),
        }
    }

    /// One request, one acknowledgement.
    pub(crate) fn request(&mut self, message: &mut Message) -> Result<(), NetlinkError> {
        message.flag(ACK);
        self.send(message)?;
        let last = message.count().saturating_sub(1);
        self.acknowledged(last)
    }

    /// Waits until message `last` is acknowledged. The first refusal is the answer.
    pub(crate) fn acknowledged(&mut self, last: u32) -> Result<(), NetlinkError> {
        let mut refused = None;
        let mut done = false;
        while !done {
            self.receive(|message| {
                if message.kind != ERROR && message.kind != DONE {
                    return Ok(());
                }
                if let Err(error) = verdict(message) {
                    refused.get_or_insert(error);
                    done = true;
                }
                done |= message.sequence == last;
                Ok(())
            })?;
        }
        self.drain();
        refused.map_or(Ok(()), Err)
    }

    /// Asks for all objects and gives each to `each`.
    pub(crate) fn dump(
        &mut self,
        message: &mut Message,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        message.flag(DUMP);
        self.objects(message, each)
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        message: &mut Message,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        message.flag(ACK);
        self.objects(message, each)
    }

    fn objects(
        &mut self,
        message: &mut Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.send(message)?;
        let mut done = false;
        while !done {
            self.receive(|message| {
                match message.kind {
                    NOOP => {}
                    DONE => done = true,
                    ERROR => {
                        done = true;
                        verdict(message)?;
                    }
                    kind => each(kind, message.body),
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn receive(
        &mut self,
        mut each: impl FnMut(&Received<'_>) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        let length = retry(|| recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()))
            .map_err(|errno| NetlinkError::Receive { source: errno.into() })?;
        for message in messages(&self.buffer[..length]) {
            each(&message?)?;
        }
        Ok(())
    }

    /// A refused batch may leave more answers; they must not be taken for the next one's.
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

fn verdict(message: &Received<'_>) -> Result<(), NetlinkError> {
    let code = ne_u32(message.body, 0).unwrap_or(0).cast_signed();
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    Err(NetlinkError::Refused { index: message.sequence, source })
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
