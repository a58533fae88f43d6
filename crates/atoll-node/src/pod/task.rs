//! The task of one pod: looks at what is desired and what is there, and closes the gap.
//!
//! Level-triggered: whatever wakes it, it looks at everything anew. Work that takes time
//! (a pull, a stop) runs as a job beside it and wakes it when done. `actions` holds what
//! one look does.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{Observed, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::network::PodSandbox;
use crate::objects::Held;
use crate::pod::actuate::{ResizeEnd, Resizing};
use crate::pod::admit::Refusal;
use crate::pod::identity::{PodId, all_containers, find_container, is_terminal};
use crate::pod::resize::{self, Pending};
use crate::pod::start::StartEnd;
use crate::pod::status_writer::StatusWriter;
use crate::pod::track::{Run, Track, Tracks};
use crate::probe::{Counts, Kind, Report};
use crate::rootless::ports::PodPorts;

/// Even when nothing happens, everything is looked at this often: volumes, tokens.
pub(crate) const RESYNC: Duration = Duration::from_secs(60);
/// Reports of probes not yet read; a probe waits when it is full.
const REPORTS_MAX: usize = 16;

/// What the agent wants of the pod.
#[derive(Debug, Clone)]
pub struct Desired {
    pub pod: Arc<Pod>,
    /// The API has no such pod any more (or the agent leaves and takes its pods along):
    /// end it without a word to the API.
    pub gone: bool,
    /// The agent takes it along, and the next one goes on with it: what it has on disk stays.
    pub halted: bool,
    /// Refused before it began.
    pub refused: Option<Refusal>,
    /// It asks for other resources than it has, and cannot have them now.
    pub pending: Option<Pending>,
}

/// What others on the node may see of a pod: the kubelet API, statistics, eviction.
#[derive(Debug, Clone)]
pub struct Shown {
    /// As the API has it, which may be behind.
    pub pod: Arc<Pod>,
    pub status: Arc<PodStatus>,
    pub containers: BTreeMap<String, ShownContainer>,
    pub netns: Option<PathBuf>,
    pub ports: PodPorts,
    pub ip: Option<String>,
}

impl Shown {
    /// The pod with the status that this node gives it.
    #[must_use]
    pub fn object(&self) -> Pod {
        Pod { status: Some((*self.status).clone()), ..(*self.pod).clone() }
    }

    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

#[derive(Debug, Clone, Default)]
pub struct ShownContainer {
    pub current: Option<Run>,
    pub previous: Option<Run>,
    pub waiting: Option<String>,
}

/// A handle on a pod's task.
#[derive(Clone)]
pub struct PodHandle {
    pub id: PodId,
    pub desired: watch::Sender<Desired>,
    pub shown: watch::Receiver<Arc<Shown>>,
    /// Wakes the task, for example when one of its containers ended.
    pub notify: Arc<Notify>,
    /// Makes the pod fail for a reason outside of it (eviction).
    pub evict: mpsc::Sender<Refusal>,
    /// Its probes, as `/metrics/probes` tells of them.
    pub probed: Arc<Counts>,
}

/// Which part of its life the pod is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Running,
    /// Its containers are being stopped for good.
    Stopping,
    /// They have ended; how is yet to be read.
    Stopped,
    /// No container runs; what is left is being taken down.
    Clearing,
    /// Nothing is left but its status, until the object goes.
    Cleared,
}

pub(crate) enum JobEnd {
    Start { container: String, end: StartEnd },
    Stop { container: String },
    Resize(ResizeEnd),
    AllStopped,
    TornDown,
}

/// What happened to the pod that its containers do not show.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate {
    /// It has failed as a whole.
    pub failed: Option<Refusal>,
    /// Since when its end is wanted.
    pub ending_since: Option<Instant>,
    /// It was finished before this agent knew it, or by somebody else: its status is as it is.
    pub frozen: bool,
}

pub(crate) struct PodTask {
    pub cx: Arc<Context>,
    pub id: PodId,
    pub pod: Arc<Pod>,
    pub gone: bool,
    pub halted: bool,
    pub stage: Stage,
    pub fate: Fate,
    pub tracks: Tracks,
    pub started_at: Timestamp,
    /// Containers that started before were adopted.
    pub spawned_at: Timestamp,
    pub sandbox: Option<PodSandbox>,
    pub volumes: Option<BTreeMap<String, PathBuf>>,
    pub held: Held,
    /// Pull delays by image.
    pub pulls: HashMap<String, crate::pod::backoff::Backoff>,
    pub probes: HashMap<(String, Kind), (String, CancellationToken)>,
    pub reports: mpsc::Sender<Report>,
    pub probed: Arc<Counts>,
    pub jobs: JoinSet<JobEnd>,
    /// Ends pulls when the pod is to end.
    pub cancel_starts: CancellationToken,
    pub deadline: Option<watch::Sender<Instant>>,
    pub status: Option<Arc<PodStatus>>,
    pub writer: StatusWriter,
    pub shown: watch::Sender<Arc<Shown>>,
    pub notify: Arc<Notify>,
    /// Sandbox or volumes failed: not tried again before this, with the last message.
    pub setup_retry: Option<(Instant, u32)>,
    pub pending: Option<Pending>,
    pub resizing: Resizing,
}

