//! Whether a watch saw what it should have seen.

use crate::{
    log::Log,
    model::{Change, Watched},
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
        past = batch.revision;
    }
    None
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by(|one, other| (one.revision, &one.key).cmp(&(other.revision, &other.key)));
    changes
}
