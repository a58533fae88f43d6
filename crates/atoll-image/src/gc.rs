//! Takes unused images and layers away.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::blob;
use crate::config::{GcPolicy, GcReport};
use crate::error::Error;
use crate::index::{Content, Index, now};
use crate::layer::Layers;
use crate::mount;

/// Shared while a pull or an import runs, exclusive while collecting: what a pull has
/// unpacked is in no index yet. The kernel gives it back when its holder dies.
#[derive(Debug)]
pub(crate) struct Lease {
    _file: fs::File,
}

fn open(root: &Path) -> Result<fs::File, Error> {
    let path = root.join("pulls.lock");
    fs::File::create(&path).map_err(|source| Error::Io { what: "opening", path, source })
}

impl Lease {
    /// Blocks while a collection runs.
    pub(crate) fn take(root: &Path) -> Result<Lease, Error> {
        let file = open(root)?;
        rustix::fs::flock(&file, FlockOperation::LockShared).map_err(|e| Error::Io {
            what: "locking",
            path: root.join("pulls.lock"),
            source: e.into(),
        })?;
        Ok(Lease { _file: file })
    }

    fn take_alone(root: &Path) -> Result<Option<Lease>, Error> {
        let file = open(root)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lease { _file: file })),
            Err(_busy) => Ok(None),
        }
    }
}

/// How full the store's file system is, in percent.
fn used_percent(root: &Path) -> u64 {
    let Ok(fs) = rustix::fs::statvfs(root) else { return 0 };
    let used = fs.f_blocks.saturating_sub(fs.f_bfree);
    // Of what ordinary users may use, as `df` counts.
    let all = used + fs.f_bavail;
    (used * 100).checked_div(all).unwrap_or(0)
}

/// Collects while the file system is over the policy's marks. While something is being
/// pulled nothing is collected. Blocks.
pub(crate) fn collect(
    root: &Path,
    index: &Index,
    layers: &Layers,
    policy: &GcPolicy,
) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    let Some(_alone) = Lease::take_alone(root)? else { return Ok(report) };
    sweep_orphans(root, index, layers, &mut report)?;
    let full = used_percent(root) >= u64::from(policy.high_percent);
    report.freed_bytes += blob::sweep(root, full);
    if used_percent(root) < u64::from(policy.high_percent) {
        return Ok(report);
    }
    let oldest = now() - i64::try_from(policy.min_unused.as_secs()).unwrap_or(i64::MAX);
    let mut candidates: Vec<(i64, String)> = index
        .read()?
        .images
        .iter()
        .filter(|e| !policy.in_use.contains(&e.image.digest) && e.last_used_at <= oldest)
        .map(|e| (e.last_used_at, e.image.digest.clone()))
        .collect();
    candidates.sort();
    for (_, digest) in candidates {
        if used_percent(root) <= u64::from(policy.low_percent) {
            break;
        }
        index.change(|content| content.images.retain(|e| e.image.digest != digest))?;
        report.removed.push(digest);
        sweep_orphans(root, index, layers, &mut report)?;
    }
    Ok(report)
}

/// Removes layers that no image and no mount has.
pub(crate) fn sweep_orphans(
    root: &Path,
    index: &Index,
    layers: &Layers,
    report: &mut GcReport,
) -> Result<(), Error> {
    let keep = kept(&index.read()?, root);
    for diff_id in layers.all() {
        if keep.contains(&diff_id) {
            continue;
        }
        report.freed_bytes += layers.get(&diff_id).map_or(0, |layer| layer.size_bytes);
        layers.remove(&diff_id)?;
    }
    Ok(())
}

fn kept(content: &Content, root: &Path) -> HashSet<String> {
    let listed = content
        .images
        .iter()
        .flat_map(|entry| entry.image.layers.iter().map(|layer| layer.diff_id.clone()));
    let mounted = mount::records(root).into_iter().flat_map(|record| record.diff_ids);
    listed.chain(mounted).collect()
}

/// Orphans alone, when nobody pulls: after an image was removed.
pub(crate) fn sweep(root: &Path, index: &Index, layers: &Layers) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    if let Some(_alone) = Lease::take_alone(root)? {
        sweep_orphans(root, index, layers, &mut report)?;
    }
    Ok(report)
}

/// Runs `work` while nobody pulls, or not at all.
pub(crate) fn alone(root: &Path, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    match Lease::take_alone(root)? {
        Some(_alone) => work(),
        None => Ok(()),
    }
}
