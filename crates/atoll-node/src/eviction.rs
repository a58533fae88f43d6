//! Evicts pods when the node runs short, and those whose emptyDir outgrew its limit.
//!
//! The order in which pods go is pure; [`Eviction::round`] measures and acts.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::amount;
use crate::context::Context;
use crate::machine::meminfo_bytes;
use crate::node::object::Health;
use crate::pod::admit::Refusal;
use crate::pod::identity::is_terminal;
use crate::pod::task::PodHandle;
use crate::pods::PodIndex;
use crate::volume::{Dirs, used_bytes};

pub const PERIOD: Duration = Duration::from_secs(10);
/// Unused images are looked for every so many rounds.
pub const ROUNDS_PER_COLLECTION: u32 = 30;

pub const MEMORY_AVAILABLE_MIN: i64 = 100 << 20;
/// A disk is short when less of it is free than this part, and than these bytes: upstream's
/// 10 and 15 % would keep pods off a large disk on which there is room for all of them.
pub const DISK_AVAILABLE_MIN_PERCENT: u64 = 5;
const DISK_AVAILABLE_MIN_BYTES: u128 = 4 << 30;
pub const INODES_FREE_MIN_PERCENT: u64 = 5;
/// A condition stays this long after its cause has gone.
const CONDITION_HOLD: Duration = Duration::from_secs(300);
/// Pods of this priority and above are spared.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// One pod as a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    pub used: i64,
    pub requested: i64,
}

/// The one to go first: over its request, then of lower priority, then the furthest over.
#[must_use]
pub fn first_to_go(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates
        .iter()
        .filter(|c| c.priority < CRITICAL_PRIORITY)
        .max_by_key(|c| (c.used > c.requested, std::cmp::Reverse(c.priority), c.used - c.requested))
}

/// When each pressure was last seen.
#[derive(Debug, Default)]
pub struct Eviction {
    memory_at: Option<Instant>,
    disk_at: Option<Instant>,
}

impl Eviction {
    pub async fn round(&mut self, cx: &Context, index: &PodIndex, health: &watch::Sender<Health>) {
        self.check_empty_dirs(cx, index).await;
        let now = Instant::now();
        let meminfo = tokio::fs::read_to_string("/proc/meminfo").await.unwrap_or_default();
        let available = meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(i64::MAX);
        if available < MEMORY_AVAILABLE_MIN {
            self.memory_at = Some(now);
            evict_for_memory(cx, index, available).await;
        }
        if disk_is_short(&cx.config.root) {
            self.disk_at = Some(now);
            crate::garbage::collect_images(cx, crate::garbage::images_in_use(index)).await;
        }
        let held = |at: Option<Instant>| at.is_some_and(|at| now - at < CONDITION_HOLD);
        let (memory, disk) = (held(self.memory_at), held(self.disk_at));
        health.send_if_modified(|health| {
            let changed = (health.memory_pressure, health.disk_pressure) != (memory, disk);
            health.memory_pressure = memory;
            health.disk_pressure = disk;
            changed
        });
    }

    async fn check_empty_dirs(&self, cx: &Context, index: &PodIndex) {
        for handle in index.all().values() {
            let pod = handle.shown.borrow().pod.clone();
            let dirs = Dirs::of(&cx.config.pod_dir(&handle.id.uid));
            for (name, limit, shown) in limited_dirs(&pod) {
                let path = dirs.volume(&name);
                let used = tokio::task::spawn_blocking(move || used_bytes(&path)).await;
                if used.is_ok_and(|used| i64::try_from(used).unwrap_or(i64::MAX) > limit) {
                    let message = format!(
                        "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{shown}\". "
                    );
                    evict(cx, handle, &pod, message);
                }
            }
        }
    }
}

/// emptyDirs on disk with a limit: name, bytes, and the limit as written.
fn limited_dirs(pod: &Pod) -> Vec<(String, i64, String)> {
    if is_terminal(pod) {
        return Vec::new();
    }
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(|volume| {
            let source = volume.empty_dir.as_ref()?;
            // In memory the file system itself keeps the limit.
            if source.medium.as_deref() == Some("Memory") {
                return None;
            }
            let limit = source.size_limit.as_ref()?;
            Some((volume.name.clone(), amount::value(limit)?, limit.0.clone()))
        })
        .collect()
}

async fn evict_for_memory(cx: &Context, index: &PodIndex, available: i64) {
    let all = index.all();
    let mut candidates = Vec::new();
    for handle in all.values() {
        let shown = handle.shown.borrow().clone();
        if shown.has_ended() {
            continue;
        }
        let mut used = 0;
        for run in shown.containers.values().filter_map(|c| c.current.as_ref()) {
            if run.is_running()
                && let Ok(stats) = cx.runtime.stats(&run.reference).await
            {
                used += i64::try_from(stats.memory_working_set_bytes).unwrap_or(0);
            }
        }
        let priority = shown.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let requested = amount::pod_request(&shown.pod, "memory");
        candidates.push(Candidate { uid: handle.id.uid.clone(), priority, used, requested });
    }
    let Some(first) = first_to_go(&candidates) else { return };
    let Some(handle) = all.get(&first.uid) else { return };
    let pod = handle.shown.borrow().pod.clone();
    let message = format!(
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: {}Ki. ",
        available / 1024
    );
    evict(cx, handle, &pod, message);
}

fn evict(cx: &Context, handle: &PodHandle, pod: &Pod, message: String) {
    let refusal = Refusal { reason: "Evicted".to_owned(), message: message.clone() };
    // A full channel means that its end is under way.
    if handle.evict.try_send(refusal).is_ok() {
        cx.warning(pod, "Evicted", message);
    }
}

fn disk_is_short(root: &Path) -> bool {
    let Ok(disk) = rustix::fs::statvfs(root) else { return false };
    let free_bytes = u128::from(disk.f_bavail) * u128::from(disk.f_frsize);
    is_below(disk.f_bavail, disk.f_blocks, DISK_AVAILABLE_MIN_PERCENT)
        && free_bytes < DISK_AVAILABLE_MIN_BYTES
        || is_below(disk.f_favail, disk.f_files, INODES_FREE_MIN_PERCENT)
}

/// File systems that do not count (a total of zero) are never short.
fn is_below(free: u64, total: u64, percent: u64) -> bool {
    total > 0 && u128::from(free) * 100 < u128::from(total) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(uid: &str, priority: i32, used: i64, requested: i64) -> Candidate {
        Candidate { uid: uid.into(), priority, used, requested }
    }

    #[test]
    fn those_over_their_request_go_first_then_the_unimportant_then_the_greedy() {
        let within = candidate("within", 0, 50, 100);
        let over = candidate("over", 5, 200, 100);
        let over_less_important = candidate("low", 1, 150, 100);
        let greedy = candidate("greedy", 1, 900, 100);
        let critical = candidate("critical", CRITICAL_PRIORITY, 9999, 0);
        let pick = |list: &[Candidate]| first_to_go(list).map(|c| c.uid.clone());
        assert_eq!(pick(&[within.clone(), over.clone(), critical.clone()]).unwrap(), "over");
        let all = [within, over, over_less_important, greedy];
        assert_eq!(pick(&all).unwrap(), "greedy");
        assert_eq!(pick(&[critical]), None);
    }

    #[test]
    fn only_empty_dirs_on_disk_are_watched() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [],
            "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "b", "emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}},
                {"name": "c", "emptyDir": {}}]}}))
        .unwrap();
        assert_eq!(limited_dirs(&pod), [("a".to_owned(), 1 << 20, "1Mi".to_owned())]);
    }
}
