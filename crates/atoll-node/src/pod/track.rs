//! What is known of one container of a pod: its runs, its probes, why it waits.

use std::collections::BTreeMap;
use std::path::PathBuf;

use atoll_container::{ContainerKey, ContainerRef, ContainerSpec, Exit, Observed, State};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::pod::backoff::Backoff;
use crate::pod::messages;

/// Notes that travel with a container, so that an agent that restarts knows them again.
pub mod label {
    pub const IMAGE: &str = "image";
    pub const IMAGE_ID: &str = "image-id";
    pub const IMAGE_DIGEST: &str = "image-digest";
    pub const POD_NAME: &str = "pod-name";
    pub const POD_NAMESPACE: &str = "pod-namespace";
    pub const MESSAGE_POLICY: &str = "message-policy";
    pub const STOP_SIGNAL: &str = "stop-signal";
    pub const RESOURCES: &str = "resources";
}

/// The exit code of what could not be run, as upstream's runtimes have it.
const CODE_NEVER_STARTED: i32 = 128;

/// The policy under which a log's end becomes the message.
const LOGS_ON_ERROR: &str = "FallbackToLogsOnError";

/// One run of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    pub reference: ContainerRef,
    pub image: String,
    pub image_id: String,
    pub image_digest: String,
    pub state: RunState,
    /// The termination message, once it has ended.
    pub message: Option<String>,
    pub stop_signal: Option<String>,
    pub log: PathBuf,
    /// The end of its log stands in for last words that it did not leave.
    pub log_is_message: bool,
    /// What it was given when it was made; containers of older releases do not say.
    pub resources: Option<ResourceRequirements>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    /// Made, but its command has not started.
    Created,
    Running {
        started_at: Timestamp,
    },
    Exited(Exit),
}

impl Run {
    #[must_use]
    pub fn from_observed(observed: &Observed) -> Run {
        let note = |name: &str| observed.labels.get(name).cloned();
        let state = match &observed.state {
            State::Creating | State::Created => RunState::Created,
            State::Running { started_at, .. } => RunState::Running { started_at: *started_at },
            State::Exited(exit) => RunState::Exited(exit.clone()),
        };
        Run {
            reference: observed.container.clone(),
            image: note(label::IMAGE).unwrap_or_default(),
            image_id: note(label::IMAGE_ID).unwrap_or_default(),
            image_digest: note(label::IMAGE_DIGEST).unwrap_or_default(),
            state,
            message: None,
            stop_signal: note(label::STOP_SIGNAL),
            log: observed.log.clone(),
            log_is_message: note(label::MESSAGE_POLICY).as_deref() == Some(LOGS_ON_ERROR),
            resources: note(label::RESOURCES).and_then(|text| serde_json::from_str(&text).ok()),
        }
    }

    /// A run that was just started and has not been looked at.
    #[must_use]
    pub fn expected(key: ContainerKey, image: String) -> Run {
        Run {
            reference: ContainerRef { key, id: String::new(), dir: PathBuf::new() },
            image,
            image_id: String::new(),
            image_digest: String::new(),
            state: RunState::Created,
            message: None,
            stop_signal: None,
            log: PathBuf::new(),
            log_is_message: false,
            resources: None,
        }
    }

    /// A run whose command could not be run.
    #[must_use]
    pub fn never_started(spec: &ContainerSpec, reason: String, now: Timestamp) -> Run {
        let note = |name: &str| spec.labels.get(name).cloned();
        let key = ContainerKey {
            sandbox: spec.sandbox.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
        };
        let exit = Exit {
            code: CODE_NEVER_STARTED,
            unknown: false,
            start_error: Some(reason),
            ..Exit::unknown(None, now)
        };
        Run {
            reference: ContainerRef { key, id: spec.id.clone(), dir: PathBuf::new() },
            image: note(label::IMAGE).unwrap_or_default(),
            image_id: note(label::IMAGE_ID).unwrap_or_default(),
            image_digest: note(label::IMAGE_DIGEST).unwrap_or_default(),
            state: RunState::Exited(exit),
            message: None,
            stop_signal: None,
            log: spec.log.path.clone(),
            log_is_message: false,
            resources: None,
        }
    }

    /// Counts the runs of this container from 0.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.reference.key.attempt
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.reference.id
    }

    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            RunState::Exited(exit) => Some(exit),
            RunState::Created | RunState::Running { .. } => None,
        }
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, RunState::Running { .. })
    }
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: Option<String>,
}

impl Waiting {
    #[must_use]
    pub fn new(reason: &str, message: impl Into<Option<String>>) -> Waiting {
        Waiting { reason: reason.to_owned(), message: message.into() }
    }
}

