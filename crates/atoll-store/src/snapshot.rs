//! A consistent copy of one keyspace as a stream of bytes, version 1.
//!
//! A header (magic, version, revisions, leases) is followed by frames of compressed records in
//! the order of their revisions, an empty frame, and the checksum of everything before it.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[cfg(test)]
use crate::codec::{Malformed, Reader};
use crate::codec::{put_bytes, put_i64, put_u64};
use crate::kv::{Error, LeaseId, Result, Revision};
use crate::mvcc::{ReadFault, Record, RevKey};
use crate::shared::KeyspaceShared;
use crate::sync::read;

pub(crate) mod whole;

const MAGIC: &[u8; 8] = b"ATSNAP1\0";
const VERSION: u64 = 1;
/// Records before compression; one record may be larger.
const FRAME_BYTES: usize = 256 << 10;
/// Frames waiting for a slow reader; the copy then waits too.
const FRAMES_MAX: usize = 4;
const COMPRESSION_LEVEL: i32 = 1;

/// What stands before the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) revision: Revision,
    pub(crate) compacted: Revision,
    /// Id, seconds granted, seconds left when checkpointed.
    pub(crate) leases: Vec<(LeaseId, i64, i64)>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_u64(&mut body, VERSION);
        put_i64(&mut body, self.revision);
        put_i64(&mut body, self.compacted);
        put_u64(&mut body, self.leases.len() as u64);
        for (id, ttl, remaining) in &self.leases {
            for number in [id, ttl, remaining] {
                put_i64(&mut body, *number);
            }
        }
        let mut out = MAGIC.to_vec();
        put_bytes(&mut out, &body);
        out
    }

    #[cfg(test)]
    fn decode(body: Bytes) -> std::result::Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        if reader.u64()? != VERSION {
            return Err(Malformed("the snapshot has a version that this release does not read"));
        }
        let (revision, compacted) = (reader.i64()?, reader.i64()?);
        let mut leases = Vec::new();
        for _ in 0..reader.u64()? {
            leases.push((reader.i64()?, reader.i64()?, reader.i64()?));
        }
        Ok(Self { revision, compacted, leases })
    }
}

/// Copies on a thread of its own, from the state as it is now.
pub(crate) fn export(keyspace: Arc<KeyspaceShared>) -> BoxStream<'static, Result<Bytes>> {
    let (frames, received) = mpsc::channel(FRAMES_MAX);
    // It ends by itself when it is done or the reader has gone.
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = Writer { frames, checksum: 0, records: Vec::new() };
        if let Err(Stop::Failed(error)) = writer.copy(&keyspace) {
            drop(writer.frames.blocking_send(Err(error)));
        }
    }));
    ReceiverStream::new(received).boxed()
}

enum Stop {
    /// Nobody reads any more.
    ReaderGone,
    Failed(Error),
}

impl From<ReadFault> for Stop {
    fn from(fault: ReadFault) -> Self {
        Self::Failed(fault.into())
    }
}

struct Writer {
    frames: mpsc::Sender<Result<Bytes>>,
    checksum: u32,
    records: Vec<u8>,
}

impl Writer {
    fn copy(&mut self, keyspace: &KeyspaceShared) -> std::result::Result<(), Stop> {
        let copy = read(&keyspace.state).begin_copy();
        self.send(copy.header.encode())?;
        copy.for_each(|at, record| self.add(at, record))?;
        self.end_frame()?;
        // An empty frame ends the records.
        self.send(vec![0])?;
        let checksum = self.checksum;
        self.send(checksum.to_le_bytes().to_vec())
    }

    fn add(&mut self, at: RevKey, record: &Record) -> std::result::Result<(), Stop> {
        let mut encoded = Vec::new();
        record.encode(&mut encoded);
        self.records.extend_from_slice(&at.encode());
        put_bytes(&mut self.records, &encoded);
        if self.records.len() >= FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> std::result::Result<(), Stop> {
        if self.records.is_empty() {
            return Ok(());
        }
        let compressed =
            zstd::bulk::compress(&self.records, COMPRESSION_LEVEL).map_err(|error| {
                Stop::Failed(Error::Unavailable { detail: format!("compressing failed: {error}") })
            })?;
        let mut frame = Vec::with_capacity(compressed.len() + 16);
        put_u64(&mut frame, compressed.len() as u64);
        put_u64(&mut frame, self.records.len() as u64);
        frame.extend_from_slice(&compressed);
        self.records.clear();
        self.send(frame)
    }

    fn send(&mut self, frame: Vec<u8>) -> std::result::Result<(), Stop> {
        self.checksum = crc32c::crc32c_append(self.checksum, &frame);
        self.frames.blocking_send(Ok(Bytes::from(frame))).map_err(|_gone| Stop::ReaderGone)
    }
}

/// A whole snapshot, checked: its header and its records in order.
#[cfg(test)]
pub(crate) fn import(
    snapshot: Bytes,
) -> std::result::Result<(Header, Vec<(RevKey, Record)>), Malformed> {
    let end = snapshot.len().checked_sub(4).ok_or(Malformed("the snapshot is cut short"))?;
    if crc32c::crc32c(&snapshot[..end]).to_le_bytes() != snapshot[end..] {
        return Err(Malformed("the snapshot's checksum does not match"));
    }
    if !snapshot.starts_with(MAGIC) {
        return Err(Malformed("this is not a snapshot"));
    }
    let mut reader = Reader::new(snapshot.slice(MAGIC.len()..end));
    let header = Header::decode(reader.bytes()?)?;
    let mut records = Vec::new();
    loop {
        let compressed_bytes = reader.usize()?;
        if compressed_bytes == 0 {
            break;
        }
        let plain_bytes = reader.usize()?;
        let compressed = reader.take(compressed_bytes)?;
        let plain = zstd::bulk::decompress(&compressed, plain_bytes)
            .map_err(|_error| Malformed("a frame does not decompress"))?;
        let mut frame = Reader::new(Bytes::from(plain));
        while !frame.is_empty() {
            let at = RevKey::decode(&frame.take(RevKey::BYTES)?)?;
            records.push((at, Record::decode(frame.bytes()?)?));
        }
    }
    Ok((header, records))
}

#[cfg(test)]
mod tests;
