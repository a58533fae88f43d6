//! Derives a pod's status from what is seen of its containers. Pure.
//!
//! The result depends on nothing but its input, so it can be compared with what was last
//! written; transition times are carried over from there.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::pod::admit::Refusal;
use crate::pod::ephemeral;
use crate::pod::identity::{RestartPolicy, is_sidecar};
use crate::pod::messages;
use crate::pod::qos::Qos;
use crate::pod::resize::{self, Pending, Progress};
use crate::pod::track::{Run, RunState, Track, Tracks, Waiting};

pub const RESIZE_PENDING: &str = "PodResizePending";
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// Everything that a status depends on.
#[derive(Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub tracks: &'a Tracks,
    pub pod_ip: Option<&'a str>,
    pub host_ip: &'a str,
    /// The sandbox is there and has its network.
    pub sandbox_ready: bool,
    pub started_at: Timestamp,
    /// The pod was refused, ran too long, or was evicted: it has failed whatever its
    /// containers say.
    pub failed: Option<&'a Refusal>,
    /// No container will run again: what was never seen to end is of unknown end.
    pub ended: bool,
    /// A resize that cannot be done now, and one that is being done.
    pub pending: Option<&'a Pending>,
    pub progress: Option<&'a Progress>,
    pub now: Timestamp,
}

/// The status to write; `old` is the one last written or read.
#[must_use]
pub fn derive(view: &View<'_>, old: Option<&PodStatus>) -> PodStatus {
    let Some(spec) = &view.pod.spec else { return PodStatus::default() };
    let phase = phase(spec, view);
    let initialized = is_initialized(spec, view.tracks);
    let begun = begun_init(spec, view.tracks);
    let look = |c: &Container, init: bool, lost: bool| {
        container_status(c, &Look { init, initialized, lost: lost && view.ended }, view)
    };
    let init = spec.init_containers.iter().flatten().enumerate();
    let mut init: Vec<_> = init.map(|(i, c)| look(c, true, i < begun)).collect();
    let mut apps: Vec<_> = spec.containers.iter().map(|c| look(c, false, initialized)).collect();
    clip_messages(&mut init, &mut apps);
    let refused = view.failed.is_some() && view.tracks.is_empty();
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: view.failed.map(|f| f.reason.clone()),
        message: view.failed.map(|f| f.message.clone()),
        start_time: Some(Time(seconds(view.started_at))),
        host_ip: Some(view.host_ip.to_owned()),
        host_ips: Some(vec![HostIP { ip: view.host_ip.to_owned() }]),
        pod_ip: view.pod_ip.map(str::to_owned),
        pod_ips: view.pod_ip.map(|ip| vec![PodIP { ip: ip.to_owned() }]),
        qos_class: Some(Qos::of(spec).as_str().to_owned()),
        observed_generation: view.pod.metadata.generation,
        init_container_statuses: (!init.is_empty() && !refused).then_some(init),
        container_statuses: (!refused).then_some(apps),
        ephemeral_container_statuses: ephemeral_statuses(spec, view),
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(view, &status, phase, initialized, old));
    status
}

/// They count neither for readiness nor for restarts.
fn ephemeral_statuses(spec: &PodSpec, view: &View<'_>) -> Option<Vec<ContainerStatus>> {
    let look = Look { init: false, initialized: true, lost: false };
    let status = |container: Container| {
        let track = view.tracks.get(&container.name);
        if track.is_some_and(ephemeral::only_known_to_the_api) {
            return ephemeral::known_status(view.pod, &container.name);
        }
        let status = container_status(&container, &look, view);
        Some(ContainerStatus {
            ready: false,
            restart_count: 0,
            started: None,
            resources: None,
            ..status
        })
    };
    let statuses: Vec<_> = ephemeral::containers(spec).filter_map(status).collect();
    (!statuses.is_empty()).then_some(statuses)
}

/// How a container's status is looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    init: bool,
    /// The pod's init containers are done.
    initialized: bool,
    /// It should have run by now, and will not run again.
    lost: bool,
}

/// How many init containers have had their turn: all up to the last that has run.
fn begun_init(spec: &PodSpec, tracks: &Tracks) -> usize {
    let ran = |c: &Container| tracks.get(&c.name).is_some_and(|track| track.current.is_some());
    let all: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    all.iter().rposition(|c| ran(c)).map_or(0, |last| last + 1)
}

/// Last words of all containers of a pod share this room.
const MESSAGES_BYTES_MAX: usize = 12 << 10;

