//! Whether every change in the log has somebody who made it, and only once.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    checker::Window,
    log::{Known, Log},
    model::{Ask, Call, Change, Lease, Outcome},
    write::Write,
};

/// Who may have made which change.
struct Makers<'a> {
    /// By value.
    writers: BTreeMap<&'a str, &'a Call>,
    /// Deletes whose revision is known.
    deletes: BTreeSet<(i64, &'a str)>,
    /// Deletes alone, without an answer: of this key, asked for after this revision was known.
    unheard_deletes: BTreeMap<&'a str, Vec<(i64, &'a Call)>>,
    leases: BTreeMap<&'a str, &'a Lease>,
}

/// What is wrong, and which of the unheard writes stand in the log.
pub(crate) struct Explained<'a> {
    pub(crate) problems: Vec<String>,
    pub(crate) happened: Vec<&'a Call>,
}

pub(crate) fn check<'a>(
    log: &Log<'_>,
    known: &Known,
    window: &'a Window<'_>,
    open: &'a [Call],
) -> Explained<'a> {
    let mut result = Explained { problems: Vec::new(), happened: Vec::new() };
    let mut makers = Makers::new(known, window, open);
    let mut places: BTreeMap<&str, i64> = BTreeMap::new();
    for change in log.by_revision.values().flatten() {
        let Some(value) = change.value.as_deref() else { continue };
        result.problems.extend(makers.value_problem(value, change));
        if let Some(before) = places.insert(value, change.revision)
            && before != change.revision
        {
            result.problems.push(format!(
                "{value:?} stands at revision {} and stood at {before} already",
                change.revision
            ));
        }
    }
    for call in unheard(window, open) {
        makers.place(log, known, &places, call, &mut result);
    }
    for change in log.by_revision.values().flatten().filter(|change| change.value.is_none()) {
        result.problems.extend(makers.delete_problem(window, change, &mut result.happened));
    }
    result
}

fn unheard<'a>(window: &'a Window<'_>, open: &'a [Call]) -> impl Iterator<Item = &'a Call> {
    let calls = window.calls.iter().filter(|call| call.outcome == Outcome::Unknown);
    open.iter().chain(calls)
}

impl<'a> Makers<'a> {
    fn new(known: &Known, window: &'a Window<'_>, open: &'a [Call]) -> Self {
        let mut makers = Self {
            writers: BTreeMap::new(),
            deletes: BTreeSet::new(),
            unheard_deletes: BTreeMap::new(),
            leases: BTreeMap::new(),
        };
        for call in open.iter().chain(window.calls) {
            let Ask::Write { puts, delete, .. } = &call.ask else { continue };
            makers.writers.extend(puts.iter().map(|(_, value)| (value.as_str(), call)));
            let Some(key) = delete else { continue };
            match call.outcome {
                Outcome::Written { revision, deleted, .. } if deleted > 0 => {
                    makers.deletes.insert((revision, key));
                }
                Outcome::Unknown if puts.is_empty() => {
                    let deletes = makers.unheard_deletes.entry(key).or_default();
                    deletes.push((known.at(call.asked_at), call));
                }
                _ => {}
            }
        }
        for lease in window.leases {
            makers.leases.extend(lease.keys.iter().map(|key| (key.as_str(), lease)));
        }
        makers
    }

    fn value_problem(&self, value: &str, change: &Change) -> Option<String> {
        let text = format!("{value:?} stands at revision {}", change.revision);
        match self.writers.get(value).map(|call| &call.outcome) {
            None => Some(format!("{text} and nobody wrote it")),
            Some(Outcome::Refused | Outcome::Found { .. }) => {
                Some(format!("{text} and its write was refused"))
            }
            Some(Outcome::Written { .. } | Outcome::Unknown) => None,
        }
    }

    /// A write that nobody was told about is found by its values.
    fn place(
        &mut self,
        log: &Log<'_>,
        known: &Known,
        places: &BTreeMap<&str, i64>,
        call: &'a Call,
        result: &mut Explained<'a>,
    ) {
        let Ask::Write { guard, puts, delete } = &call.ask else { return };
        let at = puts.iter().find_map(|(_, value)| places.get(value.as_str()));
        let Some(revision) = at.copied() else { return };
        result.happened.push(call);
        self.deletes.extend(delete.as_deref().map(|key| (revision, key)));
        let write = Write { guard: guard.as_ref(), puts, delete: delete.as_deref() };
        let problem = write.unheard(log, revision);
        result.problems.extend(problem.map(|problem| format!("{problem}: {call:?} at {revision}")));
        let before = known.at(call.asked_at);
        if before >= revision {
            let problem = "a write happened before it was asked for";
            result.problems.push(format!("{problem}: {call:?} at {revision}, {before} was known"));
        }
    }

    fn delete_problem(
        &mut self,
        window: &Window<'_>,
        change: &Change,
        happened: &mut Vec<&'a Call>,
    ) -> Option<String> {
        let (key, revision) = (change.key.as_str(), change.revision);
        if self.deletes.contains(&(revision, key)) {
            return None;
        }
        if let Some(lease) = self.leases.get(key) {
            return lease_problem(lease, change, window.seen.get(&revision).copied());
        }
        // Each explains one.
        if let Some(unheard) = self.unheard_deletes.get_mut(key)
            && let Some(at) = unheard.iter().position(|(known, _)| *known < revision)
        {
            happened.push(unheard.swap_remove(at).1);
            return None;
        }
        Some(format!("nobody deleted {key:?} at {revision}"))
    }
}

/// A change that no watcher saw was made at any time.
fn lease_problem(lease: &Lease, change: &Change, seen_at: Option<u64>) -> Option<String> {
    let seen_at = seen_at?;
    let is_revoked = lease.revoked_at.is_some_and(|asked_at| asked_at < seen_at);
    (!is_revoked && seen_at < lease.alive_until).then(|| {
        format!("{change:?} was seen at {seen_at}, while its lease was kept alive: {lease:?}")
    })
}
