//! Gives a pod's running containers what was allocated to them: their cgroups and the pod's are
//! changed in an order in which every limit holds, or containers are restarted.

use std::sync::Arc;
use std::time::Duration;

use atoll_container::{CgroupVersion, ContainerRef, Resources, SandboxSpec};
use k8s_openapi::api::core::v1::ResourceRequirements;
use tokio::time::Instant;

use crate::amount;
use crate::context::Context;
use crate::pod::image::with_sources;
use crate::pod::messages;
use crate::pod::resize::{self, Progress, Squeeze};
use crate::pod::sandbox;
use crate::pod::task::{JobEnd, PodTask};
use crate::pod::track::{Condemned, Renewal};

/// A resize that failed is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// How far the resizing of a pod has come.
#[derive(Debug, Default)]
pub(crate) struct Resizing {
    /// A job runs.
    pub busy: bool,
    /// The limits of the pod as a whole that were set last; unknown when the agent has just
    /// started.
    pub whole: Option<Resources>,
    /// Containers were adopted: what they should have is set once more.
    pub unsettled: bool,
    /// A resize was begun, and its end has not been told.
    pub begun: bool,
    pub error: Option<String>,
    pub retry_at: Option<Instant>,
}

/// A container whose limits change while it runs.
struct Step {
    name: String,
    reference: ContainerRef,
    resources: ResourceRequirements,
    before: Option<Resources>,
    after: Resources,
}

struct ResizeJob {
    sandbox: SandboxSpec,
    before: Option<Resources>,
    steps: Vec<Step>,
}

/// What a job has done.
pub(crate) struct ResizeEnd {
    /// Container, run and what it has now.
    done: Vec<(String, u32, ResourceRequirements)>,
    whole: Option<Resources>,
    error: Option<String>,
}

impl PodTask {
    /// What is allocated has changed.
    pub(crate) fn on_allocation(&mut self) {
        self.resizing.begun = true;
        self.resizing.error = None;
        self.resizing.retry_at = None;
    }

    /// Brings what runs closer to what is allocated. Nothing starts while a job does so.
    pub(crate) fn resize(&mut self) {
        let starting = self.tracks.values().any(|track| track.starting);
        if self.resizing.busy || starting {
            return;
        }
        let (steps, restarting) = self.resize_steps();
        let mut spec = sandbox::sandbox_spec(&self.pod, &self.id, String::new());
        if restarting {
            spec.resources = resize::loosened(self.resizing.whole.as_ref(), &spec.resources);
        }
        if steps.is_empty() && self.resizing.whole.as_ref() == Some(&spec.resources) {
            if !restarting {
                self.end_resize();
            }
            return;
        }
        if self.resizing.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.resizing.busy = true;
        let job = ResizeJob { sandbox: spec, before: self.resizing.whole.clone(), steps };
        let cx = self.cx.clone();
        self.jobs.spawn(async move { JobEnd::Resize(run(&cx, job).await) });
    }

    /// The containers whose limits are to change, and whether others are restarted for it.
    fn resize_steps(&mut self) -> (Vec<Step>, bool) {
        let (mut steps, mut restarting) = (Vec::new(), false);
        let pod = self.pod.clone();
        for container in pod.spec.iter().flat_map(resize::resizable) {
            let Some(track) = self.tracks.get_mut(&container.name) else { continue };
            // Between its two runs it still has what the first one had.
            restarting |= track.stand_in.is_some() && track.renewal == Some(Renewal::Definition);
            let Some(run) = track.current.clone().filter(|run| run.is_running()) else { continue };
            let (has, wants) = (track.resources().cloned(), resize::own(container));
            let differs = has.as_ref() != Some(&wants);
            if let Some(has) = has.as_ref().filter(|has| resize::needs_restart(container, has)) {
                restarting = true;
                if !track.killing && track.renewal.is_none() {
                    let (id, name) = (&self.id, &container.name);
                    tracing::info!(pod = %id, container = name, ?has, "restarted for a resize");
                    let message = messages::resize_restart(&container.name);
                    let renewal = Some(Renewal::Definition);
                    track.condemned = Some(Condemned { message, grace_seconds: None, renewal });
                }
            } else if differs || self.resizing.unsettled {
                let before = has.map(|has| amount::cgroup_values(&resize::with(container, &has)));
                steps.push(Step {
                    name: container.name.clone(),
                    reference: run.reference,
                    before: before.filter(|_| differs),
                    after: amount::cgroup_values(container),
                    resources: wants,
                });
            }
        }
        (steps, restarting)
    }

    fn end_resize(&mut self) {
        self.resizing.error = None;
        if std::mem::take(&mut self.resizing.begun) {
            let generation = self.pod.metadata.generation;
            let text = resize::event("Pod resize completed", &self.pod, generation, None);
            self.cx.normal(&self.pod, "ResizeCompleted", text);
        }
    }

    pub(crate) fn on_resized(&mut self, end: ResizeEnd) {
        self.resizing.busy = false;
        let unsettled = std::mem::take(&mut self.resizing.unsettled);
        for (name, attempt, resources) in end.done {
            if let Some(track) = self.tracks.get_mut(&name) {
                track.applied = Some((attempt, resources));
            }
        }
        if end.whole.is_some() {
            self.resizing.whole = end.whole;
        }
        let Some(error) = end.error else {
            self.resizing.error = None;
            return;
        };
        self.resizing.retry_at = Some(Instant::now() + RETRY);
        if unsettled && !self.is_resizing() {
            tracing::warn!(pod = %self.id, error, "limits not set again; will retry");
            self.resizing.unsettled = true;
        } else if !self.resizing.error.as_ref().is_some_and(|known| same_but_numbers(known, &error))
        {
            let generation = self.pod.metadata.generation;
            let text = resize::event("Pod resize error", &self.pod, generation, Some(&error));
            self.cx.warning(&self.pod, "ResizeError", text);
            self.resizing.error = Some(error);
        }
    }