fn clip_messages(init: &mut [ContainerStatus], apps: &mut [ContainerStatus]) {
    let each = MESSAGES_BYTES_MAX / (init.len() + apps.len()).max(1);
    for status in init.iter_mut().chain(apps) {
        let states = [&mut status.state, &mut status.last_state].into_iter().flatten();
        for ended in states.filter_map(|state| state.terminated.as_mut()) {
            if let Some(message) = &mut ended.message {
                message.truncate(message.floor_char_boundary(each));
            }
        }
    }
}

/// Times in the API have whole seconds.
fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn phase(spec: &PodSpec, view: &View<'_>) -> &'static str {
    if view.failed.is_some() {
        return "Failed";
    }
    let policy = RestartPolicy::of(spec);
    let missing = Track::default();
    let track = |c: &Container| view.tracks.get(&c.name).unwrap_or(&missing);
    let any_app_run = spec.containers.iter().any(|c| track(c).current.is_some());
    let (mut pending_init, mut failed_init, mut sidecars_running) = (false, false, false);
    for container in spec.init_containers.iter().flatten() {
        let track = track(container);
        if is_sidecar(container) {
            pending_init |= !any_app_run && !track.seems_up();
            sidecars_running |= track.seems_running();
        } else {
            match track.exit() {
                Some(exit) if exit.code == 0 => {}
                Some(_) if policy == RestartPolicy::Never => failed_init = true,
                _ => pending_init |= !any_app_run,
            }
        }
    }
    let ended = view.ended;
    if failed_init && !any_app_run {
        return if sidecars_running { "Pending" } else { "Failed" };
    }
    if pending_init && !ended {
        return "Pending";
    }
    phase_of_apps(spec, view, policy, sidecars_running)
}

fn phase_of_apps(
    spec: &PodSpec,
    view: &View<'_>,
    policy: RestartPolicy,
    sidecars_running: bool,
) -> &'static str {
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    let is_renewed = |name: &str| {
        view.tracks
            .get(name)
            .is_some_and(|track| track.renewal.is_some() || track.stand_in.is_some())
    };
    for container in &spec.containers {
        match view.tracks.get(&container.name).and_then(|track| track.current.as_ref()) {
            None | Some(Run { state: RunState::Created, .. }) if !view.ended => waiting += 1,
            None | Some(Run { state: RunState::Created, .. }) => stopped += 1,
            Some(Run { state: RunState::Running { .. }, .. }) => running += 1,
            Some(_) if !view.ended && is_renewed(&container.name) => running += 1,
            Some(Run { state: RunState::Exited(exit), .. }) => {
                stopped += 1;
                succeeded += usize::from(exit.code == 0);
            }
        }
    }
    if waiting > 0 {
        return "Pending";
    }
    if running > 0 || (sidecars_running && !view.ended) {
        return "Running";
    }
    if !view.ended && policy == RestartPolicy::Always {
        return "Running";
    }
    if stopped == succeeded {
        return "Succeeded";
    }
    if view.ended || policy == RestartPolicy::Never { "Failed" } else { "Running" }
}

fn is_initialized(spec: &PodSpec, tracks: &Tracks) -> bool {
    let apps_run = spec
        .containers
        .iter()
        .any(|c| tracks.get(&c.name).is_some_and(|track| track.current.is_some()));
    apps_run || uninitialized(spec, tracks).is_empty()
}

/// Init containers that have yet to finish (or, for sidecars, to come up).
fn uninitialized(spec: &PodSpec, tracks: &Tracks) -> Vec<String> {
    let done = |c: &Container| {
        tracks.get(&c.name).is_some_and(|track| {
            if is_sidecar(c) {
                track.seems_up()
            } else {
                track.exit().is_some_and(|exit| exit.code == 0)
            }
        })
    };
    spec.init_containers.iter().flatten().filter(|c| !done(c)).map(|c| c.name.clone()).collect()
}

