//! Deletes Jobs `ttlSecondsAfterFinished` after their end, pods first.

use super::facts;
use crate::{
    error::{Error, failed, gone_is_fine},
    launch::launch,
    shared::{ClientFor, Shared},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Preconditions},
};
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const WORKERS: usize = 2;

pub(super) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let client = clients("ttl-after-finished-controller");
    let jobs = queue.clone();
    shared.jobs.on_change(move |change: &Change<'_, Job>| {
        if let Some(job) = change.new.filter(|job| left(job, Timestamp::MIN).is_some()) {
            jobs.add(Key::of(job.as_ref()));
        }
    });
    let cache = shared.clone();
    launch("job ttl", WORKERS, &queue, shared, tasks, stop, move |key| {
        let (client, cache) = (client.clone(), cache.clone());
        async move { pass(&client, &cache, &key).await }
    });
}

async fn pass(client: &Client, shared: &Shared, key: &Key) -> Result<Outcome, Error> {
    let Some(job) = shared.jobs.get(key) else { return Ok(Outcome::Done) };
    match left(&job, Timestamp::now()) {
        None => return Ok(Outcome::Done),
        Some(left) if !left.is_zero() => return Ok(Outcome::After(left)),
        Some(_) => {}
    }
    let api: Api<Job> = Api::namespaced(client.clone(), &key.namespace);
    // The resourceVersion guards against a time that somebody has just made longer.
    let preconditions = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
    let params = DeleteParams::foreground().preconditions(preconditions);
    let deleted = gone_is_fine(api.delete(&key.name, &params).await);
    deleted.map_err(failed("deleting", "job", &key.name))?;
    Ok(Outcome::Done)
}

/// What is left of a finished Job's time; `None` when it has none, or is not there yet.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let seconds = facts::spec(job).ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let end = facts::condition(job, "Complete").or_else(|| facts::condition(job, "Failed"))?;
    let ended = end.last_transition_time.as_ref()?.0;
    let ttl = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let since = Duration::try_from(now.duration_since(ended)).unwrap_or(Duration::ZERO);
    Some(ttl.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(conditions: serde_json::Value) -> Job {
        serde_json::from_value(json!({
            "metadata": { "name": "j" },
            "spec": { "template": {}, "ttlSecondsAfterFinished": 60 },
            "status": { "conditions": conditions },
        }))
        .unwrap()
    }

    #[test]
    fn the_time_runs_from_the_end() {
        let now = "2026-01-01T00:00:40Z".parse().unwrap();
        assert_eq!(left(&job(json!([])), now), None);
        let failed = json!([{ "type": "Failed", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:30Z" }]);
        assert_eq!(left(&job(failed.clone()), now), Some(Duration::from_secs(50)));
        let later = "2026-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(left(&job(failed), later), Some(Duration::ZERO));
    }
}
