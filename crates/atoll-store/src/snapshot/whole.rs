//! A copy of the whole store, both keyspaces at one index of the log, as a stream of bytes.
//!
//! The stream (version 1) is a preamble and frames. A frame is 12 bytes of header (bytes stored,
//! bytes of content, CRC-32C, each a little-endian u32) and what is stored: compressed content, or
//! the content itself where that is not longer. Each checksum continues the one before it, so
//! that a frame left out, doubled or moved is found as well; the last frame is empty, and its
//! checksum stands for the whole. Put together, the frames' content is a row of items, each a
//! little-endian u32 length and that many bytes, the first of which is its kind: what the store
//! says of itself; then for each keyspace where it stands, its leases, its records in the order
//! of revisions, and how many there were; then the end.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::KEYSPACES;
use crate::codec::{put_i64, put_u64};
use crate::kv::{Error, Revision};
use crate::mvcc::{Copy, RevKey, State};
use crate::shared::KeyspaceShared;
use crate::sync::read;

mod import;

pub(crate) use import::{ImportError, Imported, Importer, Nowhere};

const MAGIC: &[u8; 8] = b"ATWHOLE\0";
const VERSION: u32 = 1;
/// Magic, version and their checksum, with which the frames' chain begins.
const PREAMBLE_BYTES: usize = 16;
const FRAME_HEADER_BYTES: usize = 12;
/// Content of one frame at most, so that header and content stay below 256 KiB.
const FRAME_BYTES_MAX: usize = 248 << 10;
/// One item at most: far above the largest request.
const ITEM_BYTES_MAX: usize = 64 << 20;
const COMPRESSION_LEVEL: i32 = 1;

mod kind {
    pub(super) const META: u8 = 1;
    pub(super) const KEYSPACE: u8 = 2;
    pub(super) const LEASE: u8 = 3;
    pub(super) const RECORD: u8 = 4;
    pub(super) const KEYSPACE_END: u8 = 5;
    pub(super) const END: u8 = 6;
}

/// What a snapshot needs to be written while the store goes on.
pub(crate) struct WholeCopy {
    meta: Vec<u8>,
    keyspaces: [Copy; KEYSPACES],
}

impl WholeCopy {
    /// To be called between two applies, so that all parts are of one index. `meta` is what the
    /// state file says of itself at that index. Costs no more than a flush holds.
    pub(crate) fn begin(meta: Vec<u8>, keyspaces: &[Arc<KeyspaceShared>; KEYSPACES]) -> Self {
        // Both are held, so that nothing is applied in between whoever calls.
        let states = keyspaces.each_ref().map(|keyspace| read(&keyspace.state));
        Self { meta, keyspaces: states.each_ref().map(|state| state.begin_copy()) }
    }

    /// The revision of each keyspace.
    pub(crate) fn revisions(&self) -> [Revision; KEYSPACES] {
        self.keyspaces.each_ref().map(|copy| copy.header.revision)
    }

    /// The same of states that nobody shares.
    pub(crate) fn of(meta: Vec<u8>, states: &[State; KEYSPACES]) -> Self {
        Self { meta, keyspaces: states.each_ref().map(State::begin_copy) }
    }

    /// Reads the state file as it goes: for a thread that may block.
    pub(crate) fn chunks(self) -> Chunks {
        Chunks {
            rest: VecDeque::from(self.keyspaces),
            code: 0,
            place: Place::Beginning(self.meta),
            content: Vec::new(),
            chain: 0,
            records: 0,
            started: false,
        }
    }
}

/// The snapshot's bytes, at most 256 KiB at a time. Ends after the first error.
pub(crate) struct Chunks {
    /// Keyspaces that are not written whole yet; the first has this code.
    rest: VecDeque<Copy>,
    code: u8,
    place: Place,
    /// Items that are in no frame yet.
    content: Vec<u8>,
    chain: u32,
    /// Of the keyspace that is being written.
    records: u64,
    started: bool,
}

enum Place {
    Beginning(Vec<u8>),
    /// The next keyspace begins.
    Keyspace,
    /// Its records from here on.
    Records(RevKey),
    /// Everything is in frames or in `content`.
    End,
    Done,
}

impl Iterator for Chunks {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if !std::mem::replace(&mut self.started, true) {
            let (preamble, chain) = preamble();
            self.chain = chain;
            return Some(Ok(Bytes::from(preamble)));
        }
        let chunk = self.next_frame().transpose()?;
        if chunk.is_err() {
            self.place = Place::Done;
            self.content.clear();
        }
        Some(chunk)
    }
}

