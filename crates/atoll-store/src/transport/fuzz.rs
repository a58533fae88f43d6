//! Entry points for the fuzzer: what a caller of the peer port may send.

use bytes::{Bytes, BytesMut};

use super::frame::{self, Assembler, Kind};
use super::greeting::{self, Greeting, Purpose};
use crate::cluster::{Hello, PEER_FORMAT, Refusal};
use crate::consensus::Position;

/// A greeting: what is read is written as the same bytes' meaning.
pub fn greeting(input: &[u8]) {
    for bytes in [input.to_vec(), with_checksum(input)] {
        if let Ok(read) = greeting::decode(&bytes) {
            let again = greeting::decode(&greeting::encode(&read));
            assert!(again.is_ok_and(|again| again == read));
        }
    }
}

/// Makes the checksum right, so that what stands behind it is reached.
fn with_checksum(input: &[u8]) -> Vec<u8> {
    let mut out = input.to_vec();
    if let Some((content, sum)) = out.split_last_chunk_mut::<4>() {
        *sum = crc32c::crc32c(content).to_le_bytes();
    }
    out
}

/// Frames one after the other, as they arrive; and the messages made of their parts.
pub fn frames(input: &[u8]) {
    let mut buffer = BytesMut::from(input);
    let mut assembler = Assembler::default();
    while let Ok(Ok(frame)) = frame::decode(&mut buffer) {
        assert!(frame.payload.len() <= frame::FRAME_BYTES_MAX);
        match frame.kind {
            Kind::Part if assembler.add(&frame.payload).is_err() => return,
            Kind::Bulk => drop(assembler.finish(frame.payload)),
            Kind::Refused => drop(greeting::read_refusal(&frame.payload)),
            _ => {}
        }
    }
}

/// Seeds for [`greeting()`].
pub fn greetings() -> Vec<Vec<u8>> {
    let hello = Hello {
        format: PEER_FORMAT,
        level: 1,
        cluster_id: [7; 16],
        from: 5,
        to: 6,
        epoch: 2,
        last: Position { index: 100, term: 3 },
        acknowledged: (1, 90),
        release: "1.2.3".to_owned(),
    };
    let refusals = [
        Refusal::Format { theirs: 2, ours: 1 },
        Refusal::OtherCluster { theirs: "07".repeat(16), ours: "08".repeat(16) },
        Refusal::OldCopy { id: 5, acknowledged: 100, last: 9 },
        Refusal::Level { theirs: 1, cluster: 2 },
        Refusal::Other("no".to_owned()),
    ];
    let mut all = vec![Greeting::Hello { purpose: Purpose::Messages, hello }];
    all.extend(refusals.map(Greeting::Refusal));
    all.iter().map(greeting::encode).collect()
}

/// Seeds for [`frames`].
pub fn frame_streams() -> Vec<Vec<u8>> {
    let mut refused = Vec::new();
    greeting::put_refusal(&mut refused, &Refusal::Removed { id: 5 });
    let stream = [
        frame::encode(Kind::Ping, &1_u64.to_le_bytes()),
        frame::encode(Kind::Part, b"in two "),
        frame::encode(Kind::Urgent, b"heartbeat"),
        frame::encode(Kind::Bulk, b"parts"),
        frame::encode(Kind::Refused, &refused),
    ];
    let mut seeds = stream.to_vec();
    seeds.push(stream.concat());
    let mut batch = frame::Batch::default();
    batch.push(Kind::Bulk, Bytes::from(vec![b'x'; 5000]));
    batch.seal();
    seeds.push(bytes::Buf::copy_to_bytes(&mut batch, 5009).to_vec());
    seeds
}