fn container_status(container: &Container, look: &Look, view: &View<'_>) -> ContainerStatus {
    let Look { init, initialized, lost } = *look;
    let missing = Track::default();
    let track = view.tracks.get(&container.name).unwrap_or(&missing);
    let has_init =
        view.pod.spec.as_ref().is_some_and(|s| s.init_containers.iter().flatten().next().is_some());
    let default_reason = if has_init && (!initialized || init) {
        messages::POD_INITIALIZING
    } else {
        messages::CONTAINER_CREATING
    };
    let (state, last_state) = states(track, default_reason, view, lost);
    let sidecar = init && is_sidecar(container);
    let completed = track.exit().is_some_and(|exit| exit.code == 0);
    let running = track.seems_running();
    let ready = if init && !sidecar { completed } else { track.seems_ready() };
    let shown = track.current.as_ref();
    let image = shown.map(|run| run.image.clone()).filter(|image| !image.is_empty());
    let held = (!init || sidecar).then(|| held(container, track));
    ContainerStatus {
        name: container.name.clone(),
        image: image.or_else(|| container.image.clone()).unwrap_or_default(),
        image_id: shown.map(|run| run.image_id.clone()).unwrap_or_default(),
        container_id: shown.map(|run| container_id(run.id())),
        ready,
        restart_count: i32::try_from(track.restart_count()).unwrap_or(i32::MAX),
        started: Some(if init && !sidecar { running } else { track.seems_up() }),
        state: Some(state),
        last_state: Some(last_state),
        allocated_resources: held.as_ref().and_then(|_| resize::own(container).requests),
        resources: held,
        ..ContainerStatus::default()
    }
}

/// What a running container has; another will have what was allocated to it.
fn held(container: &Container, track: &Track) -> ResourceRequirements {
    let actual = track.resources().filter(|_| track.seems_running());
    actual.cloned().unwrap_or_else(|| resize::own(container))
}

/// The form in which the API names containers.
#[must_use]
pub fn container_id(id: &str) -> String {
    format!("atoll://{id}")
}

fn states(
    track: &Track,
    default_reason: &str,
    view: &View<'_>,
    lost: bool,
) -> (ContainerState, ContainerState) {
    let previous = track.previous.as_ref().and_then(terminated);
    let current = track.current.as_ref();
    let waiting = |waiting: Option<&Waiting>| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(waiting.map_or(default_reason, |w| w.reason.as_str()).to_owned()),
            message: waiting.and_then(|w| w.message.clone()),
        }),
        ..ContainerState::default()
    };
    let of = |state: Option<ContainerStateTerminated>| ContainerState {
        terminated: state,
        ..ContainerState::default()
    };
    let running = |started_at: Timestamp| ContainerState {
        running: Some(ContainerStateRunning { started_at: Some(Time(seconds(started_at))) }),
        ..ContainerState::default()
    };
    if let Some(last) = track.stand_in.filter(|_| !view.ended) {
        return (running(last.started_at), of(previous));
    }
    match current.map(|run| (&run.state, run)) {
        Some((RunState::Running { started_at }, _)) => (running(*started_at), of(previous)),
        Some((RunState::Exited(_), run)) => match (&track.waiting, view.ended) {
            (Some(wait), false) => (waiting(Some(wait)), of(terminated(run))),
            _ => (of(terminated(run)), of(previous)),
        },
        Some((RunState::Created, _)) | None if lost && view.failed.is_none() => {
            (of(Some(unknown_end())), of(previous))
        }
        Some((RunState::Created, _)) | None => (waiting(track.waiting.as_ref()), of(previous)),
    }
}

fn unknown_end() -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: 137,
        reason: Some(messages::CONTAINER_STATUS_UNKNOWN.to_owned()),
        message: Some(messages::STATUS_UNKNOWN_MESSAGE.to_owned()),
        ..ContainerStateTerminated::default()
    }
}

