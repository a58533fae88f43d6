//! Which probes of a pod run, and what their reports mean for its containers.

use std::collections::HashMap;

use atoll_informer::EventType;
use k8s_openapi::api::core::v1::{Container, Probe};

use crate::pod::identity::{all_containers, is_sidecar};
use crate::pod::messages;
use crate::pod::task::{PodTask, Stage};
use crate::pod::track::{Condemned, Renewal, RunState, Track};
use crate::probe::worker::News;
use crate::probe::{Kind, Report, Worker};

impl PodTask {
    pub(crate) fn on_report(&mut self, report: Report) {
        let stopping = self.stage != Stage::Running;
        let Some(track) = self.tracks.get_mut(&report.container) else { return };
        if track.current.as_ref().is_none_or(|run| run.id() != report.id) {
            return;
        }
        let name = &report.container;
        let renewal = Some(Renewal::Probe);
        let event = |reason: &str, text| {
            self.cx.container_event(&self.pod, name, EventType::Warning, reason, text);
        };
        match report.news {
            News::Failed(output) => {
                event("Unhealthy", messages::unhealthy(&report.kind.to_string(), &output));
            }
            News::Warned(output) => {
                event("ProbeWarning", format!("{} probe warning: {output}", report.kind));
            }
            News::Errored(reason) => {
                let kind = report.kind;
                let words = "probe errored and resulted in unknown state";
                event("Unhealthy", format!("{kind} {words}: {reason}"));
            }
            News::Verdict { success, grace_seconds } => match (report.kind, success) {
                (Kind::Readiness, ready) => track.ready = ready,
                (Kind::Startup, true) => track.started = true,
                (Kind::Liveness, true) => {}
                (Kind::Startup | Kind::Liveness, false) if stopping => {}
                (Kind::Startup, false) => {
                    let message = messages::failed_startup(name);
                    track.condemned = Some(Condemned { message, grace_seconds, renewal });
                }
                (Kind::Liveness, false) => {
                    let message = messages::failed_liveness(name);
                    track.condemned = Some(Condemned { message, grace_seconds, renewal });
                }
            },
        }
    }

    /// Starts the probes that should run and ends those that should not.
    pub(crate) fn sync_probes(&mut self) {
        let mut wanted: HashMap<(String, Kind), Worker> = HashMap::new();
        for (container, probe, kind) in self.wanted_probes() {
            if let Some(worker) = self.worker(&container, probe, kind) {
                wanted.insert((container.name, kind), worker);
            }
        }
        self.probes.retain(|key, (id, stop)| {
            let keep = wanted.get(key).is_some_and(|worker| worker.id == *id);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for (key, worker) in wanted {
            if !self.probes.contains_key(&key) {
                let stop = self.cx.stop.child_token();
                self.probes.insert(key, (worker.id.clone(), stop.clone()));
                self.cx.tasks.spawn(worker.run(stop));
            }
        }
    }

    fn wanted_probes(&self) -> Vec<(Container, Probe, Kind)> {
        let stopping = match self.stage {
            Stage::Running => false,
            Stage::Stopping => true,
            Stage::Stopped | Stage::Clearing | Stage::Cleared => return Vec::new(),
        };
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        let mut wanted = Vec::new();
        for (list, container) in all_containers(spec) {
            let Some(track) = self.tracks.get(&container.name) else { continue };
            let probed = list == "containers" || is_sidecar(container);
            if !probed || !track.is_running() || !track.hooked {
                continue;
            }
            for (probe, kind) in probes_of(container, track, stopping) {
                wanted.push((container.clone(), probe.clone(), kind));
            }
        }
        wanted
    }

    fn worker(&self, container: &Container, probe: Probe, kind: Kind) -> Option<Worker> {
        let run = self.tracks.get(&container.name)?.current.as_ref()?;
        let RunState::Running { started_at } = run.state else { return None };
        let sandbox = self.sandbox.as_ref()?;
        let running_for = self.cx.now().duration_since(started_at);
        Some(Worker {
            kind,
            container: container.name.clone(),
            id: run.id().to_owned(),
            probe: sandbox.ports.probe(probe, container.ports.as_deref().unwrap_or_default()),
            ports: container.ports.clone().unwrap_or_default(),
            ip: sandbox.ip.clone(),
            running_for: running_for.max(jiff::SignedDuration::ZERO).unsigned_abs(),
            adopted: started_at < self.spawned_at,
            runtime: self.cx.runtime.clone(),
            reference: run.reference.clone(),
            reports: self.reports.clone(),
            counts: self.probed.clone(),
        })
    }
}

/// Startup first and alone; while the pod is being stopped only readiness goes on.
fn probes_of<'a>(
    container: &'a Container,
    track: &Track,
    stopping: bool,
) -> impl Iterator<Item = (&'a Probe, Kind)> {
    let startup =
        container.startup_probe.as_ref().filter(|_| track.hooked && !track.started && !stopping);
    let later = track.started;
    let liveness = container.liveness_probe.as_ref().filter(|_| later && !stopping);
    let readiness = container.readiness_probe.as_ref().filter(|_| later);
    startup
        .map(|probe| (probe, Kind::Startup))
        .into_iter()
        .chain(liveness.map(|probe| (probe, Kind::Liveness)))
        .chain(readiness.map(|probe| (probe, Kind::Readiness)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_runs_alone_and_only_readiness_outlives_the_stop() {
        let probe = serde_json::json!({"tcpSocket": {"port": 1}});
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c",
            "startupProbe": probe, "livenessProbe": probe, "readinessProbe": probe}))
        .unwrap();
        let kinds = |started, stopping| -> Vec<Kind> {
            let track = Track { started, hooked: true, ..Track::default() };
            probes_of(&container, &track, stopping).map(|(_, kind)| kind).collect()
        };
        assert_eq!(kinds(false, false), [Kind::Startup]);
        assert_eq!(kinds(true, false), [Kind::Liveness, Kind::Readiness]);
        assert_eq!(kinds(true, true), [Kind::Readiness]);
    }
}
