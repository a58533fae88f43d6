//! The OCI runtime: containers with namespaces, cgroups and their own root.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::bundle::{self, Surroundings};
use crate::cgroup::{self, Cgroups};
use crate::error::Error;
use crate::filters::Filters;
use crate::runtime::{Capabilities, CgroupVersion, RuntimeConfig, Sandbox, Stats};
use crate::sandbox::{Around, Sandboxes};
use crate::shim::Kind;
use crate::shimmed::{Backend, Shimmed, blocking};
use crate::spec::{ContainerSpec, NamespaceMode, Resources, Root, SandboxSpec};
use crate::supervisor::{Bundle, Supervisor};

/// Below a sandbox's group, for the first process of those that share a namespace; no
/// container's name is without a dot there.
const PAUSE_CGROUP: &str = "pause";

/// Runs containers through libcontainer. Needs root and cgroups.
pub type OciRuntime = Shimmed<Oci>;

/// What is the OCI runtime's own.
#[derive(Debug)]
pub struct Oci {
    sandboxes: Sandboxes,
    capabilities: Capabilities,
    filters: Filters,
    /// The lowest OOM score that the host lets us give.
    oom_floor: i32,
    /// Mount points of the hierarchies of cgroup v1, the named ones included.
    hierarchies: Vec<PathBuf>,
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
        let backend = Oci {
            sandboxes,
            capabilities,
            filters,
            oom_floor: lowest_oom_score(),
            hierarchies: cgroup::v1_mounts()?,
        };
        Ok(Shimmed { backend, supervisor })
    }
}

impl Oci {
    fn oom_score(&self, wish: Option<i32>) -> Option<i32> {
        wish.map(|score| score.clamp(self.oom_floor, 1000))
    }
}

#[async_trait]
impl Backend for Oci {
    fn name(&self) -> &'static str {
        "oci"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn ensure_sandbox(
        &self,
        shims: &Arc<Supervisor>,
        spec: &SandboxSpec,
    ) -> Result<Sandbox, Error> {
        let (sandboxes, spec) = (self.sandboxes.clone(), spec.clone());
        let cgroups = shims.cgroups.clone();
        let cgroup = shims.cgroup(&spec.cgroup);
        let shim = shims.config.shim.clone();
        blocking(move || {
            let mut around = Around { shim: &shim, cgroups: Vec::new() };
            if !spec.cgroup.is_empty() {
                cgroups.ensure(&cgroup)?;
                cgroups.set(&cgroup, &spec.resources)?;
            }
            if !spec.cgroup.is_empty() && spec.shared_processes {
                let own = format!("{cgroup}/{PAUSE_CGROUP}");
                cgroups.ensure(&own)?;
                around.cgroups = cgroups.dirs(&own);
            }
            sandboxes.ensure(&spec, &around)
        })
        .await
    }

    async fn remove_sandbox(&self, shims: &Arc<Supervisor>, uid: &str) -> Result<(), Error> {
        let cgroup = self.sandboxes.record(uid).map(|spec| spec.cgroup).unwrap_or_default();
        if !cgroup.is_empty() {
            shims.remove_cgroup(&shims.cgroup(&cgroup)).await?;
        }
        let (sandboxes, uid) = (self.sandboxes.clone(), uid.to_owned());
        blocking(move || sandboxes.remove(&uid)).await
    }

    fn bundle(&self, shims: &Supervisor, spec: &ContainerSpec) -> Result<Bundle, Error> {
        if spec.root != Root::Mounted {
            return Err(Error::Unsupported {
                runtime: "oci",
                field: "root",
                reason: "it runs what is mounted".to_owned(),
            });
        }
        let cgroup = shims.cgroup(&spec.cgroup);
        let shm = match &spec.namespaces.ipc {
            NamespaceMode::Path(_) => self.sandboxes.shm(&spec.sandbox),
            NamespaceMode::New | NamespaceMode::Host => None,
        };
        let around = Surroundings {
            cgroup_version: self.capabilities.cgroup,
            cgroup: &cgroup,
            shm: shm.as_deref(),
            oom_score_adj: self.oom_score(spec.oom_score_adj),
            hierarchies: &self.hierarchies,
        };
        let config = bundle::config(spec, &around)?;
        ensure_cwd(&spec.rootfs, &spec.process.cwd)?;
        let plan = bundle::filter_plan(spec);
        let filter = plan.as_ref().map(|p| self.filters.get(&p.capabilities)).transpose()?;
        let lent_admin = plan.is_some_and(|p| p.lent_admin);
        let parted = bundle::parted(spec);
        Ok(Bundle { config: Some(config), filter, lent_admin, parted, ..Bundle::default() })
    }

    fn update(&self, shims: &Supervisor, cgroup: &str, limits: &Resources) -> Result<(), Error> {
        shims.cgroups.set(cgroup, limits)
    }

    fn stats(&self, shims: &Supervisor, cgroup: &str, _pid: Option<i32>) -> Stats {
        shims.cgroups.stats(cgroup)
    }
}

/// Makes the working directory in the image when it is missing, as other runtimes do.
fn ensure_cwd(rootfs: &Path, cwd: &str) -> Result<(), Error> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(rootfs, flags, Mode::empty());
    let made = root.and_then(|root| crate::beneath::make_dir(&root, Path::new(cwd)));
    made.map_err(|e| Error::Io {
        what: "making the working directory in",
        path: rootfs.to_owned(),
        source: e.into(),
    })
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
