//! Keeps the node's name server running: a process of its own, which goes on answering when
//! the agent is killed.
//!
//! It holds a lock on a file that names its process. An agent that starts adopts the one
//! that runs, or replaces it when it was started from another program or with other
//! settings; an agent that is told to end takes it along.

use crate::dns::holder_file;
use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid},
};
use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::ErrorKind,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A name server that ends sooner than this after its start is started again with backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// It has nothing to finish.
const STOP_MAX: Duration = Duration::from_secs(5);
/// A process that has just been started has the lock by then.
const LOCK_MAX: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How to start it.
pub struct NameServer {
    pub program: PathBuf,
    pub listen: String,
    pub snapshot: PathBuf,
}

/// One that runs.
struct Running {
    pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

impl NameServer {
    /// Until told to stop; then the server is stopped, too, unless it is to be kept for a
    /// successor of this agent.
    pub async fn keep(self, stop: CancellationToken) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let started = tokio::time::Instant::now();
            match self.running().await {
                Ok(running) => {
                    tokio::select! {
                        () = stop.cancelled() => return end(&running).await,
                        () = running.ended() => {}
                    }
                    warn!(log = %self.log().display(), "the node's name server ended, starting it again");
                }
                Err(error) => warn!("the node's name server was not started: {error:#}"),
            }
            if started.elapsed() > STABLE_AFTER {
                backoff = BACKOFF_FIRST;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// The one that runs already, or a new one.
    async fn running(&self) -> Result<Running> {
        let folder = self.snapshot.parent().context("the snapshot has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        if let Some(former) = self.holder()? {
            if self.is_as_wanted(former.pid) {
                info!(pid = former.pid.as_raw_nonzero(), "the node's name server is adopted");
                return Ok(former);
            }
            info!(pid = former.pid.as_raw_nonzero(), "the node's name server is replaced");
            end(&former).await;
        }
        self.start()?;
        let deadline = tokio::time::Instant::now() + LOCK_MAX;
        loop {
            if let Some(running) = self.holder()? {
                return Ok(running);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("it ended at once; its log is {}", self.log().display());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn words(&self) -> Vec<OsString> {
        let snapshot = self.snapshot.clone().into_os_string();
        vec![
            "dns".into(),
            "--listen".into(),
            self.listen.clone().into(),
            "--snapshot".into(),
            snapshot,
        ]
    }

    fn log(&self) -> PathBuf {
        self.snapshot.with_file_name("dns.log")
    }

    #[allow(
        unsafe_code,
        reason = "pre_exec runs between fork and exec, where only setsid is called"
    )]
    fn start(&self) -> Result<()> {
        let log = self.log();
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(self.words()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        // SAFETY: the closure makes one system call; it neither allocates nor takes a lock.
        unsafe {
            // A signal to the agent's group or terminal is not for it.
            command.pre_exec(|| Ok(rustix::process::setsid().map(|_session| ())?));
        }
        command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        Ok(())
    }

    /// Whoever has the lock.
    fn holder(&self) -> Result<Option<Running>> {
        let path = holder_file(&self.snapshot);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        // A holder that has not written its number yet is about to.
        let Some(pid) = text.trim().parse::<i32>().ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { return Ok(None) };
        let handle = watch(handle).context("watching the name server")?;
        Ok(Some(Running { pid, handle }))
    }

    fn is_as_wanted(&self, pid: Pid) -> bool {
        let of = |what: &str| Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join(what);
        let same_program = std::fs::read_link(of("exe")).is_ok_and(|exe| exe == self.program);
        let line = std::fs::read(of("cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).skip(1).map(<[u8]>::to_vec);
        let words: Vec<Vec<u8>> = words.filter(|word| !word.is_empty()).collect();
        let wanted = self.words().into_iter().map(std::os::unix::ffi::OsStringExt::into_vec);
        same_program && words == wanted.collect::<Vec<_>>()
    }
}

#[allow(unsafe_code, reason = "the descriptor is owned by what watches it")]
fn watch(handle: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and nothing replaces it while it is registered.
    Ok(unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?)
}

impl Running {
    async fn ended(&self) {
        // The descriptor of a process is readable once it has ended.
        if let Err(error) = self.handle.readable().await {
            warn!(%error, "the node's name server is not watched");
        }
        // Those that this very process started are waited for; others are somebody else's.
        waitpid(Some(self.pid), WaitOptions::NOHANG).ok();
    }
}

async fn end(running: &Running) {
    // One that has just ended needs no telling.
    pidfd_send_signal(running.handle.get_ref(), Signal::TERM).ok();
    if tokio::time::timeout(STOP_MAX, running.ended()).await.is_err() {
        pidfd_send_signal(running.handle.get_ref(), Signal::KILL).ok();
        running.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A stand-in that takes the lock and writes its number, as `atoll dns` does.
    fn server(folder: &Path) -> NameServer {
        let program = folder.join("program");
        let script = "#!/bin/bash\nfolder=$(dirname \"$5\")\nexec 9>>\"$folder/lock\"\nflock 9\necho $$ >\"$folder/lock\"\nexec sleep 100\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let snapshot = folder.join("dns/snapshot.json");
        NameServer { program, listen: "127.0.0.1:0".to_owned(), snapshot }
    }

    #[tokio::test]
    async fn a_server_that_dies_is_started_again_and_goes_with_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let server = server(folder.path());
        let first = server.running().await.unwrap();
        let same = server.holder().unwrap().unwrap();
        assert_eq!(first.pid, same.pid);

        let stop = CancellationToken::new();
        let snapshot = server.snapshot.clone();
        let watch = NameServer { snapshot, ..self::server(folder.path()) };
        let tasks = tokio_util::task::TaskTracker::new();
        let keeping = tasks.spawn(server.keep(stop.clone()));
        end(&first).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let second = loop {
            match watch.holder().unwrap() {
                Some(second) if second.pid != first.pid => break second,
                _ => assert!(tokio::time::Instant::now() < deadline, "not started again"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        stop.cancel();
        keeping.await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), second.ended()).await.unwrap();
        assert!(watch.holder().unwrap().is_none());
    }
}
