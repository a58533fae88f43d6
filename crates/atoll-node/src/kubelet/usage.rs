//! What containers and the machine use: counters read every few seconds, and rates of them.
//!
//! A rate is that between the two newest readings; a container has none until its second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_container::{ContainerRef, Stats};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::machine::meminfo_bytes;
use crate::pods::PodIndex;

/// Between two readings; the kubelet's own is as long.
const PERIOD: Duration = Duration::from_secs(10);
/// `USER_HZ`: the unit of `/proc/stat` on every architecture that Linux has today.
const NANOS_PER_TICK: u64 = 10_000_000;

/// The newest readings.
#[derive(Debug, Default)]
pub struct Usage {
    read: Mutex<Read>,
}

#[derive(Debug, Clone, Default)]
struct Read {
    node: Option<Reading>,
    containers: HashMap<ContainerRef, Reading>,
}

/// One reading, and what the one before says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    pub at: Timestamp,
    taken: Instant,
    pub cpu_ns: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub rate: Option<Rate>,
}

/// Use of processors between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Billionths of a processor.
    pub nanocores: u64,
    pub window: Duration,
}

impl Usage {
    /// Reads until `stop`.
    pub async fn run(self: Arc<Self>, cx: Arc<Context>, pods: PodIndex, stop: CancellationToken) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => self.read(&cx, &pods).await,
            }
        }
    }

    /// The machine as a whole.
    #[must_use]
    pub fn node(&self) -> Option<Reading> {
        self.lock().node
    }

    /// A container that ran at the last reading.
    #[must_use]
    pub fn container(&self, container: &ContainerRef) -> Option<Reading> {
        self.lock().containers.get(container).copied()
    }

    async fn read(&self, cx: &Context, pods: &PodIndex) {
        let mut running = Vec::new();
        for handle in pods.all().values() {
            let shown = handle.shown.borrow().clone();
            let runs = shown.containers.values().filter_map(|one| one.current.as_ref());
            running.extend(runs.filter(|run| run.is_running()).map(|run| run.reference.clone()));
        }
        let before = self.lock().clone();
        let mut containers = HashMap::with_capacity(running.len());
        for reference in running {
            // One that has just ended has nothing to read.
            let Ok(stats) = cx.runtime.stats(&reference).await else { continue };
            let reading = Reading::of_container(cx.now(), &stats);
            let reading = reading.after(before.containers.get(&reference));
            containers.insert(reference, reading);
        }
        let node = Reading::of_machine(cx.now(), cx.machine.memory_bytes).await;
        let node = node.map(|reading| reading.after(before.node.as_ref()));
        *self.lock() = Read { node, containers };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn of_container(at: Timestamp, stats: &Stats) -> Self {
        Self {
            at,
            taken: Instant::now(),
            cpu_ns: stats.cpu_usage_ns,
            memory_usage_bytes: stats.memory_usage_bytes,
            memory_working_set_bytes: stats.memory_working_set_bytes,
            memory_rss_bytes: stats.memory_rss_bytes,
            rate: None,
        }
    }

    async fn of_machine(at: Timestamp, memory_bytes: i64) -> Option<Self> {
        let stat = tokio::fs::read_to_string("/proc/stat").await.ok()?;
        let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.ok()?;
        let known = |name| meminfo_bytes(&meminfo, name).and_then(|own| u64::try_from(own).ok());
        let total = u64::try_from(memory_bytes).ok()?;
        let (available, free) = (known("MemAvailable")?, known("MemFree")?);
        Some(Self {
            at,
            taken: Instant::now(),
            cpu_ns: busy_ticks(&stat)? * NANOS_PER_TICK,
            memory_usage_bytes: total.saturating_sub(free),
            memory_working_set_bytes: total.saturating_sub(available),
            memory_rss_bytes: known("AnonPages").unwrap_or(0),
            rate: None,
        })
    }

    fn after(self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let window = self.taken.saturating_duration_since(before.taken);
        let nanos = window.as_nanos();
        if nanos == 0 || self.cpu_ns < before.cpu_ns {
            return self;
        }
        let used = u128::from(self.cpu_ns - before.cpu_ns);
        let nanocores = u64::try_from(used * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
        Self { rate: Some(Rate { nanocores, window }), ..self }
    }
}

/// Ticks that all processors together did not idle.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are part of user.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_between_two_readings() {
        let now = Instant::now();
        let reading = |seconds, cpu_ns| Reading {
            at: Timestamp::UNIX_EPOCH,
            taken: now + Duration::from_secs(seconds),
            cpu_ns,
            memory_usage_bytes: 0,
            memory_working_set_bytes: 0,
            memory_rss_bytes: 0,
            rate: None,
        };
        let (first, second) = (reading(0, 1_000_000_000), reading(10, 6_000_000_000));
        assert_eq!(first.after(None).rate, None);
        let rate = second.after(Some(&first)).rate.unwrap();
        assert_eq!((rate.nanocores, rate.window.as_secs()), (500_000_000, 10));
        // Another container of that name, or a counter that begins anew.
        assert_eq!(first.after(Some(&second)).rate, None);
    }

    #[test]
    fn idle_time_is_not_use() {
        let stat = "cpu  10 1 5 1000 50 2 3 4 0 0\ncpu0 10 1 5 1000 50 2 3 4 0 0\n";
        assert_eq!(busy_ticks(stat), Some(21));
        assert_eq!(busy_ticks("intr 1"), None);
    }
}
