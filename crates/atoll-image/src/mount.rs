//! Root file systems: overlayfs over a layer's directories.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};
use serde::{Deserialize, Serialize};

use crate::config::MountDirs;
use crate::error::Error;
use crate::image::ImageInfo;
use crate::index::write_atomic;

/// Kernels before 6.5 take the layers as one long string only. They log each refusal, so
/// that one is enough.
static TAKES_A_LIST: AtomicBool = AtomicBool::new(true);

/// A page: what the old mount call takes as options.
const OPTIONS_BYTES_MAX: usize = 4095;

/// `mounts/<hash>.json`: what garbage collection must not touch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) rootfs: PathBuf,
    pub(crate) diff_ids: Vec<String>,
    /// A container mounts it where nobody else sees it: it counts while its directory is
    /// there.
    #[serde(default)]
    lent: bool,
}

impl Record {
    fn is_in_use(&self) -> bool {
        if self.lent { self.rootfs.exists() } else { is_mounted(&self.rootfs) }
    }
}

fn record_path(root: &Path, rootfs: &Path) -> PathBuf {
    let name = crate::digest::of(rootfs.as_os_str().as_encoded_bytes());
    let short: String = crate::digest::hex(&name).chars().take(24).collect();
    root.join("mounts").join(format!("{short}.json"))
}

pub(crate) fn is_mounted(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else { return false };
    let Some(parent) = path.parent() else { return true };
    match (rustix::fs::stat(&path), rustix::fs::stat(parent)) {
        (Ok(own), Ok(parent)) => own.st_dev != parent.st_dev,
        _ => false,
    }
}

/// Mounts the layers, lowest first in `lower`. Blocks.
pub(crate) fn mount(
    store_root: &Path,
    image: &ImageInfo,
    lower: &[PathBuf],
    dirs: &MountDirs,
) -> Result<(), Error> {
    let name = image.tags.first().unwrap_or(&image.digest).clone();
    let failed = |what: &'static str| {
        let (image, path) = (name.clone(), dirs.rootfs.clone());
        move |source: io::Error| Error::Mount { image, path, what, source }
    };
    if is_mounted(&dirs.rootfs) {
        return Ok(());
    }
    prepare(store_root, image, lower, dirs, false)?;
    let by_options = || mount_by_options(lower, dirs).map_err(failed("overlayfs refused it"));
    if !TAKES_A_LIST.load(Ordering::Relaxed) {
        return by_options();
    }
    match mount_by_descriptors(lower, dirs) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            by_options()?;
            TAKES_A_LIST.store(false, Ordering::Relaxed);
            Ok(())
        }
        Err(rustix::io::Errno::NODEV) => Err(failed(
            "this kernel has no overlayfs; load it with `modprobe overlay`",
        )(rustix::io::Errno::NODEV.into())),
        Err(error) => Err(failed("overlayfs refused it")(error.into())),
    }
}

/// Directories and record of a mount that is to follow. Blocks.
pub(crate) fn prepare(
    store_root: &Path,
    image: &ImageInfo,
    lower: &[PathBuf],
    dirs: &MountDirs,
    lent: bool,
) -> Result<(), Error> {
    let failed = |what: &'static str| {
        let image = image.tags.first().unwrap_or(&image.digest).clone();
        let path = dirs.rootfs.clone();
        move |source: io::Error| Error::Mount { image, path, what, source }
    };
    for dir in [&dirs.rootfs, &dirs.upper, &dirs.work] {
        fs::create_dir_all(dir).map_err(|e| Error::io("creating", dir, e))?;
    }
    if lower.is_empty() {
        return Err(failed("it has no layers")(io::Error::from(io::ErrorKind::InvalidInput)));
    }
    root_like_image(lower, &dirs.upper).map_err(failed("preparing its root directory"))?;
    let record = Record {
        version: 1,
        rootfs: dirs.rootfs.clone(),
        diff_ids: image.layers.iter().map(|layer| layer.diff_id.clone()).collect(),
        lent,
    };
    let text = serde_json::to_vec(&record).map_err(|source| Error::Corrupt {
        what: "mount record",
        path: dirs.rootfs.clone(),
        source,
    })?;
    // Before the mount, so that there is none without a record.
    write_atomic(&record_path(store_root, &dirs.rootfs), &text)
}

