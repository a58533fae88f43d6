//! Pods: what `kubectl get pods` says of readiness, status and restarts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, human_duration, name, seconds_between, text};
use crate::access::Access as _;
use crate::kinds::pod::{condition_is_true, is_sidecar};

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    text("Status", "The aggregate status of the containers in this pod."),
    text(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last \
         container in this pod has restarted.",
    ),
    AGE,
    text("IP", "podIP address allocated to the pod. Routable at least within the cluster.").wide(),
    text("Node", "NodeName indicates in which node this pod is scheduled.").wide(),
    text(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node.",
    )
    .wide(),
    text("Readiness Gates", "Conditions that the pod's readiness also depends on.").wide(),
];

pub(crate) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let status = &pod["status"];
    let or_none = |text: &str| json!(if text.is_empty() { "<none>" } else { text });
    let address = status.items("podIPs").first().map_or("", |one| one.text("ip"));
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(summary.restarts_text(now)),
        age(pod, now),
        or_none(address),
        or_none(pod["spec"].text("nodeName")),
        or_none(status.text("nominatedNodeName")),
        json!(readiness_gates(pod)),
    ]
}

/// Marks rows of pods that have finished, so that clients may hide them.
pub(crate) fn conditions(pod: &Value) -> Vec<Value> {
    let message = match pod["status"].text("phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    let reason = pod["status"].text("phase");
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

/// The status of a pod in one word, as `kubectl get pods` shows it.
#[must_use]
pub fn status_word(pod: &Value) -> String {
    Summary::of(pod).reason
}

/// What the containers of a pod come to.
#[derive(Default)]
struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: Restarts,
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last_at: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += container.int("restartCount").unwrap_or(0);
        let finished = container["lastState"]["terminated"].text("finishedAt");
        let finished = finished.parse::<Timestamp>().ok();
        self.last_at = self.last_at.max(finished);
    }
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let sidecars = spec.items("initContainers").iter().filter(|one| is_sidecar(one)).count();
        let mut summary = Self {
            total: spec.items("containers").len() + sidecars,
            reason: initial_reason(status),
            ..Self::default()
        };
        let (initializing, sidecar_restarts) = summary.read_init_containers(pod);
        if !initializing || condition_is_true(status, "Initialized") {
            summary.restarts = sidecar_restarts;
            summary.read_containers(status);
        }
        let deleted = pod["metadata"].has("deletionTimestamp");
        let finished = matches!(status.text("phase"), "Succeeded" | "Failed");
        if deleted && status.text("reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if deleted && !finished {
            summary.reason = "Terminating".to_owned();
        }
        summary
    }

    /// Whether the pod is still initialising, and how often its sidecars restarted.
    fn read_init_containers(&mut self, pod: &Value) -> (bool, Restarts) {
        let specs = pod["spec"].items("initContainers");
        let mut sidecar_restarts = Restarts::default();
        for (index, container) in pod["status"].items("initContainerStatuses").iter().enumerate() {
            let spec = specs.iter().find(|spec| spec.text("name") == container.text("name"));
            let sidecar = spec.is_some_and(is_sidecar);
            self.restarts.add(container);
            if sidecar {
                sidecar_restarts.add(container);
            }
            let terminated = &container["state"]["terminated"];
            if terminated.is_object() && terminated.int("exitCode").unwrap_or(0) == 0 {
                continue;
            }
            if sidecar && container.flag("started") {
                if container.flag("ready") {
                    self.ready += 1;
                }
                continue;
            }
            self.reason = init_reason(container, index, specs.len());
            return (true, sidecar_restarts);
        }
        (false, sidecar_restarts)
    }

    fn read_containers(&mut self, status: &Value) {
        let mut running = false;
        for container in status.items("containerStatuses").iter().rev() {
            self.restarts.add(container);
            let state = &container["state"];
            let waiting = state["waiting"].text("reason");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.reason = ended(&state["terminated"]);
            } else if container.flag("ready") && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = condition_is_true(status, "Ready");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn restarts_text(&self, now: Timestamp) -> String {
        match self.restarts.last_at {
            Some(at) if self.restarts.count != 0 => {
                let ago = human_duration(seconds_between(at, now));
                format!("{} ({ago} ago)", self.restarts.count)
            }
            _ => self.restarts.count.to_string(),
        }
    }
}

fn initial_reason(status: &Value) -> String {
    let gated = status.items("conditions").iter().any(|condition| {
        condition.text("type") == "PodScheduled" && condition.text("reason") == "SchedulingGated"
    });
    if gated {
        return "SchedulingGated".to_owned();
    }
    let reason = status.text("reason");
    if reason.is_empty() { status.text("phase").to_owned() } else { reason.to_owned() }
}

fn init_reason(container: &Value, index: usize, count: usize) -> String {
    let state = &container["state"];
    if state["terminated"].is_object() {
        return format!("Init:{}", ended(&state["terminated"]));
    }
    match state["waiting"].text("reason") {
        "" | "PodInitializing" => format!("Init:{index}/{count}"),
        reason => format!("Init:{reason}"),
    }
}

fn ended(terminated: &Value) -> String {
    let signal = terminated.int("signal").unwrap_or(0);
    match terminated.text("reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", terminated.int("exitCode").unwrap_or(0)),
        reason => reason.to_owned(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = pod["spec"].items("readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| condition_is_true(&pod["status"], gate.text("conditionType")))
        .count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests;
