//! A history in pieces that a request holds.

use atoll_apiserver::etcd_import::{EtcdEnd, EtcdPiece, EtcdPuts, EtcdRecord};
use atoll_etcd::import::{EtcdSnapshot, SnapshotError, Source, Survey};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::mpsc;

/// Keys and values of one piece: an entry of the log, and a request of less than 3 MiB. A revision
/// that has more goes alone.
const PIECE_BYTES: usize = 512 << 10;
const PIECE_RECORDS: usize = 2_000;
/// A transaction takes 128.
const PUTS_MAX: usize = 100;
/// Pieces that were read and not sent yet.
pub const READ_AHEAD_MAX: usize = 4;

/// Why no more pieces come.
#[derive(Debug)]
pub enum Stop {
    Unreadable(SnapshotError),
    /// Nobody takes them any more.
    Given,
}

impl From<SnapshotError> for Stop {
    fn from(error: SnapshotError) -> Self {
        Self::Unreadable(error)
    }
}

fn hand<T>(to: &mpsc::Sender<T>, piece: T) -> Result<(), Stop> {
    to.blocking_send(piece).map_err(|_closed| Stop::Given)
}

/// The whole history, each piece behind the one before. Blocks.
pub fn history<S: Source>(
    snapshot: &EtcdSnapshot<S>,
    survey: &Survey,
    to: &mpsc::Sender<EtcdPiece>,
) -> Result<(), Stop> {
    let mut piece = EtcdPiece { after: 1, ..EtcdPiece::default() };
    let (mut bytes, mut last) = (0, 1);
    snapshot.for_each(|record| {
        let at = record.kv.mod_revision;
        let is_full = bytes >= PIECE_BYTES || piece.records.len() >= PIECE_RECORDS;
        if is_full && at > last {
            let next = EtcdPiece { after: last, ..EtcdPiece::default() };
            hand(to, std::mem::replace(&mut piece, next))?;
            bytes = 0;
        }
        last = at;
        bytes += record.kv.key.len() + record.kv.value.len();
        piece.records.push(EtcdRecord::from(record));
        Ok::<_, Stop>(())
    })?;
    piece.end = Some(EtcdEnd {
        revision: survey.revision,
        compacted_revision: survey.compacted_revision,
        leases: survey.leases.clone(),
    });
    hand(to, piece)
}

/// The present of every key, in the order in which it was written last. Blocks, and keeps the names
/// of all keys in memory.
pub fn present<S: Source>(
    snapshot: &EtcdSnapshot<S>,
    survey: &Survey,
    to: &mpsc::Sender<EtcdPuts>,
) -> Result<(), Stop> {
    let mut newest = HashMap::<Vec<u8>, (i64, u32)>::new();
    snapshot.for_each(|record| {
        newest.insert(record.kv.key.to_vec(), (record.kv.mod_revision, record.sub));
        Ok::<_, Stop>(())
    })?;
    let leases: BTreeMap<i64, i64> = survey.leases.iter().copied().collect();
    let mut puts = Puts { to, leases: &leases, records: Vec::new(), bytes: 0 };
    snapshot.for_each(|record| {
        let at = (record.kv.mod_revision, record.sub);
        if record.deletion || newest.get(&record.kv.key[..]) != Some(&at) {
            return Ok(());
        }
        puts.add(EtcdRecord::from(record))
    })?;
    puts.end()?;
    // Also those that no key has.
    hand(to, EtcdPuts { leases: survey.leases.clone(), records: Vec::new() })
}

struct Puts<'a> {
    to: &'a mpsc::Sender<EtcdPuts>,
    leases: &'a BTreeMap<i64, i64>,
    records: Vec<EtcdRecord>,
    bytes: usize,
}

impl Puts<'_> {
    fn add(&mut self, mut record: EtcdRecord) -> Result<(), Stop> {
        let bytes = record.key.0.len() + record.value.0.len();
        if self.records.len() == PUTS_MAX || self.bytes + bytes > PIECE_BYTES {
            self.end()?;
        }
        // A lease that the etcd did not have any more.
        if !self.leases.contains_key(&record.lease) {
            record.lease = 0;
        }
        self.bytes += bytes;
        self.records.push(record);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        if records.is_empty() {
            return Ok(());
        }
        let used: BTreeSet<i64> = records.iter().map(|record| record.lease).collect();
        let leases = used.iter().filter_map(|id| Some((*id, *self.leases.get(id)?))).collect();
        hand(self.to, EtcdPuts { leases, records })
    }
}
