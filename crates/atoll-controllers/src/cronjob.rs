//! Starts Jobs by the clock.
//!
//! [`plan`] decides from the CronJob, its Jobs and the time; a pass comes when something of
//! theirs changes, and when the next start is due.

mod plan;

use crate::{
    error::{Error, failed, gone_is_fine, is_namespace_terminating, words},
    launch::{launch, on_each},
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
    written::Written,
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const WORKERS: usize = 5;
const SCHEDULED_ANNOTATION: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    recorder: Recorder,
    written: Written,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let client = clients("cronjob-controller");
    let controller = Arc::new(Controller {
        recorder: Recorder::start(client.clone(), "cronjob-controller", None, tasks, stop.clone()),
        client,
        shared: shared.clone(),
        written: Written::default(),
    });
    let forgetting = controller.clone();
    shared.cron_jobs.on_change(move |change: &Change<'_, CronJob>| {
        if let (Some(gone), None) = (change.old, change.new) {
            forgetting.written.forget(&gone.uid().unwrap_or_default());
        }
    });
    on_each(&shared.cron_jobs, &queue);
    let owners = queue.clone();
    shared.jobs.on_change(move |change: &Change<'_, Job>| {
        for job in [change.old, change.new].into_iter().flatten() {
            let owner = controller_of(job.as_ref()).filter(|owner| owner.kind == "CronJob");
            if let Some(owner) = owner {
                owners.add(Key::new(job.namespace().unwrap_or_default(), &owner.name));
            }
        }
    });
    launch("cronjob", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(cron_job) = self.shared.cron_jobs.get(key) else { return Ok(Outcome::Done) };
        if self.written.is_stale(&cron_job.metadata) {
            return Ok(Outcome::Done);
        }
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let owned = self.owned(&cron_job, &jobs).await?;
        let mut plan = plan::plan(&cron_job, &owned, Timestamp::now());
        // First what has become of the Jobs before, so that it stands when a start fails.
        let version = self.write_status(&cron_job, &plan.status, None).await?;
        for remark in &plan.remarks {
            let message = remark.message.clone();
            if remark.is_warning {
                self.recorder.warning(cron_job.as_ref(), remark.reason, message);
            } else {
                self.recorder.normal(cron_job.as_ref(), remark.reason, message);
            }
        }
        for job in &plan.old {
            self.delete(&cron_job, &jobs, &job.name_any(), job.uid()).await?;
        }
        for name in &plan.replaced {
            let active = plan.status.active.as_mut();
            let found = active
                .as_ref()
                .and_then(|all| all.iter().find(|one| one.name.as_ref() == Some(name)));
            let job_uid = found.and_then(|one| one.uid.clone());
            self.delete(&cron_job, &jobs, name, job_uid).await?;
            if let Some(active) = active {
                active.retain(|one| one.name.as_ref() != Some(name));
            }
        }
        if let Some(at) = plan.start
            && let Some(job) = self.create(&cron_job, &jobs, at).await?
        {
            let mut status = plan.status;
            status.active.get_or_insert_default().push(reference(&job));
            status.last_schedule_time = Some(Time(at));
            self.write_status(&cron_job, &status, version).await?;
        }
        Ok(plan.look_again.map_or(Outcome::Done, Outcome::After))
    }

    /// Its Jobs. One that is active and not in the cache is asked for: it may have just been made,
    /// and one that is forgotten is never waited for again.
    async fn owned(&self, cron_job: &CronJob, jobs: &Api<Job>) -> Result<Vec<Arc<Job>>, Error> {
        let uid = cron_job.uid().unwrap_or_default();
        let mut owned = self.shared.jobs.indexed(BY_OWNER, &uid);
        let active = cron_job.status.iter().flat_map(|status| status.active.iter().flatten());
        for one in active {
            let name = one.name.clone().unwrap_or_default();
            if owned.iter().any(|job| job.uid() == one.uid) {
                continue;
            }
            let found = jobs.get_opt(&name).await.map_err(failed("reading", "job", name))?;
            owned.extend(found.filter(|job| job.uid() == one.uid).map(Arc::new));
        }
        Ok(owned)
    }

    /// The Job for a start; `None` where nothing can be made any more.
    async fn create(
        &self,
        cron_job: &CronJob,
        jobs: &Api<Job>,
        at: Timestamp,
    ) -> Result<Option<Job>, Error> {
        let job = from_template(cron_job, at);
        let name = job.name_any();
        match jobs.create(&PostParams::default(), &job).await {
            Ok(created) => {
                self.recorder.normal(cron_job, "SuccessfulCreate", format!("Created job {name}"));
                Ok(Some(created))
            }
            Err(error) if is_namespace_terminating(&error) => Ok(None),
            // A pass before this one made it and did not come to writing that down.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let known = jobs.get(&name).await.map_err(failed("reading", "job", &name))?;
                if plan::is_owned(cron_job, &known) {
                    return Ok(Some(known));
                }
                let message = format!("Error creating job: {}", status.message);
                self.recorder.warning(cron_job, "FailedCreate", message);
                Ok(None)
            }
            Err(error) => {
                let message = format!("Error creating job: {}", words(&error));
                self.recorder.warning(cron_job, "FailedCreate", message);
                Err(failed("creating", "job", name)(error))
            }
        }
    }

    async fn delete(
        &self,
        cron_job: &CronJob,
        jobs: &Api<Job>,
        name: &str,
        uid: Option<String>,
    ) -> Result<(), Error> {
        let preconditions = Preconditions { uid, ..Preconditions::default() };
        let params = DeleteParams::background().preconditions(preconditions);
        match gone_is_fine(jobs.delete(name, &params).await) {
            Ok(Some(_)) => {
                self.recorder.normal(cron_job, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            // It went before, or another has its name.
            Ok(None) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {}", words(&error));
                self.recorder.warning(cron_job, "FailedDelete", message);
                Err(failed("deleting", "job", name)(error))
            }
        }
    }

    /// Writes a status that differs, under the version that it was made from; gives the new
    /// version.
    async fn write_status(
        &self,
        cron_job: &CronJob,
        status: &CronJobStatus,
        version: Option<String>,
    ) -> Result<Option<String>, Error> {
        if version.is_none() && cron_job.status.clone().unwrap_or_default() == *status {
            return Ok(None);
        }
        let namespace = cron_job.namespace().unwrap_or_default();
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &namespace);
        let mut new = CronJob { status: Some(status.clone()), ..cron_job.clone() };
        if version.is_some() {
            new.metadata.resource_version = version;
        }
        let name = cron_job.name_any();
        let written = api.replace_status(&name, &PostParams::default(), &new).await;
        let written = written.map_err(failed("writing the status of", "cronjob", name))?;
        self.written.note(&written.metadata);
        Ok(written.resource_version())
    }
}

