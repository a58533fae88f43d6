//! Clients whose `:authority` is no authority of a URI.
//!
//! etcd's Go client up to 3.4, `etcdctl` of Debian 12 with it, sends the endpoint as it was
//! given: `http://127.0.0.1:2379`, `unix:///run/etcd.sock`. Go's server looks at no authority;
//! h2 refuses such a call with PROTOCOL_ERROR (RFC 9113, 8.3.1) and cannot be told otherwise.
//! Nothing here looks at it either, so another word of the same length goes in its place: then
//! both ends of the connection still have header tables of the same size (RFC 7541, 4.1).
//!
//! Only connections whose first call has such an authority are read like that; all others are
//! handed through.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

mod block;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// The largest frame that a client may send here: HTTP/2's initial SETTINGS_MAX_FRAME_SIZE.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;
const READ_BYTES: usize = 4096;

/// A connection on which every authority is one of a URI.
#[derive(Debug)]
pub(super) struct AnyAuthority<I> {
    inner: I,
    mender: Mender,
}

impl<I> AnyAuthority<I> {
    pub(super) fn new(inner: I) -> Self {
        Self { inner, mender: Mender::default() }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for AnyAuthority<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.mender.ready.is_empty() {
            if this.mender.is_through() {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut read = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut read);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                this.mender.end();
            }
            this.mender.take(read.filled());
        }
        let length = this.mender.ready.len().min(buf.remaining());
        buf.put_slice(&this.mender.ready.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Preface,
    /// No call has come yet.
    FirstCall,
    /// Each call's authority is looked at.
    Calls,
    /// All that comes is handed through.
    Through,
}

/// What came from the client, and what of it is ready to be read.
#[derive(Debug, Default)]
struct Mender {
    state: State,
    came: BytesMut,
    ready: BytesMut,
    /// What is left of a frame that is handed through.
    passing: usize,
}

impl Mender {
    fn is_through(&self) -> bool {
        self.state == State::Through && self.came.is_empty()
    }

    /// Nothing more will come: what is there is as it is.
    fn end(&mut self) {
        self.state = State::Through;
        self.take(&[]);
    }

    fn take(&mut self, bytes: &[u8]) {
        self.came.extend_from_slice(bytes);
        while self.step() {}
    }

    /// False when more has to come first.
    fn step(&mut self) -> bool {
        if self.came.is_empty() {
            return false;
        }
        match self.state {
            State::Through => self.pass(self.came.len()),
            State::Preface => return self.preface(),
            State::FirstCall | State::Calls if self.passing > 0 => {
                let length = self.passing.min(self.came.len());
                self.passing -= length;
                self.pass(length);
            }
            State::FirstCall | State::Calls => return self.frame(),
        }
        true
    }

    fn pass(&mut self, length: usize) {
        let bytes = self.came.split_to(length);
        self.ready.unsplit(bytes);
    }

    fn preface(&mut self) -> bool {
        let length = self.came.len().min(PREFACE.len());
        if self.came[..length] != PREFACE[..length] {
            self.state = State::Through;
        } else if length < PREFACE.len() {
            return false;
        } else {
            self.pass(length);
            self.state = State::FirstCall;
        }
        true
    }

    fn frame(&mut self) -> bool {
        if self.came.len() < FRAME_HEADER_BYTES {
            return false;
        }
        let mut header = &self.came[..FRAME_HEADER_BYTES];
        let length = usize::try_from(header.get_uint(3)).unwrap_or(usize::MAX);
        let (kind, flags) = (header.get_u8(), header.get_u8());
        if kind != HEADERS || length > FRAME_BYTES_MAX || flags & FLAG_PADDED != 0 {
            self.passing = FRAME_HEADER_BYTES + length;
            return true;
        }
        if self.came.len() < FRAME_HEADER_BYTES + length {
            return false;
        }
        let mut frame = self.came.split_to(FRAME_HEADER_BYTES + length);
        let before = if flags & FLAG_PRIORITY == 0 { 0 } else { PRIORITY_BYTES };
        let mended = frame.get(FRAME_HEADER_BYTES + before..).and_then(block::mend);
        match mended.filter(|block| before + block.len() <= FRAME_BYTES_MAX) {
            Some(block) => {
                frame.truncate(FRAME_HEADER_BYTES + before);
                frame.extend_from_slice(&block);
                let length = frame.len() - FRAME_HEADER_BYTES;
                // At most FRAME_BYTES_MAX, which fits into three bytes.
                let [.., high, middle, low] = length.to_be_bytes();
                frame[..3].copy_from_slice(&[high, middle, low]);
                self.state = State::Calls;
            }
            None if self.state == State::FirstCall => self.state = State::Through,
            None => {}
        }
        self.ready.extend_from_slice(&frame);
        true
    }
}

/// For fuzzers: what a client sends.
pub(super) mod fuzz {
    use super::{Mender, PREFACE};

    /// However it is cut, the same comes out; and nothing is lost but what was mended.
    pub fn connection(bytes: &[u8]) {
        let mut whole = Mender::default();
        whole.take(bytes);
        whole.end();
        let mut cut = Mender::default();
        for byte in bytes {
            cut.take(&[*byte]);
        }
        cut.end();
        assert_eq!(whole.ready, cut.ready);
    }

    /// Seeds for [`connection`].
    pub fn connections() -> Vec<Vec<u8>> {
        let call = |authority: &[u8]| {
            let mut block = vec![0x83, 0x86, 0x84, 0x41];
            block.push(u8::try_from(authority.len()).unwrap_or(0));
            block.extend_from_slice(authority);
            let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap_or(0), 1, 4, 0, 0, 0, 1];
            frame.extend(block);
            [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &frame, &frame].concat()
        };
        vec![call(b"http://127.0.0.1:2379"), call(b"127.0.0.1:2379"), b"GET / HTTP/1.1".to_vec()]
    }
}

#[cfg(test)]
mod tests;
