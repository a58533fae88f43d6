//! The changes in their order, and the states that they make.

use std::collections::BTreeMap;

use crate::model::{Call, Change, Found, Range};

/// A piece of the whole: what came before it is a state.
#[derive(Debug)]
pub(crate) struct Log<'a> {
    before: &'a BTreeMap<String, Found>,
    /// The revision of that state.
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) by_revision: BTreeMap<i64, Vec<&'a Change>>,
    by_key: BTreeMap<&'a str, Vec<&'a Change>>,
}

impl<'a> Log<'a> {
    pub(crate) fn new(
        before: &'a BTreeMap<String, Found>,
        first: i64,
        changes: &'a [Change],
    ) -> Self {
        let (mut by_revision, mut by_key) = (BTreeMap::new(), BTreeMap::new());
        for change in changes {
            by_revision.entry(change.revision).or_insert_with(Vec::new).push(change);
            by_key.entry(change.key.as_str()).or_insert_with(Vec::new).push(change);
        }
        let last = by_revision.keys().next_back().copied().unwrap_or(first);
        Self { before, first, last, by_revision, by_key }
    }

    /// What stood under the key when everything up to this revision had been done.
    pub(crate) fn at(&self, key: &str, revision: i64) -> Option<Found> {
        let changes = self.by_key.get(key).map_or(&[][..], |changes| changes);
        let count = changes.partition_point(|change| change.revision <= revision);
        match changes[..count].last() {
            Some(change) => found(change),
            None => self.before.get(key).cloned(),
        }
    }

    pub(crate) fn state(&self, range: &Range, revision: i64) -> Vec<Found> {
        let mut keys: Vec<&str> = match range {
            Range::Key(key) => vec![key],
            Range::Prefix(_) => {
                let former = self.before.keys().map(String::as_str);
                former.chain(self.by_key.keys().copied()).filter(|key| range.holds(key)).collect()
            }
        };
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().filter_map(|key| self.at(key, revision)).collect()
    }

    pub(crate) fn due(&self, past: i64, to: i64, range: &Range) -> Vec<Change> {
        if to <= past {
            return Vec::new();
        }
        let due = self.by_revision.range(past + 1..=to).flat_map(|(_, changes)| changes.iter());
        due.filter(|change| range.holds(&change.key)).map(|change| (*change).clone()).collect()
    }

    /// What is wrong with the log itself.
    pub(crate) fn problems(&self, changes: &[Change]) -> Vec<String> {
        let mut problems = Vec::new();
        if !changes.is_sorted_by_key(|change| change.revision) {
            problems.push("the log of changes is not in order".to_owned());
        }
        if let Some(early) = changes.iter().find(|change| change.revision <= self.first) {
            problems.push(format!("a change of before {} is there again: {early:?}", self.first));
        }
        let gap =
            (self.first + 1..=self.last).find(|revision| !self.by_revision.contains_key(revision));
        let gap = gap.map(|revision| format!("the log of changes leaves out revision {revision}"));
        problems.extend(gap);
        problems
    }
}

pub(crate) fn found(change: &Change) -> Option<Found> {
    let value = change.value.clone()?;
    Some(Found { key: change.key.clone(), value, changed_at: change.revision })
}

/// The highest revision that anybody had been told at a time.
pub(crate) struct Known {
    first: i64,
    answers: Vec<(u64, i64)>,
}

impl Known {
    pub(crate) fn new(first: i64, calls: &[Call]) -> Self {
        let told =
            calls.iter().filter_map(|call| Some((call.answered_at, call.outcome.revision()?)));
        let mut answers: Vec<(u64, i64)> = told.collect();
        answers.sort_unstable();
        let mut highest = first;
        for (_, revision) in &mut answers {
            highest = highest.max(*revision);
            *revision = highest;
        }
        Self { first, answers }
    }

    pub(crate) fn at(&self, time: u64) -> i64 {
        let count = self.answers.partition_point(|(answered_at, _)| *answered_at < time);
        self.answers[..count].last().map_or(self.first, |(_, revision)| *revision)
    }
}