fn from_template(cron_job: &CronJob, at: Timestamp) -> Job {
    let template = cron_job.spec.job_template.clone();
    let mut job = Job { spec: template.spec, ..Job::default() };
    let from = template.metadata.unwrap_or_default();
    job.metadata.labels = from.labels;
    job.metadata.annotations = from.annotations;
    job.metadata.name = Some(plan::job_name(cron_job, at));
    job.metadata.namespace = cron_job.namespace();
    let has_zone = cron_job.spec.time_zone.is_some();
    let scheduled = match plan::zone(cron_job).filter(|_| has_zone) {
        Some(zone) => at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => at.to_string(),
    };
    let annotations = job.metadata.annotations.get_or_insert_default();
    annotations.insert(SCHEDULED_ANNOTATION.to_owned(), scheduled);
    job.metadata.owner_references = cron_job
        .controller_owner_ref(&())
        .map(|owner| vec![OwnerReference { block_owner_deletion: Some(true), ..owner }]);
    job
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_when_it_was_to_start() {
        let cron_job: CronJob = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u" },
            "spec": { "schedule": "* * * * *", "timeZone": "Asia/Tokyo",
                "jobTemplate": { "metadata": { "labels": { "a": "b" } } } },
        }))
        .unwrap();
        let job = from_template(&cron_job, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(job.annotations()[SCHEDULED_ANNOTATION], "2026-01-01T09:00:00+09:00");
        assert_eq!(job.name_any(), "c-29453760");
        assert_eq!(job.labels()["a"], "b");
        assert_eq!(controller_of(&job).unwrap().uid, "u");
    }
}
