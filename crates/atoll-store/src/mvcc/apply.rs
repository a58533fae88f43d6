//! Applies one command to a keyspace: the same on every member, whatever it has in memory.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::compact::Change;
use super::read::bounds;
use super::txn::{Path, branch};
use super::{Command, History, Lease, ReadFault, Record, Response, RevKey, State, Version};
use crate::kv::{
    Error, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResult, PutRequest, Revision, Txn,
    TxnResult, UpdateRequest,
};

/// One change, before it is made into an event for a particular watch.
#[derive(Debug, Clone)]
pub(crate) struct StoredEvent {
    pub(crate) kind: EventKind,
    pub(crate) at: RevKey,
    pub(crate) kv: KeyValue,
    /// What it replaced, if somebody asked for it when it was applied.
    pub(crate) prev_kv: Option<Option<KeyValue>>,
}

/// What the keeper of time has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Granted {
        id: LeaseId,
        ttl: i64,
    },
    Revoked {
        id: LeaseId,
    },
    /// Any number, with a history that was continued up to this revision.
    Imported {
        revision: Revision,
    },
}

#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) response: Result<Response, Error>,
    /// All of one revision, the state's new one; none if nothing was written.
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) lease_change: Option<LeaseChange>,
}

impl State {
    /// `wants_prev` says whether a watch wants to know what the change of a key replaced.
    pub(crate) fn apply(
        &mut self,
        command: &Command,
        wants_prev: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Applied, ReadFault> {
        let mut writer = Writer::new(self, wants_prev);
        let mut lease_change = None;
        let response = match command {
            Command::Txn(txn) => writer.txn(txn)?,
            Command::Compact { revision } => {
                writer.state.compact(*revision).map(|()| Response::Done)
            }
            Command::LeaseGrant { id, ttl } => {
                let granted = writer.lease_grant(*id, *ttl);
                lease_change =
                    granted.is_ok().then_some(LeaseChange::Granted { id: *id, ttl: *ttl });
                granted
            }
            Command::LeaseRevoke { id } => {
                let revoked = writer.lease_revoke(*id)?;
                lease_change = revoked.is_ok().then_some(LeaseChange::Revoked { id: *id });
                revoked
            }
            Command::LeaseCheckpoint { id, remaining } => writer.lease_checkpoint(*id, *remaining),
            Command::Import(piece) => {
                let imported = writer.state.import(piece);
                let revision = writer.state.revision;
                lease_change = imported.is_ok().then_some(LeaseChange::Imported { revision });
                imported.map(|()| Response::Done)
            }
        };
        let events = writer.events;
        if let Some(event) = events.first() {
            self.revision = event.at.main;
        }
        Ok(Applied { response, events, lease_change })
    }
}

struct Writer<'a> {
    state: &'a mut State,
    wants_prev: &'a dyn Fn(&[u8]) -> bool,
    /// The revision that all writes of this command get.
    main: Revision,
    events: Vec<StoredEvent>,
}

impl<'a> Writer<'a> {
    fn new(state: &'a mut State, wants_prev: &'a dyn Fn(&[u8]) -> bool) -> Self {
        let main = state.revision + 1;
        Self { state, wants_prev, main, events: Vec::new() }
    }

    fn current(&self) -> Revision {
        if self.events.is_empty() { self.state.revision } else { self.main }
    }

    fn txn(&mut self, txn: &Txn) -> Result<Result<Response, Error>, ReadFault> {
        let mut path = self.state.decide(txn)?;
        if let Err(error) = self.state.check_path(txn, &path) {
            return Ok(Err(error));
        }
        let mut result = self.run(txn, &mut path)?;
        set_revision(&mut result, self.current());
        Ok(Ok(Response::Txn(result)))
    }

