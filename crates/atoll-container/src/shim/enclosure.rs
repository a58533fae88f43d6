//! Shuts a command in without root: namespaces of a user namespace, and a root file system
//! that is put together in them.
//!
//! One user of the namespace is the user who runs the node; there is no other. The network
//! is the node's.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::launch::exit_now;
use crate::beneath;
use crate::spec::{Mount, MountSource, Process, Propagation, Root, User};

/// Entries of a directory of the node that is rebuilt for a mount point's sake.
const GRAFT_MAX: usize = 4096;
/// A page: what the mount call takes as options.
const OPTIONS_BYTES_MAX: usize = 4095;
/// Devices of the node that every container has.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
const DEV_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What a command finds inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enclosure {
    pub(crate) root: Root,
    pub(crate) rootfs: PathBuf,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hostname: Option<String>,
    pub(crate) read_only: bool,
}

/// The user and group who run the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    /// To be asked before the namespace is made: inside nobody has a name yet.
    pub(crate) fn here() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// `fork` into new namespaces; the child, as their first process, runs `child`.
#[allow(unsafe_code, reason = "clone has no safe wrapper")]
pub(crate) fn fork(child: impl FnOnce()) -> io::Result<Pid> {
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::SIGCHLD;
    // SAFETY: as fork: no new stack, no shared memory, and this process has one thread.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match i32::try_from(result) {
        Ok(0) => {
            child();
            exit_now(0)
        }
        Ok(pid) if pid > 0 => Pid::from_raw(pid).ok_or_else(|| io::Error::other("no pid")),
        _ => Err(io::Error::last_os_error()),
    }
}

type Step<T> = Result<T, String>;

fn failed<E: Into<io::Error>>(what: impl std::fmt::Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {}", error.into())
}

/// Puts the root together and makes it this process's own.
pub(crate) fn enter(enclosure: &Enclosure, process: &Process, owner: Owner) -> Step<()> {
    let cwd = &process.cwd;
    take_names(&process.user, owner)?;
    let whole = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", whole).map_err(failed("parting from the node's mounts"))?;
    let sources = enclosure.mounts.iter().map(source).collect::<Step<Vec<OwnedFd>>>()?;
    fs::create_dir_all(&enclosure.rootfs)
        .map_err(failed(format!("making {}", enclosure.rootfs.display())))?;
    let root = match &enclosure.root {
        Root::Layers { lower, upper, work } => {
            let root = overlay(&enclosure.rootfs, lower, upper, work)?;
            furnish(&root)?;
            root
        }
        Root::Node { hidden, .. } => {
            let root = node_root(&enclosure.rootfs, enclosure.read_only)?;
            place(&proc()?, &root, Path::new("/proc"))?;
            let pts = terminals()?;
            place(&pts, &root, Path::new("/dev/pts"))?;
            let ptmx = clone_tree(&pts, Path::new("ptmx")).map_err(failed("taking ptmx"))?;
            place(&ptmx, &root, Path::new("/dev/ptmx"))?;
            for path in hidden {
                hide(&root, path)?;
            }
            root
        }
        Root::Mounted => return Err("the process runtime mounts its root itself".to_owned()),
    };
    for (mount, source) in enclosure.mounts.iter().zip(&sources) {
        place(source, &root, &mount.destination)?;
    }
    beneath::make_dir(&root, Path::new(cwd))
        .map_err(failed(format!("making the working directory {cwd}")))?;
    pivot(&root)?;
    if enclosure.read_only {
        let top = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("opening /"))?;
        restrict(top.as_fd(), MOUNT_ATTR_RDONLY, false).map_err(failed("making / read-only"))?;
    }
    if let Some(hostname) = &enclosure.hostname {
        rustix::system::sethostname(hostname.as_bytes())
            .map_err(failed("setting the host name"))?;
    }
    Ok(())
}

