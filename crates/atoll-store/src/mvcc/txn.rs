//! Transactions as etcd defines them: which are allowed, and which branch is taken.

use std::collections::HashSet;

use bytes::Bytes;

use super::apply::set_revision;
use super::command::DEPTH_MAX;
use super::read::bounds;
use super::{History, ReadFault, State, Version};
use crate::kv::{
    Compare, CompareTarget, Error, KeyRange, LeaseId, Op, OpResult, RangeRequest, Relation, Txn,
    TxnResult,
};

/// Which branch each transaction takes, the outer one first, inner ones in order.
pub(super) type Path = std::collections::VecDeque<bool>;

/// What can be said without the state: empty keys, too many operations, a key put twice.
pub(crate) fn check(txn: &Txn, operations_max: usize) -> Result<(), Error> {
    check_shape(txn, operations_max, 0)?;
    written(&txn.success)?;
    written(&txn.failure)?;
    Ok(())
}

pub(crate) fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match op {
        Op::Range(_) => true,
        Op::Put(_) | Op::Update(_) | Op::Delete { .. } => false,
        Op::Txn(inner) => is_read_only(inner),
    })
}

fn check_shape(txn: &Txn, operations_max: usize, depth: usize) -> Result<(), Error> {
    let operations = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    if operations > operations_max {
        return Err(Error::TooManyOperations { operations, limit: operations_max });
    }
    if depth > DEPTH_MAX {
        return Err(Error::TooManyOperations { operations: depth, limit: DEPTH_MAX });
    }
    if txn.compare.iter().any(|compare| compare.range.key.is_empty()) {
        return Err(Error::EmptyKey);
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(request) => not_empty(&request.range.key)?,
            Op::Put(put) => not_empty(&put.key)?,
            Op::Update(update) => not_empty(&update.key)?,
            Op::Delete { range, .. } => not_empty(&range.key)?,
            Op::Txn(inner) => check_shape(inner, operations_max, depth + 1)?,
        }
    }
    Ok(())
}

fn not_empty(key: &Bytes) -> Result<(), Error> {
    if key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) }
}

#[derive(Default)]
struct Written<'a> {
    puts: HashSet<&'a Bytes>,
    deletes: Vec<&'a KeyRange>,
}

impl<'a> Written<'a> {
    fn put(&mut self, key: &'a Bytes) -> Result<(), Error> {
        let deleted = self.deletes.iter().any(|range| range.contains(key));
        if deleted || !self.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
        Ok(())
    }
}

/// The keys and ranges that a list of operations may write. Only the two branches of one inner
/// transaction may put the same key, for only one of them runs.
fn written(ops: &[Op]) -> Result<Written<'_>, Error> {
    let mut all = Written::default();
    all.deletes.extend(ops.iter().filter_map(|op| match op {
        Op::Delete { range, .. } => Some(range),
        _ => None,
    }));
    for op in ops {
        let Op::Txn(inner) = op else { continue };
        let success = written(&inner.success)?;
        let failure = written(&inner.failure)?;
        for key in &success.puts {
            all.put(key)?;
        }
        for key in failure.puts.difference(&success.puts) {
            all.put(key)?;
        }
        all.deletes.extend(success.deletes);
        all.deletes.extend(failure.deletes);
    }
    for op in ops {
        match op {
            Op::Put(put) => all.put(&put.key)?,
            Op::Update(update) => all.put(&update.key)?,
            Op::Range(_) | Op::Delete { .. } | Op::Txn(_) => {}
        }
    }
    Ok(all)
}

impl State {
    /// A transaction that writes nothing needs no log.
    pub(crate) fn read_only_txn(&self, txn: &Txn) -> Result<TxnResult, Error> {
        let mut path = self.decide(txn)?;
        self.check_path(txn, &path)?;
        let mut result = self.run_reads(txn, &mut path)?;
        set_revision(&mut result, self.revision);
        Ok(result)
    }

    fn run_reads(&self, txn: &Txn, path: &mut Path) -> Result<TxnResult, Error> {
        let succeeded = path.pop_front().unwrap_or(false);
        let mut responses = Vec::new();
        for op in branch(txn, succeeded) {
            responses.push(match op {
                Op::Range(request) => OpResult::Range(self.plan(request, self.revision).finish()?),
                Op::Txn(inner) => OpResult::Txn(self.run_reads(inner, path)?),
                Op::Put(_) | Op::Update(_) | Op::Delete { .. } => {
                    let detail = "a write was taken for a read".to_owned();
                    return Err(Error::Unavailable { detail });
                }
            });
        }
        Ok(TxnResult { revision: 0, succeeded, responses })
    }