    /// Whether some running container has not what it was allocated.
    fn is_resizing(&self) -> bool {
        self.pod.spec.iter().flat_map(resize::resizable).any(|container| {
            let track = self.tracks.get(&container.name).filter(|track| track.seems_running());
            let has = track.and_then(|track| track.resources());
            has.is_some_and(|has| *has != resize::own(container))
        })
    }

    /// What the status says of a resize that is going on.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let error = self.resizing.error.clone();
        let goes_on = error.is_some() || self.is_resizing();
        goes_on.then(|| Progress { error, generation: self.pod.metadata.generation })
    }

    /// When to try once more.
    pub(crate) fn resize_retry(&self) -> Option<Instant> {
        let waits = self.resizing.error.is_some() || self.resizing.unsettled;
        self.resizing.retry_at.filter(|_| waits)
    }
}

/// Whether a text says what was said before, but for how much: the bytes in use are others each
/// time, which is nothing to tell anybody.
fn same_but_numbers(one: &str, other: &str) -> bool {
    let words = |text: &str| -> Vec<char> {
        text.chars().filter(|letter| !letter.is_ascii_digit()).collect()
    };
    words(one) == words(other)
}

async fn run(cx: &Arc<Context>, job: ResizeJob) -> ResizeEnd {
    let mut end = ResizeEnd { done: Vec::new(), whole: None, error: None };
    // Without cgroups there are no limits to change.
    if !cx.config.containers || cx.runtime.capabilities().cgroup == CgroupVersion::None {
        end.whole = Some(job.sandbox.resources);
        end.done = job.steps.into_iter().map(done).collect();
        return end;
    }
    if let Err(error) = change(cx, job, &mut end).await {
        end.error = Some(error);
    }
    end
}

fn done(step: Step) -> (String, u32, ResourceRequirements) {
    (step.name, step.reference.key.attempt, step.resources)
}

/// The pod's limits first make room for what was and for what comes, and are exact at last.
async fn change(cx: &Context, job: ResizeJob, end: &mut ResizeEnd) -> Result<(), String> {
    let ResizeJob { sandbox, before, mut steps } = job;
    check_memory(cx, &sandbox, before.as_ref(), &steps).await?;
    let mut wide = sandbox.clone();
    wide.resources = resize::loosened(before.as_ref(), &sandbox.resources);
    let failed = |error| with_sources(&error);
    if wide.resources != sandbox.resources || before.as_ref() != Some(&sandbox.resources) {
        cx.runtime.update_sandbox(&wide).await.map_err(failed)?;
        end.whole = Some(wide.resources.clone());
    }
    // Those that give up memory come before those that get it.
    steps.sort_by_key(|step| {
        let before = step.before.as_ref().and_then(|before| before.memory_limit_bytes);
        step.after.memory_limit_bytes.unwrap_or(0) - before.unwrap_or(i64::MAX)
    });
    for step in steps {
        cx.runtime.update(&step.reference, &step.after).await.map_err(failed)?;
        end.done.push(done(step));
    }
    if wide.resources != sandbox.resources {
        cx.runtime.update_sandbox(&sandbox).await.map_err(failed)?;
        end.whole = Some(sandbox.resources);
    }
    Ok(())
}

/// Whether a limit must not be set on what is in use. A container whose limits are not known may
/// have this one already, and have filled it.
fn is_over(used: i64, limit: i64, is_known: bool) -> bool {
    if is_known { used >= limit } else { used > limit }
}

/// Refuses to bring a limit down onto what is in use.
async fn check_memory(
    cx: &Context,
    sandbox: &SandboxSpec,
    before: Option<&Resources>,
    steps: &[Step],
) -> Result<(), String> {
    let (mut tight, mut total) = (Vec::new(), 0);
    let comes_down = |before: Option<i64>, after: Option<i64>| {
        after.filter(|after| before.is_none_or(|before| before > *after))
    };
    for step in steps {
        let stats =
            cx.runtime.stats(&step.reference).await.map_err(|error| with_sources(&error))?;
        let used = i64::try_from(stats.memory_usage_bytes).unwrap_or(i64::MAX);
        total += used;
        let known = step.before.as_ref().and_then(|before| before.memory_limit_bytes);
        let limit = comes_down(known, step.after.memory_limit_bytes);
        if let Some(limit) = limit.filter(|limit| is_over(used, *limit, step.before.is_some())) {
            tight.push(Squeeze { container: Some(step.name.clone()), limit, used });
        }
    }
    let known = before.and_then(|before| before.memory_limit_bytes);
    let whole = comes_down(known, sandbox.resources.memory_limit_bytes);
    if let Some(limit) = whole.filter(|limit| is_over(total, *limit, before.is_some())) {
        tight.insert(0, Squeeze { container: None, limit, used: total });
    }
    resize::too_tight(&tight).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_stays_too_large_is_told_of_once() {
        let text = |name: &str, used: i64| {
            let squeeze = Squeeze { container: Some(name.to_owned()), limit: 100, used };
            resize::too_tight(&[squeeze]).unwrap()
        };
        assert!(same_but_numbers(&text("c", 120), &text("c", 1_350)));
        assert!(!same_but_numbers(&text("c", 120), &text("d", 120)));
    }

    #[test]
    fn what_may_have_been_filled_is_only_refused_when_it_is_exceeded() {
        assert!(is_over(100, 100, true));
        assert!(!is_over(100, 100, false));
        assert!(is_over(101, 100, false));
    }
}
