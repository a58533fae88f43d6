//! A checker of histories: what clients and watchers saw, against the one order of writes.
//!
//! Each write has a revision, so the order need not be searched for: the log of changes that the
//! store itself gives in the end is replayed, and everything that anybody was told must agree with
//! it. Five rules:
//! 1. every acknowledged write is in the log, once, at the revision it was told, and did there what
//!    it was told;
//! 2. no answer has a lower revision than one that was known before it was asked for;
//! 3. every read equals the state at its revision;
//! 4. a write whose outcome is unknown is in the log once or never, and one that was refused never;
//! 5. a watch sees every change once, whole and in order, and none after it was told to be past it.

use std::collections::BTreeMap;

/// What a client asked and was told. Times are numbers from one counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) asked_at: u64,
    /// `u64::MAX` when there was no answer.
    pub(crate) answered_at: u64,
    pub(crate) ask: Ask,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// All of it at one revision, if the guarded key was last changed at that revision (0: does
    /// not exist). Values are never written twice.
    Write { guard: Option<(String, i64)>, puts: Vec<(String, String)>, delete: Option<String> },
    /// All keys, or one. A stale read may be behind.
    Read { key: Option<String>, is_stale: bool },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Written {
        revision: i64,
        succeeded: bool,
        deleted: u64,
    },
    Found {
        revision: i64,
        found: Vec<Found>,
    },
    /// It may have happened.
    Unknown,
    /// It has not happened.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) changed_at: i64,
}

/// What a watcher of all keys was told, from its first revision on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) start: i64,
    pub(crate) batches: Vec<Batch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Everything up to here has been sent.
    pub(crate) revision: i64,
    pub(crate) changes: Vec<Change>,
}

/// One key at one revision; `None` is a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

/// An empty keyspace's revision.
const EMPTY: i64 = 1;

/// The changes in their order, and the states that they make.
#[derive(Debug)]
struct Log<'a> {
    by_revision: BTreeMap<i64, Vec<&'a Change>>,
    by_key: BTreeMap<&'a str, Vec<&'a Change>>,
    last: i64,
}

impl<'a> Log<'a> {
    fn new(changes: &'a [Change]) -> Self {
        let (mut by_revision, mut by_key) = (BTreeMap::new(), BTreeMap::new());
        for change in changes {
            by_revision.entry(change.revision).or_insert_with(Vec::new).push(change);
            by_key.entry(change.key.as_str()).or_insert_with(Vec::new).push(change);
        }
        let last = by_revision.keys().next_back().copied().unwrap_or(EMPTY);
        Self { by_revision, by_key, last }
    }

    /// What stood under the key when everything up to this revision had been done.
    fn at(&self, key: &str, revision: i64) -> Option<&'a Change> {
        let changes = self.by_key.get(key)?;
        let count = changes.partition_point(|change| change.revision <= revision);
        let last = changes[..count].last()?;
        last.value.is_some().then_some(*last)
    }

    fn state(&self, key: Option<&str>, revision: i64) -> Vec<Found> {
        let all = self.by_key.keys().copied();
        all.filter(|name| key.is_none_or(|key| key == *name))
            .filter_map(|name| self.at(name, revision))
            .filter_map(|change| {
                let value = change.value.clone()?;
                Some(Found { key: change.key.clone(), value, changed_at: change.revision })
            })
            .collect()
    }
}

/// Everything that is wrong; nothing when the history is one that a correct store may have.
pub(crate) fn violations(changes: &[Change], calls: &[Call], watches: &[Watched]) -> Vec<String> {
    let log = Log::new(changes);
    let mut found = Vec::new();
    if !changes.is_sorted_by_key(|change| change.revision) {
        found.push("the log of changes is not in order".to_owned());
    }
    let gap = (EMPTY + 1..=log.last).find(|revision| !log.by_revision.contains_key(revision));
    found.extend(gap.map(|revision| format!("the log of changes leaves out revision {revision}")));
    found.extend(unexplained(&log, calls));
    found.extend(calls.iter().filter_map(|call| answer(&log, call).err()));
    found.extend(too_early(calls));
    found.extend(watches.iter().filter_map(|watched| watch(&log, watched).err()));
    found
}

/// Each value in the log was written by somebody, once; and what was refused by nobody.
fn unexplained(log: &Log<'_>, calls: &[Call]) -> Vec<String> {
    let mut writers: BTreeMap<&str, &Call> = BTreeMap::new();
    for call in calls {
        if let Ask::Write { puts, .. } = &call.ask {
            writers.extend(puts.iter().map(|(_, value)| (value.as_str(), call)));
        }
    }
    let mut places: BTreeMap<&str, i64> = BTreeMap::new();
    let mut found = Vec::new();
    for change in log.by_revision.values().flatten() {
        let Some(value) = change.value.as_deref() else {
            if !calls.iter().any(|call| has_deleted(call, change)) {
                found.push(format!("nobody deleted {:?} at {}", change.key, change.revision));
            }
            continue;
        };
        let text = format!("{value:?} stands at revision {}", change.revision);
        match writers.get(value).map(|call| &call.outcome) {
            None => found.push(format!("{text} and nobody wrote it")),
            Some(Outcome::Refused | Outcome::Found { .. }) => {
                found.push(format!("{text} and its write was refused"));
            }
            Some(Outcome::Written { .. } | Outcome::Unknown) => {}
        }
        if let Some(before) = places.insert(value, change.revision)
            && before != change.revision
        {
            found.push(format!("{text} and stood at {before} already"));
        }
    }
    for call in calls.iter().filter(|call| call.outcome == Outcome::Unknown) {
        if let Ask::Write { puts, .. } = &call.ask {
            let at: Vec<_> = puts.iter().map(|(_, value)| places.get(value.as_str())).collect();
            if at.windows(2).any(|two| two[0] != two[1]) {
                found.push(format!("half of a write happened: {call:?} at {at:?}"));
            }
        }
    }
    found
}