    /// Decides every branch from the state before the transaction, as etcd does.
    pub(super) fn decide(&self, txn: &Txn) -> Result<Path, ReadFault> {
        let mut path = Path::new();
        self.decide_into(txn, &mut path)?;
        Ok(path)
    }

    fn decide_into(&self, txn: &Txn, path: &mut Path) -> Result<(), ReadFault> {
        let mut succeeded = true;
        for compare in &txn.compare {
            succeeded = succeeded && self.holds(compare)?;
        }
        path.push_back(succeeded);
        for op in branch(txn, succeeded) {
            if let Op::Txn(inner) = op {
                self.decide_into(inner, path)?;
            }
        }
        Ok(())
    }

    /// What can fail is found before anything is written, so that a transaction is all or nothing:
    /// in all of its writes first, then in its reads, as etcd looks for it.
    pub(super) fn check_path(&self, txn: &Txn, path: &Path) -> Result<(), Error> {
        self.check_ops(txn, &mut path.clone(), &|op| match op {
            Op::Put(put) => self.check_lease(put.lease),
            Op::Update(update) => {
                // No transaction deletes a key that it also puts, so it will still be there.
                let live = self.index.get(&update.key).and_then(History::live);
                live.ok_or(Error::KeyNotFound)?;
                self.check_lease(update.lease.unwrap_or(0))
            }
            _ => Ok(()),
        })?;
        self.check_ops(txn, &mut path.clone(), &|op| match op {
            Op::Range(RangeRequest { revision, .. }) => self.check_revision(*revision),
            _ => Ok(()),
        })
    }

    fn check_ops(
        &self,
        txn: &Txn,
        path: &mut Path,
        check: &dyn Fn(&Op) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let succeeded = path.pop_front().unwrap_or(false);
        for op in branch(txn, succeeded) {
            match op {
                Op::Txn(inner) => self.check_ops(inner, path, check)?,
                other => check(other)?,
            }
        }
        Ok(())
    }

    fn check_lease(&self, id: LeaseId) -> Result<(), Error> {
        if id == 0 || self.leases.contains_key(&id) {
            return Ok(());
        }
        Err(Error::LeaseNotFound { id })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, ReadFault> {
        let mut found = false;
        for (key, history) in self.index.range::<[u8], _>(bounds(&compare.range)) {
            let Some(version) = history.live() else { continue };
            found = true;
            if !self.version_holds(compare, key, version)? {
                return Ok(false);
            }
        }
        if found {
            return Ok(true);
        }
        // A key that does not exist has zeros, but no value to compare.
        Ok(match &compare.target {
            CompareTarget::Value(_) => false,
            CompareTarget::ModRevision(wanted)
            | CompareTarget::CreateRevision(wanted)
            | CompareTarget::Version(wanted)
            | CompareTarget::Lease(wanted) => related(&0, compare.relation, wanted),
        })
    }

    fn version_holds(
        &self,
        compare: &Compare,
        key: &Bytes,
        version: &Version,
    ) -> Result<bool, ReadFault> {
        let relation = compare.relation;
        Ok(match &compare.target {
            CompareTarget::ModRevision(wanted) => related(&version.at.main, relation, wanted),
            CompareTarget::CreateRevision(wanted) => {
                related(&version.create_revision, relation, wanted)
            }
            CompareTarget::Version(wanted) => related(&version.version, relation, wanted),
            CompareTarget::Lease(wanted) => related(&version.lease, relation, wanted),
            CompareTarget::Value(wanted) => {
                related(&self.load(key, version)?.value, relation, wanted)
            }
        })
    }
}

pub(super) fn branch(txn: &Txn, succeeded: bool) -> &[Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

fn related<T: Ord>(actual: &T, relation: Relation, wanted: &T) -> bool {
    match relation {
        Relation::Equal => actual == wanted,
        Relation::NotEqual => actual != wanted,
        Relation::Greater => actual > wanted,
        Relation::Less => actual < wanted,
    }
}
