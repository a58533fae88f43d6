//! Directories inside a root that is not to be trusted: resolved by the kernel, no symlink
//! of it leads out.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens `path` beneath `root`, where absolute symlinks begin at `root` too.
pub(crate) fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
}

/// Makes the directory with its parents when it is missing. What it cannot make (a
/// read-only root, a file in the way) the command's own chdir will tell.
pub(crate) fn make_dir(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
    let mut at = PathBuf::from(".");
    let mut parent = open(root, &at, DIRECTORY)?;
    for name in path.components() {
        let Component::Normal(name) = name else { continue };
        at.push(name);
        parent = match open(root, &at, DIRECTORY) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::ROFS) => {}
                    Err(error) => return Err(error),
                }
                match open(root, &at, DIRECTORY) {
                    Err(Errno::NOENT) => return Ok(()),
                    other => other?,
                }
            }
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}
