//! Takes a whole store's snapshot in, byte by byte, and makes a state file of it, or only sees
//! that it is whole.
//!
//! Nothing is believed before its checksum was right, and no length before it was compared with
//! its limit; what is kept in memory is a frame, an item and one batch of the new file.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, ITEM_BYTES_MAX, MAGIC, PREAMBLE_BYTES, VERSION,
    continue_chain, kind,
};
use crate::backend::{BackendError, Incoming, KEYSPACES};
use crate::clock::Clock;
use crate::codec::{Malformed, Reader};
use crate::disk::Disk;
use crate::kv::{LeaseId, Revision};
use crate::mvcc::{Record, RevKey};
use crate::newer::Newer;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("this is not a snapshot of a store")]
    NotASnapshot,
    #[error(transparent)]
    Newer(Newer),
    #[error("the snapshot names the version 0, which there is not")]
    NoVersion,
    #[error("the snapshot is damaged in the frame at byte {offset}: {reason}")]
    Damaged { offset: u64, reason: &'static str },
    #[error("the snapshot ends after {bytes} bytes, before its end: it was cut short")]
    Cut { bytes: u64 },
    #[error("the snapshot was given up after an error")]
    GivenUp,
    #[error("the snapshot could not be stored")]
    Store(#[source] BackendError),
}

/// A snapshot that has become a state file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Imported {
    /// What the store said of itself; stands in the new file already.
    pub(crate) meta: Bytes,
    /// Revision and compacted revision.
    pub(crate) keyspaces: [(Revision, Revision); KEYSPACES],
    pub(crate) records: u64,
}

/// Where what was read goes.
pub(crate) trait Sink {
    /// What is coming is of this.
    fn begin(&mut self, _meta: &[u8]) {}
    fn lease(&mut self, code: usize, id: LeaseId, times: (i64, i64)) -> Result<(), BackendError>;
    /// `encoded` is a [`Record`].
    fn record(&mut self, code: usize, at: RevKey, encoded: Bytes) -> Result<(), BackendError>;
}

/// Reads a snapshot only to see that it is whole.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn lease(&mut self, _: usize, _: LeaseId, _: (i64, i64)) -> Result<(), BackendError> {
        Ok(())
    }

    fn record(&mut self, _: usize, _: RevKey, _: Bytes) -> Result<(), BackendError> {
        Ok(())
    }
}

impl Sink for Incoming {
    fn begin(&mut self, meta: &[u8]) {
        Self::begin(self, meta);
    }

    fn lease(&mut self, code: usize, id: LeaseId, times: (i64, i64)) -> Result<(), BackendError> {
        Self::lease(self, code, id, times)
    }

    fn record(&mut self, code: usize, at: RevKey, encoded: Bytes) -> Result<(), BackendError> {
        Self::record(self, code, at, encoded)
    }
}

/// Dropping it gives the snapshot up; the file stays, and is nothing.
pub(crate) struct Importer<S = Incoming> {
    /// `None` after an error.
    file: Option<S>,
    /// Bytes of the preamble, or of a frame, that is not there whole yet.
    partial: Vec<u8>,
    has_preamble: bool,
    chain: u32,
    /// Where the frame begins that is being read.
    offset: u64,
    /// Content that is no whole item yet.
    content: Vec<u8>,
    /// The end frame was read.
    ended: bool,
    items: Items,
}

impl Importer {
    /// `file_name` is replaced if it exists. The clock is never waited for.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        file_name: &str,
    ) -> Result<Self, ImportError> {
        Incoming::create(disk, clock, file_name).map(Self::into).map_err(ImportError::Store)
    }

    /// When all bytes were pushed: the file is durable under its name when this returns.
    pub(crate) fn finish(self) -> Result<Imported, ImportError> {
        self.finish_as(|imported| imported.meta.to_vec())
    }

    /// The same, but the file says something else of itself than the store did.
    pub(crate) fn finish_as(
        self,
        meta: impl FnOnce(&Imported) -> Vec<u8>,
    ) -> Result<Imported, ImportError> {
        let (file, imported) = self.end()?;
        file.finish(&meta(&imported)).map_err(ImportError::Store)?;
        Ok(imported)
    }
}

impl<S: Sink> Importer<S> {
    pub(crate) fn into(sink: S) -> Self {
        Self {
            file: Some(sink),
            partial: Vec::new(),
            has_preamble: false,
            chain: 0,
            offset: 0,
            content: Vec::new(),
            ended: false,
            items: Items::default(),
        }
    }