/// One container of the pod.
#[derive(Debug, Clone, Default)]
pub struct Track {
    pub current: Option<Run>,
    pub previous: Option<Run>,
    pub waiting: Option<Waiting>,
    /// What the readiness probe says; true without one.
    pub ready: bool,
    /// The startup probe has succeeded, or there is none.
    pub started: bool,
    /// A probe wants it restarted: the text of the event.
    pub condemned: Option<Condemned>,
    /// A kill job runs.
    pub killing: bool,
    /// A start job runs.
    pub starting: bool,
    /// postStart has run (or there is none); until then it is not up.
    pub hooked: bool,
    pub crash: Backoff,
    /// When the last start failed.
    pub failed_at: Option<Timestamp>,
    /// The next try is not before this time (start failures other than a crash).
    pub retry_at: Option<Timestamp>,
    /// The node ends it, or has ended it, to start it anew, however it ended.
    pub renewal: Option<Renewal>,
    /// What is shown of a run that has ended for that, until its successor stands.
    pub stand_in: Option<StandIn>,
    /// What a run was given while it ran.
    pub applied: Option<(u32, ResourceRequirements)>,
    /// The image that could not be pulled: the container's own, or that of a volume.
    pub unpulled: Option<String>,
    /// The number that the API knew, from which restarts are never counted back.
    pub restart_floor: u32,
}

/// A running container that is to be restarted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condemned {
    pub message: String,
    /// The failed probe's own grace period.
    pub grace_seconds: Option<i64>,
    /// None when the pod's policy decides by how it ends.
    pub renewal: Option<Renewal>,
}

/// Why the node ends a container only to start it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// What it is made of has changed, image or resources: it starts at once.
    Definition,
    /// A probe failed: it starts again as one that has crashed.
    Probe,
}

/// A run as it was last seen before the node ended it. Until the next one stands nothing is
/// said of its end, as with a kubelet, which writes no status between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    pub started_at: Timestamp,
    pub ready: bool,
    pub started: bool,
}

impl Track {
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(Run::is_running)
    }

    /// Its output goes nowhere and no command gets into it any more: it has to be made anew.
    pub(crate) fn condemn_unreachable(&mut self) {
        let Some(run) = self.current.as_ref().filter(|run| run.is_running()) else { return };
        if self.condemned.is_none() && !self.killing {
            let message = messages::unreachable(&run.reference.key.name);
            self.condemned = Some(Condemned { message, grace_seconds: None, renewal: None });
        }
    }

    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        self.current.as_ref().and_then(Run::exit)
    }

    /// Whether it has passed its startup probe (or hook) and runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_running() && self.started && self.hooked
    }

    /// Whether it runs as far as anybody is told.
    #[must_use]
    pub fn seems_running(&self) -> bool {
        self.is_running() || self.stand_in.is_some()
    }

    /// The same of [`Track::is_up`].
    #[must_use]
    pub fn seems_up(&self) -> bool {
        self.is_up() || self.stand_in.is_some_and(|last| last.started)
    }

    /// Whether it is ready as far as anybody is told.
    #[must_use]
    pub fn seems_ready(&self) -> bool {
        self.stand_in.map_or(self.is_running() && self.started && self.ready, |last| last.ready)
    }

    /// Takes in what its current run is doing now.
    pub fn observe(&mut self, now: Run) {
        if let Some(Run { state: RunState::Running { started_at }, .. }) = &self.current
            && now.exit().is_some()
            && self.renewal.is_some()
        {
            let ready = self.started && self.ready;
            let started = self.started && self.hooked;
            self.stand_in = Some(StandIn { started_at: *started_at, ready, started });
        }
        if now.exit().is_some() {
            self.condemned = None;
            self.ready = false;
        }
        self.current = Some(now);
    }

    /// It stands again, or will not for a while: how it is can be told.
    pub fn renewed(&mut self) {
        self.renewal = None;
        self.stand_in = None;
    }

    /// What the current run has, as far as it is known.
    #[must_use]
    pub fn resources(&self) -> Option<&ResourceRequirements> {
        let run = self.current.as_ref()?;
        let applied = self.applied.as_ref().filter(|(attempt, _)| *attempt == run.attempt());
        applied.map(|(_, resources)| resources).or(run.resources.as_ref())
    }

    /// The newest run, whether or not it is still the current one.
    fn newest(&self) -> Option<&Run> {
        self.current.as_ref().or(self.previous.as_ref())
    }

    #[must_use]
    pub fn restart_count(&self) -> u32 {
        self.newest().map_or(0, Run::attempt).max(self.restart_floor)
    }

    /// The number of the next run.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        if self.newest().is_none() && self.restart_floor == 0 {
            return 0;
        }
        self.restart_count() + 1
    }
}

/// A run for the tests of what decides.
#[cfg(test)]
pub(crate) fn test_run(attempt: u32, state: RunState) -> Run {
    let key = ContainerKey { sandbox: "uid".to_owned(), name: "c".to_owned(), attempt };
    Run {
        reference: ContainerRef { key, id: "ab".to_owned(), dir: "/nonexistent".into() },
        image: "img".to_owned(),
        image_id: "sha256:x".to_owned(),
        image_digest: String::new(),
        state,
        message: None,
        stop_signal: None,
        log: PathBuf::new(),
        log_is_message: false,
        resources: None,
    }
}

/// All containers of a pod by name.
pub type Tracks = BTreeMap<String, Track>;
