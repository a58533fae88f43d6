//! Frames written and read back, whole, in pieces and damaged.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::*;

fn frame(kind: Kind, payload: &[u8]) -> Frame {
    Frame { kind, payload: Bytes::copy_from_slice(payload) }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap().to_le_bytes()
}

fn decode_all(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Ok(frame) = decode(&mut buffer)? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn every_kind_has_a_code_of_its_own() {
    for kind in Kind::ALL {
        assert_eq!(Kind::from_code(kind.code()), Some(kind));
    }
    assert_eq!(Kind::from_code(0), None);
}

#[test]
fn a_length_above_the_limit_is_refused_from_the_header_alone() {
    let mut bytes = encode(Kind::Bulk, b"");
    bytes[..4].copy_from_slice(&length(FRAME_BYTES_MAX + 1));
    let refused = decode_all(&bytes).unwrap_err();
    assert!(matches!(refused, FrameError::TooLong { bytes } if bytes == FRAME_BYTES_MAX + 1));
    bytes[..4].copy_from_slice(&length(FRAME_BYTES_MAX));
    assert_eq!(decode_all(&bytes).unwrap(), []);
}

#[test]
fn any_flipped_bit_is_noticed() {
    let whole = encode(Kind::Urgent, b"a message");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // A longer length waits for bytes that never come; all else is an error.
        assert!(decode_all(&bytes).map_or(true, |frames| frames.is_empty()), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn a_batch_is_read_back_however_it_is_cut(
        sizes in prop::collection::vec(0_usize..20_000, 1..12),
        cuts in prop::collection::vec(1_usize..9_000, 1..20),
    ) {
        let mut batch = Batch::default();
        let mut wanted = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let one = frame(Kind::ALL[number % Kind::ALL.len()], &vec![7; *size]);
            batch.push(one.kind, one.payload.clone());
            wanted.push(one);
        }
        batch.seal();
        let (mut bytes, mut cut) = (Vec::new(), cuts.iter().cycle());
        while batch.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = batch.chunks_vectored(&mut slices);
            let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            prop_assert!(flat.starts_with(batch.chunk()) && !flat.is_empty());
            let taken = (*cut.next().unwrap()).min(flat.len());
            bytes.extend_from_slice(&flat[..taken]);
            batch.advance(taken);
        }
        prop_assert_eq!(batch.bytes(), 0);
        prop_assert_eq!(decode_all(&bytes).unwrap(), wanted);
    }
}

#[tokio::test]
async fn a_reader_takes_frames_of_any_size_from_a_trickle() {
    let (mut sink, source) = tokio::io::duplex(100);
    let large = vec![7; FRAME_BYTES_MAX];
    let sent = [encode(Kind::Ping, b""), encode(Kind::Bulk, &large), encode(Kind::Urgent, b"x")];
    let writing = async {
        for bytes in &sent {
            sink.write_all(bytes).await.unwrap();
        }
        drop(sink);
    };
    let reading = async {
        let mut reader = FrameReader::new(source);
        let mut kinds = Vec::new();
        while let Some(frame) = reader.next().await.unwrap() {
            kinds.push((frame.kind, frame.payload.len()));
        }
        kinds
    };
    let (kinds, ()) = tokio::join!(reading, writing);
    assert_eq!(kinds, [(Kind::Ping, 0), (Kind::Bulk, large.len()), (Kind::Urgent, 1)]);
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_is_no_clean_end() {
    let (mut sink, source) = tokio::io::duplex(100);
    sink.write_all(&encode(Kind::Urgent, b"cut")[..11]).await.unwrap();
    drop(sink);
    let ended = FrameReader::new(source).next().await;
    assert!(matches!(ended, Err(FrameError::Cut)), "{ended:?}");
}

#[test]
fn a_message_of_too_many_parts_is_refused() {
    let mut assembler = Assembler::default();
    let part = vec![1; PART_BYTES];
    for _ in 0..MESSAGE_BYTES_MAX / PART_BYTES {
        assembler.add(&part).unwrap();
    }
    let refused = assembler.finish(Bytes::from_static(b"x"));
    assert!(matches!(refused, Err(FrameError::MessageTooLong)), "{refused:?}");
}

#[test]
fn parts_become_the_message_and_nothing_is_left_over() {
    let mut assembler = Assembler::default();
    assembler.add(b"one ").unwrap();
    assembler.add(b"two ").unwrap();
    assert_eq!(assembler.finish(Bytes::from_static(b"three")).unwrap(), "one two three");
    assert_eq!(assembler.finish(Bytes::from_static(b"four")).unwrap(), "four");
}
