//! Sandboxes: namespaces held by bind mounts, so that no process need live in them.
//!
//! `<run>/ns/<uid>/{net,ipc,uts,shm}` are the mounts, `sandbox.json` is written last and
//! tells a finished sandbox from one that was interrupted. A namespace of processes is the
//! exception: it ends with its first process, so one is kept in it ([`processes`]).

mod processes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::bundle::SHM_BYTES;
use crate::error::Error;
use crate::runtime::Sandbox;
use crate::shim::pause::NAMESPACE;
use crate::spec::{NamespaceMode, SandboxSpec};
pub(crate) use processes::Around;

/// Longest host name that the kernel takes.
const HOSTNAME_BYTES_MAX: usize = 64;

const RECORD: &str = "sandbox.json";

/// Where sandboxes are kept.
#[derive(Debug, Clone)]
pub(crate) struct Sandboxes {
    root: PathBuf,
}

impl Sandboxes {
    pub(crate) fn new(run: &Path) -> Sandboxes {
        Sandboxes { root: run.join("ns") }
    }

    fn dir(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// The shared memory of a sandbox that has an IPC namespace of its own.
    pub(crate) fn shm(&self, uid: &str) -> Option<PathBuf> {
        Some(self.dir(uid).join("shm")).filter(|path| path.exists())
    }

    /// The specification of a sandbox that is complete.
    pub(crate) fn record(&self, uid: &str) -> Option<SandboxSpec> {
        let text = fs::read(self.dir(uid).join(RECORD)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Makes it or finds it. Blocks; call it off the async threads.
    pub(crate) fn ensure(&self, spec: &SandboxSpec, around: &Around<'_>) -> Result<Sandbox, Error> {
        check(spec)?;
        let dir = self.dir(&spec.uid);
        let complete = self.record(&spec.uid).is_some() && mounted(&dir, spec);
        if !complete {
            self.remove(&spec.uid)?;
            fs::create_dir_all(&dir).map_err(|source| Error::Io {
                what: "creating",
                path: dir.clone(),
                source,
            })?;
            build(spec, &dir)?;
            let text = serde_json::to_vec(spec).map_err(|source| Error::Corrupt {
                what: "sandbox",
                path: dir.clone(),
                source,
            })?;
            crate::file::write_atomic(&dir.join(RECORD), &text)?;
        }
        if spec.shared_processes {
            processes::ensure(&spec.uid, &dir, around)?;
        }
        let place = |mode: &NamespaceMode, name: &str| match mode {
            NamespaceMode::Host => None,
            NamespaceMode::New => Some(dir.join(name)),
            NamespaceMode::Path(path) => Some(path.clone()),
        };
        Ok(Sandbox {
            uid: spec.uid.clone(),
            net: place(&spec.net, "net"),
            ipc: place(&spec.ipc, "ipc"),
            uts: place(&spec.uts, "uts"),
            pid: spec.shared_processes.then(|| dir.join(NAMESPACE)),
            created: !complete,
        })
    }

    /// Unmounts and removes it; does nothing when it is gone.
    pub(crate) fn remove(&self, uid: &str) -> Result<(), Error> {
        let dir = self.dir(uid);
        processes::end(&dir)?;
        for name in ["net", "ipc", "uts", "shm", NAMESPACE] {
            unmount(&dir.join(name))?;
        }
        match fs::remove_dir_all(&dir) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Io { what: "removing", path: dir, source }),
        }
    }
}

fn unmount(path: &Path) -> Result<(), Error> {
    // Each mount may lie on another after an interrupted try.
    while path.exists() {
        match rustix::mount::unmount(path, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(e) => {
                return Err(Error::Io {
                    what: "unmounting",
                    path: path.to_owned(),
                    source: e.into(),
                });
            }
        }
    }
    Ok(())
}

fn check(spec: &SandboxSpec) -> Result<(), Error> {
    let invalid = |field, value: &str, reason: &str| Error::InvalidSpec {
        field,
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    if !crate::file::is_component(&spec.uid) {
        return Err(invalid("sandbox uid", &spec.uid, "it must be one path component"));
    }
    if spec.hostname.len() > HOSTNAME_BYTES_MAX {
        return Err(invalid("hostname", &spec.hostname, "it must be no more than 64 characters"));
    }
    if matches!(spec.ipc, NamespaceMode::Path(_)) || matches!(spec.uts, NamespaceMode::Path(_)) {
        return Err(invalid("namespace", &spec.uid, "only the network may be given by path"));
    }
    for name in spec.sysctls.keys() {
        let namespaced = is_net(name) || is_ipc(name);
        if !namespaced {
            return Err(invalid("sysctl", name, "it belongs to the whole node"));
        }
        if is_net(name) && spec.net == NamespaceMode::Host {
            return Err(invalid("sysctl", name, "it would change the node's own network"));
        }
        if is_ipc(name) && spec.ipc == NamespaceMode::Host {
            return Err(invalid("sysctl", name, "it would change the node's own IPC"));
        }
    }
    Ok(())
}

fn is_net(sysctl: &str) -> bool {
    sysctl.starts_with("net.")
}

fn is_ipc(sysctl: &str) -> bool {
    sysctl.starts_with("fs.mqueue.")
        || ["kernel.shm", "kernel.msg", "kernel.sem"].iter().any(|p| sysctl.starts_with(p))
}

/// Whether the mounts are still there: after a reboot only the files may be.
fn mounted(dir: &Path, spec: &SandboxSpec) -> bool {
    let mut wanted = [("net", &spec.net), ("ipc", &spec.ipc), ("uts", &spec.uts)]
        .into_iter()
        .filter(|(_, mode)| **mode == NamespaceMode::New)
        .map(|(name, _)| dir.join(name));
    wanted.all(|path| {
        rustix::fs::statfs(&path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(NSFS_MAGIC))
    })
}

const NSFS_MAGIC: u64 = 0x6e73_6673;

fn build(spec: &SandboxSpec, dir: &Path) -> Result<(), Error> {
    let failed = |what: &'static str| {
        let sandbox = spec.uid.clone();
        move |source: io::Error| Error::Sandbox { sandbox, what, source }
    };
    // A thread of its own, which ends with what it has unshared.
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("sandbox".to_owned());
        let thread = builder
            .spawn_scoped(scope, || build_here(spec, dir))
            .map_err(failed("starting a thread"))?;
        thread
            .join()
            .unwrap_or_else(|_panic| Err(failed("the thread panicked")(io::Error::other("panic"))))
    })?;
    if spec.ipc == NamespaceMode::New {
        let size = if spec.shm_bytes == 0 { SHM_BYTES } else { spec.shm_bytes };
        mount_shm(&dir.join("shm"), size).map_err(failed("mounting /dev/shm"))?;
    }
    Ok(())
}

