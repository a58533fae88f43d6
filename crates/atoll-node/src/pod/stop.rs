//! Stops containers: preStop, the stop signal, and at the deadline SIGKILL to all that is
//! left.

use std::sync::Arc;
use std::time::Duration;

use atoll_container::{ContainerKey, ContainerRef, Event, Runtime, Scope, Signal, State};
use atoll_informer::EventType;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::pod::identity::PodId;
use crate::pod::lifecycle::run_hook;
use crate::pod::track::Run;
use crate::rootless::ports::PodPorts;

/// Even a container that is to go at once gets this long to end.
pub const GRACE_MIN: Duration = Duration::from_secs(2);
/// After SIGKILL an end is only a matter of the kernel's; longer than this is a fault.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// How long endpoints are given to leave before a terminating pod is told to stop.
pub const ENDPOINT_LEAD: Duration = Duration::from_millis(500);

/// One stop.
pub struct StopJob {
    pub pod: Arc<Pod>,
    pub id: PodId,
    pub container: Container,
    pub run: Run,
    pub ip: String,
    pub ports: PodPorts,
    /// The Killing event's text.
    pub message: String,
    /// May move closer while the job runs (a second delete with a shorter grace).
    pub deadline: watch::Receiver<Instant>,
    /// The signal is not sent earlier.
    pub not_before: Instant,
    pub turn: Turn,
}

/// Whose end a container waits for before it is told to end.
#[derive(Debug, Default)]
pub struct Turn {
    after: Vec<CancellationToken>,
    /// Cancelled when it has ended itself.
    ended: CancellationToken,
}

/// Sidecars, the last one first, wait for all that they serve and for each other.
pub fn take_turns(served: &[StopJob], sidecars: &mut [StopJob]) {
    let mut before: Vec<_> = served.iter().map(|job| job.turn.ended.clone()).collect();
    for job in sidecars {
        job.turn.after.clone_from(&before);
        before.push(job.turn.ended.clone());
    }
}

/// Returns when the container has ended.
pub async fn stop(cx: &Context, mut job: StopJob) {
    let _ended = job.turn.ended.clone().drop_guard();
    let name = &job.container.name;
    cx.container_event(&job.pod, name, EventType::Normal, "Killing", job.message.clone());
    let reference = job.run.reference.clone();
    pre_stop(cx, &mut job).await;
    wait_turn(&mut job).await;
    let lead = job.not_before.min(*job.deadline.borrow());
    tokio::time::sleep_until(lead).await;
    let signal = job.run.stop_signal.as_deref().and_then(|text| text.parse().ok());
    let signal: Signal = signal.unwrap_or(Signal::TERM);
    send(cx.runtime.as_ref(), &reference, signal, Scope::Init).await;
    if wait_exited(cx.runtime.as_ref(), &reference.key, &mut job.deadline).await {
        return;
    }
    send(cx.runtime.as_ref(), &reference, Signal::KILL, Scope::All).await;
    let (_keep, mut patience) = watch::channel(Instant::now() + KILL_PATIENCE);
    if !wait_exited(cx.runtime.as_ref(), &reference.key, &mut patience).await {
        tracing::error!(container = %reference.key, "still there long after SIGKILL");
    }
}

async fn pre_stop(cx: &Context, job: &mut StopJob) {
    let hook = job.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
    let Some(hook) = hook else { return };
    if !job.run.is_running() {
        return;
    }
    let mut deadline = job.deadline.clone();
    let hook = job.ports.hook(hook, job.container.ports.as_deref().unwrap_or_default());
    let run = run_hook(cx, &hook, &job.container, &job.run.reference, (&job.id, &job.ip));
    let result = tokio::select! {
        result = run => result,
        () = passed(&mut deadline) => Err("grace period exceeded".to_owned()),
    };
    if let Err(reason) = result {
        let text = "PreStopHook failed".to_owned();
        let name = &job.container.name;
        tracing::info!(pod = %job.id, reason, "preStop hook failed");
        cx.container_event(&job.pod, name, EventType::Warning, "FailedPreStopHook", text);
    }
    leave_the_least(job);
}

/// Until those before it have ended, or the grace period that they share is over.
async fn wait_turn(job: &mut StopJob) {
    if job.turn.after.is_empty() {
        return;
    }
    let mut deadline = job.deadline.clone();
    for ended in &job.turn.after {
        tokio::select! {
            () = ended.cancelled() => {}
            () = passed(&mut deadline) => break,
        }
    }
    leave_the_least(job);
}

/// Whatever used up the grace period still leaves the least for the signal.
fn leave_the_least(job: &mut StopJob) {
    let least = Instant::now() + GRACE_MIN;
    if *job.deadline.borrow() < least {
        let (_sender, extended) = watch::channel(least);
        job.deadline = extended;
    }
}

async fn send(runtime: &dyn Runtime, reference: &ContainerRef, signal: Signal, scope: Scope) {
    if let Err(error) = runtime.signal(reference, signal, scope).await {
        tracing::warn!(container = %reference.key, %signal, %error, "signal not sent");
    }
}

/// Sleeps until a deadline that may move.
async fn passed(deadline: &mut watch::Receiver<Instant>) {
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            () = tokio::time::sleep_until(at) => return,
            changed = deadline.changed() => {
                if changed.is_err() {
                    // Nobody can move it any more.
                    tokio::time::sleep_until(at).await;
                    return;
                }
            }
        }
    }
}

/// Whether the container ended before the deadline.
pub async fn wait_exited(
    runtime: &dyn Runtime,
    key: &ContainerKey,
    deadline: &mut watch::Receiver<Instant>,
) -> bool {
    let mut events = runtime.events();
    loop {
        if has_ended(runtime, key).await {
            return true;
        }
        tokio::select! {
            () = next_exit(&mut events, key) => {}
            () = passed(deadline) => return has_ended(runtime, key).await,
        }
    }
}

async fn next_exit(events: &mut broadcast::Receiver<Event>, key: &ContainerKey) {
    loop {
        match events.recv().await {
            Ok(Event::Exited { key: ended, .. }) if ended == *key => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn has_ended(runtime: &dyn Runtime, key: &ContainerKey) -> bool {
    match runtime.inspect(key).await {
        Ok(None) => true,
        Ok(Some(observed)) => matches!(observed.state, State::Exited(_)),
        Err(error) => {
            tracing::warn!(container = %key, %error, "state not readable");
            false
        }
    }
}
