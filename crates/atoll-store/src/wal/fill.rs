//! Space for the log: new segments, and zeros written ahead of the batches.
//!
//! Overwriting zeros costs one disk write and flush; growing a file costs a journal commit too.
//! So a background thread keeps a stretch of zeros ahead, short while little is written.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::format::{BLOCK_BYTES, FrameKind, SegmentHeader};
use super::{Active, Closed, VITAL_ROOM_BYTES, WAL_FOLDER, Wal, WalError};
use crate::disk::{Disk, DiskFile, is_full};
use crate::sync::lock;

/// Zeros written when a segment is made, if it is not small; more are added as it fills.
const FIRST_ZEROS_BYTES: u64 = 512 << 10;
/// Zeros added at once in the background, the more the fuller the segment is. A longer stretch
/// would delay the syncs beside it.
const FILL_MIN_BYTES: u64 = 256 << 10;
const FILL_MAX_BYTES: u64 = 4 << 20;
/// A log that a stretch has lasted for longer than this is filled in short ones: what an idle store
/// writes should come evenly, and little of it.
const QUIET_AFTER: Duration = Duration::from_secs(60);
const FILL_QUIET_BYTES: u64 = 32 << 10;
/// A fill starts so early that a write does not find the zeros short and has to add to them.
const FILL_MARGIN_BYTES: u64 = VITAL_ROOM_BYTES + (32 << 10);
/// Zeros synced at once: more would delay the log's own syncs, which wait for its whole file, and
/// less would cost more syncs than the disk has time for under load.
const SYNCED_ZEROS_BYTES: u64 = 1 << 20;
/// The unit of writing zeros.
const ZEROS_BYTES: u64 = 256 << 10;
const NEXT_SEGMENT: &str = "wal/next.tmp";

/// A stretch being zeroed by the background thread.
#[derive(Debug)]
pub(super) struct Filling {
    to: u64,
    outcome: Mutex<Option<Result<(), FillError>>>,
    changed: Condvar,
}

#[derive(Debug)]
enum FillError {
    Full,
    Failed(io::Error),
}

/// Work for the background thread: write zeros ahead of the log.
#[derive(Debug)]
pub(crate) struct FillJob {
    file: Arc<dyn DiskFile>,
    from: u64,
    filling: Arc<Filling>,
}

impl FillJob {
    pub(crate) fn run(self) {
        let result = self.write_paced().map_err(|error| match error {
            error if is_full(&error) => FillError::Full,
            error => FillError::Failed(error),
        });
        *lock(&self.filling.outcome) = Some(result);
        self.filling.changed.notify_all();
    }

    /// In short stretches, each synced: a sync of the log waits for what stands unsynced in its
    /// file.
    fn write_paced(&self) -> io::Result<()> {
        let mut from = self.from;
        while from < self.filling.to {
            let to = (from + SYNCED_ZEROS_BYTES).min(self.filling.to);
            write_zeros(&*self.file, from, to)?;
            self.file.sync()?;
            from = to;
        }
        Ok(())
    }
}

impl Wal {
    /// The next stretch to zero, when the zeros run low.
    pub(crate) fn take_fill_job(&mut self, now: Duration) -> Option<FillJob> {
        if self.filling.is_some() || self.fill_refused || self.failed {
            return None;
        }
        let active = &self.active;
        let step = match now.saturating_sub(self.filled_at) {
            since if since > QUIET_AFTER => FILL_QUIET_BYTES,
            _ => active.tail.clamp(FILL_MIN_BYTES, FILL_MAX_BYTES),
        };
        let to = (active.zeroed_to + step).min(self.segment_bytes);
        let ahead = active.zeroed_to - active.tail;
        if ahead >= step / 2 + FILL_MARGIN_BYTES || to <= active.zeroed_to {
            return None;
        }
        let filling = Arc::new(Filling { to, outcome: Mutex::new(None), changed: Condvar::new() });
        self.filling = Some(filling.clone());
        self.filled_at = now;
        Some(FillJob { file: active.file.clone(), from: active.zeroed_to, filling })
    }

