//! Messages of gRPC in the body of a call: each after a flag and its length.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tonic::Status;

const HEAD_BYTES: usize = 5;
const PLAIN: u8 = 0;

pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_u8(PLAIN);
    // Whatever is longer is refused by its size.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// What has come and is not a whole message yet.
#[derive(Default)]
pub(super) struct Unframed(BytesMut);

impl Unframed {
    pub(super) fn add(&mut self, part: &[u8]) {
        self.0.extend_from_slice(part);
    }

    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some((flag, mut length)) =
            self.0.split_first_chunk::<HEAD_BYTES>().map(|(head, _)| (head[0], &head[1..]))
        else {
            return Ok(None);
        };
        if flag != PLAIN {
            return Err(Status::internal("an answer is compressed and nobody asked for that"));
        }
        let length = length.get_u32() as usize;
        if self.0.len() < HEAD_BYTES + length {
            return Ok(None);
        }
        self.0.advance(HEAD_BYTES);
        Ok(Some(self.0.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let all = [framed(b"one"), framed(b""), framed(&[7; 300])].concat();
        for cut in 1..all.len() {
            let (mut unframed, mut out) = (Unframed::default(), Vec::new());
            for part in all.chunks(cut) {
                unframed.add(part);
                while let Some(message) = unframed.next().unwrap() {
                    out.push(message.to_vec());
                }
            }
            assert_eq!(out, [b"one".to_vec(), Vec::new(), vec![7; 300]], "cut at {cut}");
        }
        let mut unframed = Unframed::default();
        unframed.add(&[1, 0, 0, 0, 0]);
        assert!(unframed.next().is_err(), "compressed");
    }
}
