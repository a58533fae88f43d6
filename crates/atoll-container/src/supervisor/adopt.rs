//! Finding containers again, and following them until they end.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use rustix::process::{Pid, PidfdFlags};
use serde::de::DeserializeOwned;

use super::{CONTAINER_FILE, CUT_OFF_FILE, Record, Supervisor, Tracked, write_json};
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::frame::{Body, Op, ShimState};
use crate::runtime::{ContainerKey, Event, Observed, State};
use crate::shim::{EXIT_FILE, STATE_FILE};

/// A file's content; `None` when there is none.
fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<Option<T>, Error> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io { what: "reading", path: path.to_owned(), source });
        }
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| Error::Corrupt {
        what,
        path: path.to_owned(),
        source,
    })
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

impl Supervisor {
    pub(crate) async fn list(self: &Arc<Self>) -> Result<Vec<Observed>, Error> {
        self.list_in(&names(&self.config.pods)).await
    }

    pub(crate) async fn list_in(
        self: &Arc<Self>,
        sandboxes: &[String],
    ) -> Result<Vec<Observed>, Error> {
        let mut found = Vec::new();
        for sandbox in sandboxes {
            let below = self.sandbox_dir(sandbox);
            for name in names(&below) {
                for attempt in names(&below.join(&name)) {
                    let Ok(attempt) = attempt.parse() else { continue };
                    let key =
                        ContainerKey { sandbox: sandbox.clone(), name: name.clone(), attempt };
                    match self.find(&key).await {
                        Ok(Some(tracked)) => found.push(tracked.observed()),
                        Ok(None) => {}
                        // One spoilt record must not hide the others.
                        Err(error) => {
                            tracing::warn!(container = %key, %error, "container not readable");
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    pub(crate) async fn inspect(
        self: &Arc<Self>,
        key: &ContainerKey,
    ) -> Result<Option<Observed>, Error> {
        Ok(self.find(key).await?.map(|tracked| tracked.observed()))
    }

    /// From memory, else from the directory.
    pub(super) async fn find(
        self: &Arc<Self>,
        key: &ContainerKey,
    ) -> Result<Option<Tracked>, Error> {
        if let Some(tracked) = self.tracked(key) {
            return Ok(Some(tracked));
        }
        let _one_at_a_time = self.scan.lock().await;
        match self.tracked(key) {
            Some(tracked) => Ok(Some(tracked)),
            None => self.adopt(key).await,
        }
    }

    async fn adopt(self: &Arc<Self>, key: &ContainerKey) -> Result<Option<Tracked>, Error> {
        let dir = self.dir(key);
        let Some(record) = read_json::<Record>(&dir.join(CONTAINER_FILE), "container")? else {
            return Ok(None);
        };
        let mut tracked = self.track(&record, key, &dir);
        if self.read_exit(&mut tracked)? {
            return Ok(Some(self.keep(key, tracked)));
        }
        match self.greet(&tracked).await {
            Greeting::Alive(connection, state) => {
                tracked.process = Some((state.pid, state.start_ticks));
                tracked.state.send_replace(match state.started_at {
                    Some(started_at) => State::Running { pid: state.pid, started_at },
                    None => State::Created,
                });
                go_on(&dir);
                let tracked = self.keep(key, tracked);
                self.watch(key.clone(), connection);
                Ok(Some(tracked))
            }
            Greeting::Gone => {
                tracked.shim_alive = false;
                self.adopt_alone(key, tracked).map(Some)
            }
            Greeting::Unknown => self.adopt_alone(key, tracked).map(Some),
        }
    }

    fn keep(&self, key: &ContainerKey, tracked: Tracked) -> Tracked {
        self.lock().insert(key.clone(), tracked.clone());
        tracked
    }

    /// Whether the container's exit is on disk.
    fn read_exit(&self, tracked: &mut Tracked) -> Result<bool, Error> {
        match read_json::<Exit>(&tracked.container.dir.join(EXIT_FILE), "exit record")? {
            Some(exit) => {
                let cut_off = tracked.container.dir.join(CUT_OFF_FILE).exists();
                let unknown = || Exit::unknown(exit.started_at, exit.finished_at);
                let exit = if cut_off { unknown() } else { exit };
                tracked.shim_alive = false;
                tracked.state.send_replace(State::Exited(exit));
                Ok(true)
            }
            None => Ok(false),
        }
    }

    async fn greet(&self, tracked: &Tracked) -> Greeting {
        let greeting = async {
            let connection = Connection::connect(&tracked.socket)?;
            connection.send(Op::Watch, &[]).await?;
            io::Result::Ok(match connection.recv().await? {
                Some((reply, _)) => match reply.body {
                    Body::Status(state) => Greeting::Alive(connection, state),
                    other => {
                        tracing::warn!(container = %tracked.container.key, ?other, "odd greeting");
                        Greeting::Unknown
                    }
                },
                None => Greeting::Gone,
            })
        };
        greeting.await.unwrap_or_else(|error| {
            if says_gone(&error) {
                return Greeting::Gone;
            }
            tracing::warn!(container = %tracked.container.key, %error, "shim not asked");
            Greeting::Unknown
        })
    }

    /// Nothing is heard of the shim: the container is followed by its process, or its end is lost.
    fn adopt_alone(
        self: &Arc<Self>,
        key: &ContainerKey,
        mut tracked: Tracked,
    ) -> Result<Tracked, Error> {
        // It may have ended in order while we tried to reach it.
        if self.read_exit(&mut tracked)? {
            return Ok(self.keep(key, tracked));
        }
        let state = read_json::<ShimState>(&tracked.container.dir.join(STATE_FILE), "state")?;
        if let Some(state) = state
            && state.is_alive()
        {
            tracked.process = Some((state.pid, state.start_ticks));
            tracked.state.send_replace(match state.started_at {
                Some(started_at) => State::Running { pid: state.pid, started_at },
                None => State::Created,
            });
            go_on(&tracked.container.dir);
            let tracked = self.keep(key, tracked);
            self.follow(key.clone(), state);
            return Ok(tracked);
        }
        let exit = self.record_unknown(&tracked.container.dir)?;
        tracked.state.send_replace(State::Exited(exit));
        Ok(self.keep(key, tracked))
    }

    fn record_unknown(&self, dir: &Path) -> Result<Exit, Error> {
        let started_at = read_json::<ShimState>(&dir.join(STATE_FILE), "state")?
            .and_then(|state| state.started_at);
        let exit = Exit::unknown(started_at, Timestamp::now());
        write_json(&dir.join(EXIT_FILE), &exit)?;
        Ok(exit)
    }

    /// Follows a shim until its container has ended.
    pub(super) fn watch(self: &Arc<Self>, key: ContainerKey, connection: Connection) {
        let this = Arc::clone(self);
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(this.watch_until_end(&key, connection)).await;
        });
    }

    async fn watch_until_end(self: &Arc<Self>, key: &ContainerKey, connection: Connection) {
        loop {
            match connection.recv().await {
                Ok(Some((reply, _))) => match reply.body {
                    Body::Started(state) => {
                        if let Some(started_at) = state.started_at {
                            self.on_started(key, state.pid, started_at);
                        }
                    }
                    Body::Oom => self.emit(Event::Oom { key: key.clone() }),
                    Body::Exited { exit } => return self.on_exited(key, exit),
                    other => tracing::debug!(container = %key, ?other, "not expected of a shim"),
                },
                Ok(None) => return self.on_shim_silent(key, true),
                Err(error) => {
                    tracing::warn!(container = %key, %error, "shim connection");
                    return self.on_shim_silent(key, says_gone(&error));
                }
            }
        }
    }

    fn on_shim_silent(self: &Arc<Self>, key: &ContainerKey, is_gone: bool) {
        let dir = self.dir(key);
        let settled = || -> Result<Option<Exit>, Error> {
            if let Some(exit) = read_json::<Exit>(&dir.join(EXIT_FILE), "exit record")? {
                return Ok(Some(exit));
            }
            let state = read_json::<ShimState>(&dir.join(STATE_FILE), "state")?;
            match state {
                Some(state) if state.is_alive() => {
                    if is_gone {
                        tracing::warn!(container = %key, "shim gone, container runs on without it");
                        self.update(key, |tracked| tracked.shim_alive = false);
                        self.emit(Event::ShimGone { key: key.clone() });
                    }
                    self.follow(key.clone(), state);
                    Ok(None)
                }
                _ => self.record_unknown(&dir).map(Some),
            }
        };
        match settled() {
            Ok(Some(exit)) => self.on_exited(key, exit),
            Ok(None) => {}
            Err(error) => {
                tracing::error!(container = %key, %error, "recording a lost container");
                self.on_exited(key, Exit::unknown(None, Timestamp::now()));
            }
        }
    }

    /// Follows a container without a shim by its process alone.
    fn follow(self: &Arc<Self>, key: ContainerKey, state: ShimState) {
        let this = Arc::clone(self);
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            let wait = wait_for_process(&state);
            if cancel.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let exit = match this.record_unknown(&this.dir(&key)) {
                Ok(exit) => exit,
                Err(error) => {
                    tracing::error!(container = %key, %error, "recording a lost container");
                    Exit::unknown(state.started_at, Timestamp::now())
                }
            };
            this.on_exited(&key, exit);
        });
    }
}

/// What a shim answers to a new agent.
enum Greeting {
    Alive(Connection, ShimState),
    Gone,
    /// That it could not be asked says nothing of it.
    Unknown,
}

fn says_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, NotFound};
    matches!(
        error.kind(),
        NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | NotConnected
    )
}

/// An agent that was to end it has not: how it ends is its own doing again.
fn go_on(dir: &Path) {
    let path = dir.join(CUT_OFF_FILE);
    if path.exists()
        && let Err(error) = fs::remove_file(&path)
    {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}

/// Returns when the process is gone.
async fn wait_for_process(state: &ShimState) {
    let Some(pid) = Pid::from_raw(state.pid) else { return };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) else { return };
    // The number may have been reused just before it was opened.
    if !state.is_alive() {
        return;
    }
    match crate::connection::register(pidfd) {
        Ok(pidfd) => {
            if let Err(error) = pidfd.readable().await {
                tracing::warn!(%error, "waiting for a process");
            }
        }
        Err(error) => tracing::warn!(%error, "waiting for a process"),
    }
}
