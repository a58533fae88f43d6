//! What goes first, what is dropped, and what is forgotten.

use bytes::{Buf as _, BytesMut};

use super::super::frame::{self, Frame};
use super::*;

fn connected(bulk_bytes_max: usize) -> SendQueue {
    let queue = SendQueue::new(bulk_bytes_max);
    queue.connected();
    queue
}

fn message(byte: u8, bytes: usize) -> Bytes {
    Bytes::from(vec![byte; bytes])
}

/// What one batch puts on the wire.
fn batch(queue: &SendQueue) -> Vec<Frame> {
    let mut batch = Batch::default();
    queue.fill(&mut batch);
    let mut bytes = BytesMut::from(&batch.copy_to_bytes(batch.remaining())[..]);
    let mut frames = Vec::new();
    while let Ok(Ok(frame)) = frame::decode(&mut bytes) {
        frames.push(frame);
    }
    frames
}

#[test]
fn urgent_messages_pass_between_the_parts_of_a_large_one() {
    let queue = connected(64 << 20);
    assert!(queue.push(Lane::Bulk, message(1, 1 << 20)));
    let mut sizes = Vec::new();
    for round in 0..16_u8 {
        assert!(queue.push(Lane::Urgent, message(100 + round, 40)));
        let frames = batch(&queue);
        assert_eq!(frames[0], Frame { kind: Kind::Urgent, payload: message(100 + round, 40) });
        let bytes: usize = frames.iter().map(|frame| frame.payload.len()).sum();
        assert!(bytes <= BATCH_BYTES + PART_BYTES, "{bytes}");
        sizes.extend(frames.into_iter().skip(1).map(|frame| (frame.kind, frame.payload.len())));
    }
    let wanted = [vec![(Kind::Part, PART_BYTES); 15], vec![(Kind::Bulk, PART_BYTES)]].concat();
    assert_eq!(sizes, wanted);
    assert_eq!((batch(&queue), queue.waiting_bytes()), (Vec::new(), 0));
}

#[test]
fn each_lane_keeps_its_order() {
    let queue = connected(64 << 20);
    for byte in 0..50 {
        let lane = if byte % 3 == 0 { Lane::Urgent } else { Lane::Bulk };
        queue.push(lane, message(byte, 10));
    }
    let frames = batch(&queue);
    assert_eq!(frames.len(), 50);
    for kind in [Kind::Urgent, Kind::Bulk] {
        let bytes: Vec<u8> = frames
            .iter()
            .filter(|frame| frame.kind == kind)
            .map(|frame| frame.payload[0])
            .collect();
        assert!(bytes.is_sorted(), "{kind:?}: {bytes:?}");
    }
}

#[test]
fn a_full_bulk_lane_drops_and_the_urgent_one_goes_on() {
    let queue = connected(1000);
    assert!(queue.push(Lane::Bulk, message(1, 900)));
    assert!(!queue.push(Lane::Bulk, message(2, 200)));
    assert!(queue.push(Lane::Bulk, message(3, 100)));
    assert!(queue.push(Lane::Urgent, message(4, 200)));
    assert_eq!((queue.dropped_count(), queue.waiting_bytes()), (1, 1200));
    let mut taken = 0;
    while queue.push(Lane::Urgent, message(5, 1)) {
        taken += 1;
    }
    assert_eq!(taken, MESSAGES_MAX - 1);
    assert_eq!(queue.dropped_count(), 2);
}

#[test]
fn without_a_connection_nothing_waits() {
    let queue = SendQueue::new(1000);
    assert!(!queue.push(Lane::Urgent, message(1, 1)));
    queue.connected();
    assert!(queue.push(Lane::Urgent, message(1, 1)));
    queue.disconnected();
    queue.connected();
    assert_eq!(batch(&queue), []);
    assert_eq!(queue.dropped_count(), 2);
}

#[test]
fn a_message_above_the_limit_is_dropped() {
    let queue = connected(64 << 20);
    assert!(!queue.push(Lane::Bulk, message(1, MESSAGE_BYTES_MAX + 1)));
    assert!(queue.push(Lane::Bulk, message(1, MESSAGE_BYTES_MAX)));
    // An urgent message that fits no frame goes the way of the bulk.
    assert!(queue.push(Lane::Urgent, message(1, FRAME_BYTES_MAX + 1)));
    assert_eq!(batch(&queue)[0].kind, Kind::Part);
}

#[test]
fn a_ping_goes_before_everything() {
    let queue = connected(1000);
    queue.push(Lane::Urgent, message(1, 1));
    queue.ping(7);
    let frames = batch(&queue);
    assert_eq!(frames[0].kind, Kind::Ping);
    assert_eq!(frames[0].payload, 7_u64.to_le_bytes()[..]);
    assert_eq!(frames.len(), 2);
}
