//! What one look at a pod does: sandbox, volumes, starts, stops, and the end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{Exit, Resources};
use atoll_informer::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use tokio::time::Instant;

use crate::amount;
use crate::objects::Found;
use crate::pod::admit::Refusal;
use crate::pod::decide::{self, Kill};
use crate::pod::env::{self, Surroundings};
use crate::pod::identity::{RestartPolicy, find_container};
use crate::pod::start::{StartEnd, StartJob, Target, start};
use crate::pod::task::{JobEnd, PodTask, RESYNC, Stage};
use crate::pod::track::{Condemned, Renewal, Run, RunState, Waiting};
use crate::pod::{ephemeral, image, image_volume, messages, refuse, sandbox, spec};
use crate::rootless;
use crate::volume::{self, Dirs, Ownership, gather};

/// A container whose configuration is wrong, or that could not be made, is tried again
/// after this time.
const CONFIG_RETRY: Duration = Duration::from_secs(10);
/// A failed pull shows its own error this long before it counts as backing off.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(3);
/// A sandbox or volume that failed is tried again after this time, doubling.
const SETUP_RETRY_FIRST: Duration = Duration::from_millis(500);
const SETUP_RETRY_MAX: Duration = Duration::from_secs(30);
/// Bytes of last words that are kept of each container.
const MESSAGE_BYTES_MAX: u64 = 4096;

impl PodTask {
    /// Does what is to be done now; returns when to look again at the latest.
    pub(crate) async fn look(&mut self) -> Instant {
        self.refresh().await;
        if self.stage == Stage::Running {
            self.check_deadline();
            if self.must_end() {
                self.begin_end();
            } else if self.fate.frozen {
                // Finished before this agent started: only what is left needs clearing.
                if self.any_running() { self.begin_end() } else { self.begin_clearing() }
            } else {
                self.advance().await;
            }
        } else if self.stage == Stage::Stopped {
            self.begin_clearing();
        }
        self.sync_probes();
        self.publish();
        self.next_look()
    }

    /// Asks the runtime what each container's last run is doing.
    async fn refresh(&mut self) {
        if matches!(self.stage, Stage::Clearing | Stage::Cleared) {
            return;
        }
        for track in self.tracks.values_mut() {
            let Some(run) = track.current.as_ref().filter(|run| run.exit().is_none()) else {
                continue;
            };
            match self.cx.runtime.inspect(&run.reference.key).await {
                Ok(Some(observed)) => {
                    let mut now = Run::from_observed(&observed);
                    read_message(&mut now, &self.cx.config.pods_dir());
                    track.observe(now);
                    if !observed.shim_alive {
                        track.condemn_unreachable();
                    }
                }
                // Its record is gone: how it ended will never be known.
                Ok(None) if !track.starting => {
                    let state = RunState::Exited(Exit::unknown(None, self.cx.now()));
                    let now = Run { state, ..run.clone() };
                    track.observe(now);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(pod = %self.id, %error, "state not readable"),
            }
        }
    }

    fn check_deadline(&mut self) {
        let Some(seconds) = self.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) else {
            return;
        };
        let age = self.cx.now().duration_since(self.started_at).as_secs();
        if age >= seconds && self.fate.failed.is_none() {
            self.fate.failed = Some(Refusal {
                reason: messages::DEADLINE_EXCEEDED.to_owned(),
                message: messages::DEADLINE_MESSAGE.to_owned(),
            });
            let text = messages::DEADLINE_MESSAGE.to_owned();
            self.cx.normal(&self.pod, messages::DEADLINE_EXCEEDED, text);
        }
    }

