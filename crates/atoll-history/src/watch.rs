//! Whether a watch saw what it should have seen.

use crate::{
    log::Log,
    model::{Batch, Change, Watched},
};

pub(crate) fn problem(log: &Log<'_>, watched: &Watched) -> Option<String> {
    let mut past = watched.start - 1;
    for batch in &watched.batches {
        if batch.revision < past {
            return Some(format!("a watch that was at {past} goes back: {batch:?}"));
        }
        if batch.revision > log.last {
            return Some(format!("a watch is past the end, {}: {batch:?}", log.last));
        }
        // Everything between the last batch and this one, and nothing else.
        let wanted = sorted(log.due(past, batch.revision, &watched.range));
        let got = sorted(batch.changes.clone());
        if got != wanted || !batch.changes.is_sorted_by_key(|change| change.revision) {
            return Some(format!(
                "a watch of {:?} past {past} should see {wanted:?} and saw {batch:?}",
                watched.range
            ));
        }
        if let Some(problem) = before_problem(log, batch) {
            return Some(problem);
        }
        past = batch.revision;
    }
    None
}

fn before_problem(log: &Log<'_>, batch: &Batch) -> Option<String> {
    let told = batch.before.as_ref()?;
    let wanted: Vec<_> =
        batch.changes.iter().map(|change| log.at(&change.key, change.revision - 1)).collect();
    (*told != wanted).then(|| format!("a watch should be told of {wanted:?} before: {batch:?}"))
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
    changes
}
