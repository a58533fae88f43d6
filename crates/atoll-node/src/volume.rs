//! Volumes: makes the files and mounts that a pod's containers see, and keeps them up to
//! date.
//!
//! `plan` says what each volume is made of (it may need ConfigMaps, Secrets and tokens
//! fetched before), [`apply`] makes it so; applying twice changes nothing.

pub mod atomic;
pub mod folders;
pub mod gather;
pub mod host_path;
pub mod ownership;
pub mod payload;
pub mod persistent;
pub mod subpath;
pub mod token;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

pub use ownership::Ownership;
pub use payload::Payload;

/// Why a volume is not there (yet); shown in a FailedMount event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub struct VolumeError {
    pub volume: String,
    pub reason: String,
}

/// What one volume is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// Files written by us; in memory when they are secret.
    Files {
        payload: Payload,
        in_memory: bool,
    },
    EmptyDir {
        in_memory: bool,
        size_bytes: u64,
    },
    HostPath {
        path: PathBuf,
        kind: String,
    },
    /// A folder that outlives the pod.
    Folder {
        path: PathBuf,
        /// `fsGroupChangePolicy: OnRootMismatch`.
        only_on_mismatch: bool,
    },
}

/// Where everything of a pod's volumes stands.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// `<root>/pods/<uid>/volumes`.
    pub volumes: PathBuf,
    /// False without root: secrets stand on disk then, where only their owner reaches.
    pub can_mount: bool,
}

impl Dirs {
    #[must_use]
    pub fn of(pod_dir: &Path) -> Dirs {
        Dirs { volumes: pod_dir.join("volumes"), can_mount: true }
    }

    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes.join(name)
    }

    /// Where bind mounts of single paths inside volumes stand.
    #[must_use]
    pub fn subpaths(&self) -> PathBuf {
        self.volumes.with_file_name("subpaths")
    }
}

/// Makes all volumes; returns the path of each.
pub fn apply(
    dirs: &Dirs,
    plans: &BTreeMap<String, Plan>,
    owner: &Ownership,
) -> Result<BTreeMap<String, PathBuf>, VolumeError> {
    let mut paths = BTreeMap::new();
    for (name, plan) in plans {
        let path = apply_one(dirs, name, plan, owner)
            .map_err(|reason| VolumeError { volume: name.clone(), reason })?;
        paths.insert(name.clone(), path);
    }
    Ok(paths)
}

fn apply_one(dirs: &Dirs, name: &str, plan: &Plan, owner: &Ownership) -> Result<PathBuf, String> {
    let path = dirs.volume(name);
    let text = |error: io::Error| format!("{}: {error}", path.display());
    match plan {
        Plan::HostPath { path, kind } => {
            host_path::check(path, kind)?;
            return Ok(path.clone());
        }
        Plan::Folder { path: folder, only_on_mismatch } => {
            // What stands at the volume's own place says that the files were given away once:
            // a large volume is not walked through at every look.
            if !path.exists() {
                owner
                    .apply_tree(folder, *only_on_mismatch)
                    .map_err(|error| format!("{}: {error}", folder.display()))?;
                std::fs::create_dir_all(&path).map_err(text)?;
            }
            return Ok(folder.clone());
        }
        Plan::EmptyDir { in_memory, size_bytes } => {
            let mut fresh = !path.exists();
            std::fs::create_dir_all(&path).map_err(text)?;
            if *in_memory && dirs.can_mount {
                fresh |= mount_tmpfs(&path, *size_bytes).map_err(text)?;
            }
            if fresh {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
                    .map_err(text)?;
                owner.apply_dir(&path).map_err(text)?;
            }
        }
        Plan::Files { payload, in_memory } => {
            let mut fresh = !path.exists();
            std::fs::create_dir_all(&path).map_err(text)?;
            if *in_memory && dirs.can_mount {
                fresh |= mount_tmpfs(&path, 0).map_err(text)?;
            }
            if fresh {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
                    .map_err(text)?;
                owner.apply_read_only_dir(&path).map_err(text)?;
            }
            atomic::write(&path, payload, owner).map_err(text)?;
        }
    }
    Ok(path)
}

/// Whether it did: not where a tmpfs is mounted already.
fn mount_tmpfs(path: &Path, size_bytes: u64) -> io::Result<bool> {
    if is_mount_point(path)? {
        return Ok(false);
    }
    let size = if size_bytes > 0 { format!("size={size_bytes},") } else { String::new() };
    let options = std::ffi::CString::new(format!("{size}mode=0777"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(options.as_c_str()))?;
    Ok(true)
}

pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let path = std::fs::canonicalize(path)?;
    let wanted = escape(&path.to_string_lossy());
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(wanted.as_str())))
}

/// How the kernel writes paths in its mount table.
fn escape(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// Takes down every mount below the pod's folder, deepest first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let Ok(dir) = std::fs::canonicalize(dir) else { return Ok(()) };
    let prefix = format!("{}/", escape(&dir.to_string_lossy()));
    let mut points: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&prefix))
        .map(unescape)
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        match rustix::mount::unmount(point.as_str(), UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Bytes that a directory holds; what cannot be read counts nothing.
#[must_use]
pub fn used_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let mut total = 0;
    for entry in entries.flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        total += if meta.is_dir() {
            used_bytes(&entry.path())
        } else {
            std::os::unix::fs::MetadataExt::blocks(&meta) * 512
        };
    }
    total
}

#[cfg(test)]
#[path = "volume/tests.rs"]
mod tests;
