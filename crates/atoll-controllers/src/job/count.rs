//! Counts pods that have ended, each exactly once, over crashes.
//!
//! A finalizer keeps a pod until it is counted. Its uid is first written to the status as
//! uncounted, then its finalizer is removed, and only when the cache shows that it is gone
//! does the uid become a count. The status is replaced under its resourceVersion, so that
//! every step is taken on the state that the one before has left. An index needs no uid: what
//! is in the set cannot be counted twice.

use super::{
    facts::{self, completed_indexes, has_failed, has_succeeded, is_indexed, is_tracked},
    policy::{self, Verdict},
};
use atoll_api::kinds::batch::indexes::Indexes;
use k8s_openapi::api::{
    batch::v1::{Job, UncountedTerminatedPods},
    core::v1::Pod,
};
use kube::ResourceExt;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Uids that the status holds at once; the next pass goes on.
const UNCOUNTED_MAX: usize = 500;

/// Where the count stands after this pass.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Pods that are in the numbers of the status.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) uncounted: UncountedTerminatedPods,
    pub(super) completed: Indexes,
    /// Pods whose finalizer may go once the status is written.
    pub(super) release: Vec<Arc<Pod>>,
}

impl Count {
    /// `finishing` makes failures of what still runs; `held` are pods that stay uncounted until
    /// they are replaced, by uid.
    pub(super) fn new(
        job: &Job,
        pods: &[Arc<Pod>],
        finishing: bool,
        held: &HashSet<String>,
    ) -> Self {
        let mut count = Self::folded(job, pods);
        count.completed = completed_indexes(job);
        let known: HashSet<String> = count.uids().cloned().collect();
        for pod in pods.iter().filter(|pod| is_tracked(pod)) {
            let uid = pod.uid().unwrap_or_default();
            if known.contains(&uid) {
                count.release.push(pod.clone());
            } else if count.uids().count() < UNCOUNTED_MAX && !held.contains(&uid) {
                count.take(job, pod, uid, finishing);
            }
        }
        if is_indexed(job) {
            count.succeeded = i32::try_from(count.completed.len()).unwrap_or(i32::MAX);
        }
        count
    }

    /// Pods that have succeeded, counted or not.
    pub(super) fn all_succeeded(&self) -> i32 {
        self.succeeded.saturating_add(length(self.uncounted.succeeded.as_ref()))
    }

    pub(super) fn all_failed(&self) -> i32 {
        self.failed.saturating_add(length(self.uncounted.failed.as_ref()))
    }

    pub(super) fn is_complete(&self) -> bool {
        self.release.is_empty() && self.uids().next().is_none()
    }

    fn uids(&self) -> impl Iterator<Item = &String> {
        let succeeded = self.uncounted.succeeded.iter().flatten();
        succeeded.chain(self.uncounted.failed.iter().flatten())
    }

    /// What the status has, with the uids counted whose pods have lost their finalizer.
    fn folded(job: &Job, pods: &[Arc<Pod>]) -> Self {
        let tracked: HashMap<String, bool> =
            pods.iter().map(|pod| (pod.uid().unwrap_or_default(), is_tracked(pod))).collect();
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.unwrap_or_default();
        let waits = |uid: &String| tracked.get(uid).copied().unwrap_or(false);
        let fold = |uids: Option<Vec<String>>, count: Option<i32>| {
            let (left, done): (Vec<String>, Vec<String>) =
                uids.into_iter().flatten().partition(waits);
            let count = count.unwrap_or(0).saturating_add(length(Some(&done)));
            ((!left.is_empty()).then_some(left), count)
        };
        let (succeeded_left, succeeded) = fold(uncounted.succeeded, status.succeeded);
        let (failed_left, failed) = fold(uncounted.failed, status.failed);
        let uncounted = UncountedTerminatedPods { succeeded: succeeded_left, failed: failed_left };
        Self { succeeded, failed, uncounted, ..Self::default() }
    }

    fn take(&mut self, job: &Job, pod: &Arc<Pod>, uid: String, finishing: bool) {
        let index = facts::index(job, pod);
        // A pod of an index that the Job no longer has counts for nothing.
        let foreign = is_indexed(job) && index.is_none();
        if has_succeeded(pod) {
            match index.filter(|_| is_indexed(job)) {
                Some(index) => self.completed.insert(index),
                None if foreign => {}
                None => self.uncounted.succeeded.get_or_insert_default().push(uid),
            }
        } else if has_failed(job, pod) || (finishing && pod.metadata.deletion_timestamp.is_some()) {
            if !foreign && policy::verdict(job, pod) != Verdict::Ignore {
                self.uncounted.failed.get_or_insert_default().push(uid);
            }
        } else {
            return;
        }
        self.release.push(pod.clone());
    }
}

fn length(uids: Option<&Vec<String>>) -> i32 {
    uids.map_or(0, |uids| i32::try_from(uids.len()).unwrap_or(i32::MAX))
}
