//! Network namespaces as files: making, entering and removing them.
//!
//! A socket belongs for ever to the namespace of the thread that made it, so sockets
//! inside are opened by a throw-away thread and handed out; no thread of an async
//! runtime ever changes its namespace.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// A namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("making the network namespace {path}")]
    Make { path: PathBuf, source: io::Error },
    #[error("entering the network namespace {path}")]
    Enter { path: PathBuf, source: io::Error },
    #[error("removing the network namespace {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("the thread inside the network namespace {path} panicked")]
    Panicked { path: PathBuf },
    #[error("inside the network namespace {path}")]
    Inside { path: PathBuf, source: io::Error },
}

/// Makes a network namespace and keeps it alive by a bind mount on `path`.
/// One that is there already is kept.
pub fn make(path: &Path) -> Result<(), NetnsError> {
    if is_namespace(path) {
        return Ok(());
    }
    let fault = |source: io::Error| NetnsError::Make { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(fault)?;
    }
    std::fs::File::create(path).map_err(fault)?;
    let target = path.to_owned();
    on_thread(path, move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(
            Some("/proc/thread-self/ns/net"),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?;
        Ok(())
    })?
    .map_err(|source: io::Error| fault(source))
}

/// Unmounts and deletes the file; the namespace ends with its last user.
/// One that is not there is no error.
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    let fault = |source: io::Error| NetnsError::Remove { path: path.to_owned(), source };
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH).map_err(|errno| fault(errno.into()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(error)),
        _ => Ok(()),
    }
}

/// Whether a namespace is mounted on `path`.
pub fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

/// Moves the calling thread into the namespace, for good.
///
/// To start a program inside, spawn it within [`in_netns`]: a child begins in the
/// namespace of the thread that spawned it.
pub fn enter(path: &Path) -> io::Result<()> {
    enter_fd(&std::fs::File::open(path)?)
}

/// [`enter`] for a namespace that is open already: a single system call, so it may
/// also run between fork and exec (`CommandExt::pre_exec`).
pub fn enter_fd(namespace: &impl AsFd) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// Runs `work` in the namespace, on a thread of its own, and waits for it.
///
/// The caller blocks: from async code use [`in_netns_async`].
pub fn in_netns<T, F>(path: &Path, work: F) -> Result<T, NetnsError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let target = path.to_owned();
    on_thread(path, move || {
        enter(&target)?;
        Ok(work())
    })?
    .map_err(|source: io::Error| NetnsError::Enter { path: path.to_owned(), source })
}

/// [`in_netns`] without blocking the caller's thread.
pub async fn in_netns_async<T, F>(path: &Path, work: F) -> Result<T, NetnsError>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let target = path.to_owned();
    tokio::task::spawn_blocking(move || in_netns(&target, work))
        .await
        .unwrap_or_else(|_cancelled| Err(NetnsError::Panicked { path: path.to_owned() }))
}

/// Connects from inside the namespace; `None` connects from the caller's own.
/// The stream is ready for tokio.
pub async fn connect_tcp(
    netns: Option<&Path>,
    address: SocketAddr,
    timeout: Duration,
) -> Result<tokio::net::TcpStream, NetnsError> {
    let path = netns.unwrap_or(Path::new("/proc/self/ns/net")).to_owned();
    let inside = |source| NetnsError::Inside { path: path.clone(), source };
    // Only the socket is made inside: connecting it needs no thread and can be cancelled.
    let open = move || {
        if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }
    };
    let socket = match netns {
        Some(netns) => in_netns_async(netns, open).await?,
        None => open(),
    }
    .map_err(inside)?;
    match tokio::time::timeout(timeout, socket.connect(address)).await {
        Ok(connected) => connected.map_err(inside),
        Err(elapsed) => Err(inside(io::Error::new(io::ErrorKind::TimedOut, elapsed))),
    }
}

/// Listens inside the namespace.
pub fn listen_tcp(netns: &Path, address: SocketAddr) -> Result<TcpListener, NetnsError> {
    in_netns(netns, move || TcpListener::bind(address))?
        .map_err(|source| NetnsError::Inside { path: netns.to_owned(), source })
}

/// Connects inside the namespace, blocking.
pub fn dial_tcp(
    netns: &Path,
    address: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, NetnsError> {
    in_netns(netns, move || TcpStream::connect_timeout(&address, timeout))?
        .map_err(|source| NetnsError::Inside { path: netns.to_owned(), source })
}

/// A UDP socket inside the namespace.
pub fn bind_udp(netns: &Path, address: SocketAddr) -> Result<UdpSocket, NetnsError> {
    in_netns(netns, move || UdpSocket::bind(address))?
        .map_err(|source| NetnsError::Inside { path: netns.to_owned(), source })
}

fn on_thread<T, F>(path: &Path, work: F) -> Result<io::Result<T>, NetnsError>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(work)
        .map_err(|source| NetnsError::Enter { path: path.to_owned(), source })?
        .join()
        .map_err(|_panic| NetnsError::Panicked { path: path.to_owned() })
}
