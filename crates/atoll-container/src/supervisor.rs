//! Starts shims, watches them, and finds them again: what both runtimes share.
//!
//! The attempt's directory is the truth; what is kept in memory is only a reading of it.

mod adopt;
mod ending;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustix::net::SocketFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cgroup::Cgroups;
use crate::connection::Connection;
use crate::error::Error;
use crate::exit::Exit;
use crate::file::{is_component, write_atomic};
use crate::frame::{Body, ErrorCode, Op};
use crate::runtime::{
    ContainerKey, ContainerRef, EVENTS_MAX, Event, Observed, RuntimeConfig, State,
};
use crate::seqpacket;
use crate::shim::{
    Confinement, EXIT_FILE, Kind, SHIM_FILE, SHIM_LOG_FILE, SHIM_VERSION, ShimConfig, Spread,
};
use crate::signal::Signal;
use crate::spec::{ContainerSpec, Scope};

const CONTAINER_FILE: &str = "container.json";
const CONFIG_FILE: &str = "config.json";
/// Marks a container that the node itself ended.
const CUT_OFF_FILE: &str = "cut-off";

/// Version of `container.json`.
const RECORD_VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    created_at: Timestamp,
    pub(crate) spec: ContainerSpec,
}

/// What the shim is told besides the specification.
#[derive(Debug, Default)]
pub struct Bundle {
    /// The OCI runtime's `config.json`.
    pub(crate) config: Option<Value>,
    pub(crate) filter: Option<PathBuf>,
    pub(crate) lent_admin: bool,
    /// Mounts to be made private where others of the container are not.
    pub(crate) parted: Vec<Spread>,
    /// Even where the specification does not ask for it.
    pub(crate) no_new_privileges: bool,
    /// The process runtime's part.
    pub(crate) confinement: Option<Confinement>,
}

/// A container in memory.
#[derive(Debug, Clone)]
struct Tracked {
    container: ContainerRef,
    labels: BTreeMap<String, String>,
    log: PathBuf,
    created_at: Timestamp,
    cgroup: String,
    socket: PathBuf,
    /// (pid, start ticks) of the first process, once known.
    process: Option<(i32, u64)>,
    tty: bool,
    shim_alive: bool,
    state: watch::Sender<State>,
}

impl Tracked {
    fn observed(&self) -> Observed {
        Observed {
            container: self.container.clone(),
            labels: self.labels.clone(),
            log: self.log.clone(),
            created_at: self.created_at,
            state: self.state.borrow().clone(),
            shim_alive: self.shim_alive,
        }
    }
}

