//! Opens the log of a folder: reads every segment, checks that they continue each other and the
//! state, cuts a torn tail, and refuses everything else with the file and the offset.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    BLOCK_BYTES, Frame, FrameKind, HardState, VERSION, decode_acknowledged, decode_hard_state,
    version_of,
};
use super::reader::{Segment, read_segment};
use super::{Acknowledged, Active, Closed, Identity, WAL_FOLDER, Wal, WalOpenError};
use crate::consensus::{EntryKind, LogEntry, Position};
use crate::disk::Disk;
use crate::newer::Newer;

#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) wal: Wal,
    pub(crate) hard_state: HardState,
    /// The entries behind the state's applied index, without a gap.
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) acknowledged: Acknowledged,
}

impl Recovered {
    /// The log's end, behind a state that has come to `applied`.
    pub(crate) fn last(&self, applied: Position) -> Position {
        let last = self.entries.last();
        last.map_or(applied, |one| Position { index: one.index, term: one.term })
    }
}

/// How far the state on disk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Base {
    pub(crate) applied: Position,
    /// It came from another member, so this log need not reach it.
    pub(crate) installed: bool,
}

impl From<Position> for Base {
    fn from(applied: Position) -> Self {
        Self { applied, installed: false }
    }
}

struct Read {
    name: String,
    segment: Segment,
    length: u64,
    last_batch: Vec<u8>,
}

impl Wal {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        identity: Identity,
        segment_bytes: u64,
        base: impl Into<Base>,
    ) -> Result<Recovered, WalOpenError> {
        let base = base.into();
        let applied = base.applied;
        let failed = |action| {
            let file = disk.describe(WAL_FOLDER);
            move |source| WalOpenError::Io { file, action, source }
        };
        disk.create_folder(WAL_FOLDER).map_err(failed("creating the folder failed"))?;
        // The folder's own name, and that of a segment made just before the last stop.
        disk.sync_folder("").map_err(failed("syncing the folder above failed"))?;
        disk.sync_folder(WAL_FOLDER).map_err(failed("syncing the folder failed"))?;
        let mut reads = Vec::new();
        for name in disk.list(WAL_FOLDER).map_err(failed("listing the folder failed"))? {
            let path = format!("{WAL_FOLDER}/{name}");
            if name.ends_with(".wal") {
                reads.push(read_file(&*disk, path, applied)?);
            } else if name.ends_with(".tmp") {
                disk.remove(&path).map_err(failed("removing an unfinished segment failed"))?;
            }
        }
        check_order(&*disk, &identity, &reads)?;
        drop_unstarted(&*disk, &mut reads)?;
        let Some(last) = reads.last() else {
            if applied.index > 0 {
                return Err(WalOpenError::Corrupt {
                    file: disk.describe(WAL_FOLDER),
                    offset: 0,
                    reason: "the log is missing although the state has applied entries from it",
                });
            }
            return Self::start(disk, identity, segment_bytes);
        };
        let replay = replay(&*disk, &reads, base)?;
        rewrite_last_batch(&*disk, &reads)?;
        let active = reopen_active(&*disk, last)?;
        let closed = reads[..reads.len() - 1]
            .iter()
            .map(|read| Closed {
                name: read.name.clone(),
                last_index: last_index(&read.segment.frames)
                    .unwrap_or(read.segment.header.first_index),
            })
            .collect();
        let last_index = replay.entries.last().map_or(applied.index, |entry| entry.index);
        let mut wal = Self {
            chain: last.segment.chain,
            pending_chain: last.segment.chain,
            synced_index: last_index,
            last_index,
            hard_state: replay.hard_state,
            acknowledged: replay.acknowledged.clone(),
            acknowledged_unwritten: !replay.acknowledged.is_empty(),
            closed,
            ..Self::with_active(disk, identity, segment_bytes, active)
        };
        if replay.needs_restart {
            wal.reserve(0, super::Room::Vital).and_then(|()| wal.restart(applied, None)).map_err(
                |error| WalOpenError::Io {
                    file: wal.disk.describe(&wal.active.name),
                    action: "writing where the log begins again failed",
                    source: std::io::Error::other(error),
                },
            )?;
        }
        Ok(Recovered {
            wal,
            hard_state: replay.hard_state,
            entries: replay.entries,
            acknowledged: replay.acknowledged,
        })
    }
}

