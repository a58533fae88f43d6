//! Runs pods until enough of them have succeeded.
//!
//! [`plan`] decides, from the Job, its pods and the time; this file carries it out. Pods that
//! have ended are counted exactly once, see [`count`].

mod backoff;
mod count;
mod facts;
mod finish;
mod indexed;
mod orphans;
mod plan;
mod pod;
mod policy;
mod ttl;

use crate::{
    claim::claim,
    error::{Error, failed, gone_is_fine, is_namespace_terminating, words},
    expect::Expectations,
    launch::{launch, on_each},
    pods,
    shared::{BY_OWNER, ClientFor, JOB_UID, Shared, controller_of},
    written::Written,
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobStatus},
    core::v1::Pod,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use plan::{Create, Plan};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Jobs worked on at once, upstream's number.
const WORKERS: usize = 5;
/// Writes under way at once for one Job; more would only queue in the API server.
const WRITES_AT_ONCE: usize = 16;

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    expectations: Expectations,
    written: Written,
    recorder: Recorder,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let client = clients("job-controller");
    let controller = Arc::new(Controller {
        recorder: Recorder::start(client.clone(), "job-controller", None, tasks, stop.clone()),
        client: client.clone(),
        shared: shared.clone(),
        expectations: Expectations::default(),
        written: Written::default(),
    });
    orphans::start(&client, shared, tasks, stop);
    ttl::start(clients, shared, tasks, stop);

    let forgetting = controller.clone();
    shared.jobs.on_change(move |change: &Change<'_, Job>| {
        if let (Some(gone), None) = (change.old, change.new) {
            let uid = gone.uid().unwrap_or_default();
            forgetting.expectations.forget(&uid);
            forgetting.written.forget(&uid);
        }
    });
    on_each(&shared.jobs, &queue);
    let (owners, watching) = (queue.clone(), controller.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| watching.on_pod(change, &owners));

    launch("job", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    fn on_pod(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        self.expectations.tell_owners("Job", change, queue);
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(job) = self.shared.jobs.get(key) else { return Ok(Outcome::Done) };
        // A stale one is queued again by the change that is still to come.
        let stale = self.written.is_stale(&job.metadata);
        if !facts::is_ours(&job) || facts::is_finished(&job) || stale {
            return Ok(Outcome::Done);
        }
        let uid = job.uid().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let owned = self.owned(&api, &job).await?;
        // Until the cache has seen our own last writes, counting would repeat them.
        let patience = self.expectations.unmet(&uid);
        let mut plan = plan::plan(&job, &owned, patience.is_none(), now());

        let created = self.act(&api, &job, &plan).await;
        if let Ok(created) = &created {
            let active = plan.status.active.unwrap_or(0).saturating_add(*created);
            plan.status.active = Some(active).filter(|count| *count > 0);
        }
        self.write_status(&job, &plan.status).await?;
        for remark in &plan.remarks {
            let (reason, message) = (remark.reason.as_str(), remark.message.clone());
            if remark.is_warning {
                self.recorder.warning(job.as_ref(), reason, message);
            } else {
                self.recorder.normal(job.as_ref(), reason, message);
            }
        }
        release(&api, &plan.release).await?;
        created?;
        Ok(match patience.into_iter().chain(plan.look_again).min() {
            Some(wait) => Outcome::After(wait),
            None => Outcome::Done,
        })
    }

    async fn owned(&self, api: &Api<Pod>, job: &Job) -> Result<Vec<Arc<Pod>>, Error> {
        // Those that lost their owner are among them.
        let uid = job.uid().unwrap_or_default();
        let mut candidates = self.shared.pods.indexed(BY_OWNER, &uid);
        let namespace = job.namespace().unwrap_or_default();
        let Some(owner) = job.controller_owner_ref(&()) else { return Ok(Vec::new()) };
        let Some(selector) = facts::spec(job).selector.as_ref() else { return Ok(candidates) };
        // Only a selector of one's own can match pods that somebody else has made.
        if facts::spec(job).manual_selector == Some(true) {
            let all = self.shared.pods.in_namespace(&namespace).into_iter();
            candidates.extend(
                all.filter(|pod| controller_of(pod.as_ref()).is_none() && pods::is_active(pod))
                    .filter(|pod| pod.labels().get(JOB_UID) != Some(&uid)),
            );
        }
        let deleted = job.metadata.deletion_timestamp.is_some();
        let owners: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        claim(api, candidates, &owners, &owner, deleted, selector).await
    }

    /// Creates and deletes; gives how many pods were created.
    async fn act(&self, api: &Api<Pod>, job: &Job, plan: &Plan) -> Result<i32, Error> {
        let deletes = plan.deletes.iter().map(|pod| self.delete(api, job, pod));
        let deletes: Vec<_> = deletes.collect();
        let mut results = stream::iter(deletes).buffer_unordered(WRITES_AT_ONCE);
        let mut failure = Ok(());
        while let Some(result) = results.next().await {
            failure = failure.and(result);
        }
        failure?;
        let mut created = 0;
        let mut rest = plan.creates.as_slice();
        // Creations begin with one and double while they succeed, so that a template that is
        // refused costs one request.
        let mut batch = 1;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            created += self.create_batch(api, job, now).await?;
            rest = later;
            batch = batch.saturating_mul(2);
        }
        Ok(created)
    }

    async fn create_batch(
        &self,
        api: &Api<Pod>,
        job: &Job,
        creates: &[Create],
    ) -> Result<i32, Error> {
        let creates: Vec<_> = creates.iter().map(|create| self.create(api, job, *create)).collect();
        let mut results = stream::iter(creates).buffer_unordered(WRITES_AT_ONCE);
        let (mut created, mut failure) = (0, Ok(()));
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => created += 1,
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        failure.map(|()| created)
    }

    async fn create(&self, api: &Api<Pod>, job: &Job, create: Create) -> Result<(), Error> {
        let uid = job.uid().unwrap_or_default();
        let pending = self.expectations.creating(&uid);
        let created = api.create(&PostParams::default(), &pod::from_template(job, create)).await;
        match created {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name_any());
                self.recorder.normal(job, "SuccessfulCreate", message);
                pending.created(&pod.uid().unwrap_or_default());
                Ok(())
            }
            // Nothing can be made there any more, and nobody needs to be told.
            Err(error) if is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                let message = format!("Error creating: {}", words(&error));
                self.recorder.warning(job, "FailedCreate", message);
                Err(failed("creating", "a pod of job", job.name_any())(error))
            }
        }
    }

    async fn delete(&self, api: &Api<Pod>, job: &Job, pod: &Pod) -> Result<(), Error> {
        let (uid, pod_uid) = (job.uid().unwrap_or_default(), pod.uid().unwrap_or_default());
        // The uid guards against deleting a namesake that was created since we listed.
        let preconditions =
            Preconditions { uid: Some(pod_uid.clone()), ..Preconditions::default() };
        let params = DeleteParams::default().preconditions(preconditions);
        self.expectations.deleting(&uid, &pod_uid);
        let deleted = gone_is_fine(api.delete(&pod.name_any(), &params).await);
        if !matches!(deleted, Ok(Some(_))) {
            // The cache may have shown it going before we began to wait for that.
            self.expectations.not_deleted(&uid, &pod_uid);
        }
        match deleted {
            Ok(_) => {
                let message = format!("Deleted pod: {}", pod.name_any());
                self.recorder.normal(job, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message = format!("Error deleting: {}", words(&error));
                self.recorder.warning(job, "FailedDelete", message);
                Err(failed("deleting", "pod", pod.name_any())(error))
            }
        }
    }

    /// Replaces the status under the resourceVersion that the pass has decided on: on another
    /// state the same uids would be counted again.
    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<(), Error> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let namespace = job.namespace().unwrap_or_default();
        let api: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        let new = Job { status: Some(status.clone()), ..job.clone() };
        let name = job.name_any();
        let written = api.replace_status(&name, &PostParams::default(), &new).await;
        let written = written.map_err(failed("writing the status of", "job", name))?;
        self.written.note(&written.metadata);
        Ok(())
    }
}

/// Lets counted pods go.
async fn release(api: &Api<Pod>, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let mut results = stream::iter(pods.to_vec())
        .map(|pod| async move { untrack(api, &pod).await })
        .buffer_unordered(WRITES_AT_ONCE);
    let mut failure = Ok(());
    while let Some(result) = results.next().await {
        failure = failure.and(result);
    }
    failure
}

async fn untrack(api: &Api<Pod>, pod: &Pod) -> Result<(), Error> {
    let patch = serde_json::json!({ "metadata": {
        "uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [facts::TRACKING],
    } });
    let name = pod.name_any();
    let patched =
        api.patch_metadata(&name, &PatchParams::default(), &Patch::Strategic(patch)).await;
    gone_is_fine(patched).map_err(failed("releasing", "pod", name))?;
    Ok(())
}

/// Now as objects have it, in whole seconds.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