/// What a task starts from.
pub struct Start {
    pub desired: Desired,
    pub id: PodId,
    /// Its containers as the runtime found them.
    pub observed: Vec<Observed>,
}

/// Starts the pod's task. It ends when the pod is gone from this node, or with the agent.
pub fn spawn(cx: &Arc<Context>, start: Start) -> PodHandle {
    let Start { desired, id, observed } = start;
    let pod = desired.pod.clone();
    let status = pod.status.clone().map(Arc::new);
    let notify = Arc::new(Notify::new());
    let (desired_sender, desired_receiver) = watch::channel(desired.clone());
    let (reports, report_receiver) = mpsc::channel(REPORTS_MAX);
    let (evict, evictions) = mpsc::channel(1);
    let probed = Arc::new(Counts::default());
    let shown = Shown {
        pod: pod.clone(),
        status: status.clone().unwrap_or_default(),
        containers: BTreeMap::new(),
        netns: None,
        ports: PodPorts::default(),
        ip: None,
    };
    let (shown_sender, shown_receiver) = watch::channel(Arc::new(shown));
    let writer =
        StatusWriter::start(&cx.client, id.clone(), status.clone(), &cx.tasks, cx.stop.clone());
    let started = status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0);
    let tracks = adopt(&pod, observed, &cx.config.pods_dir());
    let unsettled = tracks.values().any(Track::is_running);
    let task = PodTask {
        cx: cx.clone(),
        id: id.clone(),
        gone: desired.gone,
        halted: desired.halted,
        stage: Stage::Running,
        fate: Fate { failed: desired.refused, ending_since: None, frozen: is_terminal(&pod) },
        tracks,
        started_at: started.unwrap_or_else(|| cx.now()),
        spawned_at: cx.now(),
        sandbox: None,
        volumes: None,
        held: Held::default(),
        pulls: HashMap::new(),
        probes: HashMap::new(),
        reports,
        probed: probed.clone(),
        jobs: JoinSet::new(),
        cancel_starts: CancellationToken::new(),
        deadline: None,
        status,
        writer,
        shown: shown_sender,
        notify: notify.clone(),
        setup_retry: None,
        pending: desired.pending,
        resizing: Resizing { unsettled, ..Resizing::default() },
        pod,
    };
    let stop = cx.stop.clone();
    let (desired, shown) = (desired_sender, shown_receiver);
    let handle = PodHandle { id, desired, shown, notify, evict, probed };
    cx.tasks.spawn(task.run(desired_receiver, report_receiver, evictions, stop));
    handle
}

/// Runs found on disk, in order of their attempts, become what is known of containers.
fn adopt(pod: &Pod, mut observed: Vec<Observed>, pods_dir: &Path) -> Tracks {
    // What the last agent made and could not start any more is no run: it is made anew.
    observed.retain(|found| match &found.state {
        State::Creating | State::Created => false,
        State::Running { .. } => true,
        State::Exited(exit) => {
            !exit.unknown || exit.started_at.is_some() || exit.start_error.is_some()
        }
    });
    observed.sort_by_key(|o| o.container.key.attempt);
    let mut tracks = Tracks::new();
    for found in &observed {
        let track = tracks.entry(found.container.key.name.clone()).or_default();
        let mut run = Run::from_observed(found);
        super::actions::read_message(&mut run, pods_dir);
        if let Some(exit) = track.exit() {
            let finished_at = exit.finished_at;
            track.crash.advance(finished_at);
        }
        let run_resources = run.resources.clone();
        track.previous = track.current.take();
        track.current = Some(run);
        track.hooked = true;
        let container =
            pod.spec.as_ref().and_then(|spec| find_container(spec, &found.container.key.name));
        // Unless the API knows better: nobody may have heard yet that it runs.
        track.started = container.as_ref().is_none_or(|(_, c)| c.startup_probe.is_none());
        track.ready = container.as_ref().is_some_and(|(_, c)| c.readiness_probe.is_none());
        track.applied = container.map(|(_, c)| {
            (found.container.key.attempt, resize::adopted(&c, run_resources.as_ref()))
        });
    }
    let statuses = pod.status.iter().flat_map(|status| {
        let apps = status.container_statuses.iter().flatten();
        apps.chain(status.init_container_statuses.iter().flatten())
    });
    let ephemeral = pod.status.iter().flat_map(|s| s.ephemeral_container_statuses.iter().flatten());
    for known in ephemeral.filter(|known| known.container_id.is_some()) {
        // It has run, whether or not there is a record of it: it never runs again.
        tracks.entry(known.name.clone()).or_default().restart_floor = 1;
    }
    for known in statuses {
        let count = u32::try_from(known.restart_count).unwrap_or(0);
        let has_run = known.container_id.is_some() || known.last_state.is_some();
        match tracks.get_mut(&known.name) {
            Some(track) => {
                track.restart_floor = count;
                let id = track.current.as_ref().map(|run| super::status::container_id(run.id()));
                // A container that was ready stays so until a probe says otherwise.
                if id == known.container_id {
                    track.ready |= known.ready;
                    track.started = known.started.unwrap_or(true);
                }
            }
            None if count > 0 && has_run => {
                let track = Track { restart_floor: count, ..Track::default() };
                tracks.insert(known.name.clone(), track);
            }
            None => {}
        }
    }
    tracks
}