    /// Brings a pod that is to run one step further.
    async fn advance(&mut self) {
        if self.setup_retry.is_some_and(|(at, _)| at > Instant::now()) {
            return;
        }
        let set_up = self.set_up().await;
        match set_up {
            Ok(()) => self.setup_retry = None,
            Err(()) => {
                let tries = self.setup_retry.map_or(0, |(_, tries)| tries);
                let wait = SETUP_RETRY_FIRST * 2_u32.saturating_pow(tries.min(10));
                self.setup_retry = Some((Instant::now() + wait.min(SETUP_RETRY_MAX), tries + 1));
                return;
            }
        }
        let Some(pod_spec) = self.pod.spec.clone() else { return };
        self.resize();
        let plan = decide::plan(&pod_spec, &self.tracks);
        for kill in plan.kill {
            self.begin_stop(&pod_spec, kill);
        }
        self.retire(&pod_spec, plan.retire);
        if plan.finished {
            self.begin_clearing_finished();
            return;
        }
        let busy = self.resizing.busy || self.tracks.values().any(|track| track.starting);
        for name in plan.start {
            if !busy && self.try_start(&pod_spec, &name).await {
                break;
            }
        }
    }

    /// Sandbox and volumes. A failure has been told by an event.
    async fn set_up(&mut self) -> Result<(), ()> {
        if self.sandbox.is_none() {
            // Limits of a pod that runs are changed with those of its containers.
            let runs = self.any_running();
            let limits =
                if runs { Resources::default() } else { amount::pod_cgroup_values(&self.pod) };
            match sandbox::ensure(&self.cx, &self.pod, &self.id, &limits).await {
                Ok(ensured) => {
                    if ensured.created {
                        self.on_new_sandbox();
                    }
                    self.resizing.whole = (!runs).then_some(limits);
                    self.sandbox = Some(ensured.sandbox);
                }
                Err(reason) => {
                    let text = format!("Failed to create pod sandbox: {reason}");
                    self.cx.warning(&self.pod, "FailedCreatePodSandBox", text);
                    return Err(());
                }
            }
        }
        match self.set_up_volumes().await {
            Ok(paths) => {
                self.volumes = Some(paths);
                Ok(())
            }
            Err(reason) => {
                self.cx.warning(&self.pod, "FailedMount", reason);
                // Volumes that stood before go on serving (the API may be away).
                if self.volumes.is_some() { Ok(()) } else { Err(()) }
            }
        }
    }

    /// Whatever ran in an earlier sandbox (before a reboot) is lost, and the pod begins
    /// anew: init containers too.
    fn on_new_sandbox(&mut self) {
        let Some(pod_spec) = &self.pod.spec else { return };
        let policy = RestartPolicy::of(pod_spec);
        let is_init = |name: &str| {
            pod_spec.init_containers.iter().flatten().any(|container| container.name == name)
        };
        let (mut changed, mut dropped) = (false, Vec::new());
        for (name, track) in &mut self.tracks {
            if let Some(run) = track.current.as_mut().filter(|run| run.exit().is_none()) {
                run.state = RunState::Exited(Exit::unknown(None, self.cx.now()));
            }
            let again = |run: &mut Run| {
                let begins_anew = is_init(name) && policy != RestartPolicy::Never;
                run.exit().is_some_and(|exit| begins_anew || policy.restarts(exit.code))
            };
            let Some(run) = track.current.take_if(again) else { continue };
            changed = true;
            dropped.extend(track.previous.replace(run));
        }
        dropped.into_iter().for_each(|run| self.remove_run(run));
        if changed {
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.cx.normal(&self.pod, "SandboxChanged", text.to_owned());
        }
    }