fn mount_shm(path: &Path, size: u64) -> io::Result<()> {
    fs::create_dir_all(path)?;
    let options = std::ffi::CString::new(format!("mode=1777,size={size}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    rustix::mount::mount("shm", path, "tmpfs", flags, options.as_c_str())?;
    Ok(())
}

fn build_here(spec: &SandboxSpec, dir: &Path) -> Result<(), Error> {
    let failed = |what: &'static str| {
        let sandbox = spec.uid.clone();
        move |source: io::Error| Error::Sandbox { sandbox, what, source }
    };
    let kinds = [
        ("net", &spec.net, UnshareFlags::NEWNET),
        ("ipc", &spec.ipc, UnshareFlags::NEWIPC),
        ("uts", &spec.uts, UnshareFlags::NEWUTS),
    ];
    let mut flags = UnshareFlags::empty();
    for (_, mode, flag) in &kinds {
        if **mode == NamespaceMode::New {
            flags |= *flag;
        }
    }
    unshare(flags).map_err(failed("unshare"))?;
    if let NamespaceMode::Path(path) = &spec.net {
        let namespace = fs::File::open(path).map_err(failed("opening the network namespace"))?;
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(|e| failed("entering the network namespace")(e.into()))?;
    }
    if spec.uts == NamespaceMode::New {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(|e| failed("setting the host name")(e.into()))?;
    }
    if spec.net == NamespaceMode::New {
        loopback_up().map_err(failed("setting lo up"))?;
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).map_err(|source| Error::Io {
            what: "setting the sysctl",
            path,
            source,
        })?;
    }
    for (name, mode, _) in &kinds {
        if **mode == NamespaceMode::New {
            pin(name, &dir.join(name)).map_err(failed("keeping a namespace"))?;
        }
    }
    Ok(())
}

/// New namespaces for this thread.
#[allow(unsafe_code, reason = "unshare is unsafe in rustix for the flag CLONE_FILES alone")]
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: namespaces only; no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

fn pin(kind: &str, path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    let source = format!("/proc/thread-self/ns/{kind}");
    rustix::mount::mount_bind(&source, path)?;
    // Private: containers that copy the mount table must not keep the namespace alive.
    match rustix::mount::mount_change(path, MountPropagationFlags::PRIVATE) {
        Ok(()) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[allow(unsafe_code, reason = "the interface ioctls have no safe wrapper")]
fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = libc::c_char::try_from(*byte).unwrap_or_default();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: the request outlives the call, and the kernel only reads it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