/// Shared by the runtime and its watchers.
#[derive(Debug)]
pub struct Supervisor {
    kind: Kind,
    pub(crate) config: RuntimeConfig,
    pub(crate) cgroups: Cgroups,
    events: broadcast::Sender<Event>,
    tracked: Mutex<HashMap<ContainerKey, Tracked>>,
    /// One reading of the directory at a time, so that nothing is adopted twice.
    scan: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Ends the watchers with the runtime; the shims run on.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Supervisor>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.cancel.cancel();
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

impl Supervisor {
    pub(crate) fn start_up(
        kind: Kind,
        config: RuntimeConfig,
        cgroups: Cgroups,
    ) -> Result<Handle, Error> {
        let sockets = config.run.join("shim");
        for dir in [&config.pods, &sockets] {
            fs::create_dir_all(dir).map_err(io_error("creating", dir))?;
        }
        if kind == Kind::Oci {
            cgroups.ensure(&config.shim_cgroup)?;
        }
        let (events, _) = broadcast::channel(EVENTS_MAX);
        Ok(Handle(Arc::new(Supervisor {
            kind,
            config,
            cgroups,
            events,
            tracked: Mutex::new(HashMap::new()),
            scan: tokio::sync::Mutex::new(()),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })))
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn emit(&self, event: Event) {
        // Without a subscriber nobody misses it: they list first.
        if self.events.send(event).is_err() {
            tracing::trace!("no subscriber");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerKey, Tracked>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tracked(&self, key: &ContainerKey) -> Option<Tracked> {
        self.lock().get(key).cloned()
    }

    fn update(&self, key: &ContainerKey, change: impl FnOnce(&mut Tracked)) {
        if let Some(tracked) = self.lock().get_mut(key) {
            change(tracked);
        }
    }

    /// The cgroup of a container, absolute.
    pub(crate) fn cgroup(&self, below: &str) -> String {
        format!("{}/{}", self.config.cgroup_root.trim_end_matches('/'), below.trim_matches('/'))
    }

    pub(crate) fn sandbox_dir(&self, sandbox: &str) -> PathBuf {
        self.config.pods.join(sandbox).join("containers")
    }

    pub(crate) fn dir(&self, key: &ContainerKey) -> PathBuf {
        self.sandbox_dir(&key.sandbox).join(&key.name).join(key.attempt.to_string())
    }

    fn socket(&self, dir: &Path) -> PathBuf {
        let name = crate::file::short_hash(dir.as_os_str().as_encoded_bytes());
        self.config.run.join("shim").join(format!("{name}.sock"))
    }

    /// Writes the attempt's files, starts its shim and waits until the container is made.
    pub(crate) async fn create(
        self: &Arc<Self>,
        spec: &ContainerSpec,
        bundle: Bundle,
    ) -> Result<ContainerRef, Error> {
        let key = key_of(spec)?;
        if let Some(known) = self.inspect(&key).await? {
            return Ok(known.container);
        }
        let dir = self.dir(&key);
        let made = self.create_new(spec, bundle, &key, &dir).await;
        if made.is_err() {
            let created_at = Timestamp::now();
            let record = Record { version: RECORD_VERSION, created_at, spec: spec.clone() };
            self.clear(&self.track(&record, &key, &dir)).await;
        }
        made
    }

    async fn create_new(
        self: &Arc<Self>,
        spec: &ContainerSpec,
        bundle: Bundle,
        key: &ContainerKey,
        dir: &Path,
    ) -> Result<ContainerRef, Error> {
        fs::create_dir_all(dir).map_err(io_error("creating", dir))?;
        let created_at = Timestamp::now();
        let record = Record { version: RECORD_VERSION, created_at, spec: spec.clone() };
        write_json(&dir.join(CONTAINER_FILE), &record)?;
        let tracked = self.track(&record, key, dir);
        let mut shim = self.shim_config(spec, &tracked);
        if let Some(config) = bundle.config {
            write_json(&dir.join(CONFIG_FILE), &config)?;
        }
        (shim.filter, shim.lent_admin) = (bundle.filter, bundle.lent_admin);
        shim.parted = bundle.parted;
        shim.no_new_privileges |= bundle.no_new_privileges;
        shim.confinement = bundle.confinement;
        write_json(&dir.join(SHIM_FILE), &shim)?;
        let connection = self.spawn(key, dir)?;
        let name = key.to_string();
        let reply = connection
            .recv()
            .await
            .map_err(|source| Error::ShimIo { container: name.clone(), source })?;
        match reply {
            Some((reply, _)) => match reply.body {
                Body::Status(state) => {
                    let mut tracked = tracked;
                    tracked.process = Some((state.pid, state.start_ticks));
                    tracked.state.send_replace(State::Created);
                    let container = tracked.container.clone();
                    self.lock().insert(key.clone(), tracked);
                    self.watch(key.clone(), connection);
                    Ok(container)
                }
                Body::Error { message, .. } => {
                    Err(Error::Create { container: name, reason: message })
                }
                other => Err(Error::Create {
                    container: name,
                    reason: format!("its shim answered {other:?}"),
                }),
            },
            None => Err(Error::Create {
                container: name,
                reason: format!("its shim died: {}", last_words(dir)),
            }),
        }
    }

    fn track(&self, record: &Record, key: &ContainerKey, dir: &Path) -> Tracked {
        let spec = &record.spec;
        Tracked {
            container: ContainerRef { key: key.clone(), id: spec.id.clone(), dir: dir.to_owned() },
            labels: spec.labels.clone(),
            log: spec.log.path.clone(),
            created_at: record.created_at,
            cgroup: self.cgroup(&spec.cgroup),
            socket: self.socket(dir),
            process: None,
            tty: spec.process.tty,
            shim_alive: true,
            state: watch::Sender::new(State::Creating),
        }
    }

    fn shim_config(&self, spec: &ContainerSpec, tracked: &Tracked) -> ShimConfig {
        ShimConfig {
            version: SHIM_VERSION,
            kind: self.kind,
            id: spec.id.clone(),
            socket: tracked.socket.clone(),
            log: spec.log.clone(),
            tty: spec.process.tty,
            stdin: spec.stdio.stdin,
            stdin_once: spec.stdio.stdin_once,
            cgroups: self.cgroups.clone(),
            cgroup: tracked.cgroup.clone(),
            shim_cgroup: self.config.shim_cgroup.clone(),
            no_new_privileges: spec.security.no_new_privileges,
            filter: None,
            lent_admin: false,
            parted: Vec::new(),
            process: (self.kind == Kind::Process).then(|| spec.process.clone()),
            confinement: None,
        }
    }

    /// Starts the shim with one end of a new connection as its standard input.
    fn spawn(&self, key: &ContainerKey, dir: &Path) -> Result<Connection, Error> {
        let failed = |source| Error::SpawnShim {
            container: key.to_string(),
            shim: self.config.shim.clone(),
            source,
        };
        let (ours, theirs): (OwnedFd, OwnedFd) =
            seqpacket::pair(SocketFlags::empty()).map_err(failed)?;
        let words = dir.join(SHIM_LOG_FILE);
        let words = fs::File::create(&words).map_err(io_error("creating", &words))?;
        // Dropped at once: the runtime reaps it when it ends.
        tokio::process::Command::new(&self.config.shim)
            .arg("shim")
            .arg("--dir")
            .arg(dir)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::from(words))
            .spawn()
            .map_err(failed)?;
        Connection::new(ours).map_err(failed)
    }

    pub(crate) async fn start(&self, container: &ContainerRef) -> Result<(), Error> {
        let name = container.key.to_string();
        let connection = self.connect(container)?;
        let answer = ask(&connection, &name, Op::Start).await?;
        match answer {
            Body::Started(state) => {
                if let Some(started_at) = state.started_at {
                    self.on_started(&container.key, state.pid, started_at);
                }
                Ok(())
            }
            Body::Error { code: ErrorCode::Start, message } => {
                Err(Error::Start { container: name, reason: message })
            }
            // Started by an earlier call, before this agent's time.
            Body::Error { code: ErrorCode::State, .. } => Ok(()),
            other => Err(unexpected(name, "start", &other)),
        }
    }

    fn on_started(&self, key: &ContainerKey, pid: i32, started_at: Timestamp) {
        let mut first = false;
        self.update(key, |tracked| {
            first = tracked.state.send_if_modified(|state| {
                let waits = matches!(state, State::Created | State::Creating);
                if waits {
                    *state = State::Running { pid, started_at };
                }
                waits
            });
        });
        if first {
            self.emit(Event::Started { key: key.clone() });
        }
    }

    fn on_exited(&self, key: &ContainerKey, exit: Exit) {
        let mut first = false;
        self.update(key, |tracked| {
            tracked.shim_alive = false;
            first = tracked.state.send_if_modified(|state| {
                let news = !matches!(state, State::Exited(_));
                if news {
                    *state = State::Exited(exit.clone());
                }
                news
            });
        });
        if first {
            self.emit(Event::Exited { key: key.clone(), exit });
        }
    }

    fn connect(&self, container: &ContainerRef) -> Result<Connection, Error> {
        let name = container.key.to_string();
        Connection::connect(&self.socket(&container.dir)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::ShimGone { container: name }
            }
            _ => Error::ShimIo { container: name, source },
        })
    }