impl PodTask {
    async fn run(
        mut self,
        mut desired: watch::Receiver<Desired>,
        mut reports: mpsc::Receiver<Report>,
        mut evictions: mpsc::Receiver<Refusal>,
        stop: CancellationToken,
    ) {
        let notify = self.notify.clone();
        loop {
            let wake_at = Box::pin(self.look()).await;
            if self.stage == Stage::Cleared && (self.gone || self.is_deleted()) {
                Box::pin(self.finish()).await;
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {
                    self.jobs.detach_all();
                    return;
                }
                changed = desired.changed() => {
                    // Whoever held the handle goes, and may be noticed before `stop`: the pod
                    // is not gone for that.
                    if changed.is_err() {
                        self.jobs.detach_all();
                        return;
                    }
                    let now = desired.borrow_and_update().clone();
                    self.on_desired(now);
                }
                Some(report) = reports.recv() => self.on_report(report),
                Some(refusal) = evictions.recv() => self.on_evicted(refusal),
                Some(end) = self.jobs.join_next() => self.on_job(end),
                () = notify.notified() => self.on_notified(),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Why nothing new may start.
    pub(crate) fn must_end(&self) -> bool {
        self.gone || self.is_deleted() || self.fate.failed.is_some()
    }

    fn on_desired(&mut self, desired: Desired) {
        if resize::is_asked_for(&desired.pod, &self.pod) {
            self.on_allocation();
        }
        self.on_images(&desired.pod);
        let (old, new) = (&self.pod.metadata, &desired.pod.metadata);
        // Variables may come from them.
        let changed = old.annotations != new.annotations || old.labels != new.labels;
        self.pod = desired.pod;
        self.pending = desired.pending;
        if changed {
            self.on_notified();
        }
        self.gone |= desired.gone;
        self.halted |= desired.halted;
        if self.fate.failed.is_none() {
            self.fate.failed = desired.refused;
        }
        // Somebody else says that it has ended, and has the last word, as with a kubelet.
        if self.stage == Stage::Running && !self.must_end() && is_terminal(&self.pod) {
            self.fate.frozen = true;
        }
        self.move_deadline();
    }

    /// What failed with another image says nothing of the new one, which is tried at once.
    fn on_images(&mut self, new: &Pod) {
        let Some((old, new)) = self.pod.spec.as_ref().zip(new.spec.as_ref()) else { return };
        for (_, container) in all_containers(new) {
            let before = find_container(old, &container.name);
            let is_other = before.is_some_and(|(_, before)| before.image != container.image);
            if let Some(track) = self.tracks.get_mut(&container.name).filter(|_| is_other) {
                track.crash.reset();
                track.retry_at = None;
            }
        }
    }

    fn on_evicted(&mut self, refusal: Refusal) {
        if self.fate.failed.is_none() {
            self.fate.failed = Some(refusal);
        }
    }

    /// Something that the pod refers to may have changed: what failed for want of it is
    /// tried again at once.
    fn on_notified(&mut self) {
        for track in self.tracks.values_mut() {
            let config_error = track
                .waiting
                .as_ref()
                .is_some_and(|w| w.reason == super::messages::CREATE_CONTAINER_CONFIG_ERROR);
            if config_error {
                track.retry_at = None;
            }
        }
        if self.volumes.is_none() {
            self.setup_retry = None;
        }
    }
}

#[cfg(test)]
#[path = "task/tests.rs"]
mod tests;
