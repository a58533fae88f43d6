//! Removes what nothing needs any more: dead runs, images, pods that nobody knows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use atoll_image::GcPolicy;

use crate::context::Context;
use crate::pod::track::Run;
use crate::pod::{image_volume, spec};
use crate::pods::PodIndex;

/// Use of the disk at which images go, and down to which.
pub const HIGH_PERCENT: u8 = 85;
pub const LOW_PERCENT: u8 = 80;
const MIN_UNUSED: Duration = Duration::from_secs(120);

/// Removes an ended run: its record, its root file system, its log.
pub async fn remove_run(cx: &Context, run: &Run, log: Option<PathBuf>) {
    let key = &run.reference.key;
    if let Err(error) = cx.runtime.remove(&run.reference).await {
        tracing::warn!(container = %key, %error, "dead container not removed");
        return;
    }
    let dir = spec::rootfs_dir(&cx.config, key);
    let rootfs = dir.join("rootfs");
    if rootfs.exists()
        && let Err(error) = cx.images.unmount(&rootfs).await
    {
        tracing::warn!(container = %key, %error, "root file system not unmounted");
        return;
    }
    let message = spec::message_file(&cx.config.pods_dir(), key);
    let removed = tokio::task::spawn_blocking(move || atoll_image::remove_tree(&dir)).await;
    let mut removals = vec![removed.unwrap_or_else(|error| Err(std::io::Error::other(error)))];
    removals.push(tokio::fs::remove_file(&message).await);
    for path in log.iter().flat_map(|log| log_files(log)) {
        removals.push(tokio::fs::remove_file(path).await);
    }
    for error in removals.into_iter().filter_map(Result::err) {
        if error.kind() != std::io::ErrorKind::NotFound {
            tracing::warn!(container = %key, %error, "leftover of a dead container");
        }
    }
}

/// The log of one run and its rotated parts.
fn log_files(log: &std::path::Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let name = name.to_string_lossy().into_owned();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let found = entry.file_name();
            let found = found.to_string_lossy();
            found == name || found.strip_prefix(&name).is_some_and(|rest| rest.starts_with('.'))
        })
        .map(|entry| entry.path())
        .collect()
}

/// Digests of the images that containers on this node were made from.
#[must_use]
pub fn images_in_use(index: &PodIndex) -> Vec<String> {
    let mut digests = BTreeSet::new();
    for handle in index.all().values() {
        let shown = handle.shown.borrow().clone();
        for container in shown.containers.values() {
            let runs = container.current.iter().chain(&container.previous);
            digests.extend(runs.map(|run| run.image_digest.clone()));
        }
    }
    digests.into_iter().filter(|digest| !digest.is_empty()).collect()
}

/// Lets unused images go when the disk is full.
pub async fn collect_images(cx: &Context, mut in_use: Vec<String>) {
    in_use.extend(image_volume::digests(&cx.config));
    let policy = GcPolicy {
        high_percent: HIGH_PERCENT,
        low_percent: LOW_PERCENT,
        min_unused: MIN_UNUSED,
        in_use,
    };
    match cx.images.gc(&policy).await {
        Ok(report) if report.removed.is_empty() => {}
        Ok(report) => {
            let (images, bytes) = (report.removed.len(), report.freed_bytes);
            tracing::info!(images, bytes, "unused images removed");
        }
        Err(error) => tracing::warn!(%error, "images not collected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_log_has_its_rotated_parts() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["1.log", "1.log.20260102-150405", "1.log.20260102-150405.gz", "10.log", "11.log"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(log_files(&dir.path().join("1.log")).len(), 3);
    }
}
