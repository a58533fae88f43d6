//! How long the next pod waits after failures: twice as long after each.

use super::facts::{ended_at, has_failed, has_succeeded};
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use std::{sync::Arc, time::Duration};

/// The wait after a first failure, upstream's.
const FIRST: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(600);

/// What is left of the wait after the failures since a pod last succeeded.
pub(super) fn left(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let mut ended: Vec<(Timestamp, bool, &Arc<Pod>)> = pods
        .iter()
        .filter(|pod| has_succeeded(pod) || has_failed(job, pod))
        .filter_map(|pod| Some((ended_at(pod)?, has_succeeded(pod), pod)))
        .collect();
    ended.sort_by_key(|(at, succeeded, _)| (*at, *succeeded));
    let streak: Vec<_> = ended.iter().rev().take_while(|(_, succeeded, _)| !succeeded).collect();
    match streak.first() {
        Some((_, _, last)) => left_for(i32::try_from(streak.len()).unwrap_or(i32::MAX), last, now),
        None => Duration::ZERO,
    }
}

/// What is left of the wait when `pod` was the last of so many failures in a row.
pub(super) fn left_for(failures: i32, pod: &Pod, now: Timestamp) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(0);
    let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
    let wait = FIRST.saturating_mul(factor).min(MAX);
    let since = ended_at(pod).map_or(Duration::MAX, |at| {
        Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
    });
    wait.saturating_sub(since)
}
