//! The OCI runtime: containers with namespaces, cgroups and their own root.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::bundle::{self, Surroundings};
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::runtime::{
    Capabilities, CgroupVersion, ContainerKey, ContainerRef, Event, ExecHandle, Observed, Runtime,
    RuntimeConfig, Sandbox, Stats, Streams,
};
use crate::sandbox::Sandboxes;
use crate::shim::Kind;
use crate::signal::Signal;
use crate::spec::{ContainerSpec, ExecSpec, NamespaceMode, Resources, SandboxSpec, Scope};
use crate::supervisor::{Bundle, Handle, Supervisor};

/// Runs containers through libcontainer. Needs root and cgroups.
#[derive(Debug)]
pub struct OciRuntime {
    supervisor: Handle,
    sandboxes: Sandboxes,
    capabilities: Capabilities,
    filters: Filters,
    /// The lowest OOM score that the host lets us give.
    oom_floor: i32,
}

impl OciRuntime {
    /// Prepares directories and the shims' cgroup. Containers that run are found by the
    /// first `list`.
    pub async fn new(config: RuntimeConfig) -> Result<OciRuntime, Error> {
        blocking(move || OciRuntime::new_blocking(config)).await
    }

    fn new_blocking(config: RuntimeConfig) -> Result<OciRuntime, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Unsupported {
                runtime: "oci",
                field: "this user",
                reason: "containers need root; without it use the process runtime".to_owned(),
            });
        }
        let cgroups = Cgroups::detect()?;
        if cgroups.version == CgroupVersion::None {
            return Err(Error::Unsupported {
                runtime: "oci",
                field: "this machine",
                reason: "no cgroup hierarchy is mounted below /sys/fs/cgroup".to_owned(),
            });
        }
        let capabilities = Capabilities {
            network_namespaces: Path::new("/proc/self/ns/net").exists(),
            cgroup: cgroups.version,
            overlay: fs::read_to_string("/proc/filesystems").is_ok_and(|list| {
                list.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay")
            }),
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
            isolation: true,
            missing: Vec::new(),
        };
        let sandboxes = Sandboxes::new(&config.run);
        let filters = Filters::new(&config.run);
        let supervisor = Supervisor::start_up(Kind::Oci, config, cgroups)?;
        Ok(OciRuntime {
            supervisor,
            sandboxes,
            capabilities,
            filters,
            oom_floor: lowest_oom_score(),
        })
    }

    fn oom_score(&self, wish: Option<i32>) -> Option<i32> {
        wish.map(|score| score.clamp(self.oom_floor, 1000))
    }
}

/// Compiled system call filters, one for each set of capabilities that was asked for.
#[derive(Debug)]
struct Filters {
    dir: PathBuf,
    known: Mutex<HashMap<Vec<&'static str>, PathBuf>>,
}

impl Filters {
    fn new(run: &Path) -> Filters {
        Filters { dir: run.join("seccomp"), known: Mutex::new(HashMap::new()) }
    }

    fn get(&self, capabilities: &[&'static str]) -> Result<PathBuf, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.get(capabilities).filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        let bytes = bundle::compile_filter(capabilities).map_err(|error| Error::InvalidSpec {
            field: "seccompProfile",
            value: "RuntimeDefault".to_owned(),
            reason: error.to_string(),
        })?;
        fs::create_dir_all(&self.dir).map_err(|source| Error::Io {
            what: "creating",
            path: self.dir.clone(),
            source,
        })?;
        // By content: shims of another version of this program keep theirs.
        let path = self.dir.join(format!("{}.bpf", crate::file::short_hash(&bytes)));
        crate::file::write_atomic(&path, &bytes)?;
        known.insert(capabilities.to_vec(), path.clone());
        Ok(path)
    }
}

/// Makes the working directory in the image when it is missing, as other runtimes do.
/// Resolved by the kernel beneath the root: no symlink of the image leads out of it.
fn ensure_cwd(rootfs: &Path, cwd: &str) -> Result<(), Error> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |e: rustix::io::Errno| Error::Io {
        what: "making the working directory in",
        path: rootfs.to_owned(),
        source: e.into(),
    };
    let root = rustix::fs::open(rootfs, flags, Mode::empty()).map_err(failed)?;
    let open = |path: &Path| {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), how)
    };
    let mut at = PathBuf::from(".");
    let mut parent = open(&at).map_err(failed)?;
    for name in Path::new(cwd).components() {
        let std::path::Component::Normal(name) = name else { continue };
        at.push(name);
        parent = match open(&at) {
            Err(rustix::io::Errno::NOENT) => {
                match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                    // A read-only root: the command's own chdir will tell.
                    Ok(()) | Err(rustix::io::Errno::ROFS) => {}
                    Err(error) => return Err(failed(error)),
                }
                match open(&at) {
                    Err(rustix::io::Errno::NOENT) => return Ok(()),
                    other => other.map_err(failed)?,
                }
            }
            // A file, or a loop: the command's own chdir will tell.
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
            other => other.map_err(failed)?,
        };
    }
    Ok(())
}

