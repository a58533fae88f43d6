//! A single path inside a volume, found without following links out of it, and pinned by
//! a bind mount so that it cannot be exchanged afterwards.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Opens `relative` beneath `root`, making directories that are missing.
fn open_beneath(root: &Path, relative: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut done = PathBuf::new();
    let mut parent = root.try_clone()?;
    for part in Path::new(relative).components() {
        let std::path::Component::Normal(part) = part else {
            return Err(io::Error::other("a subPath has only names, no `..`"));
        };
        done.push(part);
        parent = match rustix::fs::openat2(&root, &done, flags, Mode::empty(), resolve) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, part, Mode::from_raw_mode(0o750))?;
                rustix::fs::openat2(&root, &done, flags, Mode::empty(), resolve)?
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(parent)
}

/// The place at which `volume/relative` is shown; mounted once.
pub fn pin(volume: &Path, relative: &str, at: &Path) -> io::Result<PathBuf> {
    if at.exists() && super::is_mount_point(at)? {
        return Ok(at.to_path_buf());
    }
    let found = open_beneath(volume, relative)?;
    let stat = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH)?;
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        std::fs::create_dir_all(at)?;
    } else if !at.exists() {
        std::fs::File::create(at)?;
    }
    let source = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::mount::mount_bind(source.as_str(), at)?;
    Ok(at.to_path_buf())
}

/// Where `volume/relative` really is, for who mounts it himself.
pub fn find(volume: &Path, relative: &str) -> io::Result<PathBuf> {
    let found = open_beneath(volume, relative)?;
    std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for path in ["out", "up/x", "../x", "/etc"] {
            assert!(open_beneath(&volume, path).is_err(), "{path}");
        }
    }
}
