//! Checksums over what the state file holds. redb has some over its pages, and compares them only
//! when it repairs; what was changed on the disk is to be found whenever it is read.
//!
//! A record that has one says so by its first byte. Those of the release before have none.

use crate::codec::Malformed;

/// From this format level of the cluster on, what is written has checksums.
pub(crate) const LEVEL: u32 = 2;
/// In the first byte, whose last bit is the record's own. Several bits, so that no single one makes
/// a record of either kind look like the other.
const MARK: u8 = 0xa4;
const OWN_BITS: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const CHANGED: Malformed = Malformed("a record is not what was written");

/// Adds the checksum to a record that stands at this key.
pub(super) fn seal(key: &[u8], encoded: &mut Vec<u8>) {
    if let Some(first) = encoded.first_mut() {
        *first |= MARK;
    }
    let checksum = checksum(key, encoded);
    encoded.extend_from_slice(&checksum.to_le_bytes());
}

/// The record, if it is what was written; its first byte may still say that it had a checksum.
pub(super) fn verified<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], Malformed> {
    match stored.first() {
        Some(first) if first & !OWN_BITS == MARK => {}
        Some(first) if first & !OWN_BITS == 0 => return Ok(stored),
        _ => return Err(CHANGED),
    }
    let (record, sum) = stored.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CHANGED)?;
    if checksum(key, record) == u32::from_le_bytes(*sum) { Ok(record) } else { Err(CHANGED) }
}

/// A copy of it without any trace of the checksum.
pub(super) fn opened(key: &[u8], stored: &[u8], into: &mut Vec<u8>) -> Result<(), Malformed> {
    into.clear();
    into.extend_from_slice(verified(key, stored)?);
    if let Some(first) = into.first_mut() {
        *first = without_mark(*first);
    }
    Ok(())
}

pub(crate) fn without_mark(first: u8) -> u8 {
    if first & !OWN_BITS == MARK { first & OWN_BITS } else { first }
}

fn checksum(key: &[u8], record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), record)
}

/// Over all leases of a keyspace, in their order.
pub(super) fn add_lease(sum: u32, id: i64, (ttl, remaining): (i64, i64)) -> u32 {
    [id, ttl, remaining].iter().fold(sum, |sum, one| crc32c::crc32c_append(sum, &one.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Record, RevKey};
    use bytes::Bytes;

    #[test]
    fn every_flipped_bit_of_a_record_is_found_and_one_without_a_checksum_is_read() {
        let record = Record {
            key: "key".into(),
            value: vec![7; 50].into(),
            create_revision: 3,
            version: 4,
            lease: 0,
            tombstone: false,
        };
        let key = RevKey { main: 5, sub: 0 }.encode();
        let mut plain = Vec::new();
        record.encode(&mut plain);
        assert_eq!(verified(&key, &plain), Ok(plain.as_slice()));
        let (mut stored, mut again) = (plain.clone(), Vec::new());
        seal(&key, &mut stored);
        opened(&key, &stored, &mut again).unwrap();
        assert_eq!(Record::decode(Bytes::from(again)), Ok(record));
        let (head, bytes) = Record::decode_head(verified(&key, &stored).unwrap()).unwrap();
        assert_eq!((head.key, bytes), (Bytes::from("key"), 50));
        for bit in 0..stored.len() * 8 {
            let mut bad = stored.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let read = verified(&key, &bad).map(<[u8]>::len);
            assert!(read.is_err(), "bit {bit}");
        }
        let other = RevKey { main: 6, sub: 0 }.encode();
        assert_eq!(verified(&other, &stored), Err(CHANGED));
    }
}
