//! The write-ahead log: the place where a write becomes durable.
//!
//! Batches go to the end of the active segment, each written and synced before the next. Space is
//! taken, as zeros, before anything is proposed, so that a full disk refuses a write cleanly.
//! After a failed write or sync nothing more is written: only a new start may look what is there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::consensus::{LogEntry, Position};
use crate::disk::{Disk, DiskFile};
use crate::newer::Newer;

mod fill;
pub mod format;
pub mod reader;
mod recover;

pub(crate) use fill::FillJob;
use fill::{Filling, create_segment};
use format::{
    BATCH_HEADER_BYTES, BATCH_MAX_BYTES, BLOCK_BYTES, BatchHeader, FRAME_HEADER_BYTES, FrameKind,
    HardState, PADDING, SegmentHeader, encode_acknowledged, encode_frame, encode_hard_state,
};
pub(crate) use recover::{Base, Recovered};

/// What every member acknowledged: epoch and index.
pub(crate) type Acknowledged = BTreeMap<u64, (u64, u64)>;

const WAL_FOLDER: &str = "wal";
/// The batch buffer is given back when one large batch has grown it beyond this.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
/// Room that only deletes, compaction and the store itself may use, so that a full disk can be
/// emptied.
const VITAL_ROOM_BYTES: u64 = 128 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum WalOpenError {
    #[error("{file} is damaged at offset {offset}: {reason}")]
    Corrupt { file: String, offset: u64, reason: &'static str },
    #[error("{0}")]
    Newer(#[source] Newer),
    #[error("{file}: {action}")]
    Io { file: String, action: &'static str, source: io::Error },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum WalError {
    /// Nothing was written; the same call may succeed when there is room.
    #[error("{file} cannot grow: the disk is full")]
    Full { file: String, source: io::Error },
    /// What is on disk is unknown.
    #[error("{file}: {action}; the store must be opened again")]
    Failed { file: String, action: &'static str, source: io::Error },
    #[error("an earlier write to the log failed; the store must be opened again")]
    FailedBefore,
}

/// Which writes may use the last of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Ordinary,
    Vital,
}

#[derive(Debug)]
struct Active {
    file: Arc<dyn DiskFile>,
    name: String,
    sequence: u64,
    /// Where the next batch goes.
    tail: u64,
    /// Everything from `tail` up to here is zeros that the file system has space for.
    zeroed_to: u64,
    next_batch: u64,
}

#[derive(Debug)]
struct Closed {
    name: String,
    last_index: u64,
}

#[derive(Debug)]
pub(crate) struct Wal {
    disk: Arc<dyn Disk>,
    identity: Identity,
    segment_bytes: u64,
    active: Active,
    closed: Vec<Closed>,
    /// The checksum that the next frame continues.
    chain: u32,
    /// The same behind the frames in `buffer`, which are not written yet.
    pending_chain: u32,
    synced_index: u64,
    last_index: u64,
    hard_state: HardState,
    acknowledged: Acknowledged,
    /// The present segment does not have all of `acknowledged`.
    acknowledged_unwritten: bool,
    /// A segment that was to go stays; see [`Released::remove`].
    stuck: Arc<AtomicBool>,
    buffer: Vec<u8>,
    filling: Option<Arc<Filling>>,
    /// When the last fill began, by the clock of whoever asks for them.
    filled_at: Duration,
    /// A fill found the disk full; the next one waits for a write that finds room.
    fill_refused: bool,
    failed: bool,
    bytes_written: u64,
}

impl Wal {
    fn with_active(
        disk: Arc<dyn Disk>,
        identity: Identity,
        segment_bytes: u64,
        active: Active,
    ) -> Self {
        Self {
            disk,
            identity,
            segment_bytes,
            active,
            closed: Vec::new(),
            chain: 0,
            pending_chain: 0,
            synced_index: 0,
            last_index: 0,
            hard_state: HardState::default(),
            acknowledged: Acknowledged::new(),
            acknowledged_unwritten: false,
            stuck: Arc::default(),
            buffer: Vec::new(),
            filling: None,
            filled_at: Duration::ZERO,
            fill_refused: false,
            failed: false,
            bytes_written: 0,
        }
    }

    fn start(
        disk: Arc<dyn Disk>,
        identity: Identity,
        segment_bytes: u64,
    ) -> Result<Recovered, WalOpenError> {
        let header = SegmentHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            epoch: identity.epoch,
            sequence: 1,
            first_index: 1,
            previous_chain: 0,
            hard_state: HardState::default(),
        };
        let active =
            create_segment(&*disk, &header, segment_bytes).map_err(|source| WalOpenError::Io {
                file: disk.describe(WAL_FOLDER),
                action: "making the first segment failed",
                source,
            })?;
        let wal = Self::with_active(disk, identity, segment_bytes, active);
        let acknowledged = Acknowledged::new();
        Ok(Recovered { wal, hard_state: HardState::default(), entries: Vec::new(), acknowledged })
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// What a frame with this payload takes, without the padding of its batch.
    pub(crate) fn frame_bytes(payload_bytes: usize) -> u64 {
        (payload_bytes + 1 + FRAME_HEADER_BYTES) as u64
    }

    /// Makes room for frames of `bytes`, in a new segment where needed. After this,
    /// [`Self::append`] of as much does not meet a full disk.
    pub(crate) fn reserve(&mut self, bytes: u64, room: Room) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::FailedBefore);
        }
        self.finish_fill(false)?;
        let block = BLOCK_BYTES as u64;
        // One block for rounding, one for the hard state, one for the end of the segment.
        let batches = bytes.div_ceil(BATCH_MAX_BYTES as u64).max(1);
        let needed = bytes.next_multiple_of(block) + (batches + 2) * block;
        if self.active.tail + needed > self.segment_bytes && self.active.next_batch > 0 {
            self.rotate()?;
        }
        let spare = if room == Room::Ordinary { VITAL_ROOM_BYTES } else { 0 };
        let wanted = self.active.tail + needed + spare;
        if wanted > self.active.zeroed_to {
            self.finish_fill(true)?;
        }
        if wanted > self.active.zeroed_to {
            self.extend(wanted)?;
        }
        self.fill_refused = false;
        Ok(())
    }

    /// With the next batch, whichever it is.
    pub(crate) fn note_acknowledged(&mut self, acknowledged: &Acknowledged) {
        if self.acknowledged != *acknowledged {
            self.acknowledged.clone_from(acknowledged);
            self.acknowledged_unwritten = true;
        }
    }

    /// Writes the entries, and the hard state if it is new, and waits until they are durable.
    pub(crate) fn append<'a>(
        &mut self,
        hard_state: Option<HardState>,
        entries: impl IntoIterator<Item = &'a LogEntry>,
    ) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::FailedBefore);
        }
        if let Some(state) = hard_state {
            self.hard_state = state;
        }
        self.start_batch();
        let mut frames = self.push_acknowledged();
        if let Some(state) = hard_state {
            let payload = encode_hard_state(state);
            self.push_frame(FrameKind::HardState, (state.term, 0), &[&payload]);
            frames += 1;
        }
        for entry in entries {
            if frames > 0 && self.buffer.len() + entry.payload.len() > BATCH_MAX_BYTES {
                self.write_batch(frames)?;
                self.start_batch();
                frames = 0;
            }
            let kind = [entry.kind.code()];
            let position = (entry.term, entry.index);
            self.push_frame(FrameKind::Entry, position, &[&kind, &entry.payload]);
            self.last_index = entry.index;
            frames += 1;
        }
        if frames > 0 {
            self.write_batch(frames)?;
        }
        Ok(())
    }

    /// The log begins again behind a state that has been installed.
    pub(crate) fn restart(
        &mut self,
        at: Position,
        hard_state: Option<HardState>,
    ) -> Result<(), WalError> {
        if self.failed {
            return Err(WalError::FailedBefore);
        }
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        self.start_batch();
        let payload = encode_hard_state(self.hard_state);
        self.push_frame(FrameKind::HardState, (self.hard_state.term, 0), &[&payload]);
        self.push_frame(FrameKind::Restart, (at.term, at.index), &[]);
        self.last_index = at.index;
        self.write_batch(2)?;
        for closed in &mut self.closed {
            closed.last_index = closed.last_index.min(at.index);
        }
        Ok(())
    }

    /// A batch without entries: its presence proves that all before it was durable. It leaves the
    /// last of the room to others.
    pub(crate) fn seal(&mut self) -> Result<(), WalError> {
        self.reserve(0, Room::Ordinary)?;
        self.start_batch();
        let frames = self.push_acknowledged();
        self.write_batch(frames)
    }

    fn push_acknowledged(&mut self) -> u32 {
        if !std::mem::take(&mut self.acknowledged_unwritten) {
            return 0;
        }
        let payload = encode_acknowledged(&self.acknowledged);
        self.push_frame(FrameKind::Acknowledged, (0, 0), &[&payload]);
        1
    }

    fn start_batch(&mut self) {
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        self.pending_chain = self.chain;
    }

    fn push_frame(&mut self, kind: FrameKind, position: (u64, u64), parts: &[&[u8]]) {
        let chain = self.pending_chain;
        self.pending_chain = encode_frame(&mut self.buffer, chain, kind, position, parts);
    }

    /// One write and one sync. Whatever fails here leaves the disk in a state that only a new
    /// start can find out.
    fn write_batch(&mut self, frame_count: u32) -> Result<(), WalError> {
        let header = BatchHeader {
            frames_bytes: self.buffer.len() - BATCH_HEADER_BYTES,
            frame_count,
            sequence: self.active.sequence,
            number: self.active.next_batch,
            synced_index: self.synced_index,
            previous_chain: self.chain,
        };
        header.encode_into(&mut self.buffer[..BATCH_HEADER_BYTES]);
        let padded = header.padded_bytes();
        self.buffer.resize(padded, PADDING);
        // A crash of the machine may take back what is only written, so until the sync returns
        // nothing of this batch is known to be safe.
        self.failed = true;
        let written = self.active.file.write_blocks(self.active.tail, &self.buffer);
        written.map_err(|source| self.failure("writing a batch failed", source))?;
        let synced = self.active.file.sync();
        synced.map_err(|source| self.failure("syncing a batch failed", source))?;
        self.failed = false;
        self.active.tail += padded as u64;
        self.active.zeroed_to = self.active.zeroed_to.max(self.active.tail);
        self.active.next_batch += 1;
        self.chain = self.pending_chain;
        self.synced_index = self.last_index;
        self.bytes_written += padded as u64;
        if self.buffer.capacity() > BUFFER_KEPT_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn failure(&self, action: &'static str, source: io::Error) -> WalError {
        WalError::Failed { file: self.disk.describe(&self.active.name), action, source }
    }

    /// Takes out the segments that are of no use once the state has durably applied this index.
    pub(crate) fn take_released(&mut self, applied_index: u64) -> Released {
        if self.acknowledged_unwritten {
            // Older segments may be the only ones that have it.
            return self.released(Vec::new());
        }
        let gone =
            self.closed.iter().take_while(|segment| segment.last_index <= applied_index).count();
        let names = self.closed.drain(..gone).map(|segment| segment.name).collect();
        self.released(names)
    }

    fn released(&self, names: Vec<String>) -> Released {
        Released { disk: self.disk.clone(), names, stuck: self.stuck.clone() }
    }
}

/// Segments that go. Removing a large file takes tens of milliseconds, so whoever waits for the
/// log does not do it.
#[derive(Debug)]
pub(crate) struct Released {
    disk: Arc<dyn Disk>,
    names: Vec<String>,
    stuck: Arc<AtomicBool>,
}

impl Released {
    /// Only after the state is durable. What fails here is tried again by no one: the next start
    /// reads the segment in vain and releases it then.
    pub(crate) fn remove(&self) -> io::Result<()> {
        // One that stays must not be followed by a gap, which would be taken for damage.
        if self.stuck.load(Ordering::Acquire) {
            return Ok(());
        }
        let removed = self.remove_all();
        if removed.is_err() {
            self.stuck.store(true, Ordering::Release);
        }
        removed
    }

    fn remove_all(&self) -> io::Result<()> {
        for name in &self.names {
            self.disk.remove(name)?;
            // One after the other: a power cut must not bring back an older one than it takes.
            self.disk.sync_folder(WAL_FOLDER)?;
        }
        Ok(())
    }
}