/// The user that was asked for is the one who runs the node, by another number.
fn take_names(user: &User, owner: Owner) -> Step<()> {
    let write = |name: &str, text: String| {
        fs::write(format!("/proc/self/{name}"), text).map_err(failed(format!("writing {name}")))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{} {} 1\n", user.uid, owner.uid))?;
    write("gid_map", format!("{} {} 1\n", user.gid, owner.gid))
}

/// A copy of what is to be shown, before anything is hidden.
fn source(mount: &Mount) -> Step<OwnedFd> {
    let tree = match &mount.source {
        MountSource::Bind { path, .. } => {
            clone_tree(CWD, path).map_err(failed(format!("taking {}", path.display())))?
        }
        MountSource::Tmpfs { size_bytes, mode } => {
            let size = size_bytes.to_string();
            let mode = format!("{mode:o}");
            let mut options = vec![("mode", mode.as_str())];
            if *size_bytes > 0 {
                options.push(("size", size.as_str()));
            }
            new_mount("tmpfs", &options, MountAttrFlags::empty())?
        }
    };
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if mount.read_only {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    if mount.no_exec {
        attributes |= MOUNT_ATTR_NOEXEC;
    }
    restrict(tree.as_fd(), attributes, true)
        .map_err(failed(format!("restricting {}", mount.destination.display())))?;
    // What the node mounts later shows only where it was asked for.
    if !matches!(&mount.source, MountSource::Bind { propagation: Propagation::HostToContainer, .. })
    {
        change(
            tree.as_fd(),
            &MountAttr { propagation: libc::MS_PRIVATE, ..MountAttr::default() },
            true,
        )
        .map_err(failed(format!("parting {}", mount.destination.display())))?;
    }
    Ok(tree)
}

fn clone_tree<Fd: AsFd>(at: Fd, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(at, path, flags)
}

/// A file system of a user namespace has no devices but those of devpts.
fn new_mount(kind: &str, options: &[(&str, &str)], more: MountAttrFlags) -> Step<OwnedFd> {
    let make = || -> Result<OwnedFd, Errno> {
        let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(&context, *key)?;
            } else {
                rustix::mount::fsconfig_set_string(&context, *key, *value)?;
            }
        }
        rustix::mount::fsconfig_create(&context)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | more;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    make().map_err(failed(format!("mounting {kind}")))
}

/// Terminals of its own: those of the node belong to others.
fn terminals() -> Step<OwnedFd> {
    let options = [("newinstance", ""), ("mode", "620"), ("ptmxmode", "666")];
    new_mount("devpts", &options, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

fn proc() -> Step<OwnedFd> {
    new_mount("proc", &[], MountAttrFlags::MOUNT_ATTR_NOEXEC)
}

/// The layers by descriptors, whose names are short: the options must fit into a page.
fn overlay(rootfs: &Path, lower: &[PathBuf], upper: &Path, work: &Path) -> Step<OwnedFd> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(format!("opening {}", path.display())))
    };
    let layers = lower.iter().rev().map(|path| open(path)).collect::<Step<Vec<OwnedFd>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let names: Vec<String> = layers.iter().map(name).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        names.join(":"),
        name(&upper),
        name(&work)
    );
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(format!("{} layers are more than can be mounted without root", lower.len()));
    }
    let options = CString::new(options).map_err(|e| e.to_string())?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount("overlay", rootfs, "overlay", flags, options.as_c_str())
        .map_err(failed("mounting the image (overlay)"))?;
    open(rootfs)
}

/// A root of our own that shows what the node's shows: in it mount points can be made.
fn node_root(rootfs: &Path, read_only: bool) -> Step<OwnedFd> {
    let wrong = |error: Errno| format!("taking the node's root: {}", io::Error::from(error));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let real = rustix::fs::open("/", flags, Mode::empty()).map_err(wrong)?;
    let entries = entries(&real, Path::new("/"))?;
    if read_only {
        for (_, entry) in &entries {
            if let Entry::Tree { tree, .. } = entry {
                restrict(tree.as_fd(), MOUNT_ATTR_RDONLY, true)
                    .map_err(failed("making the node's files read-only"))?;
            }
        }
    }
    let root = new_mount("tmpfs", &[("mode", "755")], MountAttrFlags::empty())?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, "", CWD, rootfs, flags).map_err(wrong)?;
    fill(&root, entries).map_err(wrong)?;
    Ok(root)
}