/// Tries how far this process's own score may go down; the host may forbid it.
fn lowest_oom_score() -> i32 {
    const PATH: &str = "/proc/self/oom_score_adj";
    let current: i32 =
        fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if fs::write(PATH, "-1000").is_err() {
        tracing::warn!(
            lowest = current,
            "the host forbids lower OOM scores; containers get this one at the lowest"
        );
        return current;
    }
    if let Err(error) = fs::write(PATH, current.to_string()) {
        tracing::warn!(%error, "restoring the agent's own OOM score");
    }
    -1000
}

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io {
            what: "running blocking work",
            path: "/".into(),
            source: std::io::Error::other(error),
        }),
    }
}

#[async_trait]
impl Runtime for OciRuntime {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn ensure_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        let (sandboxes, spec) = (self.sandboxes.clone(), spec.clone());
        let cgroups = self.supervisor.0.cgroups.clone();
        let cgroup = self.supervisor.0.cgroup(&spec.cgroup);
        blocking(move || {
            if !spec.cgroup.is_empty() {
                cgroups.ensure(&cgroup)?;
                cgroups.set(&cgroup, &spec.resources)?;
            }
            sandboxes.ensure(&spec)
        })
        .await
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.supervisor.0.remove_all(uid).await?;
        let cgroup = self.sandboxes.record(uid).map(|spec| spec.cgroup).unwrap_or_default();
        if !cgroup.is_empty() {
            self.supervisor.0.remove_cgroup(&self.supervisor.0.cgroup(&cgroup)).await?;
        }
        let (sandboxes, uid) = (self.sandboxes.clone(), uid.to_owned());
        blocking(move || sandboxes.remove(&uid)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerRef, Error> {
        let cgroup = self.supervisor.0.cgroup(&spec.cgroup);
        let shm = match &spec.namespaces.ipc {
            NamespaceMode::Path(_) => self.sandboxes.shm(&spec.sandbox),
            NamespaceMode::New | NamespaceMode::Host => None,
        };
        let around = Surroundings {
            cgroup_version: self.capabilities.cgroup,
            cgroup: &cgroup,
            shm: shm.as_deref(),
            oom_score_adj: self.oom_score(spec.oom_score_adj),
        };
        let config = bundle::config(spec, &around)?;
        ensure_cwd(&spec.rootfs, &spec.process.cwd)?;
        let plan = bundle::filter_plan(spec, self.capabilities.cgroup);
        let filter = plan.as_ref().map(|p| self.filters.get(&p.capabilities)).transpose()?;
        let lent_admin = plan.is_some_and(|p| p.lent_admin);
        self.supervisor.0.create(spec, Some(Bundle { config, filter, lent_admin })).await
    }

    async fn start(&self, container: &ContainerRef) -> Result<(), Error> {
        self.supervisor.0.start(container).await
    }

    async fn signal(
        &self,
        container: &ContainerRef,
        signal: Signal,
        scope: Scope,
    ) -> Result<(), Error> {
        self.supervisor.0.signal(container, signal, scope).await
    }

    async fn exec(&self, container: &ContainerRef, spec: ExecSpec) -> Result<ExecHandle, Error> {
        self.supervisor.0.exec(container, spec).await
    }

    async fn attach(&self, container: &ContainerRef, stdin: bool) -> Result<Streams, Error> {
        self.supervisor.0.attach(container, stdin).await
    }

    async fn update(&self, container: &ContainerRef, resources: &Resources) -> Result<(), Error> {
        let cgroup = self.supervisor.0.cgroup_of(container).await?;
        self.supervisor.0.cgroups.set(&cgroup, resources)
    }

    async fn stats(&self, container: &ContainerRef) -> Result<Stats, Error> {
        let cgroup = self.supervisor.0.cgroup_of(container).await?;
        Ok(self.supervisor.0.cgroups.stats(&cgroup))
    }

    async fn remove(&self, container: &ContainerRef) -> Result<(), Error> {
        self.supervisor.0.remove(container).await
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        self.supervisor.0.list().await
    }

    async fn inspect(&self, key: &ContainerKey) -> Result<Option<Observed>, Error> {
        self.supervisor.0.inspect(key).await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.supervisor.0.events()
    }
}
