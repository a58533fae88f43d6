//! What travels on a connection once both sides have greeted: frames.
//!
//! A frame is a length (u32), a kind (u8), a crc32c over both and the payload (u32), and the
//! payload; numbers are little-endian. A bulk message longer than [`PART_BYTES`] travels in parts,
//! so that an urgent one can pass between them.

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use tokio::io::{AsyncRead, AsyncReadExt as _};

pub(super) const HEADER_BYTES: usize = 9;
/// The longest payload of a frame; a longer one is refused before anything is allocated for it.
pub(super) const FRAME_BYTES_MAX: usize = 256 << 10;
/// The longest message, from all its parts; a longer one is refused by both sides.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// A bulk message is cut here. At 10 Mbit/s one part takes 50 ms.
pub(super) const PART_BYTES: usize = 64 << 10;
/// Read at once, at most.
const READ_BYTES: usize = 64 << 10;
/// A payload up to here is copied next to its neighbours; a longer one is written where it lies.
const COPY_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole message that keeps leadership alive.
    Urgent,
    /// The last part, or the whole, of any other message.
    Bulk,
    /// More of the same message follows.
    Part,
    Ping,
    Pong,
    /// A refusal, in the form of [`super::greeting`]; the connection ends with it.
    Refused,
    /// The last part, or the whole, of the message that comes before a snapshot's content.
    SnapshotBegin,
    SnapshotChunk,
    /// How many bytes the content had, and the crc32c over all of it.
    SnapshotEnd,
    SnapshotArrived,
    /// A text that says why the receiver gives up.
    SnapshotFailed,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Urgent,
        Self::Bulk,
        Self::Part,
        Self::Ping,
        Self::Pong,
        Self::Refused,
        Self::SnapshotBegin,
        Self::SnapshotChunk,
        Self::SnapshotEnd,
        Self::SnapshotArrived,
        Self::SnapshotFailed,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Urgent => 1,
            Self::Bulk => 2,
            Self::Part => 3,
            Self::Ping => 4,
            Self::Pong => 5,
            Self::Refused => 6,
            Self::SnapshotBegin => 7,
            Self::SnapshotChunk => 8,
            Self::SnapshotEnd => 9,
            Self::SnapshotArrived => 10,
            Self::SnapshotFailed => 11,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) payload: Bytes,
}

/// Bytes that are no frame, or a connection that broke in the middle of one.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("it sent a frame of {bytes} bytes; the limit is {FRAME_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("it sent a frame of the unknown kind {code}")]
    UnknownKind { code: u8 },
    #[error("it sent a frame of {bytes} bytes whose checksum is wrong")]
    Checksum { bytes: usize },
    #[error("it sent a message of more than {MESSAGE_BYTES_MAX} bytes")]
    MessageTooLong,
    #[error("it sent a {kind:?} frame where none belongs")]
    Misplaced { kind: Kind },
    #[error("the connection ended in the middle of a frame")]
    Cut,
    #[error("{}", super::tls::explain(.0))]
    Read(io::Error),
}

/// Takes the first frame off the buffer, if it is there whole. Of a frame that is not whole it
/// says how many bytes it will have, so that room for it is made once.
pub(super) fn decode(buffer: &mut BytesMut) -> Result<Result<Frame, usize>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else { return Ok(Err(HEADER_BYTES)) };
    let [l0, l1, l2, l3, code, c0, c1, c2, c3] = *header;
    let bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes });
    }
    let Some(kind) = Kind::from_code(code) else { return Err(FrameError::UnknownKind { code }) };
    let Some(payload) = buffer.get(HEADER_BYTES..HEADER_BYTES + bytes) else {
        return Ok(Err(HEADER_BYTES + bytes));
    };
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..5]), payload);
    if sum != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(FrameError::Checksum { bytes });
    }
    buffer.advance(HEADER_BYTES);
    Ok(Ok(Frame { kind, payload: buffer.split_to(bytes).freeze() }))
}

fn header(kind: Kind, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    // No caller sends a payload above the limit of a frame.
    let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&bytes.to_le_bytes());
    out[4] = kind.code();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&out[..5]), payload);
    out[5..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// One frame, ready to be sent.
pub(super) fn encode(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&header(kind, payload));
    out.extend_from_slice(payload);
    out
}

/// Frames that are written together. Small payloads lie side by side, large ones are not copied.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, kind: Kind, payload: Bytes) {
        self.small.put_slice(&header(kind, &payload));
        self.bytes += HEADER_BYTES + payload.len();
        if payload.len() <= COPY_BYTES_MAX {
            self.small.put_slice(&payload);
        } else {
            self.pieces.push_back(self.small.split().freeze());
            self.pieces.push_back(payload);
        }
    }

    /// To be called before it is written.
    pub(super) fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(front) = self.pieces.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pieces.pop_front();
        }
    }
}

/// Frames read from a connection. A call that is given up loses nothing.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    source: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, buffer: BytesMut::new() }
    }

    /// Whether the next frame is here, whole, so that [`Self::next`] does not wait.
    pub(super) fn has_frame(&self) -> bool {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else { return false };
        let [l0, l1, l2, l3, ..] = *header;
        self.buffer.len() - HEADER_BYTES >= u32::from_le_bytes([l0, l1, l2, l3]) as usize
    }

    /// `None` when the other side has closed the connection between two frames.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let wanted = match decode(&mut self.buffer)? {
                Ok(frame) => return Ok(Some(frame)),
                Err(wanted) => wanted,
            };
            if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 4
                || self.buffer.capacity() < wanted
            {
                self.buffer.reserve(READ_BYTES.max(wanted - self.buffer.len()));
            }
            let read = self.source.read_buf(&mut self.buffer).await.map_err(FrameError::Read)?;
            match (read, self.buffer.is_empty()) {
                (0, true) => return Ok(None),
                (0, false) => return Err(FrameError::Cut),
                _ => {}
            }
        }
    }
}

/// Puts the parts of one message together again.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    parts: BytesMut,
}

impl Assembler {
    pub(super) fn add(&mut self, part: &[u8]) -> Result<(), FrameError> {
        if self.parts.len() + part.len() > MESSAGE_BYTES_MAX {
            return Err(FrameError::MessageTooLong);
        }
        self.parts.put_slice(part);
        Ok(())
    }

    /// The whole message, of which this is the last part.
    pub(super) fn finish(&mut self, last: Bytes) -> Result<Bytes, FrameError> {
        if self.parts.is_empty() {
            return Ok(last);
        }
        self.add(&last)?;
        Ok(std::mem::take(&mut self.parts).freeze())
    }
}

#[cfg(test)]
mod tests;
