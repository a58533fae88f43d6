//! Unpacks one layer's archive into a directory, trusting nothing in it.
//!
//! Every path is resolved by the kernel beneath the directory (`openat2` with
//! `RESOLVE_IN_ROOT`), so that neither `..` nor a symlink planted earlier leads out of it.
//! Deleted files of lower layers become overlayfs' own marks.

mod header;

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use header::Member;

/// Why a layer is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// The archive means harm, or is beyond the limits.
    #[error("{0}")]
    Hostile(String),
    #[error("its archive is damaged")]
    Damaged(#[source] io::Error),
    #[error("unpacking {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// Unpacked size and number of entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) bytes_max: u64,
    pub(crate) entries_max: u64,
}

/// Longest path in an archive, as the kernel has it.
const PATH_BYTES_MAX: usize = 4096;

/// Unpacks the archive below `root`, an empty directory.
pub(crate) fn unpack(
    archive: &mut impl Read,
    root: &Path,
    bounds: Bounds,
) -> Result<Unpacked, UnpackError> {
    let root_fd =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| UnpackError::Write { path: root.to_owned(), source: e.into() })?;
    let mut layer = Unpacker {
        root: root_fd,
        parent: None,
        is_root: rustix::process::geteuid().is_root(),
        directories: Vec::new(),
        done: Unpacked::default(),
        bounds,
    };
    header::each(archive, |member, content| layer.member(member, content))?;
    layer.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// The directory of the last entry: most entries follow their siblings.
    parent: Option<(PathBuf, OwnedFd)>,
    is_root: bool,
    /// Modification times that come last: writing into a directory changes its own.
    directories: Vec<(PathBuf, Timespec)>,
    done: Unpacked,
    bounds: Bounds,
}

fn hostile(path: &Path, what: &str) -> UnpackError {
    UnpackError::Hostile(format!("{} {what}", path.display()))
}

fn write_error(path: &Path) -> impl FnOnce(Errno) -> UnpackError {
    let path = path.to_owned();
    move |e| UnpackError::Write { path, source: e.into() }
}