    pub(crate) async fn signal(
        self: &Arc<Self>,
        container: &ContainerRef,
        signal: Signal,
        scope: Scope,
    ) -> Result<(), Error> {
        let Some(tracked) = self.find(&container.key).await? else {
            return Err(Error::NotFound { container: container.key.to_string() });
        };
        if matches!(*tracked.state.borrow(), State::Exited(_)) {
            return Ok(());
        }
        let Some((pid, ticks)) = tracked.process else { return Ok(()) };
        match (scope, self.kind) {
            (Scope::Init, _) => crate::kill::process(pid, ticks, signal),
            (Scope::All, Kind::Process) => crate::kill::group(pid, ticks, signal),
            (Scope::All, Kind::Oci) if signal == Signal::KILL => {
                // By pid too: where no cgroup exists the namespace's first process
                // takes the others with it.
                self.cgroups.kill(&tracked.cgroup)?;
                crate::kill::process(pid, ticks, signal)
            }
            (Scope::All, Kind::Oci) => Err(Error::InvalidSpec {
                field: "signal",
                value: signal.to_string(),
                reason: "only SIGKILL reaches a whole container".to_owned(),
            }),
        }
        .or_else(|error| self.ignore_gone(container, error))
    }

    fn ignore_gone(&self, container: &ContainerRef, error: Error) -> Result<(), Error> {
        if container.dir.join(EXIT_FILE).exists() { Ok(()) } else { Err(error) }
    }