    async fn set_up_volumes(&mut self) -> Result<BTreeMap<String, PathBuf>, String> {
        let (maps, secrets) = gather::references(&self.pod);
        let found = self.fetch(&maps, &secrets).await?;
        let (cx, known) = (&self.cx, &mut self.held.persistent);
        let node = &cx.config.node_name;
        volume::persistent::resolve(&self.pod, &cx.client, &cx.folders, node, known)
            .await
            .map_err(|error| error.to_string())?;
        let services = Vec::new();
        let host_ip = self.cx.config.node_ip.to_string();
        let around = Surroundings {
            pod: &self.pod,
            pod_ip: self.sandbox.as_ref().map(|sandbox| sandbox.ip.as_str()),
            host_ip: &host_ip,
            node_name: &self.cx.config.node_name,
            allocatable_cpu_milli: self.cx.machine.cpus * 1000,
            allocatable_memory: self.cx.machine.allocatable_memory(),
            allocatable_disk: self.cx.machine.allocatable_disk(),
            config_maps: &found.config_maps,
            secrets: &found.secrets,
            services: &services,
        };
        let (tokens, now) = (&self.cx.tokens, self.cx.now());
        let persistent = &self.held.persistent;
        let plans = gather::plans(&self.pod, &self.id, &found, &around, tokens, now, persistent)
            .await
            .map_err(|error| error.to_string())?;
        let mut dirs = Dirs::of(&self.cx.config.pod_dir(&self.id.uid));
        dirs.can_mount = self.cx.config.containers;
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let group = context.and_then(|context| context.fs_group);
        let owner = Ownership { group: group.and_then(|group| u32::try_from(group).ok()) };
        tokio::task::spawn_blocking(move || volume::apply(&dirs, &plans, &owner))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn fetch(&mut self, maps: &[String], secrets: &[String]) -> Result<Found, String> {
        let namespace = self.id.namespace.clone();
        let cx = self.cx.clone();
        cx.objects
            .fetch(&namespace, maps, secrets, &mut self.held, &self.notify)
            .await
            .map_err(|error| format!("fetching what the pod refers to: {error}"))
    }

    /// Starts the container unless it has to wait; returns whether it was started.
    async fn try_start(&mut self, pod_spec: &PodSpec, name: &str) -> bool {
        let Some((list, container)) = find_container(pod_spec, name) else { return false };
        let container = container.into_owned();
        let now = self.cx.now();
        if self.hold(&container, now) {
            return false;
        }
        let (Some(sandbox), Some(volumes)) = (self.sandbox.clone(), self.volumes.clone()) else {
            return false;
        };
        if list == ephemeral::LIST
            && let Some(reason) = self.refused_ephemeral(pod_spec, &container)
        {
            self.cx.warning(&self.pod, messages::UNSUPPORTED_POD_SPEC, reason.clone());
            self.on_start_failed(name, messages::CREATE_CONTAINER_CONFIG_ERROR, reason);
            return false;
        }
        let (maps, mut secrets) = env::references(&container);
        secrets.extend(image::pull_secrets(&self.pod));
        let found = match self.fetch(&maps, &secrets).await {
            Ok(found) => found,
            Err(reason) => {
                self.on_start_failed(name, messages::CREATE_CONTAINER_CONFIG_ERROR, reason);
                return false;
            }
        };
        let track = self.tracks.entry(name.to_owned()).or_default();
        let attempt = track.next_attempt();
        let crashed = track.renewal != Some(Renewal::Definition);
        if let Some(exit) = track.exit().filter(|_| crashed) {
            let finished_at = exit.finished_at;
            track.crash.advance(finished_at);
        }
        track.starting = true;
        // One that is put off for its crashes waits until it stands again.
        track.waiting.take_if(|waiting| waiting.reason != messages::CRASH_LOOP_BACK_OFF);
        track.condemned = None;
        let job = StartJob {
            pod: self.pod.clone(),
            id: self.id.clone(),
            target: self.target(pod_spec, name),
            container,
            attempt,
            sandbox,
            volumes,
            found,
            cancel: self.cancel_starts.clone(),
        };
        let cx = self.cx.clone();
        let name = name.to_owned();
        self.jobs.spawn(async move {
            let end = Box::pin(start(&cx, &job)).await;
            JobEnd::Start { container: name, end }
        });
        true
    }

    /// What this node cannot give a container that came while the pod ran.
    fn refused_ephemeral(&self, pod_spec: &PodSpec, container: &Container) -> Option<String> {
        let alone = ephemeral::alone(&self.pod, container);
        let mut fields = refuse::unsupported_fields(&alone);
        if !self.cx.config.containers {
            fields.extend(rootless::refuse::unsupported_fields(&alone, &self.cx.allowed()));
            if ephemeral::target(pod_spec, &container.name).is_some() {
                fields.push("spec.containers[0].targetContainerName".to_owned());
            }
        }
        fields.retain(|field| field.starts_with("spec.containers["));
        if fields.is_empty() {
            return None;
        }
        let place = format!("spec.{}{{{}}}", ephemeral::LIST, container.name);
        let fields = fields.join(", ").replace("spec.containers[0]", &place);
        Some(format!("this node does not support {fields}"))
    }

    fn target(&self, pod_spec: &PodSpec, name: &str) -> Option<Target> {
        let container = ephemeral::target(pod_spec, name)?.to_owned();
        let run = self.tracks.get(&container).and_then(|track| track.current.as_ref());
        let run = run.filter(|run| run.is_running()).map(|run| run.reference.key.clone());
        Some(Target { container, run })
    }

    /// Whether the container has to wait, with the reason noted.
    fn hold(&mut self, container: &Container, now: Timestamp) -> bool {
        let name = &container.name;
        let Some(track) = self.tracks.get_mut(name) else { return false };
        let Some((delay, _until)) = decide::held_until(track, now) else {
            track.retry_at = None;
            return false;
        };
        track.stand_in = None;
        if let Some(delay) = delay {
            let text = messages::crash_loop(delay, name, &self.id);
            let wait = Waiting::new(messages::CRASH_LOOP_BACK_OFF, text);
            if track.waiting.as_ref() != Some(&wait) {
                track.waiting = Some(wait);
                let text = messages::crash_loop_event(name, &self.id);
                self.cx.container_event(&self.pod, name, EventType::Warning, "BackOff", text);
            }
            return true;
        }
        let pull_failed =
            track.waiting.as_ref().is_some_and(|w| w.reason == messages::ERR_IMAGE_PULL);
        let shown_long_enough = track
            .failed_at
            .is_some_and(|at| now.duration_since(at).unsigned_abs() >= PULL_ERROR_SHOWN);
        if pull_failed && shown_long_enough {
            let own = container.image.as_deref().unwrap_or_default();
            let image = track.unpulled.as_deref().unwrap_or(own);
            let cause = track.waiting.take().and_then(|wait| wait.message).unwrap_or_default();
            let text = messages::pull_back_off(image);
            let message = format!("{text}: {}: {cause}", messages::ERR_IMAGE_PULL);
            track.waiting = Some(Waiting::new(messages::IMAGE_PULL_BACK_OFF, message));
            let event = |kind, reason: &str, text| {
                self.cx.container_event(&self.pod, name, kind, reason, text);
            };
            if image == own {
                event(EventType::Normal, "BackOff", text);
            } else {
                self.cx.normal(&self.pod, "BackOff", text);
            }
            event(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
        }
        true
    }

    pub(crate) fn on_job(&mut self, end: Result<JobEnd, tokio::task::JoinError>) {
        match end {
            Ok(JobEnd::Start { container, end }) => self.on_start_end(&container, end),
            Ok(JobEnd::Stop { container }) => {
                if let Some(track) = self.tracks.get_mut(&container) {
                    track.killing = false;
                }
            }
            Ok(JobEnd::Resize(end)) => self.on_resized(end),
            Ok(JobEnd::AllStopped) => self.on_all_stopped(),
            Ok(JobEnd::TornDown) => self.on_torn_down(),
            Err(error) => tracing::error!(pod = %self.id, %error, "a job of the pod failed"),
        }
    }

    fn on_start_end(&mut self, name: &str, end: StartEnd) {
        let uid = self.id.uid.clone();
        let has_startup = self.container(name).is_some_and(|c| c.startup_probe.is_some());
        let has_readiness = self.container(name).is_some_and(|c| c.readiness_probe.is_some());
        let Some(track) = self.tracks.get_mut(name) else { return };
        track.starting = false;
        match end {
            StartEnd::Started | StartEnd::HookFailed(_) => {
                let hooked = end == StartEnd::Started;
                if let StartEnd::HookFailed(message) = end {
                    track.waiting = Some(Waiting::new(messages::POST_START_HOOK_ERROR, message));
                    let message = "FailedPostStartHook".to_owned();
                    let condemned = Condemned { message, grace_seconds: None, renewal: None };
                    track.condemned = Some(condemned);
                } else {
                    track.waiting = None;
                }
                // Without its hook it never comes up, and nobody probes it.
                track.hooked = hooked;
                track.started = hooked && !has_startup;
                track.ready = hooked && !has_readiness;
                track.failed_at = None;
                track.renewed();
                self.on_pulled(name);
                self.adopt_new_run(&uid, name);
            }
            StartEnd::Failed { reason, message, image } => {
                track.unpulled = image;
                if reason == messages::RUN_CONTAINER_ERROR {
                    track.renewed();
                    self.adopt_new_run(&uid, name);
                }
                self.on_start_failed(name, reason, message);
            }
            StartEnd::NeverStarted { run, message } => {
                track.renewed();
                self.adopt_run(name, *run);
                self.on_start_failed(name, messages::RUN_CONTAINER_ERROR, message);
            }
            StartEnd::Cancelled => {}
        }
    }

    /// What the container is made of is here: the next failure waits the shortest time again.
    fn on_pulled(&mut self, name: &str) {
        let Some(container) = self.container(name).map(Cow::into_owned) else { return };
        let volumes = image_volume::of(&self.pod, &container);
        let volumes = volumes.filter_map(|(_, source)| source.reference.as_ref());
        for image in volumes.chain(&container.image) {
            if let Some(backoff) = self.pulls.get_mut(image) {
                backoff.reset();
            }
        }
    }

    /// Makes the run that a start job made the current one; the next look asks the
    /// runtime what it is doing.
    fn adopt_new_run(&mut self, uid: &str, name: &str) {
        let image = self.container(name).and_then(|c| c.image.clone()).unwrap_or_default();
        let Some(track) = self.tracks.get_mut(name) else { return };
        let attempt = track.next_attempt();
        let key = atoll_container::ContainerKey {
            sandbox: uid.to_owned(),
            name: name.to_owned(),
            attempt,
        };
        self.adopt_run(name, Run::expected(key, image));
    }

    fn adopt_run(&mut self, name: &str, run: Run) {
        let Some(track) = self.tracks.get_mut(name) else { return };
        // Without one the last run is known already: it went with its sandbox.
        let Some(old) = track.current.replace(run) else { return };
        if let Some(run) = track.previous.replace(old) {
            self.remove_run(run);
        }
    }

    /// Only one dead run of each container is kept.
    fn remove_run(&mut self, run: Run) {
        let cx = self.cx.clone();
        let log = spec::log_dir(&cx.config, &self.id, &run.reference.key.name)
            .join(format!("{}.log", run.attempt()));
        self.cx.tasks.spawn(async move {
            crate::garbage::remove_run(&cx, &run, Some(log)).await;
        });
    }

    pub(crate) fn container(&self, name: &str) -> Option<Cow<'_, Container>> {
        self.pod.spec.as_ref().and_then(|spec| find_container(spec, name)).map(|(_, c)| c)
    }

    fn on_start_failed(&mut self, name: &str, reason: &str, message: String) {
        let now = self.cx.now();
        let own = self.container(name).and_then(|c| c.image.clone()).unwrap_or_default();
        let track = self.tracks.entry(name.to_owned()).or_default();
        let image = track.unpulled.clone().unwrap_or(own);
        track.failed_at = Some(now);
        track.stand_in = None;
        track.waiting = Some(Waiting::new(reason, message));
        let pull = matches!(
            reason,
            messages::ERR_IMAGE_PULL
                | messages::INVALID_IMAGE_NAME
                | messages::ERR_IMAGE_NEVER_PULL
        );
        let until = if pull {
            let backoff = self.pulls.entry(image).or_default();
            backoff.advance(now);
            backoff.holds(now, now).map(|(_, until)| until)
        } else if reason == messages::RUN_CONTAINER_ERROR {
            // It counts as a crash, with a crash's delay.
            None
        } else {
            let wait = jiff::SignedDuration::try_from(CONFIG_RETRY).unwrap_or_default();
            now.checked_add(wait).ok()
        };
        track.retry_at = until;
    }

    fn begin_stop(&mut self, pod_spec: &PodSpec, kill: Kill) {
        let Some((_, container)) = find_container(pod_spec, &kill.container) else { return };
        let container = container.into_owned();
        let seconds =
            kill.grace_seconds.or(pod_spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (sender, deadline) =
            tokio::sync::watch::channel(Instant::now() + grace.max(super::stop::GRACE_MIN));
        let Some(job) = self.stop_job(&container, kill.message, deadline, Instant::now()) else {
            return;
        };
        if let Some(track) = self.tracks.get_mut(&kill.container) {
            track.killing = true;
            if kill.renewal == Some(Renewal::Definition) {
                track.crash.reset();
            }
            track.renewal = kill.renewal.or(track.renewal);
        }
        let cx = self.cx.clone();
        self.jobs.spawn(async move {
            super::stop::stop(&cx, job).await;
            drop(sender);
            JobEnd::Stop { container: kill.container }
        });
    }

    /// Shows the newest status to the API and to the node.
    pub(crate) fn publish(&mut self) {
        // Adopted containers have a sandbox; until it is found again their last status
        // stands, or endpoints would come and go with every restart of the agent.
        let adopting = self.stage == Stage::Running && self.sandbox.is_none();
        if adopting && self.any_running() && self.pod.status.is_some() {
            return;
        }
        if !self.fate.frozen && (self.stage != Stage::Cleared || self.status.is_none()) {
            let status = Arc::new(self.derive_status());
            if !self.gone {
                self.writer.set(&status);
                self.writer.seen(&self.pod);
            }
            self.status = Some(status);
        }
        let Some(status) = &self.status else { return };
        let containers = self.tracks.iter().map(|(name, track)| {
            let shown = super::task::ShownContainer {
                current: track.current.clone(),
                previous: track.previous.clone(),
                waiting: track.waiting.as_ref().map(|w| w.reason.clone()),
            };
            (name.clone(), shown)
        });
        let shown = super::task::Shown {
            pod: self.pod.clone(),
            status: status.clone(),
            containers: containers.collect(),
            netns: self.sandbox.as_ref().and_then(|sandbox| sandbox.net.clone()),
            ports: self.sandbox.as_ref().map(|sandbox| sandbox.ports.clone()).unwrap_or_default(),
            ip: self.sandbox.as_ref().map(|sandbox| sandbox.ip.clone()),
        };
        self.shown.send_replace(Arc::new(shown));
    }

    fn next_look(&self) -> Instant {
        let now = self.cx.now();
        let mut next = Instant::now() + RESYNC;
        let mut sooner = |at: Instant| next = next.min(at);
        if self.stage == Stage::Running {
            let retries = [self.setup_retry.map(|(at, _)| at), self.resize_retry()];
            retries.into_iter().flatten().for_each(&mut sooner);
            for track in self.tracks.values() {
                if let Some((_, until)) = decide::held_until(track, now) {
                    sooner(Instant::now() + until.duration_since(now).unsigned_abs());
                }
                let shows_error =
                    track.waiting.as_ref().is_some_and(|w| w.reason == messages::ERR_IMAGE_PULL);
                if let Some(at) = track.failed_at.filter(|_| shows_error) {
                    let shown = now.duration_since(at).unsigned_abs();
                    sooner(Instant::now() + PULL_ERROR_SHOWN.saturating_sub(shown));
                }
            }
            if let Some(seconds) = self.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds) {
                let end = self.started_at.saturating_add(jiff::SignedDuration::from_secs(seconds));
                let left = end.unwrap_or(now).duration_since(now);
                sooner(Instant::now() + left.max(jiff::SignedDuration::ZERO).unsigned_abs());
            }
        }
        next
    }
}

/// Reads the last words of a run that has ended.
pub(crate) fn read_message(run: &mut Run, pods_dir: &Path) {
    let Some(exit) = run.exit() else { return };
    let failed = exit.code != 0;
    let file = spec::message_file(pods_dir, &run.reference.key);
    let words = super::files::last_bytes(&file, MESSAGE_BYTES_MAX).unwrap_or_default();
    run.message = if !words.is_empty() {
        Some(String::from_utf8_lossy(&words).into_owned())
    } else if failed && run.log_is_message {
        crate::kubelet::log_file::last_words(&run.log).filter(|text| !text.is_empty())
    } else {
        None
    };
}