impl Chunks {
    fn next_frame(&mut self) -> Result<Option<Bytes>, Error> {
        while self.content.len() < FRAME_BYTES_MAX && self.step()? {}
        if matches!(self.place, Place::Done) {
            return Ok(None);
        }
        let length = self.content.len().min(FRAME_BYTES_MAX);
        if length == 0 {
            self.place = Place::Done;
        }
        let frame = frame(&self.content[..length], &mut self.chain)?;
        self.content.drain(..length);
        Ok(Some(frame))
    }

    /// Adds some items; whether there may be more.
    fn step(&mut self) -> Result<bool, Error> {
        match std::mem::replace(&mut self.place, Place::Keyspace) {
            Place::Beginning(meta) => self.item(kind::META, |out| out.extend_from_slice(&meta)),
            Place::Keyspace if self.rest.is_empty() => {
                let keyspaces = self.code;
                self.place = Place::End;
                self.item(kind::END, |out| out.push(keyspaces))
            }
            Place::Keyspace => self.begin_keyspace(),
            Place::Records(from) => self.add_records(from),
            ended @ (Place::End | Place::Done) => {
                self.place = ended;
                return Ok(false);
            }
        }?;
        Ok(true)
    }

    fn begin_keyspace(&mut self) -> Result<(), Error> {
        let (Some(copy), code) = (self.rest.front(), self.code) else { return Ok(()) };
        let header = copy.header.clone();
        self.place = Place::Records(RevKey { main: 0, sub: 0 });
        self.records = 0;
        self.item(kind::KEYSPACE, |out| {
            out.push(code);
            put_i64(out, header.revision);
            put_i64(out, header.compacted);
            put_u64(out, header.leases.len() as u64);
        })?;
        for (id, ttl, remaining) in header.leases {
            self.item(kind::LEASE, |out| {
                for number in [id, ttl, remaining] {
                    put_i64(out, number);
                }
            })?;
        }
        Ok(())
    }

    /// About a frame's worth of records.
    fn add_records(&mut self, from: RevKey) -> Result<(), Error> {
        let Some(copy) = self.rest.pop_front() else { return Ok(()) };
        let mut next = from;
        let mut outcome = Ok(());
        let complete = copy.visit_from(from, |at, encoded| {
            next = at.next();
            self.records += 1;
            outcome = self.item(kind::RECORD, |out| {
                out.extend_from_slice(&at.encode());
                out.extend_from_slice(encoded);
            });
            outcome.is_ok() && self.content.len() < FRAME_BYTES_MAX
        })?;
        outcome?;
        if complete {
            self.code += 1;
            self.place = Place::Keyspace;
            let records = self.records;
            return self.item(kind::KEYSPACE_END, |out| put_u64(out, records));
        }
        self.rest.push_front(copy);
        self.place = Place::Records(next);
        Ok(())
    }

    fn item(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        let start = self.content.len();
        self.content.extend_from_slice(&[0, 0, 0, 0, kind]);
        write(&mut self.content);
        let length = self.content.len() - start - 4;
        match u32::try_from(length) {
            Ok(stored) if length <= ITEM_BYTES_MAX => {
                self.content[start..start + 4].copy_from_slice(&stored.to_le_bytes());
                Ok(())
            }
            _ => Err(Error::Unavailable {
                detail: format!(
                    "the state has a record of {length} bytes; a snapshot takes {ITEM_BYTES_MAX}"
                ),
            }),
        }
    }
}

fn preamble() -> (Vec<u8>, u32) {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    (out, checksum)
}

fn frame(content: &[u8], chain: &mut u32) -> Result<Bytes, Error> {
    let compressed = zstd::bulk::compress(content, COMPRESSION_LEVEL).map_err(|error| {
        Error::Unavailable { detail: format!("compressing a snapshot failed: {error}") }
    })?;
    let stored = if compressed.len() < content.len() { &compressed } else { content };
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + stored.len());
    for length in [stored.len(), content.len()] {
        // Both are at most FRAME_BYTES_MAX.
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    }
    *chain = continue_chain(*chain, &out, stored);
    out.extend_from_slice(&chain.to_le_bytes());
    out.extend_from_slice(stored);
    Ok(Bytes::from(out))
}

fn continue_chain(chain: u32, lengths: &[u8], stored: &[u8]) -> u32 {
    let start = crc32c::crc32c(&chain.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(start, lengths), stored)
}

#[cfg(test)]
mod tests;
