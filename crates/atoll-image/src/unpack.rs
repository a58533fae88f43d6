//! Unpacks one layer's archive into a directory, trusting nothing in it.
//!
//! Every path is resolved by the kernel beneath the directory (`openat2` with
//! `RESOLVE_IN_ROOT`), so that neither `..` nor a symlink planted earlier leads out of it.
//! Deleted files of lower layers become overlayfs' own marks.

mod header;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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

/// Bytes of directories' names that are remembered until the end; a layer with more of
/// them is refused. Images have a hundredth of it.
const REMEMBERED_BYTES_MAX: usize = 256 << 20;

/// What AUFS left in old images; means nothing here.
const AUFS_MARK: &[u8] = b".wh..wh.";

/// Unpacks the archive below `root`, an empty directory.
pub(crate) fn unpack(
    archive: &mut impl Read,
    root: &Path,
    bounds: Bounds,
) -> Result<Unpacked, UnpackError> {
    unpack_as(rustix::process::geteuid().is_root(), archive, root, bounds)
}

fn unpack_as(
    is_root: bool,
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
        is_root,
        directories: BTreeMap::new(),
        remembered_bytes: 0,
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
    directories: BTreeMap<PathBuf, Timespec>,
    remembered_bytes: usize,
    done: Unpacked,
    bounds: Bounds,
}

const NO_DIRECTORY: &str = "is used as a directory and is none";

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
        if path.as_os_str().as_bytes().starts_with(AUFS_MARK) && name != ".wh..wh..opq" {
            tracing::debug!(path = %path.display(), "left out: a note of AUFS");
            return Ok(());
        }
        self.enter(&dir)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&path, hidden);
        }
        if !self.is_root && matches!(member.kind, tar::EntryType::Char | tar::EntryType::Block) {
            // Only root may make it; mounted images have no devices anyway.
            tracing::debug!(path = %path.display(), "left out: a device");
            return self.clear(&path, &name);
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
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_dirs(dir)?,
            Err(Errno::LOOP) => return Err(hostile(dir, NO_DIRECTORY)),
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
                Err(Errno::NOENT | Errno::NOTDIR) => {
                    self.make_dir(&fd, &at, name.as_os_str())?;
                    self.open_dir(&at)
                }
                other => other,
            };
            fd = opened.map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP => hostile(&at, NO_DIRECTORY),
                error => write_error(&at)(error),
            })?;
        }
        Ok(fd)
    }

    /// A directory in place of nothing or of a deletion mark; what the mark hid stays
    /// hidden.
    fn make_dir(&self, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o755);
        match rustix::fs::mkdirat(parent, name, mode) {
            Err(Errno::EXIST) if self.found(parent, path, name)? == Found::Whiteout => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(write_error(path))?;
                rustix::fs::mkdirat(parent, name, mode).map_err(write_error(path))?;
                self.set_opaque(parent, name, path)
            }
            // A symlink that leads nowhere, or a file.
            Err(Errno::EXIST) => Ok(()),
            other => other.map_err(write_error(path)),
        }
    }

    fn found(&self, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<Found, UnpackError> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(write_error(path)(error)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
            _ => Found::File,
        })
    }

    /// A deletion mark is about lower layers only: what this layer has itself stays,
    /// wherever in the archive the mark stands.
    fn whiteout(&mut self, path: &Path, hidden: &[u8]) -> Result<(), UnpackError> {
        if hidden == b".wh..opq" {
            return self.set_opaque(self.parent_fd(), OsStr::new("."), path);
        }
        if hidden.is_empty() || hidden.starts_with(b".wh.") || hidden == b"." || hidden == b".." {
            return Err(hostile(path, "is no valid deletion mark"));
        }
        let name = OsStr::from_bytes(hidden);
        match self.found(self.parent_fd(), path, name)? {
            Found::Nothing => rustix::fs::mknodat(
                self.parent_fd(),
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .map_err(write_error(path)),
            Found::Directory => self.set_opaque(self.parent_fd(), name, path),
            Found::Whiteout | Found::File => Ok(()),
        }
    }

    /// Nothing of the lower layers' directory shows.
    fn set_opaque(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), UnpackError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir =
            rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(write_error(path))?;
        rustix::fs::fsetxattr(&dir, opaque_mark(), b"y", XattrFlags::empty())
            .map_err(write_error(path))
    }

    /// Makes room for an entry: a later one of the same name replaces the earlier, with
    /// all that is in it.
    fn clear(&self, path: &Path, name: &OsStr) -> Result<(), UnpackError> {
        match self.found(self.parent_fd(), path, name)? {
            Found::Nothing => Ok(()),
            Found::Directory => {
                // By descriptor: the library walks beneath it without following symlinks.
                let at = Path::new("/proc/self/fd")
                    .join(self.parent_fd().as_raw_fd().to_string())
                    .join(name);
                std::fs::remove_dir_all(at)
                    .map_err(|source| UnpackError::Write { path: path.to_owned(), source })
            }
            Found::Whiteout | Found::File => {
                rustix::fs::unlinkat(self.parent_fd(), name, AtFlags::empty())
                    .map_err(write_error(path))
            }
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
        if self.found(self.parent_fd(), path, name)? == Found::File {
            self.clear(path, name)?;
        }
        self.make_dir(self.parent_fd(), path, name)
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
        let missing = || {
            hostile(
                path,
                &format!("is a hard link to {}, which is not in the layer", target.display()),
            )
        };
        let dir = self.open_dir(dir).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => missing(),
            error => write_error(&clean_target)(error),
        })?;
        match rustix::fs::linkat(&dir, target_name, self.parent_fd(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(missing()),
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
            // Who is not root could neither fill nor remove a directory that is closed to him.
            let is_dir = member.kind == EntryType::Directory;
            let open = if is_dir && !self.is_root { 0o700 } else { 0 };
            let bits = member.mode & 0o7777 | open;
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(bits), AtFlags::empty())
                .map_err(write_error(path))?;
        }
        if member.kind == EntryType::Directory {
            return self.remember(path, at);
        }
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(write_error(path))
    }

    fn remember(&mut self, path: &Path, at: Timespec) -> Result<(), UnpackError> {
        if self.directories.insert(path.to_owned(), at).is_none() {
            self.remembered_bytes += path.as_os_str().len();
        }
        if self.remembered_bytes > REMEMBERED_BYTES_MAX {
            let reason = "its directories' names are longer than any image needs";
            return Err(UnpackError::Hostile(reason.to_owned()));
        }
        Ok(())
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

/// What stands at a name in this layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Directory,
    /// Overlayfs' mark for a deleted file.
    Whiteout,
    File,
}

fn opaque_mark() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "trusted.overlay.opaque"
    } else {
        "user.overlay.opaque"
    }
}

/// Whether a directory hides all that lower layers have in it.
pub(crate) fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 1];
    rustix::fs::getxattr(dir, opaque_mark(), &mut value).is_ok_and(|length| length == 1)
        && value == *b"y"
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
        if key != "security.capability" && !key.starts_with("user.") {
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
