//! The bytes of a log segment, version 1.
//!
//! A segment is a 4 KiB header and then batches, each starting on a 4 KiB boundary and padded
//! with [`PADDING`] to the next one. A batch is a header of 48 bytes, which a disk writes whole or not
//! at all (it lies in one sector), and frames. Each frame's checksum also covers the checksum
//! before it, across batches and segments, so that no frame can be dropped or moved unseen.

use std::collections::BTreeMap;

use bytes::Bytes;

pub const BLOCK_BYTES: usize = 4096;
/// The unit that disks write whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// A batch with more frames than this is written as several.
pub const BATCH_MAX_BYTES: usize = 8 << 20;
/// Not zero, so that every sector of a batch can be told from one that was never written.
pub(crate) const PADDING: u8 = 0xa5;
pub(crate) const BATCH_HEADER_BYTES: usize = 48;
pub(crate) const FRAME_HEADER_BYTES: usize = 25;
pub(crate) const VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"ATWAL1\0\0";
const BATCH_MAGIC: &[u8; 4] = b"ALBT";
const SEGMENT_CHECKSUM_AT: usize = BLOCK_BYTES - 4;
const BATCH_CHECKSUM_AT: usize = BATCH_HEADER_BYTES - 4;

/// What Raft must not forget besides the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub cluster_id: [u8; 16],
    pub member_id: u64,
    pub epoch: u64,
    /// One more than that of the segment before.
    pub sequence: u64,
    /// The first Raft index that may stand in it.
    pub first_index: u64,
    /// The checksum of the last frame of the segment before.
    pub previous_chain: u32,
    /// As known when the segment was made, so that older segments can go.
    pub hard_state: HardState,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK_BYTES);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.cluster_id);
        for number in [self.member_id, self.epoch, self.sequence, self.first_index] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.previous_chain.to_le_bytes());
        for number in [self.hard_state.term, self.hard_state.vote, self.hard_state.commit] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(SEGMENT_CHECKSUM_AT, 0);
        let checksum = crc32c::crc32c(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let block = bytes.get(..BLOCK_BYTES).ok_or("the segment is shorter than its header")?;
        if u32_at(block, SEGMENT_CHECKSUM_AT) != crc32c::crc32c(&block[..SEGMENT_CHECKSUM_AT]) {
            return Err("the segment header's checksum does not match");
        }
        if &block[..8] != SEGMENT_MAGIC {
            return Err("this is not a log segment");
        }
        if u32_at(block, 8) != VERSION {
            return Err("the segment has a version that this release does not read");
        }
        let mut cluster_id = [0; 16];
        cluster_id.copy_from_slice(&block[12..28]);
        Ok(Self {
            cluster_id,
            member_id: u64_at(block, 28),
            epoch: u64_at(block, 36),
            sequence: u64_at(block, 44),
            first_index: u64_at(block, 52),
            previous_chain: u32_at(block, 60),
            hard_state: HardState {
                term: u64_at(block, 64),
                vote: u64_at(block, 72),
                commit: u64_at(block, 80),
            },
        })
    }
}

/// The version that a segment's header names, if it is one. Magic, version and the checksum at the
/// end of the block stay where they are in all versions.
pub(crate) fn version_of(bytes: &[u8]) -> Option<u32> {
    let block = bytes.get(..BLOCK_BYTES).filter(|block| &block[..8] == SEGMENT_MAGIC)?;
    let checksum = crc32c::crc32c(&block[..SEGMENT_CHECKSUM_AT]);
    (checksum == u32_at(block, SEGMENT_CHECKSUM_AT)).then(|| u32_at(block, 8))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) frames_bytes: usize,
    pub(crate) frame_count: u32,
    pub(crate) sequence: u64,
    pub(crate) number: u64,
    /// The last Raft index that was durable before this batch was written.
    pub(crate) synced_index: u64,
    pub(crate) previous_chain: u32,
}