/// What an image does not bring: `/proc`, `/dev` and `/sys`.
fn furnish(root: &OwnedFd) -> Step<()> {
    let none = MountAttrFlags::empty();
    let quiet = MountAttrFlags::MOUNT_ATTR_NOEXEC;
    place(&proc()?, root, Path::new("/proc"))?;
    let dev = new_mount("tmpfs", &[("mode", "755"), ("size", "65536k")], none)?;
    place(&dev, root, Path::new("/dev"))?;
    for name in DEVICES {
        let device = clone_tree(CWD, &Path::new("/dev").join(name))
            .map_err(failed(format!("taking /dev/{name}")))?;
        place(&device, root, &Path::new("/dev").join(name))?;
    }
    for (name, target) in DEV_LINKS {
        rustix::fs::symlinkat(*target, &dev, *name).map_err(failed(format!("making {name}")))?;
    }
    place(&terminals()?, root, Path::new("/dev/pts"))?;
    place(&new_mount("mqueue", &[], quiet)?, root, Path::new("/dev/mqueue"))?;
    let shm = new_mount("tmpfs", &[("mode", "1777"), ("size", "65536k")], quiet)?;
    place(&shm, root, Path::new("/dev/shm"))?;
    let sys = clone_tree(CWD, Path::new("/sys")).map_err(failed("taking /sys"))?;
    restrict(sys.as_fd(), MOUNT_ATTR_RDONLY, true).map_err(failed("making /sys read-only"))?;
    place(&sys, root, Path::new("/sys"))
}

fn hide(root: &OwnedFd, path: &Path) -> Step<()> {
    if beneath::open(root, path, OFlags::PATH).is_err() {
        return Ok(());
    }
    place(
        &new_mount("tmpfs", &[("mode", "555"), ("size", "4k")], MountAttrFlags::MOUNT_ATTR_RDONLY)?,
        root,
        path,
    )
}

/// Shows a tree at `destination`, which is made when it is missing.
fn place(tree: &OwnedFd, root: &OwnedFd, destination: &Path) -> Step<()> {
    let stat = rustix::fs::statat(tree, "", AtFlags::EMPTY_PATH)
        .map_err(failed(format!("reading what is for {}", destination.display())))?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let target = mount_point(root, destination, is_dir)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", &target, "", flags)
        .map_err(failed(format!("mounting {}", destination.display())))
}

fn mount_point(root: &OwnedFd, destination: &Path, is_dir: bool) -> Step<OwnedFd> {
    let wrong =
        |error: Errno| format!("making {}: {}", destination.display(), io::Error::from(error));
    let names: Vec<_> = destination
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let mut at = PathBuf::from(".");
    let mut found = beneath::open(root, &at, OFlags::PATH).map_err(wrong)?;
    for (index, name) in names.iter().enumerate() {
        let parent = at.clone();
        at.push(name);
        found = match beneath::open(root, &at, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let dir = is_dir || index + 1 < names.len();
                let make = |parent: &OwnedFd| make_entry(parent, Path::new(name), dir);
                match make(&found) {
                    Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
                        graft(root, &parent)?;
                        let parent = beneath::open(root, &parent, OFlags::PATH).map_err(wrong)?;
                        make(&parent).map_err(wrong)?;
                    }
                    other => other.map_err(wrong)?,
                }
                beneath::open(root, &at, OFlags::PATH).map_err(wrong)?
            }
            other => other.map_err(wrong)?,
        };
    }
    Ok(found)
}

