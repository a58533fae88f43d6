//! The end of a pod: stops its containers in order, takes down what it had, and only then
//! lets its object go.

use std::sync::Arc;
use std::time::Duration;

use atoll_container::ContainerKey;
use k8s_openapi::api::core::v1::{Container, PodSpec, PodStatus};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::pod::decide::Kill;
use crate::pod::identity::{find_container, is_sidecar};
use crate::pod::sandbox::{self, Leave};
use crate::pod::status::{self, View};
use crate::pod::stop::{ENDPOINT_LEAD, GRACE_MIN, StopJob, Turn, stop, take_turns};
use crate::pod::task::{JobEnd, PodTask, Stage};
use crate::pod::track::Track;
use crate::pod::{ephemeral, messages, spec};

const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Taking down is tried again after this time.
const TEAR_DOWN_RETRY: Duration = Duration::from_secs(1);

impl PodTask {
    /// Stops every container. Waits for a start that is under way, which is called off.
    pub(crate) fn begin_end(&mut self) {
        self.cancel_starts.cancel();
        if self.tracks.values().any(|track| track.starting) {
            return;
        }
        let now = Instant::now();
        self.fate.ending_since = Some(now);
        self.stage = Stage::Stopping;
        let cut_off = if self.halted { self.unfinished() } else { Vec::new() };
        // What ends now ends for good.
        self.tracks.values_mut().for_each(Track::renewed);
        let (sender, deadline) = watch::channel(now + self.grace());
        self.deadline = Some(sender);
        // Whoever sends traffic here has to hear of it first.
        let not_before = if self.is_deleted() && !self.gone { now + ENDPOINT_LEAD } else { now };
        let Some(pod_spec) = self.pod.spec.clone() else { return };
        let (mut apps, mut sidecars) = (Vec::new(), Vec::new());
        let init = pod_spec.init_containers.iter().flatten();
        for container in init.clone().filter(|c| !is_sidecar(c)).chain(&pod_spec.containers) {
            let message = messages::stopping(&container.name);
            apps.extend(self.stop_job(container, message, deadline.clone(), not_before));
        }
        for container in ephemeral::containers(&pod_spec) {
            let message = messages::stopping(&container.name);
            apps.extend(self.stop_job(&container, message, deadline.clone(), not_before));
        }
        for container in init.filter(|c| is_sidecar(c)).rev() {
            let message = messages::stopping(&container.name);
            sidecars.extend(self.stop_job(container, message, deadline.clone(), now));
        }
        take_turns(&apps, &mut sidecars);
        let cx = self.cx.clone();
        self.jobs.spawn(async move {
            if let Err(error) = cx.runtime.cut_off(&cut_off).await {
                tracing::warn!(%error, "what is ended now may pass for finished");
            }
            let jobs = apps.into_iter().chain(sidecars);
            Box::pin(futures::future::join_all(jobs.map(|job| stop(&cx, job)))).await;
            JobEnd::AllStopped
        });
    }

    fn unfinished(&self) -> Vec<ContainerKey> {
        let runs = self.tracks.values().filter_map(|track| track.current.as_ref());
        let unfinished = runs.filter(|run| run.exit().is_none());
        unfinished.map(|run| run.reference.key.clone()).collect()
    }

    fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let of_spec = spec.unwrap_or(DEFAULT_GRACE_SECONDS);
        let evicted = self.fate.failed.as_ref().is_some_and(|failed| failed.reason == "Evicted");
        let seconds = if self.gone || evicted {
            0
        } else {
            self.pod.metadata.deletion_grace_period_seconds.unwrap_or(of_spec)
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(GRACE_MIN)
    }

    /// A second delete may shorten the grace period; nothing lengthens it.
    pub(crate) fn move_deadline(&mut self) {
        let (Some(sender), Some(since)) = (&self.deadline, self.fate.ending_since) else { return };
        let earlier = since + self.grace();
        sender.send_if_modified(|at| {
            let moved = earlier < *at;
            *at = earlier.min(*at);
            moved
        });
    }

