//! Runs one probe periodically and reports when its verdict changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{ContainerRef, Runtime};
use k8s_openapi::api::core::v1::{ContainerPort, Probe};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::probe::{Counts, Outcome, Streak, exec, grpc, http, tcp};

/// A probe that could not be made is tried this often before its result is dropped.
const TRIES_MAX: usize = 3;
/// Until a container is ready for the first time its readiness is asked for after this
/// time, doubling up to the period: a pod should not wait a whole period because it was
/// asked a few milliseconds too early.
const EAGER_FIRST: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        })
    }
}

/// What the pod's task hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub container: String,
    /// The run it is about; an older run's report is ignored.
    pub id: String,
    pub kind: Kind,
    pub news: News,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Enough results in a row.
    Verdict { success: bool, grace_seconds: Option<i64> },
    /// One failure, for an event.
    Failed(String),
    /// A remark, for an event.
    Warned(String),
    /// It could not be made, for an event.
    Errored(String),
}

/// Everything that one probe needs.
pub struct Worker {
    pub kind: Kind,
    pub container: String,
    pub id: String,
    pub probe: Probe,
    pub ports: Vec<ContainerPort>,
    /// The pod's address.
    pub ip: String,
    /// How long ago the container started.
    pub running_for: Duration,
    /// It ran before this agent did: wait a random part of the period first.
    pub adopted: bool,
    pub runtime: Arc<dyn Runtime>,
    pub reference: ContainerRef,
    pub reports: mpsc::Sender<Report>,
    pub counts: Arc<Counts>,
}

impl Worker {
    /// Until it is cancelled, or until a verdict that ends this probe.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.probe_for_ever() => {}
        }
    }

    async fn probe_for_ever(&self) {
        let period = seconds(self.probe.period_seconds, 10);
        let mut streak = Streak::default();
        let mut verdict = None;
        let mut eager = (self.kind == Kind::Readiness && !self.adopted).then_some(EAGER_FIRST);
        let mut next = Instant::now() + self.first_delay(period);
        loop {
            tokio::time::sleep_until(next).await;
            // Boxed: between attempts nothing of it takes room.
            let outcome = Box::pin(self.attempt()).await;
            let wait = eager.filter(|delay| *delay < period).unwrap_or(period);
            next = (next + wait).max(Instant::now());
            eager = eager.map(|delay| delay * 2);
            let success = match &outcome {
                Outcome::Broken(reason) => {
                    self.tell(News::Errored(reason.clone())).await;
                    continue;
                }
                Outcome::Success => true,
                Outcome::Warning(text) => {
                    self.tell(News::Warned(text.clone())).await;
                    true
                }
                Outcome::Failure(text) => {
                    self.tell(News::Failed(text.clone())).await;
                    false
                }
            };
            self.counts.add(&self.container, self.kind, success);
            let Some(decided) = streak.observe(success, &self.probe) else { continue };
            if decided {
                eager = None;
            }
            if verdict != Some(decided) {
                verdict = Some(decided);
                let grace_seconds = self.probe.termination_grace_period_seconds;
                self.tell(News::Verdict { success: decided, grace_seconds }).await;
            }
            if self.is_over(decided) {
                return;
            }
        }
    }

    /// A failed liveness or startup probe holds until there is a new container, and a
    /// startup probe has nothing to add once it has succeeded.
    fn is_over(&self, success: bool) -> bool {
        match self.kind {
            Kind::Startup => true,
            Kind::Liveness => !success,
            Kind::Readiness => false,
        }
    }

    fn first_delay(&self, period: Duration) -> Duration {
        if self.adopted {
            return period.mul_f64(rand::rng().random_range(0.0..1.0));
        }
        seconds(self.probe.initial_delay_seconds, 0).saturating_sub(self.running_for)
    }

    async fn tell(&self, news: News) {
        let report = Report {
            container: self.container.clone(),
            id: self.id.clone(),
            kind: self.kind,
            news,
        };
        if self.reports.send(report).await.is_err() {
            tracing::trace!("probe report after the end of the pod");
        }
    }

    async fn attempt(&self) -> Outcome {
        let mut outcome = Outcome::Success;
        for _ in 0..TRIES_MAX {
            outcome = self.once().await;
            if !matches!(outcome, Outcome::Broken(_)) {
                break;
            }
        }
        outcome
    }

    async fn once(&self) -> Outcome {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        if let Some(action) = &self.probe.exec {
            let command = action.command.clone().unwrap_or_default();
            return exec::probe(self.runtime.as_ref(), &self.reference, command, timeout).await;
        }
        if let Some(action) = &self.probe.http_get {
            return match http::Target::of(action, &self.ports, &self.ip, "kube-probe/1.36") {
                Ok(target) => target.probe(timeout).await,
                Err(reason) => Outcome::Broken(reason),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let host = action.host.clone().filter(|h| !h.is_empty());
            return match http::port_number(&action.port, &self.ports) {
                Ok(port) => tcp::probe(host.as_deref().unwrap_or(&self.ip), port, timeout).await,
                Err(reason) => Outcome::Broken(reason),
            };
        }
        if let Some(action) = &self.probe.grpc {
            let service = action.service.clone().unwrap_or_default();
            return match u16::try_from(action.port) {
                Ok(port) => grpc::probe(&self.ip, port, &service, timeout).await,
                Err(_out_of_range) => Outcome::Broken(format!("invalid port {}", action.port)),
            };
        }
        Outcome::Broken("missing probe handler".to_owned())
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    let seconds = value.and_then(|value| u64::try_from(value).ok()).filter(|v| *v > 0);
    Duration::from_secs(seconds.unwrap_or(default))
}

#[cfg(test)]
#[path = "worker/tests.rs"]
mod tests;