    fn run(&mut self, txn: &Txn, path: &mut Path) -> Result<TxnResult, ReadFault> {
        let succeeded = path.pop_front().unwrap_or(false);
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Range(request) => {
                    OpResult::Range(self.state.plan(request, self.current()).finish()?)
                }
                Op::Put(put) => OpResult::Put { prev_kv: self.put(put)? },
                Op::Update(update) => OpResult::Put { prev_kv: self.update(update)? },
                Op::Delete { range, prev_kv } => self.delete(range, *prev_kv)?,
                Op::Txn(inner) => OpResult::Txn(self.run(inner, path)?),
            });
        }
        Ok(TxnResult { revision: 0, succeeded, responses })
    }

    fn put(&mut self, put: &PutRequest) -> Result<Option<KeyValue>, ReadFault> {
        let replaced = self.state.index.get(&put.key).and_then(History::live).copied();
        let prev = self.load_prev(&put.key, replaced.as_ref(), put.prev_kv)?;
        let record = Record {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: replaced.map_or(self.main, |version| version.create_revision),
            version: replaced.map_or(1, |version| version.version + 1),
            lease: put.lease,
            tombstone: false,
        };
        self.write(record, replaced.as_ref(), prev.clone());
        Ok(prev.filter(|_| put.prev_kv))
    }

    /// A put of what is there already, where nothing else is given.
    fn update(&mut self, update: &UpdateRequest) -> Result<Option<KeyValue>, ReadFault> {
        let live = self.state.index.get(&update.key).and_then(History::live).copied();
        let Some(version) = live else { return Ok(None) };
        let value = match &update.value {
            Some(value) => value.clone(),
            None => self.state.load(&update.key, &version)?.value,
        };
        let lease = update.lease.unwrap_or(version.lease);
        let put = PutRequest { key: update.key.clone(), value, lease, prev_kv: update.prev_kv };
        self.put(&put)
    }

    fn delete(&mut self, range: &KeyRange, prev_kv: bool) -> Result<OpResult, ReadFault> {
        let found: Vec<_> = self
            .state
            .index
            .range::<[u8], _>(bounds(range))
            .filter_map(|(key, history)| Some((key.clone(), *history.live()?)))
            .collect();
        let deleted = found.len() as u64;
        let mut prev_kvs = Vec::new();
        for (key, version) in found {
            let prev = self.delete_one(key, version, prev_kv)?;
            prev_kvs.extend(prev.filter(|_| prev_kv));
        }
        Ok(OpResult::Delete { deleted, prev_kvs })
    }

    fn delete_one(
        &mut self,
        key: Bytes,
        version: Version,
        prev_kv: bool,
    ) -> Result<Option<KeyValue>, ReadFault> {
        let prev = self.load_prev(&key, Some(&version), prev_kv)?;
        let record = Record {
            key,
            value: Bytes::new(),
            create_revision: 0,
            version: 0,
            lease: 0,
            tombstone: true,
        };
        self.write(record, Some(&version), prev.clone());
        Ok(prev)
    }

    /// Reads what is replaced only if someone wants it: it may cost a read of the disk.
    fn load_prev(
        &self,
        key: &Bytes,
        replaced: Option<&Version>,
        asked: bool,
    ) -> Result<Option<KeyValue>, ReadFault> {
        match replaced {
            Some(version) if asked || (self.wants_prev)(key) => {
                self.state.load(key, version).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn write(&mut self, record: Record, replaced: Option<&Version>, prev: Option<KeyValue>) {
        let sub = u32::try_from(self.events.len()).unwrap_or(u32::MAX);
        let at = RevKey { main: self.main, sub };
        let version = Version {
            at,
            create_revision: record.create_revision,
            version: record.version,
            lease: record.lease,
            value_bytes: u32::try_from(record.value.len()).unwrap_or(u32::MAX),
            tombstone: record.tombstone,
        };
        let state = &mut *self.state;
        state.move_lease(&record.key, replaced.map_or(0, |version| version.lease), record.lease);
        // The entry's buffer is shared by all its keys; the index must not keep it alive.
        match state.index.get_mut(&record.key) {
            Some(history) => {
                history.push(version);
                let change = if record.tombstone { Change::Deletion } else { Change::Overwrite };
                state.note_garbage(at.main, &record.key, change);
            }
            None => {
                let key = Bytes::copy_from_slice(&record.key);
                state.index.insert(key, History::One(version));
            }
        }
        state.live_bytes += State::record_bytes(&record.key, record.value.len());
        state.pending.bytes += record.key.len() + record.value.len();
        let known = (prev.is_some() || replaced.is_none()).then_some(prev);
        self.events.push(StoredEvent {
            kind: record.event_kind(),
            at,
            kv: record.key_value(at.main),
            prev_kv: known,
        });
        state.pending.records.insert(at, record);
    }

    fn lease_grant(&mut self, id: LeaseId, ttl: i64) -> Result<Response, Error> {
        if self.state.leases.contains_key(&id) {
            return Err(Error::LeaseExists { id });
        }
        self.state.leases.insert(id, Lease { ttl, remaining: 0, keys: BTreeSet::new() });
        self.state.pending.leases.insert(id, Some((ttl, 0)));
        Ok(Response::Done)
    }

    fn lease_revoke(&mut self, id: LeaseId) -> Result<Result<Response, Error>, ReadFault> {
        let Some(lease) = self.state.leases.get(&id) else {
            return Ok(Err(Error::LeaseNotFound { id }));
        };
        for key in lease.keys.clone() {
            let live = self.state.index.get(&key).and_then(History::live).copied();
            if let Some(version) = live {
                self.delete_one(key, version, false)?;
            }
        }
        self.state.leases.remove(&id);
        self.state.pending.leases.insert(id, None);
        Ok(Ok(Response::Done))
    }

    fn lease_checkpoint(&mut self, id: LeaseId, remaining: i64) -> Result<Response, Error> {
        let lease = self.state.leases.get_mut(&id).ok_or(Error::LeaseNotFound { id })?;
        lease.remaining = remaining;
        self.state.pending.leases.insert(id, Some((lease.ttl, remaining)));
        Ok(Response::Done)
    }
}

impl State {
    pub(super) fn move_lease(&mut self, key: &Bytes, old: LeaseId, new: LeaseId) {
        if old == new {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&old) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&new) {
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }
}

/// Inner transactions report the revision of the whole one.
pub(super) fn set_revision(result: &mut TxnResult, revision: Revision) {
    result.revision = revision;
    for response in &mut result.responses {
        if let OpResult::Txn(inner) = response {
            set_revision(inner, revision);
        }
    }
}
