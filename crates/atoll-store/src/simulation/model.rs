//! What the store should hold, written as simply as possible: maps, no versions, no files.

use super::{BTreeMap, Bytes, Command, Error, Op, Response, Txn};
use crate::core::Answer;
use crate::kv::{
    CompareTarget, Event, EventKind, KeyRange, KeyValue, OpResult, RangeResult, Relation, TxnResult,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    revision: i64,
    key: Bytes,
    value: Option<Bytes>,
}

impl Change {
    pub(super) fn of(event: &Event) -> Self {
        let value = (event.kind == EventKind::Put).then(|| event.kv.value.clone());
        Self { revision: event.kv.mod_revision, key: event.kv.key.clone(), value }
    }
}

#[derive(Debug, Clone)]
pub(super) struct KeyspaceModel {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    pub(super) live: BTreeMap<Bytes, KeyValue>,
    pub(super) leases: BTreeMap<i64, i64>,
    pub(super) history: BTreeMap<i64, Vec<Change>>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) keyspaces: [KeyspaceModel; 2],
    /// Asked for and not answered, in order.
    pub(super) unknown: Vec<(usize, Command)>,
}

impl Default for KeyspaceModel {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            live: BTreeMap::new(),
            leases: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }
}

impl Model {
    pub(super) fn apply(&mut self, keyspace: usize, command: &Command) -> Answer {
        self.keyspaces[keyspace].apply(command)
    }
}

impl KeyspaceModel {
    fn apply(&mut self, command: &Command) -> Answer {
        match command {
            Command::Txn(txn) => self.txn(txn).map(Response::Txn),
            Command::Compact { revision } => {
                let requested = *revision;
                if requested <= self.compacted {
                    return Err(Error::Compacted { requested, compacted: self.compacted });
                }
                if requested > self.revision {
                    return Err(Error::Future { requested, current: self.revision });
                }
                self.compacted = requested;
                Ok(Response::Done)
            }
            Command::LeaseGrant { id, ttl } => {
                if self.leases.contains_key(id) {
                    return Err(Error::LeaseExists { id: *id });
                }
                self.leases.insert(*id, *ttl);
                Ok(Response::Done)
            }
            Command::Import(_) => {
                Err(Error::Unavailable { detail: "no plan imports anything".to_owned() })
            }
            Command::LeaseRevoke { id } => {
                self.leases.remove(id).ok_or(Error::LeaseNotFound { id: *id })?;
                let keys: Vec<_> = self
                    .live
                    .values()
                    .filter(|kv| kv.lease == *id)
                    .map(|kv| kv.key.clone())
                    .collect();
                let mut changes = Vec::new();
                for key in keys {
                    self.remove(&key, &mut changes);
                }
                self.commit(changes);
                Ok(Response::Done)
            }
            Command::LeaseCheckpoint { .. } => Ok(Response::Done),
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.history.insert(self.revision, changes);
        }
    }

    fn remove(&mut self, key: &Bytes, changes: &mut Vec<Change>) -> Option<KeyValue> {
        let removed = self.live.remove(key)?;
        changes.push(Change { revision: self.revision + 1, key: key.clone(), value: None });
        Some(removed)
    }

    /// The workload has no inner transactions, and ranges only of the present.
    fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Error> {
        let succeeded = txn.compare.iter().all(|compare| {
            let found = self.live.get(&compare.range.key);
            let relation = compare.relation;
            match &compare.target {
                CompareTarget::ModRevision(wanted) => {
                    holds(&found.map_or(0, |kv| kv.mod_revision), relation, wanted)
                }
                CompareTarget::Version(wanted) => {
                    holds(&found.map_or(0, |kv| kv.version), relation, wanted)
                }
                CompareTarget::CreateRevision(wanted) => {
                    holds(&found.map_or(0, |kv| kv.create_revision), relation, wanted)
                }
                CompareTarget::Lease(wanted) => {
                    holds(&found.map_or(0, |kv| kv.lease), relation, wanted)
                }
                CompareTarget::Value(wanted) => {
                    found.is_some_and(|kv| holds(&kv.value, relation, wanted))
                }
            }
        });
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            if let Op::Put(put) = op
                && put.lease != 0
                && !self.leases.contains_key(&put.lease)
            {
                return Err(Error::LeaseNotFound { id: put.lease });
            }
        }
        let mut changes = Vec::new();
        let mut responses = Vec::new();
        for op in ops {
            responses.push(self.op(op, &mut changes));
        }
        self.commit(changes);
        Ok(TxnResult { revision: self.revision, succeeded, responses })
    }

    fn op(&mut self, op: &Op, changes: &mut Vec<Change>) -> OpResult {
        let next = self.revision + 1;
        match op {
            Op::Put(put) => {
                let old = self.live.get(&put.key).cloned();
                let kv = KeyValue {
                    key: put.key.clone(),
                    value: put.value.clone(),
                    create_revision: old.as_ref().map_or(next, |old| old.create_revision),
                    mod_revision: next,
                    version: old.as_ref().map_or(1, |old| old.version + 1),
                    lease: put.lease,
                };
                self.live.insert(put.key.clone(), kv);
                let value = Some(put.value.clone());
                changes.push(Change { revision: next, key: put.key.clone(), value });
                OpResult::Put { prev_kv: old.filter(|_| put.prev_kv) }
            }
            Op::Delete { range, prev_kv } => {
                let mut prev_kvs = Vec::new();
                for key in self.keys(range) {
                    prev_kvs.extend(self.remove(&key, changes));
                }
                let deleted = prev_kvs.len() as u64;
                OpResult::Delete { deleted, prev_kvs: if *prev_kv { prev_kvs } else { vec![] } }
            }
            Op::Range(request) => {
                let keys = self.keys(&request.range);
                let kvs: Vec<_> = keys.iter().map(|key| self.live[key].clone()).collect();
                let revision = if changes.is_empty() { self.revision } else { next };
                let count = kvs.len() as u64;
                OpResult::Range(RangeResult { revision, kvs, count, more: false })
            }
            // The workload has neither.
            Op::Update(_) | Op::Txn(_) => OpResult::Txn(TxnResult::default()),
        }
    }

    fn keys(&self, range: &KeyRange) -> Vec<Bytes> {
        self.live.keys().filter(|key| range.contains(key)).cloned().collect()
    }
}

fn holds<T: Ord>(actual: &T, relation: Relation, wanted: &T) -> bool {
    match relation {
        Relation::Equal => actual == wanted,
        Relation::NotEqual => actual != wanted,
        Relation::Greater => actual > wanted,
        Relation::Less => actual < wanted,
    }
}