    /// Any number of the next bytes. Blocks: it writes to disk.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), ImportError> {
        while !bytes.is_empty() {
            match self.take(bytes) {
                Ok(used) => bytes = &bytes[used..],
                Err(error) => {
                    self.file = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// When all bytes were pushed.
    pub(crate) fn end(mut self) -> Result<(S, Imported), ImportError> {
        let file = self.file.take().ok_or(ImportError::GivenUp)?;
        if !self.ended {
            return Err(ImportError::Cut { bytes: self.offset + self.partial.len() as u64 });
        }
        // An end frame is taken only behind the end item, so all of this was there.
        let imported = self.items.finish().ok_or(ImportError::GivenUp)?;
        Ok((file, imported))
    }

    /// Uses some of the bytes: as many as the preamble or the frame still lacks.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, ImportError> {
        if self.file.is_none() {
            return Err(ImportError::GivenUp);
        }
        if self.ended {
            return Err(self.damaged("there is something behind the end"));
        }
        let whole = self.whole_bytes()?;
        let used = bytes.len().min(whole - self.partial.len());
        self.partial.extend_from_slice(&bytes[..used]);
        // A frame's header has to be read before its end is known.
        if self.partial.len() == whole && self.whole_bytes()? == whole {
            let complete = std::mem::take(&mut self.partial);
            if self.has_preamble { self.frame(&complete) } else { self.preamble(&complete) }?;
            self.offset += complete.len() as u64;
        }
        Ok(used)
    }

    /// How many bytes what is being read has, as far as is known.
    fn whole_bytes(&self) -> Result<usize, ImportError> {
        if !self.has_preamble {
            return Ok(PREAMBLE_BYTES);
        }
        if self.partial.len() < FRAME_HEADER_BYTES {
            return Ok(FRAME_HEADER_BYTES);
        }
        let (stored, content) = (u32_at(&self.partial, 0), u32_at(&self.partial, 4));
        if stored > content || content as usize > FRAME_BYTES_MAX {
            return Err(self.damaged("the lengths are impossible"));
        }
        Ok(FRAME_HEADER_BYTES + stored as usize)
    }

    fn preamble(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        if !bytes.starts_with(MAGIC) {
            return Err(ImportError::NotASnapshot);
        }
        let checksum = crc32c::crc32c(&bytes[..PREAMBLE_BYTES - 4]);
        if checksum != u32_at(bytes, PREAMBLE_BYTES - 4) {
            return Err(self.damaged("the checksum is wrong"));
        }
        let found = u32_at(bytes, MAGIC.len());
        Newer::check("the snapshot", found, VERSION).map_err(ImportError::Newer)?;
        if found == 0 {
            return Err(ImportError::NoVersion);
        }
        self.chain = checksum;
        self.has_preamble = true;
        Ok(())
    }

    fn frame(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        let (header, stored) = bytes.split_at(FRAME_HEADER_BYTES);
        let chain = continue_chain(self.chain, &header[..8], stored);
        if chain != u32_at(header, 8) {
            return Err(self.damaged("the checksum is wrong"));
        }
        self.chain = chain;
        let content_bytes = u32_at(header, 4) as usize;
        if content_bytes == 0 {
            if !self.items.ended || !self.content.is_empty() {
                return Err(self.damaged("the end comes too early"));
            }
            self.ended = true;
            return Ok(());
        }
        if stored.len() == content_bytes {
            self.content.extend_from_slice(stored);
        } else {
            let content = zstd::bulk::decompress(stored, content_bytes)
                .ok()
                .filter(|content| content.len() == content_bytes)
                .ok_or_else(|| self.damaged("it does not decompress"))?;
            self.content.extend_from_slice(&content);
        }
        self.take_items()
    }

    fn take_items(&mut self) -> Result<(), ImportError> {
        let mut at = 0;
        while self.content.len() >= at + 4 {
            let length = u32_at(&self.content, at) as usize;
            if length > ITEM_BYTES_MAX {
                return Err(self.damaged("an item is too long"));
            }
            let Some(item) = self.content.get(at + 4..at + 4 + length) else { break };
            let item = Bytes::copy_from_slice(item);
            at += 4 + length;
            let file = self.file.as_mut().ok_or(ImportError::GivenUp)?;
            match self.items.take(item, file) {
                Ok(()) => {}
                Err(ItemError::Malformed(malformed)) => return Err(self.damaged(malformed.0)),
                Err(ItemError::Store(error)) => return Err(ImportError::Store(error)),
            }
        }
        self.content.drain(..at);
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> ImportError {
        ImportError::Damaged { offset: self.offset, reason }
    }
}

/// What has come so far, to see that everything comes once and in order.
#[derive(Default)]
struct Items {
    meta: Option<Bytes>,
    keyspaces: Vec<(Revision, Revision)>,
    /// The last of `keyspaces` goes on.
    open: Option<OpenKeyspace>,
    records: u64,
    ended: bool,
}

struct OpenKeyspace {
    revision: Revision,
    leases_left: u64,
    last_lease: Option<LeaseId>,
    last_record: Option<RevKey>,
    records: u64,
}

enum ItemError {
    Malformed(Malformed),
    Store(BackendError),
}

impl From<Malformed> for ItemError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Items {
    fn take(&mut self, item: Bytes, file: &mut impl Sink) -> Result<(), ItemError> {
        let mut item = Reader::new(item);
        let kind = item.u8()?;
        if self.ended || (kind == kind::META) == self.meta.is_some() {
            return Err(Malformed("an item is not in its place").into());
        }
        let code = self.keyspaces.len().saturating_sub(1);
        match (kind, &mut self.open) {
            (kind::META, None) => {
                let meta = item.into_rest();
                file.begin(&meta);
                self.meta = Some(meta);
            }
            (kind::KEYSPACE, None) => self.begin_keyspace(item)?,
            (kind::LEASE, Some(open)) => {
                let (id, times) = open.lease(item)?;
                file.lease(code, id, times).map_err(ItemError::Store)?;
            }
            (kind::RECORD, Some(open)) => {
                let (at, encoded) = open.record(item)?;
                file.record(code, at, encoded).map_err(ItemError::Store)?;
            }
            (kind::KEYSPACE_END, Some(open)) => {
                if item.u64()? != open.records || !item.is_empty() || open.leases_left > 0 {
                    return Err(Malformed("a keyspace lacks something").into());
                }
                self.records += open.records;
                self.open = None;
            }
            (kind::END, None) if self.keyspaces.len() == KEYSPACES => {
                if usize::from(item.u8()?) != KEYSPACES || !item.is_empty() {
                    return Err(Malformed("the end has other keyspaces").into());
                }
                self.ended = true;
            }
            _ => return Err(Malformed("an item is not in its place").into()),
        }
        Ok(())
    }

    fn begin_keyspace(&mut self, mut item: Reader) -> Result<(), Malformed> {
        let code = usize::from(item.u8()?);
        let (revision, compacted) = (item.i64()?, item.i64()?);
        let leases_left = item.u64()?;
        let is_next = code == self.keyspaces.len() && code < KEYSPACES;
        if !is_next || revision < 1 || !(0..=revision).contains(&compacted) || !item.is_empty() {
            return Err(Malformed("a keyspace's beginning is impossible"));
        }
        self.keyspaces.push((revision, compacted));
        self.open = Some(OpenKeyspace {
            revision,
            leases_left,
            last_lease: None,
            last_record: None,
            records: 0,
        });
        Ok(())
    }

    fn finish(self) -> Option<Imported> {
        let keyspaces = self.keyspaces.try_into().ok()?;
        Some(Imported { meta: self.meta?, keyspaces, records: self.records })
    }
}

impl OpenKeyspace {
    fn lease(&mut self, mut item: Reader) -> Result<(LeaseId, (i64, i64)), Malformed> {
        let (id, ttl, remaining) = (item.i64()?, item.i64()?, item.i64()?);
        let in_order = self.last_lease.is_none_or(|last| last < id);
        let left = self.leases_left.checked_sub(1).filter(|_| in_order && item.is_empty());
        self.leases_left = left.ok_or(Malformed("a lease is not in its place"))?;
        self.last_lease = Some(id);
        Ok((id, (ttl, remaining)))
    }

    fn record(&mut self, mut item: Reader) -> Result<(RevKey, Bytes), Malformed> {
        let at = RevKey::decode(&item.take(RevKey::BYTES)?)?;
        let in_order = self.last_record.is_none_or(|last| last < at);
        if !in_order || !(1..=self.revision).contains(&at.main) || self.leases_left > 0 {
            return Err(Malformed("a record is not in its place"));
        }
        let encoded = item.into_rest();
        Record::decode(encoded.clone())?;
        self.last_record = Some(at);
        self.records += 1;
        Ok((at, encoded))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..at + 4).and_then(|slice| slice.first_chunk::<4>());
    number.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