    pub(crate) fn stop_job(
        &self,
        container: &Container,
        message: String,
        deadline: watch::Receiver<Instant>,
        not_before: Instant,
    ) -> Option<StopJob> {
        let track = self.tracks.get(&container.name)?;
        let run = track.current.clone().filter(|run| run.exit().is_none())?;
        Some(StopJob {
            pod: self.pod.clone(),
            id: self.id.clone(),
            container: container.clone(),
            run,
            ip: self.sandbox.as_ref().map(|sandbox| sandbox.ip.clone()).unwrap_or_default(),
            ports: self.sandbox.as_ref().map(|sandbox| sandbox.ports.clone()).unwrap_or_default(),
            message,
            deadline,
            not_before,
            turn: Turn::default(),
        })
    }

    /// Ends what nobody needs any more; the sidecars among it are ended last.
    pub(crate) fn retire(&mut self, pod_spec: &PodSpec, kills: Vec<Kill>) {
        let seconds = pod_spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(GRACE_MIN);
        let now = Instant::now();
        let (sender, deadline) = watch::channel(now + grace);
        let sender = Arc::new(sender);
        let (mut served, mut sidecars) = (Vec::new(), Vec::new());
        for kill in kills {
            let Some((list, container)) = find_container(pod_spec, &kill.container) else {
                continue;
            };
            let job = self.stop_job(&container, kill.message, deadline.clone(), now);
            let serves = list == "initContainers" && is_sidecar(&container);
            if serves { &mut sidecars } else { &mut served }.extend(job);
        }
        take_turns(&served, &mut sidecars);
        for job in served.into_iter().chain(sidecars) {
            let container = job.container.name.clone();
            if let Some(track) = self.tracks.get_mut(&container) {
                track.killing = true;
            }
            let (cx, sender) = (self.cx.clone(), sender.clone());
            self.jobs.spawn(async move {
                stop(&cx, job).await;
                drop(sender);
                JobEnd::Stop { container }
            });
        }
    }

    pub(crate) fn on_all_stopped(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// Every container has ended by itself; the pod's object stays.
    pub(crate) fn begin_clearing_finished(&mut self) {
        self.stage = Stage::Stopped;
        // Nothing starts any more in whose stead another could be shown.
        self.tracks.values_mut().for_each(Track::renewed);
        // Looked at again at once, to read how the last ones ended.
        self.notify.notify_one();
    }

    pub(crate) fn begin_clearing(&mut self) {
        self.stage = Stage::Clearing;
        self.publish();
        // A finished pod must be known as finished before its records go, or a restarted
        // agent would run it again. A deleted one will not run again anyway.
        let written = (!self.gone && !self.is_deleted()).then(|| self.writer.flushed());
        let (cx, id) = (self.cx.clone(), self.id.clone());
        let leave = if self.halted { Leave::Everything } else { Leave::Logs };
        self.jobs.spawn(async move {
            if let Some(written) = written {
                written.await;
            }
            while let Err(reason) = sandbox::tear_down(&cx, &id, leave).await {
                tracing::warn!(pod = %id, reason, "pod not taken down; will retry");
                tokio::time::sleep(TEAR_DOWN_RETRY).await;
            }
            JobEnd::TornDown
        });
    }

    pub(crate) fn on_torn_down(&mut self) {
        self.stage = Stage::Cleared;
    }

    /// The object may go: nothing of the pod is left here.
    pub(crate) async fn finish(self) {
        if self.halted {
            tracing::info!(pod = %self.id, "pod halted");
            return;
        }
        let logs = spec::pod_log_dir(&self.cx.config, &self.id);
        if let Err(error) = tokio::fs::remove_dir_all(&logs).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(pod = %self.id, %error, "log files not removed");
        }
        if !self.gone {
            self.writer.delete();
            self.writer.flushed().await;
        }
        tracing::info!(pod = %self.id, "pod removed");
    }

    pub(crate) fn derive_status(&self) -> PodStatus {
        let progress = self.progress();
        let view = View {
            pod: &self.pod,
            tracks: &self.tracks,
            pod_ip: self.sandbox.as_ref().map(|sandbox| sandbox.ip.as_str()),
            host_ip: &self.cx.config.node_ip.to_string(),
            sandbox_ready: self.sandbox.is_some(),
            started_at: self.started_at,
            failed: self.fate.failed.as_ref(),
            ended: matches!(self.stage, Stage::Clearing | Stage::Cleared),
            pending: self.pending.as_ref(),
            progress: progress.as_ref(),
            now: self.cx.now(),
        };
        status::derive(&view, self.status.as_deref())
    }

    pub(crate) fn any_running(&self) -> bool {
        self.tracks.values().any(Track::is_running)
    }
}
