//! The end of containers, and what stays of them.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{CUT_OFF_FILE, Supervisor, Tracked, invalid_name, io_error};
use crate::error::Error;
use crate::file::{is_component, write_atomic};
use crate::runtime::{ContainerKey, ContainerRef, State};
use crate::shim::Kind;
use crate::signal::Signal;
use crate::spec::Scope;

/// How long a killed container may take to be gone. Longer means a process that the
/// kernel cannot end (it waits for a dead disk).
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Between tries to remove a cgroup whose last processes are just ending; v1 has no
/// notification for it.
const CGROUP_RETRY: Duration = Duration::from_millis(20);

impl Supervisor {
    /// Removes an ended container; one that was never started is killed first.
    pub(crate) async fn remove(self: &Arc<Self>, container: &ContainerRef) -> Result<(), Error> {
        let Some(tracked) = self.find(&container.key).await? else { return Ok(()) };
        let state = tracked.state.borrow().clone();
        match state {
            State::Running { .. } => {
                return Err(Error::StillRunning { container: container.key.to_string() });
            }
            State::Created | State::Creating => self.kill_and_wait(&tracked).await?,
            State::Exited(_) => {}
        }
        self.remove_cgroup(&tracked.cgroup).await?;
        remove_path(&tracked.socket)?;
        remove_path(&tracked.container.dir)?;
        // The directory of the name goes with its last attempt.
        if let Some(parent) = tracked.container.dir.parent()
            && let Err(error) = fs::remove_dir(parent)
        {
            tracing::trace!(%error, "other attempts are left");
        }
        self.lock().remove(&container.key);
        Ok(())
    }

    /// Takes away what a failed attempt has left: its shim may have been killed at any moment.
    pub(super) async fn clear(&self, tracked: &Tracked) {
        if let Err(error) = self.remove_cgroup(&tracked.cgroup).await {
            tracing::warn!(%error, "a failed attempt has left a cgroup");
        }
        for path in [&tracked.socket, &tracked.container.dir] {
            if let Err(error) = remove_path(path) {
                tracing::debug!(%error, "removing a failed attempt");
            }
        }
    }

    async fn kill_and_wait(self: &Arc<Self>, tracked: &Tracked) -> Result<(), Error> {
        let key = &tracked.container.key;
        self.signal(&tracked.container, Signal::KILL, Scope::All).await?;
        let mut state = tracked.state.subscribe();
        let exited = state.wait_for(|s| matches!(s, State::Exited(_)));
        match tokio::time::timeout(KILL_WAIT, exited).await {
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(Error::StillRunning { container: key.to_string() }),
        }
    }

    /// Kills and removes every container of a sandbox.
    pub(crate) async fn remove_all(self: &Arc<Self>, sandbox: &str) -> Result<(), Error> {
        if !is_component(sandbox) {
            return Err(invalid_name("sandbox", sandbox));
        }
        for observed in self.list_in(&[sandbox.to_owned()]).await? {
            let Some(tracked) = self.tracked(&observed.container.key) else { continue };
            if !matches!(observed.state, State::Exited(_)) {
                self.kill_and_wait(&tracked).await?;
            }
            self.remove(&observed.container).await?;
        }
        let dir = self.sandbox_dir(sandbox);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", &dir)(e)),
            _ => Ok(()),
        }
    }

    /// Ends every container of a sandbox and keeps their records.
    pub(crate) async fn halt_all(self: &Arc<Self>, sandbox: &str) -> Result<(), Error> {
        if !is_component(sandbox) {
            return Err(invalid_name("sandbox", sandbox));
        }
        for observed in self.list_in(&[sandbox.to_owned()]).await? {
            let Some(tracked) = self.tracked(&observed.container.key) else { continue };
            match observed.state {
                // It has not begun: the next start makes it anew.
                State::Created | State::Creating => {
                    self.remove(&observed.container).await?;
                    continue;
                }
                State::Running { .. } => self.kill_and_wait(&tracked).await?,
                State::Exited(_) => {}
            }
            self.remove_cgroup(&tracked.cgroup).await?;
            remove_path(&tracked.socket)?;
        }
        Ok(())
    }

    /// Whoever finds their records next reads from this how they ended.
    pub(crate) fn cut_off(&self, containers: &[ContainerKey]) -> Result<(), Error> {
        for key in containers {
            let path = self.dir(key).join(CUT_OFF_FILE);
            write_atomic(&path, b"")?;
        }
        Ok(())
    }

    pub(crate) async fn remove_cgroup(&self, cgroup: &str) -> Result<(), Error> {
        if self.kind == Kind::Process {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + KILL_WAIT;
        loop {
            self.cgroups.kill(cgroup)?;
            match self.cgroups.remove(cgroup) {
                Ok(()) => return Ok(()),
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(_busy) => tokio::time::sleep(CGROUP_RETRY).await,
            }
        }
    }
}

fn remove_path(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("removing", path)(e)),
        _ => Ok(()),
    }
}