impl BatchHeader {
    /// Writes over the room left for it at the front of `out`.
    pub(crate) fn encode_into(&self, out: &mut [u8]) {
        let length = u32::try_from(self.frames_bytes).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(BATCH_MAGIC);
        out[4..8].copy_from_slice(&length.to_le_bytes());
        out[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.synced_index.to_le_bytes());
        out[32..36].copy_from_slice(&self.previous_chain.to_le_bytes());
        out[36..40].copy_from_slice(&self.frame_count.to_le_bytes());
        out[40..BATCH_CHECKSUM_AT].fill(0);
        let checksum = crc32c::crc32c(&out[..BATCH_CHECKSUM_AT]);
        out[BATCH_CHECKSUM_AT..BATCH_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..BATCH_HEADER_BYTES)?;
        if &header[..4] != BATCH_MAGIC
            || u32_at(header, BATCH_CHECKSUM_AT) != crc32c::crc32c(&header[..BATCH_CHECKSUM_AT])
        {
            return None;
        }
        Some(Self {
            frames_bytes: usize::try_from(u32_at(header, 4)).ok()?,
            frame_count: u32_at(header, 36),
            sequence: u64_at(header, 8),
            number: u64_at(header, 16),
            synced_index: u64_at(header, 24),
            previous_chain: u32_at(header, 32),
        })
    }

    /// Where the next batch starts, counted from the start of this one.
    pub(crate) fn padded_bytes(&self) -> usize {
        (BATCH_HEADER_BYTES + self.frames_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A Raft entry; the first byte of its payload is the entry's type.
    Entry,
    HardState,
    /// Nothing follows in this segment, and the next one is on disk.
    SegmentEnd,
    /// A state was installed that stands for everything up to this frame's index; no entry before
    /// this frame counts.
    Restart,
    /// What other members acknowledged to this one.
    Acknowledged,
}

impl FrameKind {
    fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::HardState => 2,
            Self::SegmentEnd => 3,
            Self::Restart => 4,
            Self::Acknowledged => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Entry),
            2 => Some(Self::HardState),
            3 => Some(Self::SegmentEnd),
            4 => Some(Self::Restart),
            5 => Some(Self::Acknowledged),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: FrameKind,
    pub term: u64,
    pub index: u64,
    pub payload: Bytes,
}

/// Appends a frame made of `parts` and returns its checksum, the next frame's `chain`.
pub(crate) fn encode_frame(
    out: &mut Vec<u8>,
    chain: u32,
    kind: FrameKind,
    position: (u64, u64),
    parts: &[&[u8]],
) -> u32 {
    let (term, index) = position;
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let start = out.len();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    out.push(kind.code());
    out.extend_from_slice(&term.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    let mut checksum = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), &out[start..]);
    for part in parts {
        checksum = crc32c::crc32c_append(checksum, part);
    }
    out.extend_from_slice(&checksum.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    checksum
}

/// The frame at the front of `bytes`, the checksum that the next one continues, and its length.
pub(crate) fn decode_frame(bytes: &Bytes, chain: u32) -> Result<(Frame, u32, usize), &'static str> {
    let header = bytes.get(..FRAME_HEADER_BYTES).ok_or("a frame header is cut short")?;
    let length = usize::try_from(u32_at(header, 0)).unwrap_or(usize::MAX);
    let end = FRAME_HEADER_BYTES.saturating_add(length);
    if end > bytes.len() {
        return Err("a frame reaches beyond its batch");
    }
    let payload = bytes.slice(FRAME_HEADER_BYTES..end);
    let start = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), &header[..21]);
    let checksum = crc32c::crc32c_append(start, &payload);
    if checksum != u32_at(header, 21) {
        return Err("a frame's checksum does not match");
    }
    let kind = FrameKind::from_code(header[4]).ok_or("a frame has an unknown kind")?;
    let frame = Frame { kind, term: u64_at(header, 5), index: u64_at(header, 13), payload };
    Ok((frame, checksum, end))
}

pub(crate) fn encode_hard_state(state: HardState) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&state.term.to_le_bytes());
    out[8..16].copy_from_slice(&state.vote.to_le_bytes());
    out[16..].copy_from_slice(&state.commit.to_le_bytes());
    out
}

pub(crate) fn decode_hard_state(payload: &[u8]) -> Option<HardState> {
    (payload.len() == 24).then(|| HardState {
        term: u64_at(payload, 0),
        vote: u64_at(payload, 8),
        commit: u64_at(payload, 16),
    })
}

/// By the ids of the members: epoch and index.
pub(crate) fn encode_acknowledged(all: &BTreeMap<u64, (u64, u64)>) -> Vec<u8> {
    let numbers = all.iter().flat_map(|(id, (epoch, index))| [*id, *epoch, *index]);
    numbers.flat_map(u64::to_le_bytes).collect()
}

pub(crate) fn decode_acknowledged(payload: &[u8]) -> Option<BTreeMap<u64, (u64, u64)>> {
    let (records, rest) = payload.as_chunks::<24>();
    let read = |one: &[u8; 24]| (u64_at(one, 0), (u64_at(one, 8), u64_at(one, 16)));
    rest.is_empty().then(|| records.iter().map(read).collect())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
