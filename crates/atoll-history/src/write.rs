//! Whether a write did what it was told, and where.

use crate::{
    log::Log,
    model::{Change, Found},
};

pub(crate) struct Write<'a> {
    pub(crate) guard: Option<&'a (String, i64)>,
    pub(crate) puts: &'a [(String, String)],
    pub(crate) delete: Option<&'a str>,
}

impl Write<'_> {
    pub(crate) fn problem(
        &self,
        log: &Log<'_>,
        revision: i64,
        succeeded: bool,
        deleted: u64,
    ) -> Option<&'static str> {
        // A write that changed nothing was told the revision that it met.
        let has_changed = succeeded && (!self.puts.is_empty() || deleted > 0);
        let before = if has_changed { revision - 1 } else { revision };
        if self.holds(log, before) != succeeded {
            return Some("a guard that was judged by another state");
        }
        if !has_changed && revision > log.last {
            return Some("an answer from the future");
        }
        if !succeeded {
            return None;
        }
        let stood = self.delete.and_then(|key| log.at(key, before));
        if stood.is_some() != (deleted > 0) {
            return Some("a delete that met another state");
        }
        if !has_changed {
            return None;
        }
        let there = log.by_revision.get(&revision).map_or(&[][..], |changes| changes);
        let wanted = self.changes(revision, stood.as_ref());
        let same = there.len() == wanted.len() && wanted.iter().all(|one| there.contains(&one));
        (!same).then_some("an acknowledged write that is not in the log as it was told")
    }

    /// What is wrong with a write that nobody was told about and that stands in the log.
    pub(crate) fn unheard(&self, log: &Log<'_>, revision: i64) -> Option<&'static str> {
        let stood = self.delete.and_then(|key| log.at(key, revision - 1));
        let there = log.by_revision.get(&revision).map_or(&[][..], |changes| changes);
        let wanted = self.changes(revision, stood.as_ref());
        if there.len() != wanted.len() || !wanted.iter().all(|one| there.contains(&one)) {
            return Some("half of a write happened");
        }
        (!self.holds(log, revision - 1)).then_some("a write happened that its guard forbade")
    }

    fn holds(&self, log: &Log<'_>, revision: i64) -> bool {
        self.guard.is_none_or(|(key, wanted)| {
            log.at(key, revision).map_or(0, |found| found.changed_at) == *wanted
        })
    }

    fn changes(&self, revision: i64, deleted: Option<&Found>) -> Vec<Change> {
        let puts = self.puts.iter().map(|(key, value)| (key, Some(value.clone())));
        let deletes = deleted.into_iter().map(|found| (&found.key, None));
        puts.chain(deletes)
            .map(|(key, value)| Change { revision, key: key.clone(), value })
            .collect()
    }
}