    /// Takes the result of a fill, waiting for it when the space is needed now.
    pub(super) fn finish_fill(&mut self, wait: bool) -> Result<(), WalError> {
        let Some(filling) = self.filling.clone() else { return Ok(()) };
        let mut outcome = lock(&filling.outcome);
        while wait && outcome.is_none() {
            outcome =
                filling.changed.wait(outcome).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let Some(result) = outcome.take() else { return Ok(()) };
        self.filling = None;
        match result {
            Ok(()) => {
                self.bytes_written += filling.to - self.active.zeroed_to;
                self.active.zeroed_to = filling.to;
                Ok(())
            }
            Err(FillError::Full) => {
                self.fill_refused = true;
                Ok(())
            }
            // The kernel reports a failed sync once; the log's own next sync might not see it.
            Err(FillError::Failed(source)) => {
                self.failed = true;
                Err(self.failure("writing zeros ahead failed", source))
            }
        }
    }

    /// Zeros up to `wanted`, at once; a full disk leaves everything as it was.
    pub(super) fn extend(&mut self, wanted: u64) -> Result<(), WalError> {
        let from = self.active.zeroed_to;
        match write_zeros(&*self.active.file, from, wanted) {
            Ok(()) => {
                self.bytes_written += wanted - from;
                self.active.zeroed_to = wanted;
                Ok(())
            }
            Err(source) if is_full(&source) => {
                Err(WalError::Full { file: self.disk.describe(&self.active.name), source })
            }
            Err(source) => {
                self.failed = true;
                Err(self.failure("growing the log failed", source))
            }
        }
    }

    /// Goes on in a new segment: it is made durable first, then the old one says that it ended.
    pub(super) fn rotate(&mut self) -> Result<(), WalError> {
        self.finish_fill(true)?;
        let block = BLOCK_BYTES as u64;
        if self.active.tail + block > self.active.zeroed_to {
            self.extend(self.active.tail + block)?;
        }
        self.start_batch();
        self.push_frame(FrameKind::SegmentEnd, (0, 0), &[]);
        let header = SegmentHeader {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            epoch: self.identity.epoch,
            sequence: self.active.sequence + 1,
            first_index: self.last_index + 1,
            previous_chain: self.pending_chain,
            hard_state: self.hard_state,
        };
        let next = match create_segment(&*self.disk, &header, self.segment_bytes) {
            Ok(next) => next,
            Err(source) if is_full(&source) => {
                return Err(WalError::Full { file: self.disk.describe(WAL_FOLDER), source });
            }
            Err(source) => {
                self.failed = true;
                return Err(self.failure("making the next segment failed", source));
            }
        };
        self.write_batch(1)?;
        let old = std::mem::replace(&mut self.active, next);
        self.closed.push(Closed { name: old.name, last_index: self.last_index });
        self.acknowledged_unwritten = !self.acknowledged.is_empty();
        Ok(())
    }
}

/// Durable, with its first zeros, when this returns; under another name until then.
pub(super) fn create_segment(
    disk: &dyn Disk,
    header: &SegmentHeader,
    segment_bytes: u64,
) -> io::Result<Active> {
    let zeroed_to = BLOCK_BYTES as u64 + FIRST_ZEROS_BYTES.min(segment_bytes / 2);
    let file = disk.open_log(NEXT_SEGMENT, true)?;
    let made = file
        .set_length(0)
        .and_then(|()| file.write_at(0, &header.encode()))
        .and_then(|()| write_zeros(&*file, BLOCK_BYTES as u64, zeroed_to))
        .and_then(|()| file.sync());
    if let Err(error) = made {
        // What is left of it is removed at the next start; here it would keep space from others.
        if let Err(error) = disk.remove(NEXT_SEGMENT) {
            tracing::warn!(%error, "an unfinished log segment could not be removed");
        }
        return Err(error);
    }
    let name = format!("{WAL_FOLDER}/{:08x}-{:016x}.wal", header.sequence, header.first_index);
    disk.rename(NEXT_SEGMENT, &name)?;
    disk.sync_folder(WAL_FOLDER)?;
    Ok(Active {
        file,
        name,
        sequence: header.sequence,
        tail: BLOCK_BYTES as u64,
        zeroed_to,
        next_batch: 0,
    })
}

fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(ZEROS_BYTES.min(to - from)).unwrap_or(0)];
    let mut offset = from;
    while offset < to {
        let length = (to - offset).min(zeros.len() as u64);
        file.write_at(offset, &zeros[..usize::try_from(length).unwrap_or(0)])?;
        offset += length;
    }
    Ok(())
}
