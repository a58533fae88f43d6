//! Checksums over how far a state has come and over its leases, in a row beside the former.

use redb::{ReadOnlyTable, ReadableTable, StorageError};

use super::{KEYSPACES, LEASES, META, META_KEY, checked};
use crate::codec::Malformed;

const SUMS_KEY: &str = "checksums";

/// How far the state has come, in the last step of a transaction.
pub(super) fn write_meta(
    writes: &redb::WriteTransaction,
    meta: &[u8],
    has_checksums: bool,
) -> Result<(), redb::Error> {
    let mut table = writes.open_table(META)?;
    table.insert(META_KEY, meta)?;
    if !has_checksums {
        return Ok(());
    }
    let mut sums = Sums { meta: crc32c::crc32c(meta), leases: [0; KEYSPACES] };
    for (name, sum) in LEASES.into_iter().zip(&mut sums.leases) {
        let leases = writes.open_table(name)?;
        for item in leases.range::<i64>(..)? {
            let (id, lease) = item?;
            *sum = checked::add_lease(*sum, id.value(), lease.value());
        }
    }
    table.insert(SUMS_KEY, sums.encode().as_slice())?;
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sums {
    meta: u32,
    pub(super) leases: [u32; KEYSPACES],
}

impl Sums {
    /// `None` below the format level that has them.
    pub(super) fn read(
        table: &ReadOnlyTable<&'static str, &'static [u8]>,
    ) -> Result<Option<Self>, StorageError> {
        let found = table.get(SUMS_KEY)?;
        // Of another length they fit nothing.
        Ok(found.map(|sums| Self::decode(sums.value()).unwrap_or_default()))
    }

    pub(super) fn check_meta(sums: Option<&Self>, meta: &[u8]) -> Result<(), Malformed> {
        match sums {
            Some(sums) if sums.meta != crc32c::crc32c(meta) => {
                Err(Malformed("it does not say truly how far it has come"))
            }
            _ => Ok(()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.leases.iter().fold(self.meta.to_le_bytes().to_vec(), |mut out, sum| {
            out.extend_from_slice(&sum.to_le_bytes());
            out
        })
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<4>();
        let numbers: &[[u8; 4]; 1 + KEYSPACES] = numbers.try_into().ok()?;
        let [meta, first, second] = rest.is_empty().then_some(numbers)?;
        let leases = [u32::from_le_bytes(*first), u32::from_le_bytes(*second)];
        Some(Self { meta: u32::from_le_bytes(*meta), leases })
    }
}
