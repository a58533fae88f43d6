//! Releases pods that no Job will count any more: theirs is gone, or has ended.

use super::{facts, untrack};
use crate::{
    error::Error,
    launch::launch,
    shared::{BY_OWNER, JOB_UID, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, Client, ResourceExt};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const WORKERS: usize = 2;
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub(super) fn start(
    client: &Client,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let pods = queue.clone();
    shared.pods.on_change(move |change: &Change<'_, Pod>| {
        if let Some(pod) = change.new.filter(|pod| facts::is_tracked(pod)) {
            pods.add(Key::of(pod.as_ref()));
        }
    });
    let (jobs, cache) = (queue.clone(), Arc::downgrade(shared));
    shared.jobs.on_change(move |change: &Change<'_, Job>| {
        let ended = change.new.is_none_or(|job| facts::is_finished(job));
        let (Some(job), Some(cache), true) = (change.object(), cache.upgrade(), ended) else {
            return;
        };
        for pod in cache.pods.indexed(BY_OWNER, &job.uid().unwrap_or_default()) {
            jobs.add(Key::of(pod.as_ref()));
        }
    });
    let (client, shared_by_all) = (client.clone(), shared.clone());
    launch("job orphans", WORKERS, &queue, shared, tasks, stop, move |key| {
        let (client, shared) = (client.clone(), shared_by_all.clone());
        async move { pass(&client, &shared, &key).await }
    });
}

async fn pass(client: &Client, shared: &Shared, key: &Key) -> Result<Outcome, Error> {
    let Some(pod) = shared.pods.get(key).filter(|pod| facts::is_tracked(pod)) else {
        return Ok(Outcome::Done);
    };
    if !is_orphan(&pod, |owner| shared.jobs.get(&Key::new(&key.namespace, owner))) {
        return Ok(Outcome::Done);
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    untrack(&api, &pod).await?;
    Ok(Outcome::Done)
}

fn is_orphan(pod: &Pod, job: impl Fn(&str) -> Option<Arc<Job>>) -> bool {
    // Without an owner it is adopted by the Job that made it.
    let owner = match controller_of(pod) {
        Some(owner) if owner.kind == "Job" => Some((&owner.name, &owner.uid)),
        Some(_) => None,
        None => pod.labels().get(JOB_NAME).zip(pod.labels().get(JOB_UID)),
    };
    let Some((name, uid)) = owner else { return true };
    match job(name) {
        Some(job) if job.uid().as_ref() == Some(uid) => {
            facts::is_ours(&job) && facts::is_finished(&job)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_an_orphan_when_nobody_will_count_it() {
        let pod: Pod = serde_json::from_value(json!({ "metadata": { "name": "p",
            "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "j",
                "uid": "u", "controller": true }] } }))
        .unwrap();
        let job = |uid: &str, conditions: serde_json::Value| -> Option<Arc<Job>> {
            let job = json!({ "metadata": { "name": "j", "uid": uid },
                "status": { "conditions": conditions } });
            Some(Arc::new(serde_json::from_value(job).unwrap()))
        };
        assert!(is_orphan(&pod, |_| None));
        assert!(is_orphan(&pod, |_| job("other", json!([]))));
        assert!(!is_orphan(&pod, |_| job("u", json!([]))));
        let complete = json!([{ "type": "Complete", "status": "True" }]);
        assert!(is_orphan(&pod, |_| job("u", complete.clone())));
    }
}