/// The path's normal components; `..` is refused, leading `/` and `.` are dropped.
fn clean(path: &Path) -> Result<PathBuf, UnpackError> {
    use std::path::Component;
    if path.as_os_str().len() > PATH_BYTES_MAX {
        return Err(UnpackError::Hostile(format!(
            "a path is {} bytes long",
            path.as_os_str().len()
        )));
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(hostile(path, "leads out of the image (`..`)")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(clean)
}

impl Unpacker {
    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > self.bounds.entries_max {
            return Err(UnpackError::Hostile(format!(
                "it holds more than {} files",
                self.bounds.entries_max
            )));
        }
        let path = clean(&member.path)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root directory itself.
            return self.finish_entry(&path, member, None);
        };
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&dir)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&path, hidden);
        }
        self.create(&path, &name, member, content)?;
        self.finish_entry(&path, member, Some(&name))
    }

    fn parent_fd(&self) -> &OwnedFd {
        self.parent.as_ref().map_or(&self.root, |(_, fd)| fd)
    }

    /// Opens the directory, making what is missing of it.
    fn enter(&mut self, dir: &Path) -> Result<(), UnpackError> {
        if self.parent.as_ref().is_some_and(|(known, _)| known == dir) {
            return Ok(());
        }
        self.parent = None;
        if dir.as_os_str().is_empty() {
            return Ok(());
        }
        let fd = match self.open_dir(dir) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => self.make_dirs(dir)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return Err(hostile(dir, "is used as a directory and is none"));
            }
            Err(error) => return Err(write_error(dir)(error)),
        };
        self.parent = Some((dir.to_owned(), fd));
        Ok(())
    }

    fn open_dir(&self, dir: &Path) -> Result<OwnedFd, Errno> {
        resolve(&self.root, dir, OFlags::PATH | OFlags::DIRECTORY)
    }

    fn make_dirs(&self, dir: &Path) -> Result<OwnedFd, UnpackError> {
        let mut at = PathBuf::new();
        let mut fd = self
            .root
            .try_clone()
            .map_err(|source| UnpackError::Write { path: dir.to_owned(), source })?;
        for name in dir.components() {
            at.push(name);
            let opened = match self.open_dir(&at) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&fd, name.as_os_str(), Mode::from_raw_mode(0o755))
                        .map_err(write_error(&at))?;
                    self.open_dir(&at)
                }
                other => other,
            };
            fd = opened.map_err(write_error(&at))?;
        }
        Ok(fd)
    }

    fn whiteout(&mut self, path: &Path, hidden: &[u8]) -> Result<(), UnpackError> {
        if hidden == b".wh..opq" {
            return self.set_opaque(path);
        }
        if hidden.is_empty() || hidden.starts_with(b".wh.") || hidden == b"." || hidden == b".." {
            return Err(hostile(path, "is no valid deletion mark"));
        }
        let name = OsStr::from_bytes(hidden);
        self.clear(path, name)?;
        rustix::fs::mknodat(
            self.parent_fd(),
            name,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        )
        .map_err(write_error(path))
    }

    /// Nothing of the lower layers' directory shows.
    fn set_opaque(&self, path: &Path) -> Result<(), UnpackError> {
        let name = if self.is_root { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
        let dir = rustix::fs::openat(
            self.parent_fd(),
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(write_error(path))?;
        rustix::fs::fsetxattr(&dir, name, b"y", XattrFlags::empty()).map_err(write_error(path))
    }

    /// Makes room for an entry: a later one of the same name replaces the earlier.
    fn clear(&self, path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        match rustix::fs::unlinkat(self.parent_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {
                rustix::fs::unlinkat(self.parent_fd(), name, AtFlags::REMOVEDIR)
                    .map_err(write_error(path))
            }
            Err(error) => Err(write_error(path)(error)),
        }
    }

    fn create(
        &mut self,
        path: &Path,
        name: &OsStr,
        member: &Member,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        use tar::EntryType;
        if member.kind == EntryType::Directory {
            return self.create_dir(path, name);
        }
        self.clear(path, name)?;
        let node = |kind| {
            let (major, minor) = member.device;
            rustix::fs::mknodat(
                self.parent_fd(),
                name,
                kind,
                Mode::from_raw_mode(0o600),
                rustix::fs::makedev(major, minor),
            )
            .map_err(write_error(path))
        };
        match member.kind {
            EntryType::Regular | EntryType::Continuous => {
                self.create_file(path, name, member, content)
            }
            EntryType::Symlink => rustix::fs::symlinkat(&member.link, self.parent_fd(), name)
                .map_err(write_error(path)),
            EntryType::Link => self.hard_link(path, name, &member.link),
            EntryType::Char => node(FileType::CharacterDevice),
            EntryType::Block => node(FileType::BlockDevice),
            EntryType::Fifo => node(FileType::Fifo),
            other => Err(UnpackError::Hostile(format!(
                "{} is of a kind that images do not have ({other:?})",
                path.display()
            ))),
        }
    }

    fn create_dir(&self, path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        match rustix::fs::mkdirat(self.parent_fd(), name, Mode::from_raw_mode(0o755)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(self.parent_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(write_error(path))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Ok(());
                }
                self.clear(path, name)?;
                rustix::fs::mkdirat(self.parent_fd(), name, Mode::from_raw_mode(0o755))
                    .map_err(write_error(path))
            }
            Err(error) => Err(write_error(path)(error)),
        }
    }

    fn create_file(
        &mut self,
        path: &Path,
        name: &OsStr,
        member: &Member,
        content: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        self.done.bytes = self.done.bytes.saturating_add(member.size);
        if self.done.bytes > self.bounds.bytes_max {
            return Err(UnpackError::Hostile(crate::digest::TOO_LARGE.to_owned()));
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.parent_fd(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(write_error(path))?;
        let mut file = std::fs::File::from(fd);
        let mut buffer = [0u8; 64 * 1024];
        loop {
            let length = content.read(&mut buffer).map_err(UnpackError::Damaged)?;
            if length == 0 {
                return Ok(());
            }
            io::Write::write_all(&mut file, &buffer[..length])
                .map_err(|source| UnpackError::Write { path: path.to_owned(), source })?;
        }
    }

    /// Only to what this layer has: by tar's rules the target came before.
    fn hard_link(&self, path: &Path, name: &OsStr, target: &Path) -> Result<(), UnpackError> {
        let clean_target = clean(target)?;
        let Some(target_name) = clean_target.file_name() else {
            return Err(hostile(path, "is a hard link to the root"));
        };
        let dir = clean_target.parent().unwrap_or(Path::new("."));
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        let dir = self.open_dir(dir).map_err(write_error(&clean_target))?;
        match rustix::fs::linkat(&dir, target_name, self.parent_fd(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(hostile(
                path,
                &format!("is a hard link to {}, which is not in the layer", target.display()),
            )),
            Err(error) => Err(write_error(path)(error)),
        }
    }

    /// Owner, attributes, mode and time, in the order in which none undoes another.
    fn finish_entry(
        &mut self,
        path: &Path,
        member: &Member,
        name: Option<&OsStr>,
    ) -> Result<(), UnpackError> {
        use tar::EntryType;
        if member.kind == EntryType::Link {
            return Ok(());
        }
        let (dir, name) = match name {
            Some(name) => (self.parent_fd(), name),
            None => (&self.root, OsStr::new(".")),
        };
        if self.is_root {
            rustix::fs::chownat(
                dir,
                name,
                Some(rustix::fs::Uid::from_raw(member.uid)),
                Some(rustix::fs::Gid::from_raw(member.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(write_error(path))?;
        }
        let at = Timespec { tv_sec: member.mtime, tv_nsec: 0 };
        if member.kind != EntryType::Symlink {
            set_xattrs(dir, name, member, path)?;
            let bits = member.mode & 0o7777;
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(bits), AtFlags::empty())
                .map_err(write_error(path))?;
        }
        if member.kind == EntryType::Directory {
            self.directories.push((path.to_owned(), at));
            return Ok(());
        }
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(write_error(path))
    }

    fn finish(self) -> Result<Unpacked, UnpackError> {
        // Deepest first, as setting a child's time does not touch the parent's, but order
        // costs nothing and is easy to trust.
        for (path, at) in self.directories.iter().rev() {
            let times = Timestamps { last_access: *at, last_modification: *at };
            let target = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // A directory may have been replaced by a later entry of the same name.
            let Ok(fd) = resolve(&self.root, target, OFlags::RDONLY | OFlags::DIRECTORY) else {
                continue;
            };
            rustix::fs::futimens(&fd, &times).map_err(write_error(path))?;
        }
        Ok(self.done)
    }
}

/// Opens a path beneath `root`, where absolute symlinks begin at `root` too.
fn resolve(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
}

/// Attributes go by an open descriptor: there is no `setxattrat` on older kernels.
fn set_xattrs(
    dir: &OwnedFd,
    name: &OsStr,
    member: &Member,
    path: &Path,
) -> Result<(), UnpackError> {
    use tar::EntryType;
    if member.xattrs.is_empty()
        || !matches!(member.kind, EntryType::Regular | EntryType::Continuous | EntryType::Directory)
    {
        return Ok(());
    }
    let file = rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(write_error(path))?;
    for (key, value) in &member.xattrs {
        // Only what an image may carry; overlayfs' own marks would hide or show files at
        // will.
        if !key.starts_with("security.capability") && !key.starts_with("user.") {
            continue;
        }
        if key.starts_with("user.overlay.") {
            continue;
        }
        match rustix::fs::fsetxattr(file.as_fd(), key.as_str(), value, XattrFlags::empty()) {
            // A file system without them, or no right to set them.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(write_error(path)(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
