//! Checks one piece of a history after the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    explained,
    log::{Known, Log, found},
    model::{Ask, Call, Change, Found, How, Lease, Outcome, Watched},
    watch,
    write::Write,
};

/// An empty keyspace's revision.
const EMPTY: i64 = 1;

/// A piece of a history, from where the last one ended. Calls are in the piece in which they were
/// asked, and everything that was answered in it has happened in it or before.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    /// All changes since the last piece, as the store gives them.
    pub changes: &'a [Change],
    pub calls: &'a [Call],
    pub watches: &'a [Watched],
    pub leases: &'a [Lease],
    /// When a watcher first saw a revision.
    pub seen: &'a BTreeMap<i64, u64>,
}

/// What has to be known of the pieces before.
#[derive(Debug, Default)]
pub struct Checker {
    state: BTreeMap<String, Found>,
    revision: Option<i64>,
    /// Writes without an answer that may still happen.
    open: Vec<Call>,
    /// Stale reads of what was before the piece, which nothing is left to compare with.
    unchecked: u64,
}

impl Checker {
    /// The revision up to which everything has been checked.
    pub fn revision(&self) -> i64 {
        self.revision.unwrap_or(EMPTY)
    }

    pub fn unchecked(&self) -> u64 {
        self.unchecked
    }

    /// What stands under the keys at that revision.
    pub fn state(&self) -> impl Iterator<Item = &Found> {
        self.state.values()
    }

    /// Everything that is wrong; nothing when the history is one that a correct store may have.
    pub fn check(&mut self, window: &Window<'_>) -> Vec<String> {
        let log = Log::new(&self.state, self.revision(), window.changes);
        let known = Known::new(self.revision(), window.calls);
        let mut problems = log.problems(window.changes);
        let explained = explained::check(&log, &known, window, &self.open);
        problems.extend(explained.problems);
        for call in window.calls {
            if is_before(&log, call) {
                self.unchecked += 1;
                continue;
            }
            problems.extend(answer(&log, call));
            problems.extend(too_early(&known, call));
        }
        problems.extend(window.watches.iter().filter_map(|one| watch::problem(&log, one)));
        let happened: BTreeSet<*const Call> =
            explained.happened.iter().map(|call| std::ptr::from_ref(*call)).collect();
        let may_happen =
            |call: &&Call| is_open(call) && !happened.contains(&std::ptr::from_ref(*call));
        let open = self.open.iter().chain(window.calls).filter(may_happen).cloned().collect();
        let last = log.last;
        self.advance(window.changes, last, open);
        problems
    }

    fn advance(&mut self, changes: &[Change], last: i64, open: Vec<Call>) {
        self.revision = Some(last);
        self.open = open;
        for change in changes {
            match found(change) {
                Some(found) => self.state.insert(change.key.clone(), found),
                None => self.state.remove(&change.key),
            };
        }
    }
}

fn is_open(call: &Call) -> bool {
    call.outcome == Outcome::Unknown && matches!(call.ask, Ask::Write { .. })
}

/// A server that is behind may answer a stale read from before the piece.
fn is_before(log: &Log<'_>, call: &Call) -> bool {
    let revision = match (&call.ask, &call.outcome) {
        (Ask::Read { how: How::At(revision), .. }, Outcome::Found { .. }) => Some(*revision),
        (Ask::Read { how: How::Stale, .. }, outcome) => outcome.revision(),
        _ => None,
    };
    revision.is_some_and(|revision| revision < log.first)
}

/// Whether an answer agrees with the log.
fn answer(log: &Log<'_>, call: &Call) -> Option<String> {
    match (&call.ask, &call.outcome) {
        (_, Outcome::Unknown | Outcome::Refused) => None,
        (Ask::Read { range, how }, Outcome::Found { revision, found }) => {
            if *revision > log.last {
                return Some(format!("a read at a revision that is not in the log: {call:?}"));
            }
            let at = if let How::At(at) = how { *at } else { *revision };
            if at > *revision {
                return Some(format!("a read of the future: {call:?}"));
            }
            let wanted = log.state(range, at);
            (*found != wanted)
                .then(|| format!("a read that differs from the state {wanted:?}: {call:?}"))
        }
        (Ask::Write { guard, puts, delete }, Outcome::Written { revision, succeeded, deleted }) => {
            let write = Write { guard: guard.as_ref(), puts, delete: delete.as_deref() };
            let problem = write.problem(log, *revision, *succeeded, *deleted);
            problem.map(|problem| format!("{problem}: {call:?}"))
        }
        _ => Some(format!("an answer to something else: {call:?}")),
    }
}

/// Rule 2.
fn too_early(known: &Known, call: &Call) -> Option<String> {
    if matches!(call.ask, Ask::Read { how: How::Stale, .. }) {
        return None;
    }
    let (known, told) = (known.at(call.asked_at), call.outcome.revision()?);
    (told < known).then(|| format!("revision {known} was known before this was asked: {call:?}"))
}

#[cfg(test)]
mod tests;