/// The root directory's own mode and owner are those of the upper directory: copy the
/// image's.
fn root_like_image(lower: &[PathBuf], upper: &Path) -> io::Result<()> {
    let Some(top) = lower.last() else { return Ok(()) };
    let stat = rustix::fs::stat(top)?;
    rustix::fs::chmod(upper, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(upper, Some(stat.st_uid), Some(stat.st_gid))?;
    }
    Ok(())
}

fn mount_by_descriptors(lower: &[PathBuf], dirs: &MountDirs) -> Result<(), rustix::io::Errno> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context = std::os::fd::AsFd::as_fd(&context);
    // Overlayfs counts from the top.
    for layer in lower.iter().rev() {
        rustix::mount::fsconfig_set_string(context, "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(context, "upperdir", &dirs.upper)?;
    rustix::mount::fsconfig_set_string(context, "workdir", &dirs.work)?;
    rustix::mount::fsconfig_create(context)?;
    // No device node of an image is ever a device.
    let mount = rustix::mount::fsmount(
        context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    rustix::mount::move_mount(
        std::os::fd::AsFd::as_fd(&mount),
        "",
        CWD,
        &dirs.rootfs,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
}

/// The string must fit into a page, and must not be taken apart at a comma or colon of a
/// path: it names descriptors.
fn mount_by_options(lower: &[PathBuf], dirs: &MountDirs) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &PathBuf| rustix::fs::open(path, flags, Mode::empty());
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let layers = lower.iter().rev().map(open).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&dirs.upper)?, open(&dirs.work)?);
    let names: Vec<String> = layers.iter().map(name).collect();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", names.join(":"), name(&upper), name(&work));
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(io::Error::other(format!(
            "{} layers need more than a page of mount options; a kernel from 6.5 on has no \
             such limit",
            lower.len()
        )));
    }
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount(
        "overlay",
        &dirs.rootfs,
        "overlay",
        MountFlags::NODEV,
        options.as_c_str(),
    )?;
    Ok(())
}

/// Unmounts, and forgets the record; nothing happens when nothing is mounted. Blocks.
pub(crate) fn unmount(store_root: &Path, rootfs: &Path) -> Result<(), Error> {
    while is_mounted(rootfs) {
        rustix::mount::unmount(rootfs, UnmountFlags::DETACH).map_err(|e| Error::Io {
            what: "unmounting",
            path: rootfs.to_owned(),
            source: e.into(),
        })?;
    }
    let record = record_path(store_root, rootfs);
    match fs::remove_file(&record) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Io { what: "removing", path: record, source }),
    }
}

/// Every mount that is recorded; those that are gone are forgotten.
pub(crate) fn records(store_root: &Path) -> Vec<Record> {
    let Ok(entries) = fs::read_dir(store_root.join("mounts")) else { return Vec::new() };
    let mut records = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        let Ok(text) = fs::read(entry.path()) else { continue };
        let Ok(record) = serde_json::from_slice::<Record>(&text) else { continue };
        if record.is_in_use() {
            records.push(record);
        } else if let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(%error, path = %entry.path().display(), "forgetting a mount");
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kernels before 6.5 need, with the most layers that an image may have and
    /// with characters that mean something in mount options.
    #[test]
    fn many_layers_fit_into_the_old_calls_page() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "mounting needs root, and CI must give it");
            return;
        }
        let folder = tempfile::Builder::new().prefix("a,b:c").tempdir().unwrap();
        let long = folder.path().join("x".repeat(100));
        let lower: Vec<PathBuf> = (0..127).map(|n| long.join(format!("layer-{n}"))).collect();
        for (index, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join("top"), index.to_string()).unwrap();
        }
        let dirs = MountDirs {
            rootfs: long.join("rootfs"),
            upper: long.join("upper"),
            work: long.join("work"),
        };
        for dir in [&dirs.rootfs, &dirs.upper, &dirs.work] {
            fs::create_dir_all(dir).unwrap();
        }
        mount_by_options(&lower, &dirs).unwrap();
        let shown = fs::read_to_string(dirs.rootfs.join("top"));
        unmount(folder.path(), &dirs.rootfs).unwrap();
        assert_eq!(shown.unwrap(), "126");
    }
}