fn read_file(disk: &dyn Disk, name: String, applied: Position) -> Result<Read, WalOpenError> {
    let content = disk.read(&name).map_err(|source| WalOpenError::Io {
        file: disk.describe(&name),
        action: "reading failed",
        source,
    })?;
    let length = content.len() as u64;
    if let Some(version) = version_of(&content) {
        Newer::check(disk.describe(&name), version, VERSION).map_err(WalOpenError::Newer)?;
    }
    let content = Bytes::from(content);
    let mut segment = read_segment(&content).map_err(|damage| WalOpenError::Corrupt {
        file: disk.describe(&name),
        offset: damage.offset,
        reason: damage.reason,
    })?;
    let last_batch = content[segment.last_batch..segment.tail].to_vec();
    for frame in &mut segment.frames {
        // One segment at a time is in memory, and of it what is still to be applied. The first
        // byte of an entry is its type.
        let is_applied = frame.kind == FrameKind::Entry && frame.index <= applied.index;
        let kept = if is_applied { 1 } else { frame.payload.len() };
        frame.payload = Bytes::copy_from_slice(&frame.payload[..kept.min(frame.payload.len())]);
    }
    Ok(Read { name, segment, length, last_batch })
}

fn check_order(disk: &dyn Disk, identity: &Identity, reads: &[Read]) -> Result<(), WalOpenError> {
    for (position, read) in reads.iter().enumerate() {
        let corrupt = |offset, reason| {
            Err(WalOpenError::Corrupt { file: disk.describe(&read.name), offset, reason })
        };
        let header = &read.segment.header;
        if header.cluster_id != identity.cluster_id || header.member_id != identity.member_id {
            return corrupt(12, "the segment belongs to another cluster or member");
        }
        let Some(next) = reads.get(position + 1) else {
            if read.segment.ended {
                return corrupt(
                    read.segment.tail as u64,
                    "the segment that followed this one is missing",
                );
            }
            continue;
        };
        if next.segment.header.sequence != header.sequence + 1 {
            return corrupt(44, "the segment that followed this one is missing");
        }
        if next.segment.batches > 0 && !read.segment.ended {
            return corrupt(read.segment.tail as u64, "the end of the segment is missing");
        }
        if read.segment.ended && next.segment.header.previous_chain != read.segment.chain {
            return corrupt(60, "the next segment does not continue this one");
        }
    }
    Ok(())
}

/// A crash between making a segment and closing the one before it leaves one that holds nothing.
fn drop_unstarted(disk: &dyn Disk, reads: &mut Vec<Read>) -> Result<(), WalOpenError> {
    let unstarted = match reads.as_slice() {
        [.., before, last] => !before.segment.ended && last.segment.batches == 0,
        _ => false,
    };
    if !unstarted {
        return Ok(());
    }
    if let Some(last) = reads.pop() {
        let failed = |source| WalOpenError::Io {
            file: disk.describe(&last.name),
            action: "removing an unstarted segment failed",
            source,
        };
        disk.remove(&last.name).map_err(failed)?;
        disk.sync_folder(WAL_FOLDER).map_err(failed)?;
    }
    Ok(())
}

#[derive(Default)]
struct Replay {
    hard_state: HardState,
    entries: Vec<LogEntry>,
    acknowledged: Acknowledged,
    /// Where the log began again last.
    restarted: Position,
    /// The state was installed, and the log does not know.
    needs_restart: bool,
    last_index: u64,
}