fn has_deleted(call: &Call, change: &Change) -> bool {
    let Ask::Write { delete: Some(key), .. } = &call.ask else { return false };
    let may_have = match call.outcome {
        Outcome::Written { revision, deleted, .. } => revision == change.revision && deleted > 0,
        Outcome::Unknown => true,
        Outcome::Found { .. } | Outcome::Refused => false,
    };
    may_have && *key == change.key
}

/// Whether an answer agrees with the log.
fn answer(log: &Log<'_>, call: &Call) -> Result<(), String> {
    match (&call.ask, &call.outcome) {
        (_, Outcome::Unknown | Outcome::Refused) => Ok(()),
        (Ask::Read { key, .. }, Outcome::Found { revision, found }) => {
            let wanted = log.state(key.as_deref(), *revision);
            if *revision > log.last {
                return Err(format!("a read at a revision that is not in the log: {call:?}"));
            }
            if *found != wanted {
                return Err(format!("a read that differs from the state {wanted:?}: {call:?}"));
            }
            Ok(())
        }
        (Ask::Write { guard, puts, delete }, Outcome::Written { revision, succeeded, deleted }) => {
            let write = Write { guard: guard.as_ref(), puts, delete: delete.as_deref() };
            let problem = write.problem(log, *revision, *succeeded, *deleted);
            problem.map_or(Ok(()), |problem| Err(format!("{problem}: {call:?}")))
        }
        _ => Err(format!("an answer to something else: {call:?}")),
    }
}

struct Write<'a> {
    guard: Option<&'a (String, i64)>,
    puts: &'a [(String, String)],
    delete: Option<&'a str>,
}

impl Write<'_> {
    fn problem(
        &self,
        log: &Log<'_>,
        revision: i64,
        succeeded: bool,
        deleted: u64,
    ) -> Option<&'static str> {
        // A write that changed nothing was told the revision that it met.
        let has_changed = succeeded && (!self.puts.is_empty() || deleted > 0);
        let before = if has_changed { revision - 1 } else { revision };
        let holds = self.guard.is_none_or(|(key, wanted)| {
            log.at(key, before).map_or(0, |change| change.revision) == *wanted
        });
        if holds != succeeded {
            return Some("a guard that was judged by another state");
        }
        if !succeeded {
            return (revision > log.last).then_some("an answer from the future");
        }
        let stood = self.delete.is_some_and(|key| log.at(key, before).is_some());
        if stood != (deleted > 0) {
            return Some("a delete that met another state");
        }
        if !has_changed {
            return (revision > log.last).then_some("an answer from the future");
        }
        let mut wanted: Vec<Change> = self
            .puts
            .iter()
            .map(|(key, value)| Change { revision, key: key.clone(), value: Some(value.clone()) })
            .collect();
        if let Some(key) = self.delete.filter(|_| stood) {
            wanted.push(Change { revision, key: key.to_owned(), value: None });
        }
        let there = log.by_revision.get(&revision).map_or(&[][..], |changes| changes);
        let same = there.len() == wanted.len() && wanted.iter().all(|one| there.contains(&one));
        (!same).then_some("an acknowledged write that is not in the log as it was told")
    }
}

/// Rule 2, with a sweep over all times.
fn too_early(calls: &[Call]) -> Vec<String> {
    let mut answers: Vec<(u64, i64)> = calls
        .iter()
        .filter_map(|call| Some((call.answered_at, revision(&call.outcome)?)))
        .collect();
    answers.sort_unstable();
    // The highest revision known at each answer.
    let mut highest = i64::MIN;
    for (_, revision) in &mut answers {
        highest = highest.max(*revision);
        *revision = highest;
    }
    let known = |at: u64| {
        let count = answers.partition_point(|(answered_at, _)| *answered_at < at);
        answers[..count].last().map_or(EMPTY, |(_, revision)| *revision)
    };
    calls
        .iter()
        .filter(|call| !matches!(call.ask, Ask::Read { is_stale: true, .. }))
        .filter_map(|call| {
            let (known, told) = (known(call.asked_at), revision(&call.outcome)?);
            let what = format!("revision {known} was known before this was asked: {call:?}");
            (told < known).then_some(what)
        })
        .collect()
}

fn revision(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Written { revision, .. } | Outcome::Found { revision, .. } => Some(*revision),
        Outcome::Unknown | Outcome::Refused => None,
    }
}

fn watch(log: &Log<'_>, watched: &Watched) -> Result<(), String> {
    let mut past = watched.start - 1;
    for batch in &watched.batches {
        if batch.revision < past {
            return Err(format!("a watch that was at {past} goes back: {batch:?}"));
        }
        // Everything between the last batch and this one, and nothing else.
        let wanted: Vec<Change> = if batch.revision > past {
            let due = log.by_revision.range(past + 1..=batch.revision);
            due.flat_map(|(_, changes)| changes.iter().copied().cloned()).collect()
        } else {
            Vec::new()
        };
        let mut got = batch.changes.clone();
        got.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
        let mut sorted = wanted;
        sorted.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
        if got != sorted || !batch.changes.is_sorted_by_key(|change| change.revision) {
            return Err(format!("a watch past {past} should see {sorted:?} and saw {batch:?}"));
        }
        past = batch.revision;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
