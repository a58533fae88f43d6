//! Reads one log segment from its bytes, and tells a torn tail from corruption.
//!
//! A pure function: the fuzzer calls it with anything. What it takes for torn was never
//! acknowledged: a batch is written only when the one before it is durable, so a bad batch with a
//! valid later one is corruption, and so is a first sector that is neither empty nor valid.

use bytes::Bytes;

use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAX_BYTES, BLOCK_BYTES, BatchHeader, Frame, FrameKind, PADDING,
    SECTOR_BYTES, SegmentHeader, decode_frame,
};

/// Fewer bytes than this in an area that should be empty are a changed byte, not the remains of a
/// batch: those come in sectors.
const TORN_BYTES_MIN: usize = 2;
const CHANGED_PADDING: &str = "the padding of a batch was changed";

/// Something was changed after it had been written, or was never written by this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: {reason}")]
pub struct Corruption {
    pub offset: u64,
    pub reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub header: SegmentHeader,
    pub frames: Vec<Frame>,
    /// Where the last batch starts; the tail if there is none.
    pub last_batch: usize,
    /// Where the next batch goes.
    pub tail: usize,
    /// Batches read; the number of the next one.
    pub batches: u64,
    /// The checksum of the last frame.
    pub chain: u32,
    /// The remains of a batch that was being written at a crash, to be zeroed.
    pub torn: Option<std::ops::Range<usize>>,
    /// The highest index that the batches say was durable.
    pub synced_index: u64,
    /// The segment is complete and another follows.
    pub ended: bool,
}

/// Reads a whole segment file.
pub fn read_segment(bytes: &Bytes) -> Result<Segment, Corruption> {
    let header = SegmentHeader::decode(bytes).map_err(|reason| Corruption { offset: 0, reason })?;
    let mut segment = Segment {
        header,
        frames: Vec::new(),
        last_batch: BLOCK_BYTES,
        tail: BLOCK_BYTES,
        batches: 0,
        chain: header.previous_chain,
        torn: None,
        synced_index: 0,
        ended: false,
    };
    while segment.tail < bytes.len() {
        match read_batch(bytes, &mut segment) {
            Ok(padded) => {
                segment.last_batch = segment.tail;
                segment.tail += padded;
            }
            Err(problem) => {
                segment.torn = judge_tail(bytes, &segment, problem)?;
                break;
            }
        }
    }
    if segment.ended && segment.torn.is_some() {
        return Err(corruption(segment.tail, "something follows the end of the segment"));
    }
    Ok(segment)
}

fn corruption(offset: usize, reason: &'static str) -> Corruption {
    Corruption { offset: offset as u64, reason }
}

/// Adds the batch at the tail and returns its padded length.
fn read_batch(bytes: &Bytes, segment: &mut Segment) -> Result<usize, Corruption> {
    let start = segment.tail;
    let header = BatchHeader::decode(&bytes[start..])
        .ok_or(corruption(start, "the batch header's checksum does not match"))?;
    if header.sequence != segment.header.sequence || header.number != segment.batches {
        return Err(corruption(start, "a batch is out of order"));
    }
    if header.previous_chain != segment.chain {
        return Err(corruption(start, "a batch does not continue the one before it"));
    }
    let frames_start = start + BATCH_HEADER_BYTES;
    let frames_end = frames_start.saturating_add(header.frames_bytes);
    if frames_end > bytes.len() {
        return Err(corruption(start, "a batch reaches beyond the end of the file"));
    }
    let mut rest = bytes.slice(frames_start..frames_end);
    let mut frames = Vec::new();
    let mut chain = segment.chain;
    while !rest.is_empty() {
        let offset = frames_end - rest.len();
        let (frame, next_chain, length) =
            decode_frame(&rest, chain).map_err(|reason| corruption(offset, reason))?;
        frames.push(frame);
        chain = next_chain;
        rest = rest.slice(length..);
    }
    if frames.len() as u64 != u64::from(header.frame_count) {
        return Err(corruption(start, "a batch has another number of frames than it says"));
    }
    check_padding(bytes, frames_end, start + header.padded_bytes())?;
    segment.ended |= frames.iter().any(|frame| frame.kind == FrameKind::SegmentEnd);
    segment.synced_index = segment.synced_index.max(header.synced_index);
    segment.frames.append(&mut frames);
    segment.chain = chain;
    segment.batches += 1;
    Ok(header.padded_bytes())
}