fn replay(disk: &dyn Disk, reads: &[Read], base: Base) -> Result<Replay, WalOpenError> {
    let applied = base.applied;
    let mut replay = Replay::default();
    let mut log = BTreeMap::new();
    for read in reads {
        replay.hard_state = read.segment.header.hard_state;
        for frame in &read.segment.frames {
            replay.take(frame, &mut log, applied).map_err(|reason| WalOpenError::Corrupt {
                file: disk.describe(&read.name),
                offset: 0,
                reason,
            })?;
        }
    }
    if base.installed && replay.restarted.index < applied.index {
        // The stop came between the state and the log's mark: what the log has is of before.
        log.clear();
        replay.needs_restart = true;
        replay.last_index = applied.index;
    }
    let first_index = reads.first().map_or(1, |read| read.segment.header.first_index);
    let gap = log.keys().zip(applied.index + 1..).any(|(index, expected)| *index != expected);
    let lost = replay.last_index < applied.index && first_index <= applied.index;
    if gap || lost || replay.restarted.index > applied.index {
        let last = reads.last();
        return Err(WalOpenError::Corrupt {
            file: disk.describe(last.map_or(WAL_FOLDER, |read| read.name.as_str())),
            offset: last.map_or(0, |read| read.segment.tail as u64),
            reason: "entries are missing that were applied or known to be durable",
        });
    }
    replay.entries = log.into_values().collect();
    Ok(replay)
}

impl Replay {
    fn take(
        &mut self,
        frame: &Frame,
        log: &mut BTreeMap<u64, LogEntry>,
        applied: Position,
    ) -> Result<(), &'static str> {
        match frame.kind {
            FrameKind::Entry => {
                let entry = decode_entry(frame).ok_or("an entry has an unknown type")?;
                self.last_index = entry.index;
                // A later write of the same index replaces what a former leader wrote.
                log.split_off(&entry.index);
                if entry.index > applied.index {
                    log.insert(entry.index, entry);
                }
            }
            FrameKind::HardState => {
                self.hard_state = decode_hard_state(&frame.payload)
                    .ok_or("a hard state has another length than this release writes")?;
            }
            FrameKind::Acknowledged => {
                self.acknowledged = decode_acknowledged(&frame.payload)
                    .ok_or("acknowledgements have another length than this release writes")?;
            }
            FrameKind::Restart => {
                log.clear();
                self.restarted = Position { index: frame.index, term: frame.term };
                self.last_index = frame.index;
            }
            FrameKind::SegmentEnd => {}
        }
        Ok(())
    }
}

fn decode_entry(frame: &Frame) -> Option<LogEntry> {
    let kind = EntryKind::from_code(*frame.payload.first()?)?;
    let payload = frame.payload.slice(1..);
    Some(LogEntry { index: frame.index, term: frame.term, kind, payload })
}

fn last_index(frames: &[Frame]) -> Option<u64> {
    frames.iter().filter(|frame| frame.kind == FrameKind::Entry).map(|frame| frame.index).max()
}

/// Writes the last batch of the log again: that one alone is not known to be durable. It may be
/// there only in the memory of the kernel or of the disk, after a sync that failed and is not tried again by itself.
fn rewrite_last_batch(disk: &dyn Disk, reads: &[Read]) -> Result<(), WalOpenError> {
    let Some(read) = reads.iter().rfind(|read| read.segment.batches > 0) else { return Ok(()) };
    let rewritten = disk.open(&read.name, false).and_then(|file| {
        file.write_at(read.segment.last_batch as u64, &read.last_batch)?;
        file.sync()
    });
    rewritten.map_err(|source| WalOpenError::Io {
        file: disk.describe(&read.name),
        action: "writing the last batch again failed",
        source,
    })
}

/// Zeroes what a crash left behind the last batch, so that the next one starts on empty ground.
fn reopen_active(disk: &dyn Disk, last: &Read) -> Result<Active, WalOpenError> {
    let failed = |action| {
        let file = disk.describe(&last.name);
        move |source| WalOpenError::Io { file, action, source }
    };
    let file = disk.open_log(&last.name, false).map_err(failed("opening failed"))?;
    if let Some(torn) = &last.segment.torn {
        tracing::warn!(
            file = disk.describe(&last.name),
            offset = torn.start,
            bytes = torn.len(),
            "cut a batch that was being written when the store stopped; it was not acknowledged"
        );
        file.write_at(torn.start as u64, &vec![0; torn.len()])
            .and_then(|()| file.sync())
            .map_err(failed("cutting a torn batch failed"))?;
    }
    let tail = last.segment.tail as u64;
    Ok(Active {
        file,
        name: last.name.clone(),
        sequence: last.segment.header.sequence,
        tail,
        zeroed_to: last.length.max(BLOCK_BYTES as u64).max(tail),
        next_batch: last.segment.batches,
    })
}
