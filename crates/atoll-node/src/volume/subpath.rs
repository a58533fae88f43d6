//! A single path inside a volume, found without following links out of it, and pinned by
//! a bind mount so that it cannot be exchanged afterwards.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::UnmountFlags;

/// Opens `relative` beneath `root`, making directories that are missing, as open to others
/// as the volume itself.
fn open_beneath(root: &Path, relative: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let mode = rustix::fs::statat(&root, "", AtFlags::EMPTY_PATH)?.st_mode & 0o7777;
    let mut done = PathBuf::new();
    let mut parent = root.try_clone()?;
    for part in Path::new(relative).components() {
        let std::path::Component::Normal(part) = part else {
            return Err(io::Error::other("a subPath has only names, no `..`"));
        };
        done.push(part);
        parent = match resolve(&root, &done) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o700))?;
                let made = resolve(&root, &done)?;
                // The process's umask has no say.
                let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
                made
            }
            Err(rustix::io::Errno::XDEV) => {
                let shown = done.display();
                return Err(io::Error::other(format!("\"{shown}\" leads out of the volume")));
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(parent)
}

fn resolve(root: &OwnedFd, relative: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let rules = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, relative, flags, Mode::empty(), rules)
}

/// The place at which `volume/relative` is shown. What is mounted there is kept as long as
/// it is what the path leads to: a ConfigMap's file is another one after an update.
pub fn pin(volume: &Path, relative: &str, at: &Path) -> io::Result<PathBuf> {
    pin_found(&open_beneath(volume, relative)?, at)
}

/// As `pin`, of a volume that nothing is added to. Links lead as they would in a container whose
/// root the volume is.
pub fn pin_existing(volume: &Path, relative: &str, at: &Path) -> io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    let rules = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(root, relative, flags, Mode::empty(), rules)
        .map_err(|error| io::Error::other(format!("\"{relative}\": {}", io::Error::from(error))))?;
    pin_found(&found, at)
}

fn pin_found(found: &OwnedFd, at: &Path) -> io::Result<PathBuf> {
    let stat = rustix::fs::statat(found, "", AtFlags::EMPTY_PATH)?;
    if at.exists() && super::is_mount_point(at)? {
        let shown = rustix::fs::stat(at)?;
        if (shown.st_dev, shown.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(at.to_path_buf());
        }
        rustix::mount::unmount(at, UnmountFlags::DETACH)?;
    }
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent)?;
    }
    make_place(at, FileType::from_raw_mode(stat.st_mode) == FileType::Directory)?;
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(source.as_str(), at)?;
    Ok(at.to_path_buf())
}

/// A file is mounted on a file, a directory on a directory.
fn make_place(at: &Path, directory: bool) -> io::Result<()> {
    match at.symlink_metadata() {
        Ok(meta) if meta.is_dir() == directory => return Ok(()),
        Ok(meta) if meta.is_dir() => std::fs::remove_dir(at)?,
        Ok(_) => std::fs::remove_file(at)?,
        Err(_nothing_there) => {}
    }
    if directory { std::fs::create_dir(at) } else { std::fs::File::create(at).map(|_| ()) }
}

/// Where `volume/relative` really is, for who mounts it himself.
pub fn find(volume: &Path, relative: &str) -> io::Result<PathBuf> {
    let found = open_beneath(volume, relative)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::fs::create_dir(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("fine")).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("..", volume.join("up")).unwrap();
        open_beneath(&volume, "fine").unwrap();
        open_beneath(&volume, "new/deep").unwrap();
        assert_eq!(find(&volume, "fine").unwrap(), volume.canonicalize().unwrap().join("in"));
        assert!(volume.join("new/deep").is_dir());
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2777)).unwrap();
        open_beneath(&volume, "open/too").unwrap();
        assert_eq!(mode(&volume.join("open/too")), 0o2777, "as the volume's root");
        for path in ["out", "up/x", "../x", "/etc"] {
            assert!(open_beneath(&volume, path).is_err(), "{path}");
        }
    }
}
