//! Which indexes of an Indexed Job want a pod, and which have failed for good.

use super::{
    backoff,
    facts::{self, INDEX_FAILURES, INDEX_IGNORED, count_annotation, has_failed},
    plan::Create,
    policy::{self, Verdict},
};
use crate::pods;
use atoll_api::kinds::batch::indexes::Indexes;
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// The failures of a Job that has a limit for each index.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// Failed for good.
    pub(super) failed: Indexes,
    /// Of each index that may be tried again, the pod that failed last and has no successor.
    last: BTreeMap<i32, Arc<Pod>>,
}

impl Failures {
    /// `None` for Jobs without a limit for each index.
    pub(super) fn of(job: &Job, owned: &[Arc<Pod>], completed: &Indexes) -> Option<Self> {
        let limit = facts::index_limit(job)?;
        let known = job.status.as_ref().and_then(|status| status.failed_indexes.as_deref());
        let completions = facts::spec(job).completions.unwrap_or(0);
        let mut failures = Self {
            failed: Indexes::read(known.unwrap_or_default(), completions),
            last: BTreeMap::new(),
        };
        for pod in owned.iter().filter(|pod| has_failed(job, pod)) {
            let Some(index) = facts::index(job, pod) else { continue };
            if completed.contains(index) || failures.failed.contains(index) {
                continue;
            }
            match policy::verdict(job, pod) {
                Verdict::FailIndex => failures.failed.insert(index),
                Verdict::Ignore => failures.note(index, pod),
                _ if count_annotation(pod, INDEX_FAILURES) >= limit => {
                    failures.failed.insert(index);
                }
                _ => failures.note(index, pod),
            }
        }
        let failed = &failures.failed;
        failures.last.retain(|index, _| !failed.contains(*index));
        for pod in owned.iter().filter(|pod| pods::is_active(pod)) {
            if let Some(index) = facts::index(job, pod) {
                failures.last.remove(&index);
            }
        }
        Some(failures)
    }

    /// Pods whose annotations the next pod of their index needs: they are kept until then.
    pub(super) fn held(&self) -> HashSet<String> {
        self.last.values().filter_map(|pod| pod.uid()).collect()
    }

    fn note(&mut self, index: i32, pod: &Arc<Pod>) {
        let newer = |known: &Arc<Pod>| tries(known) < tries(pod);
        if self.last.get(&index).is_none_or(newer) {
            self.last.insert(index, pod.clone());
        }
    }
}

/// How many pods of its index came before.
fn tries(pod: &Pod) -> i32 {
    count_annotation(pod, INDEX_FAILURES).saturating_add(count_annotation(pod, INDEX_IGNORED))
}

/// Up to `wanted` pods for the lowest indexes without one, and the wait until the next index
/// that only waits for its backoff.
pub(super) fn missing(
    job: &Job,
    owned: &[Arc<Pod>],
    completed: &Indexes,
    failures: Option<&Failures>,
    wanted: usize,
    now: Timestamp,
) -> (Vec<Create>, Option<Duration>) {
    let only_failed = facts::replaces_failed_only(job);
    let taken: Indexes = owned
        .iter()
        .filter(|pod| pods::is_active(pod) || (only_failed && facts::is_terminating(pod)))
        .filter_map(|pod| facts::index(job, pod))
        .collect();
    let mut creates = Vec::new();
    let mut wait: Option<Duration> = None;
    for index in 0..facts::spec(job).completions.unwrap_or(0) {
        if creates.len() >= wanted {
            break;
        }
        let failed = failures.is_some_and(|failures| failures.failed.contains(index));
        if completed.contains(index) || taken.contains(index) || failed {
            continue;
        }
        let Some(failures) = failures else {
            creates.push(Create { index: Some(index), failures: None });
            continue;
        };
        let last = failures.last.get(&index);
        match last.map(|pod| backoff::left_for(tries(pod).saturating_add(1), pod, now)) {
            Some(left) if !left.is_zero() => {
                wait = Some(wait.map_or(left, |known| known.min(left)));
            }
            _ => {
                let counts = last.map_or((0, 0), |pod| next_counts(job, pod));
                creates.push(Create { index: Some(index), failures: Some(counts) });
            }
        }
    }
    (creates, wait)
}

/// The annotations of the pod that follows: failures that count, and others.
fn next_counts(job: &Job, pod: &Pod) -> (i32, i32) {
    let counts = (count_annotation(pod, INDEX_FAILURES), count_annotation(pod, INDEX_IGNORED));
    match policy::verdict(job, pod) {
        Verdict::Ignore => (counts.0, counts.1.saturating_add(1)),
        _ => (counts.0.saturating_add(1), counts.1),
    }
}

/// Active pods that no index needs: those beyond the Job's completions, of an index that has
/// succeeded or failed, and the later ones where an index has several.
pub(super) fn superfluous(
    job: &Job,
    active: &[Arc<Pod>],
    completed: &Indexes,
    failures: Option<&Failures>,
) -> Vec<Arc<Pod>> {
    let mut seen = HashSet::new();
    let mut oldest_first: Vec<&Arc<Pod>> = active.iter().collect();
    oldest_first.sort_by_key(|pod| (!pods::is_ready(pod), pods::created_at(pod)));
    let unneeded = |pod: &&Arc<Pod>| match facts::index(job, pod) {
        None => true,
        Some(index) => {
            completed.contains(index)
                || failures.is_some_and(|failures| failures.failed.contains(index))
                || !seen.insert(index)
        }
    };
    oldest_first.into_iter().filter(unneeded).cloned().collect()
}