/// Padding is whole, or missing by sectors where a write was torn; anything else is damage.
fn check_padding(bytes: &Bytes, from: usize, to: usize) -> Result<(), Corruption> {
    let Some(padding) = bytes.get(from..to) else {
        return Err(corruption(from, "a batch reaches beyond the end of the file"));
    };
    let Some(first) = padding.iter().position(|byte| *byte != PADDING) else { return Ok(()) };
    let mut offset = from;
    while offset < to {
        let sector_end = (offset + 1).next_multiple_of(SECTOR_BYTES).min(to);
        let sector = &bytes[offset..sector_end];
        let missing = sector.iter().all(|byte| *byte == 0);
        let changed = sector.iter().position(|byte| *byte != PADDING);
        if let (false, Some(position)) = (missing, changed) {
            return Err(corruption(offset + position, CHANGED_PADDING));
        }
        offset = sector_end;
    }
    Err(corruption(from + first, "the padding of a batch is missing"))
}

/// What stands behind the last valid batch: nothing, the remains of a torn one, or damage.
fn judge_tail(
    bytes: &Bytes,
    segment: &Segment,
    problem: Corruption,
) -> Result<Option<std::ops::Range<usize>>, Corruption> {
    let start = segment.tail;
    let Some(first) = first_nonzero(&bytes[start..]).map(|position| start + position) else {
        return Ok(None);
    };
    if has_later_batch(bytes, segment) {
        return Err(problem);
    }
    let header = BatchHeader::decode(&bytes[start..]);
    let written_max = match &header {
        Some(header) => {
            // The frames may be torn; what the header says of its place may not.
            if header.sequence != segment.header.sequence
                || header.number != segment.batches
                || header.previous_chain != segment.chain
                || problem.reason == CHANGED_PADDING
            {
                return Err(problem);
            }
            header.padded_bytes()
        }
        None if first < start + SECTOR_BYTES => return Err(problem),
        None => BATCH_MAX_BYTES + BLOCK_BYTES,
    };
    let written_end = start.saturating_add(written_max).min(bytes.len());
    if let Some(position) = first_nonzero(&bytes[written_end..]) {
        let offset = written_end + position;
        return Err(corruption(offset, "the empty part of the segment is not empty"));
    }
    let written = &bytes[start..written_end];
    let count = written.iter().filter(|byte| **byte != 0).take(TORN_BYTES_MIN).count();
    if count < TORN_BYTES_MIN {
        return Err(corruption(first, "the empty part of the segment is not empty"));
    }
    Ok(Some(start..written_end))
}

fn has_later_batch(bytes: &Bytes, segment: &Segment) -> bool {
    let mut offset = segment.tail + BLOCK_BYTES;
    while offset < bytes.len() {
        let later = BatchHeader::decode(&bytes[offset..]).is_some_and(|header| {
            header.sequence == segment.header.sequence && header.number > segment.batches
        });
        if later {
            return true;
        }
        offset += BLOCK_BYTES;
    }
    false
}

fn first_nonzero(bytes: &[u8]) -> Option<usize> {
    // Whole blocks first: most of a segment is empty.
    let mut start = 0;
    for chunk in bytes.chunks(BLOCK_BYTES) {
        if chunk.iter().fold(0_u8, |all, byte| all | byte) != 0 {
            return chunk.iter().position(|byte| *byte != 0).map(|position| start + position);
        }
        start += chunk.len();
    }
    None
}

#[cfg(test)]
mod tests;
