//! How long the disk takes, counted in the buckets of etcd's histograms.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Their bounds double, from a millisecond on.
const BUCKETS: usize = 14;
const FIRST_BOUND: Duration = Duration::from_millis(1);

/// Of a server since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTimes {
    /// Batches written to the log, from the write to the end of its sync.
    pub log: TimesSeen,
    /// Transactions of the state file, each from its begin until it is on the disk.
    pub state: TimesSeen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimesSeen {
    /// How many took no longer than this.
    pub buckets: Vec<(Duration, u64)>,
    pub count: u64,
    pub total: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Times {
    buckets: [AtomicU64; BUCKETS],
    longer: AtomicU64,
    micros: AtomicU64,
}

fn bounds() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST_BOUND), |bound| Some(*bound * 2)).take(BUCKETS)
}

impl Times {
    pub(crate) fn note(&self, took: Duration) {
        let at = bounds().position(|bound| took <= bound);
        let counter = at.and_then(|at| self.buckets.get(at)).unwrap_or(&self.longer);
        counter.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn seen(&self) -> TimesSeen {
        let mut count = 0;
        let buckets = bounds()
            .zip(&self.buckets)
            .map(|(bound, counter)| {
                count += counter.load(Ordering::Relaxed);
                (bound, count)
            })
            .collect();
        count += self.longer.load(Ordering::Relaxed);
        let total = Duration::from_micros(self.micros.load(Ordering::Relaxed));
        TimesSeen { buckets, count, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_in_its_bucket_and_all_larger_ones() {
        let times = Times::default();
        for micros in [10, 1000, 1001, 3000, 9_000_000] {
            times.note(Duration::from_micros(micros));
        }
        let seen = times.seen();
        assert_eq!(seen.buckets.len(), BUCKETS);
        let at = |millis| {
            let bound = Duration::from_millis(millis);
            seen.buckets.iter().find(|(one, _)| *one == bound).map(|(_, count)| *count)
        };
        assert_eq!([at(1), at(2), at(4), at(8192)], [Some(2), Some(3), Some(4), Some(4)]);
        assert_eq!((seen.count, seen.total), (5, Duration::from_micros(9_005_011)));
    }
}