fn terminated(run: &Run) -> Option<ContainerStateTerminated> {
    let exit = run.exit()?;
    let reason = if exit.unknown {
        messages::CONTAINER_STATUS_UNKNOWN
    } else if exit.start_error.is_some() {
        messages::START_ERROR
    } else if exit.oom_killed {
        messages::OOM_KILLED
    } else if exit.code == 0 {
        messages::COMPLETED
    } else {
        messages::ERROR
    };
    // What never began did so in 1970, as upstream's runtimes say.
    let began = exit.started_at.or(exit.start_error.as_ref().map(|_| Timestamp::UNIX_EPOCH));
    Some(ContainerStateTerminated {
        exit_code: exit.code,
        signal: None,
        reason: Some(reason.to_owned()),
        message: run.message.clone().or_else(|| exit.start_error.clone()),
        started_at: began.map(|at| Time(seconds(at))),
        finished_at: Some(Time(seconds(exit.finished_at))),
        container_id: Some(container_id(run.id())),
    })
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(
    view: &View<'_>,
    status: &PodStatus,
    phase: &str,
    initialized: bool,
    old: Option<&PodStatus>,
) -> Vec<PodCondition> {
    let spec = view.pod.spec.as_ref();
    let sandbox = Verdict {
        kind: "PodReadyToStartContainers",
        holds: view.sandbox_ready && !view.ended,
        reason: None,
        message: None,
    };
    let init = initialized_verdict(spec, view.tracks, phase, initialized);
    let containers = containers_ready(spec, status, phase);
    let ready = ready(view.pod, &containers);
    let scheduled = Verdict { kind: "PodScheduled", holds: true, reason: None, message: None };
    let mut all: Vec<PodCondition> = [sandbox, init, ready, containers, scheduled]
        .into_iter()
        .map(|verdict| condition(verdict, view, old))
        .collect();
    all.extend(resize_conditions(view, old));
    all
}

/// Both are there only while there is something to say.
fn resize_conditions(view: &View<'_>, old: Option<&PodStatus>) -> Vec<PodCondition> {
    if view.ended || view.failed.is_some() {
        return Vec::new();
    }
    let pending = view.pending.map(|pending| {
        let (reason, message) = (Some(pending.reason), Some(pending.message.clone()));
        let verdict = Verdict { kind: RESIZE_PENDING, holds: true, reason, message };
        PodCondition { observed_generation: pending.generation, ..condition(verdict, view, old) }
    });
    let progress = view.progress.map(|progress| {
        let message = progress.error.clone();
        let reason = message.as_ref().map(|_| "Error");
        let verdict = Verdict { kind: RESIZE_IN_PROGRESS, holds: true, reason, message };
        PodCondition { observed_generation: progress.generation, ..condition(verdict, view, old) }
    });
    pending.into_iter().chain(progress).collect()
}

fn initialized_verdict(
    spec: Option<&PodSpec>,
    tracks: &Tracks,
    phase: &str,
    initialized: bool,
) -> Verdict {
    let kind = "Initialized";
    if phase == "Succeeded" {
        let reason = Some("PodCompleted");
        return Verdict { kind, holds: true, reason, message: None };
    }
    if initialized {
        return Verdict { kind, holds: true, reason: None, message: None };
    }
    let names = spec.map(|spec| uninitialized(spec, tracks)).unwrap_or_default();
    Verdict {
        kind,
        holds: false,
        reason: Some("ContainersNotInitialized"),
        message: Some(format!("containers with incomplete status: [{}]", names.join(" "))),
    }
}

fn containers_ready(spec: Option<&PodSpec>, status: &PodStatus, phase: &str) -> Verdict {
    let kind = "ContainersReady";
    let verdict = |reason, message| Verdict { kind, holds: false, reason: Some(reason), message };
    match phase {
        "Succeeded" => return verdict("PodCompleted", None),
        "Failed" => return verdict("PodFailed", None),
        _ => {}
    }
    // Sidecars count whatever they are doing, and before the others have begun.
    let init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> = init.filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let init = status.init_container_statuses.iter().flatten();
    let all = init
        .filter(|s| sidecars.contains(&s.name.as_str()))
        .chain(status.container_statuses.iter().flatten());
    let unready: Vec<_> = all.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() && status.container_statuses.is_some() {
        return Verdict { kind, holds: true, reason: None, message: None };
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    verdict("ContainersNotReady", Some(message))
}

fn ready(pod: &Pod, containers: &Verdict) -> Verdict {
    let kind = "Ready";
    if !containers.holds {
        return Verdict {
            kind,
            holds: false,
            reason: containers.reason,
            message: containers.message.clone(),
        };
    }
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let known = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect::<Vec<_>>();
    let mut problems = Vec::new();
    for gate in gates {
        let name = &gate.condition_type;
        match known.iter().find(|c| c.type_ == *name) {
            None => problems.push(format!(
                "corresponding condition of pod readiness gate \"{name}\" does not exist."
            )),
            Some(c) if c.status != "True" => problems.push(format!(
                "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        return Verdict { kind, holds: true, reason: None, message: None };
    }
    let message = Some(problems.join(", "));
    Verdict { kind, holds: false, reason: Some("ReadinessGatesNotReady"), message }
}

fn condition(verdict: Verdict, view: &View<'_>, old: Option<&PodStatus>) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = old
        .and_then(|old| old.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|c| c.type_ == verdict.kind));
    let since = before
        .filter(|before| before.status == status)
        .and_then(|before| before.last_transition_time.clone())
        .unwrap_or_else(|| Time(seconds(view.now)));
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: Some(since),
        observed_generation: view.pod.metadata.generation,
        last_probe_time: None,
    }
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
