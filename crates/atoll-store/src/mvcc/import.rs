//! Continues a keyspace's history with a part of another store's, at the revisions it had there.

use std::collections::BTreeSet;

use super::{History, Lease, Record, RevKey, State, Version};
use crate::codec::{Malformed, Reader, put_bytes, put_i64, put_u64};
use crate::kv::{Error, HistoryRecord, ImportEnd, ImportPiece, KeyValue, LeaseId};

impl State {
    /// All of the piece or nothing.
    pub(super) fn import(&mut self, piece: &ImportPiece) -> Result<(), Error> {
        self.check_piece(piece).map_err(|detail| Error::Unavailable { detail })?;
        for record in &piece.records {
            self.import_record(record);
        }
        if let Some(end) = &piece.end {
            self.revision = self.revision.max(end.revision);
            self.compacted = self.compacted.max(end.compacted_revision);
            self.import_leases(&end.leases);
        }
        Ok(())
    }

    fn check_piece(&self, piece: &ImportPiece) -> Result<(), String> {
        if piece.after != self.revision {
            let (after, revision) = (piece.after, self.revision);
            return Err(format!(
                "a history is to be continued after revision {after}, and the keyspace is at {revision}: somebody else writes to it"
            ));
        }
        let mut last = RevKey { main: piece.after, sub: u32::MAX };
        for record in &piece.records {
            let at = RevKey { main: record.kv.mod_revision, sub: record.sub };
            if at <= last || record.kv.key.is_empty() {
                return Err(format!("the record at revision {} is not in its place", at.main));
            }
            last = at;
        }
        match &piece.end {
            Some(end) if end.revision < last.main || end.compacted_revision > end.revision => {
                Err(format!("a history cannot end with revision {}", end.revision))
            }
            _ => Ok(()),
        }
    }

    fn import_record(&mut self, imported: &HistoryRecord) {
        let kv = &imported.kv;
        let record = Record {
            key: kv.key.clone(),
            value: kv.value.clone(),
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            tombstone: imported.deletion,
        };
        let at = RevKey { main: kv.mod_revision, sub: imported.sub };
        let version = Version {
            at,
            create_revision: record.create_revision,
            version: record.version,
            lease: record.lease,
            value_bytes: u32::try_from(record.value.len()).unwrap_or(u32::MAX),
            tombstone: record.tombstone,
        };
        let replaced = self.index.get(&kv.key).and_then(History::live).map_or(0, |one| one.lease);
        self.move_lease(&kv.key, replaced, record.lease);
        self.load_record(&kv.key, version);
        self.revision = at.main;
        self.pending.bytes += record.key.len() + record.value.len();
        self.pending.records.insert(at, record);
    }

    /// They come behind the keys, so that none ends before its keys are there.
    fn import_leases(&mut self, leases: &[(LeaseId, i64)]) {
        for (id, ttl) in leases {
            self.leases.entry(*id).or_insert_with(|| {
                self.pending.leases.insert(*id, Some((*ttl, 0)));
                Lease { ttl: *ttl, remaining: 0, keys: BTreeSet::new() }
            });
        }
        for (key, history) in &self.index {
            let Some(version) = history.live() else { continue };
            if let Some(lease) = self.leases.get_mut(&version.lease) {
                lease.keys.insert(key.clone());
            }
        }
    }
}

pub(super) fn encode(out: &mut Vec<u8>, piece: &ImportPiece) {
    put_i64(out, piece.after);
    put_u64(out, piece.records.len() as u64);
    for record in &piece.records {
        let kv = &record.kv;
        out.extend_from_slice(&RevKey { main: kv.mod_revision, sub: record.sub }.encode());
        out.push(u8::from(record.deletion));
        for number in [kv.create_revision, kv.version, kv.lease] {
            put_i64(out, number);
        }
        put_bytes(out, &kv.key);
        put_bytes(out, &kv.value);
    }
    out.push(u8::from(piece.end.is_some()));
    let Some(end) = &piece.end else { return };
    put_i64(out, end.revision);
    put_i64(out, end.compacted_revision);
    put_u64(out, end.leases.len() as u64);
    for (id, ttl) in &end.leases {
        put_i64(out, *id);
        put_i64(out, *ttl);
    }
}

pub(super) fn decode(reader: &mut Reader) -> Result<ImportPiece, Malformed> {
    let mut piece = ImportPiece { after: reader.i64()?, ..ImportPiece::default() };
    for _ in 0..reader.u64()? {
        let at = RevKey::decode(&reader.take(RevKey::BYTES)?)?;
        let deletion = reader.bool()?;
        let (create_revision, version, lease) = (reader.i64()?, reader.i64()?, reader.i64()?);
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        let mod_revision = at.main;
        let kv = KeyValue { key, value, create_revision, mod_revision, version, lease };
        piece.records.push(HistoryRecord { kv, sub: at.sub, deletion });
    }
    if reader.bool()? {
        let (revision, compacted_revision) = (reader.i64()?, reader.i64()?);
        let mut end = ImportEnd { revision, compacted_revision, leases: Vec::new() };
        for _ in 0..reader.u64()? {
            end.leases.push((reader.i64()?, reader.i64()?));
        }
        piece.end = Some(end);
    }
    Ok(piece)
}

/// Bytes that a piece adds to a keyspace.
pub(crate) fn piece_bytes(piece: &ImportPiece) -> u64 {
    let bytes = |one: &HistoryRecord| State::record_bytes(&one.kv.key, one.kv.value.len());
    piece.records.iter().map(bytes).sum()
}
