//! Decides which containers of a pod to start and which to kill. Pure.
//!
//! The caller holds back starts that are in backoff and never runs two starts at once.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::pod::backoff;
use crate::pod::ephemeral;
use crate::pod::identity::{RestartPolicy, is_sidecar};
use crate::pod::messages;
use crate::pod::track::{Condemned, Renewal, Track, Tracks};

/// What one look at the pod calls for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub start: Vec<String>,
    pub kill: Vec<Kill>,
    /// What nobody needs any more; the sidecars among them end last, the last one first.
    pub retire: Vec<Kill>,
    /// Every container has ended and none will start again.
    pub finished: bool,
}

/// A container to be ended for a reason of its own (not because the pod ends).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub container: String,
    pub message: String,
    pub grace_seconds: Option<i64>,
    /// It starts again, however it ends.
    pub renewal: Option<Renewal>,
}

/// Looks at all containers of a pod that is meant to run.
#[must_use]
pub fn plan(spec: &PodSpec, tracks: &Tracks) -> Plan {
    let policy = RestartPolicy::of(spec);
    let mut plan = Plan::default();
    let missing = Track::default();
    let track = |c: &Container| tracks.get(&c.name).unwrap_or(&missing);

    let apps_ended = spec.containers.iter().all(|c| ended_for_good(track(c), policy));
    let init_failed = init_failed(spec, tracks, policy);
    if (apps_ended && !spec.containers.is_empty()) || init_failed {
        finish(spec, tracks, &mut plan);
        return plan;
    }

    // Once an app container has run, the ordinary init containers are behind us even if
    // their records are gone.
    plan.start.extend(ephemeral::to_start(spec, tracks));
    let initialized = spec.containers.iter().any(|c| track(c).current.is_some());
    for container in spec.init_containers.iter().flatten() {
        if !look_at_init(container, track(container), policy, initialized, &mut plan) {
            return plan;
        }
    }
    for container in &spec.containers {
        look_at_app(container, track(container), policy, &mut plan);
    }
    plan
}

/// Returns whether what follows may go on.
fn look_at_init(
    container: &Container,
    track: &Track,
    policy: RestartPolicy,
    initialized: bool,
    plan: &mut Plan,
) -> bool {
    if is_sidecar(container) {
        if track.is_running() {
            condemn(container, track, policy, plan);
        } else if !track.starting && !track.killing {
            plan.start.push(container.name.clone());
        }
        return initialized || track.is_up();
    }
    if initialized {
        return true;
    }
    if track.starting || track.killing {
        return false;
    }
    match track.exit() {
        Some(exit) if exit.code == 0 => return true,
        Some(_) if policy == RestartPolicy::Never => return false,
        Some(_) => plan.start.push(container.name.clone()),
        None if track.is_running() && track.condemned.is_some() => {
            condemn(container, track, policy, plan);
        }
        // It ends as it began: another image is for those that have yet to start.
        None if track.is_running() => {}
        None => plan.start.push(container.name.clone()),
    }
    false
}

fn look_at_app(container: &Container, track: &Track, policy: RestartPolicy, plan: &mut Plan) {
    if track.starting || track.killing {
        return;
    }
    match track.exit() {
        Some(_) if ended_for_good(track, policy) => {}
        Some(_) => plan.start.push(container.name.clone()),
        None if track.is_running() => condemn(container, track, policy, plan),
        None => plan.start.push(container.name.clone()),
    }
}

fn condemn(container: &Container, track: &Track, policy: RestartPolicy, plan: &mut Plan) {
    if track.killing {
        return;
    }
    let changed = track.current.as_ref().is_some_and(|run| {
        !run.image.is_empty() && container.image.as_deref().is_some_and(|image| image != run.image)
    });
    let by_policy = |renewal: &Renewal| match renewal {
        Renewal::Definition => true,
        Renewal::Probe => policy != RestartPolicy::Never || is_sidecar(container),
    };
    let condemned = match &track.condemned {
        Some(condemned) => condemned.clone(),
        None if changed => Condemned {
            message: messages::definition_changed(&container.name),
            grace_seconds: None,
            renewal: Some(Renewal::Definition),
        },
        None => return,
    };
    plan.kill.push(Kill {
        container: container.name.clone(),
        message: condemned.message,
        grace_seconds: condemned.grace_seconds,
        renewal: condemned.renewal.filter(by_policy),
    });
}

fn ended_for_good(track: &Track, policy: RestartPolicy) -> bool {
    !track.starting
        && track.renewal.is_none()
        && track.exit().is_some_and(|exit| !policy.restarts(exit.code))
}

fn init_failed(spec: &PodSpec, tracks: &Tracks, policy: RestartPolicy) -> bool {
    policy == RestartPolicy::Never
        && spec
            .init_containers
            .iter()
            .flatten()
            .filter(|c| !is_sidecar(c))
            .any(|c| tracks.get(&c.name).and_then(Track::exit).is_some_and(|exit| exit.code != 0))
}

/// Sidecars end when nothing is left that they serve.
fn finish(spec: &PodSpec, tracks: &Tracks, plan: &mut Plan) {
    let mut running = false;
    let lasting = spec.init_containers.iter().flatten().rev().chain(&spec.containers);
    let names = lasting.map(|container| container.name.as_str());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|one| one.name.as_str());
    for name in names.chain(ephemeral) {
        let Some(track) = tracks.get(name) else { continue };
        if track.is_running() {
            running = true;
            if !track.killing {
                plan.retire.push(Kill {
                    container: name.to_owned(),
                    message: messages::stopping(name),
                    grace_seconds: None,
                    renewal: None,
                });
            }
        }
        running |= track.killing || track.starting;
    }
    plan.finished = !running;
}

/// Until when the next start has to wait, with the delay in force; `None` to start now.
#[must_use]
pub fn held_until(
    track: &Track,
    now: Timestamp,
) -> Option<(Option<jiff::SignedDuration>, Timestamp)> {
    if let Some(exit) = track.exit()
        && let Some((delay, until)) = track.crash.holds(exit.finished_at, now)
    {
        return Some((Some(delay), until));
    }
    track.retry_at.filter(|at| backoff::is_ahead(*at, now)).map(|at| (None, at))
}

#[cfg(test)]
#[path = "decide/tests.rs"]
mod tests;
