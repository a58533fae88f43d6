//! The state's file under redb, patient with a full disk.
//!
//! After one failed write redb serves no reads either. So pages that the disk has no room for are
//! kept in memory, where reads find them, and the sync waits until there is room again. What is
//! kept is bounded by one flush, which the store bounds.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::StorageBackend;

use crate::clock::Clock;
use crate::disk::{DiskFile, is_full};
use crate::sync::lock;

/// Written to the file at most before it is synced: the log's syncs beside it wait for the same
/// disk, and would wait for all of a flush.
const UNSYNCED_MAX_BYTES: usize = 2 << 20;
/// How often a full disk is tried again; nothing tells when it has room.
const RETRY_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Set when the store stops, so that a flush no longer waits for a full disk.
    pub(super) closing: AtomicBool,
    /// A sync waits for room.
    pub(super) waiting: AtomicBool,
}

#[derive(Debug)]
pub(super) struct PatientFile {
    file: Arc<dyn DiskFile>,
    clock: Arc<dyn Clock>,
    patience: Arc<Patience>,
    kept: Mutex<Kept>,
    /// Read before the lock is taken: nearly always nothing is kept.
    any_kept: AtomicBool,
    unsynced_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Kept {
    pages: BTreeMap<u64, Vec<u8>>,
    /// The length that the file should have and does not.
    length: Option<u64>,
}

impl PatientFile {
    pub(super) fn new(
        file: Arc<dyn DiskFile>,
        clock: Arc<dyn Clock>,
        patience: Arc<Patience>,
    ) -> Self {
        let any_kept = AtomicBool::new(false);
        let unsynced_bytes = AtomicUsize::new(0);
        Self { file, clock, patience, kept: Mutex::default(), any_kept, unsynced_bytes }
    }

    fn write_paced(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, content)?;
        let unsynced = self.unsynced_bytes.fetch_add(content.len(), Ordering::Relaxed);
        if unsynced + content.len() < UNSYNCED_MAX_BYTES {
            return Ok(());
        }
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        self.file.sync()
    }

    fn keep(&self, change: impl FnOnce(&mut Kept)) {
        change(&mut lock(&self.kept));
        self.any_kept.store(true, Ordering::Release);
    }

    /// Writes what is kept, in order of offset; the rest stays kept when the disk is still full.
    fn write_kept(&self) -> io::Result<()> {
        let mut kept = lock(&self.kept);
        if let Some(length) = kept.length {
            self.file.set_length(length)?;
            kept.length = None;
        }
        while let Some(page) = kept.pages.first_entry() {
            self.write_paced(*page.key(), page.get())?;
            page.remove();
        }
        self.any_kept.store(false, Ordering::Release);
        Ok(())
    }

    fn write_kept_when_possible(&self) -> io::Result<()> {
        let mut warned = false;
        loop {
            match self.write_kept() {
                Err(error) if is_full(&error) && !self.patience.closing.load(Ordering::Acquire) => {
                    if !warned {
                        tracing::warn!(%error, "the disk is full; the state file waits for room");
                        warned = true;
                    }
                    self.patience.waiting.store(true, Ordering::Release);
                    self.clock.pause(RETRY_AFTER);
                }
                other => {
                    self.patience.waiting.store(false, Ordering::Release);
                    return other;
                }
            }
        }
    }
}

impl StorageBackend for PatientFile {
    fn len(&self) -> io::Result<u64> {
        if !self.any_kept.load(Ordering::Acquire) {
            return self.file.length();
        }
        match lock(&self.kept).length {
            Some(length) => Ok(length),
            None => self.file.length(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if !self.any_kept.load(Ordering::Acquire) {
            return self.file.read_at(offset, out);
        }
        let kept = lock(&self.kept);
        let end = offset + out.len() as u64;
        // Where the file is still too short it has only what is kept.
        let there = self.file.length()?.clamp(offset, end) - offset;
        let there = usize::try_from(there).map_err(io::Error::other)?;
        out.fill(0);
        self.file.read_at(offset, &mut out[..there])?;
        for (start, page) in kept.pages.range(..end) {
            let page_end = start + page.len() as u64;
            let from = offset.max(*start);
            let to = end.min(page_end);
            if from < to {
                let length = usize::try_from(to - from).map_err(io::Error::other)?;
                let out_at = usize::try_from(from - offset).map_err(io::Error::other)?;
                let page_at = usize::try_from(from - start).map_err(io::Error::other)?;
                out[out_at..out_at + length].copy_from_slice(&page[page_at..page_at + length]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.file.set_length(len) {
            Err(error) if is_full(&error) => {
                self.keep(|kept| kept.length = Some(len));
                Ok(())
            }
            other => {
                other?;
                let mut kept = lock(&self.kept);
                kept.length = None;
                Ok(())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.any_kept.load(Ordering::Acquire) {
            self.write_kept_when_possible()?;
        }
        self.file.sync()
    }

    fn write(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        // Once something is kept, newer content of the same place must not be overwritten by it.
        let keep_order = self.any_kept.load(Ordering::Acquire);
        let written = if keep_order { Err(full()) } else { self.write_paced(offset, content) };
        match written {
            Err(error) if is_full(&error) => {
                self.keep(|kept| kept.insert(offset, content));
                Ok(())
            }
            other => other,
        }
    }
}

impl Kept {
    /// redb's pages are aligned powers of two, so two of them are apart or one holds the other.
    fn insert(&mut self, offset: u64, content: &[u8]) {
        let end = offset + content.len() as u64;
        let covered: Vec<_> = self
            .pages
            .range(offset..end)
            .filter(|(start, page)| **start + page.len() as u64 <= end)
            .map(|(start, _)| *start)
            .collect();
        for start in covered {
            self.pages.remove(&start);
        }
        let inside = self
            .pages
            .range_mut(..offset)
            .next_back()
            .filter(|(start, page)| **start + page.len() as u64 >= end);
        match inside {
            Some((start, page)) => {
                let at = usize::try_from(offset - start).unwrap_or(0);
                page[at..at + content.len()].copy_from_slice(content);
            }
            None => {
                self.pages.insert(offset, content.to_vec());
            }
        }
    }
}

fn full() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}