    /// The cgroup of a container that is known, and its first process while that runs.
    pub(crate) async fn whereabouts(
        self: &Arc<Self>,
        container: &ContainerRef,
    ) -> Result<(String, Option<i32>), Error> {
        let Some(tracked) = self.find(&container.key).await? else {
            return Err(Error::NotFound { container: container.key.to_string() });
        };
        let pid = match *tracked.state.borrow() {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        };
        Ok((tracked.cgroup, pid))
    }
}

/// One request, one answer.
async fn ask(connection: &Connection, name: &str, op: Op) -> Result<Body, Error> {
    let failed = |source| Error::ShimIo { container: name.to_owned(), source };
    connection.send(op, &[]).await.map_err(failed)?;
    match connection.recv().await.map_err(failed)? {
        Some((reply, _)) => Ok(reply.body),
        None => Err(Error::ShimGone { container: name.to_owned() }),
    }
}

fn unexpected(container: String, request: &'static str, body: &Body) -> Error {
    let reason = match body {
        Body::Error { message, .. } => message.clone(),
        other => format!("it answered {other:?}"),
    };
    Error::Refused { container, request, reason }
}

fn key_of(spec: &ContainerSpec) -> Result<ContainerKey, Error> {
    for (field, value) in [("sandbox", &spec.sandbox), ("name", &spec.name), ("id", &spec.id)] {
        if !is_component(value) {
            return Err(invalid_name(field, value));
        }
    }
    Ok(ContainerKey {
        sandbox: spec.sandbox.clone(),
        name: spec.name.clone(),
        attempt: spec.attempt,
    })
}

fn invalid_name(field: &'static str, value: &str) -> Error {
    Error::InvalidSpec {
        field,
        value: value.to_owned(),
        reason: "it must be letters, digits, '-', '_' and '.'".to_owned(),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|source| Error::Corrupt {
        what: "content",
        path: path.to_owned(),
        source,
    })?;
    write_atomic(path, &text)
}

/// What a shim that died wrote last.
fn last_words(dir: &Path) -> String {
    let text = fs::read_to_string(dir.join(SHIM_LOG_FILE)).unwrap_or_default();
    match text.lines().last() {
        Some(line) => line.to_owned(),
        None => "it said nothing".to_owned(),
    }
}