fn make_entry(parent: &OwnedFd, name: &Path, is_dir: bool) -> Result<(), Errno> {
    if is_dir {
        return rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// What stands in a directory, apart from it.
enum Entry {
    Link(CString),
    Tree { tree: OwnedFd, is_dir: bool },
}

/// Replaces a directory in which nothing can be made by one of our own that shows the same.
fn graft(root: &OwnedFd, path: &Path) -> Step<()> {
    let shown = Path::new("/").join(path.strip_prefix(".").unwrap_or(path));
    let wrong =
        |error: Errno| format!("rebuilding {}: {}", shown.display(), io::Error::from(error));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let dir = beneath::open(root, path, flags).map_err(wrong)?;
    let mode = rustix::fs::fstat(&dir).map_err(wrong)?.st_mode & 0o7777;
    let entries = entries(&dir, &shown)?;
    let mode = format!("{mode:o}");
    let fresh = new_mount("tmpfs", &[("mode", mode.as_str())], MountAttrFlags::empty())?;
    let over = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&fresh, "", &dir, "", over).map_err(wrong)?;
    fill(&fresh, entries).map_err(wrong)
}

fn entries(dir: &OwnedFd, shown: &Path) -> Step<Vec<(CString, Entry)>> {
    let wrong = |error: Errno| format!("reading {}: {}", shown.display(), io::Error::from(error));
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(wrong)? {
        let name = entry.map_err(wrong)?.file_name().to_owned();
        if name.as_bytes() == b"." || name.as_bytes() == b".." {
            continue;
        }
        if entries.len() == GRAFT_MAX {
            return Err(format!(
                "{} has more than {GRAFT_MAX} entries; mount to a path that exists",
                shown.display()
            ));
        }
        // One that has just gone is not missed.
        if let Some(taken) = take(dir, &name).map_err(wrong)? {
            entries.push((name, taken));
        }
    }
    Ok(entries)
}

fn fill(fresh: &OwnedFd, entries: Vec<(CString, Entry)>) -> Result<(), Errno> {
    for (name, entry) in entries {
        match entry {
            Entry::Link(target) => rustix::fs::symlinkat(&target, fresh, &name)?,
            Entry::Tree { tree, is_dir } => {
                let name = name.to_string_lossy();
                make_entry(fresh, Path::new(name.as_ref()), is_dir)?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                rustix::mount::move_mount(&tree, "", fresh, name.as_ref(), flags)?;
            }
        }
    }
    Ok(())
}

fn take(dir: &OwnedFd, name: &std::ffi::CStr) -> Result<Option<Entry>, Errno> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink {
        return rustix::fs::readlinkat(dir, name, Vec::new()).map(|to| Some(Entry::Link(to)));
    }
    let path = name.to_string_lossy();
    match clone_tree(dir, Path::new(path.as_ref())) {
        Ok(tree) => Ok(Some(Entry::Tree { tree, is_dir: kind == FileType::Directory })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The root takes the place of the node's, which goes.
fn pivot(root: &OwnedFd) -> Step<()> {
    rustix::process::fchdir(root).map_err(failed("entering the new root"))?;
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("leaving the old root"))?;
    rustix::process::chdir("/").map_err(failed("chdir /"))
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// The kernel's `mount_attr`.
#[derive(Default)]
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Adds attributes to a mount; those that it has stay (the old call would have to repeat
/// them, and may not drop what the node has locked).
fn restrict(mount: BorrowedFd<'_>, attributes: u64, whole: bool) -> io::Result<()> {
    change(mount, &MountAttr { set: attributes, ..MountAttr::default() }, whole)
}

#[allow(unsafe_code, reason = "mount_setattr has no safe wrapper")]
fn change(mount: BorrowedFd<'_>, attr: &MountAttr, whole: bool) -> io::Result<()> {
    let recursive = if whole { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads the structure, whose size it is told, and an empty string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
