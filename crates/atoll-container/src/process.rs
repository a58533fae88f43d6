//! The process runtime: for machines without root.
//!
//! Where user namespaces are allowed a command is shut in: an image's files or the node's
//! own as its root, volumes mounted, processes of its own. Elsewhere it is a command of
//! the node with an environment, a log and an exit code, and nothing else. What asks for
//! more is refused by name.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::bundle;
use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::filters::Filters;
use crate::runtime::{Capabilities, CgroupVersion, RuntimeConfig, Sandbox, Stats};
use crate::shim::{Confinement, Enclosure, Kind, PROBE_FLAG};
use crate::shimmed::{Backend, Shimmed, blocking};
use crate::spec::{ContainerSpec, Resources, Root, SandboxSpec, Seccomp};
use crate::supervisor::{Bundle, Supervisor};

/// A probe makes a few namespaces and mounts; one that takes longer hangs.
const PROBE_MAX: Duration = Duration::from_secs(10);

/// Runs commands without root.
pub type ProcessRuntime = Shimmed<Processes>;

/// What is the process runtime's own.
#[derive(Debug)]
pub struct Processes {
    capabilities: Capabilities,
    filters: Filters,
}

impl ProcessRuntime {
    /// Prepares directories and looks what this machine allows. Commands that run are
    /// found by the first `list`.
    pub async fn new(config: RuntimeConfig) -> Result<ProcessRuntime, Error> {
        let (shim, pods) = (config.shim.clone(), config.pods.clone());
        let filters = Filters::new(&config.run);
        let supervisor =
            blocking(move || Supervisor::start_up(Kind::Process, config, Cgroups::none())).await?;
        let obstacle = obstacle(&shim, &pods).await;
        let mut missing = vec![
            "limits: there is no cgroup for them".to_owned(),
            "addresses: commands share the node's network".to_owned(),
        ];
        if let Some(reason) = &obstacle {
            missing.insert(
                0,
                format!(
                    "images and volumes: this machine does not let a user make them ({reason}); \
                     commands see the node's own files"
                ),
            );
        }
        let capabilities = Capabilities {
            network_namespaces: false,
            cgroup: CgroupVersion::None,
            overlay: obstacle.is_none(),
            seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
            isolation: obstacle.is_none(),
            missing,
        };
        Ok(Shimmed { backend: Processes { capabilities, filters }, supervisor })
    }
}

/// Why commands cannot be shut in here; `None` when they can. `dir` is a folder of the
/// node: some file systems cannot be the upper layer of an image.
pub async fn obstacle(shim: &Path, dir: &Path) -> Option<String> {
    let mut command = tokio::process::Command::new(shim);
    command.arg("shim").arg(PROBE_FLAG).arg(dir).env_clear();
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PROBE_MAX, command.output()).await {
        Ok(Ok(output)) if output.status.success() => None,
        Ok(Ok(output)) => {
            let reason = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Some(if reason.is_empty() { output.status.to_string() } else { reason })
        }
        Ok(Err(error)) => Some(format!("starting {}: {error}", shim.display())),
        Err(_elapsed) => Some("the trial did not end".to_owned()),
    }
}

fn refuse<T>(field: &'static str, reason: &str) -> Result<T, Error> {
    Err(Error::Unsupported { runtime: "process", field, reason: reason.to_owned() })
}

const NEEDS_ROOT: &str = "it needs root; run the agent as root for it";
const NEEDS_NAMESPACES: &str =
    "it needs user namespaces, which this machine does not allow, or root";

/// What no command gets without root.
fn check(spec: &ContainerSpec) -> Result<(), Error> {
    bundle::check(spec)?;
    if spec.security.privileged {
        return refuse("securityContext.privileged", NEEDS_ROOT);
    }
    if !spec.security.capabilities_add.is_empty() {
        return refuse("securityContext.capabilities.add", NEEDS_ROOT);
    }
    if matches!(spec.security.seccomp, Seccomp::Profile(_)) {
        return refuse("securityContext.seccompProfile", NEEDS_ROOT);
    }
    if !spec.devices.is_empty() {
        return refuse("devices", NEEDS_ROOT);
    }
    if !spec.sysctls.is_empty() {
        return refuse("sysctls", NEEDS_ROOT);
    }
    if spec.resources != Resources::default() {
        return refuse("resources.limits", NEEDS_ROOT);
    }
    if !spec.process.user.additional_gids.is_empty() {
        return refuse("supplementalGroups", NEEDS_ROOT);
    }
    Ok(())
}

/// What a command does not get that is not shut in.
fn check_open(spec: &ContainerSpec) -> Result<(), Error> {
    if !matches!(spec.root, Root::Node { .. }) {
        return refuse("image", NEEDS_NAMESPACES);
    }
    if !spec.mounts.is_empty() {
        return refuse("volumeMounts", NEEDS_NAMESPACES);
    }
    if spec.security.read_only_rootfs {
        return refuse("securityContext.readOnlyRootFilesystem", NEEDS_NAMESPACES);
    }
    if spec.process.user.uid != rustix::process::geteuid().as_raw() {
        return refuse("securityContext.runAsUser", NEEDS_NAMESPACES);
    }
    if spec.process.user.gid != rustix::process::getegid().as_raw() {
        return refuse("securityContext.runAsGroup", NEEDS_NAMESPACES);
    }
    Ok(())
}

impl Processes {
    fn confinement(&self, spec: &ContainerSpec) -> Confinement {
        let oom_score_adj = spec.oom_score_adj;
        if !self.capabilities.isolation {
            let programs = match &spec.root {
                Root::Node { programs, .. } => programs.clone(),
                Root::Mounted | Root::Layers { .. } => None,
            };
            return Confinement { programs, oom_score_adj, ..Confinement::default() };
        }
        let granted = bundle::granted(&spec.security);
        let bits = granted
            .iter()
            .filter_map(|name| bundle::number(name))
            .fold(0, |bits, number| bits | (1_u64 << number));
        Confinement {
            enclosure: Some(Enclosure {
                root: spec.root.clone(),
                rootfs: spec.rootfs.clone(),
                mounts: spec.mounts.clone(),
                hostname: spec.hostname.clone(),
                read_only: spec.security.read_only_rootfs,
            }),
            capabilities: Some(bits),
            programs: None,
            oom_score_adj,
        }
    }
}

#[async_trait]
impl Backend for Processes {
    fn name(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// There is nothing to make: what a command has of its own goes with it.
    async fn ensure_sandbox(
        &self,
        _shims: &Arc<Supervisor>,
        spec: &SandboxSpec,
    ) -> Result<Sandbox, Error> {
        Ok(Sandbox {
            uid: spec.uid.clone(),
            net: None,
            ipc: None,
            uts: None,
            pid: None,
            created: false,
        })
    }

    async fn remove_sandbox(&self, _shims: &Arc<Supervisor>, _uid: &str) -> Result<(), Error> {
        Ok(())
    }

    fn bundle(&self, _shims: &Supervisor, spec: &ContainerSpec) -> Result<Bundle, Error> {
        check(spec)?;
        if !self.capabilities.isolation {
            check_open(spec)?;
        }
        let plan = bundle::filter_plan(spec);
        let filter = plan.as_ref().map(|p| self.filters.get(&p.capabilities)).transpose()?;
        // A user may confine himself only when he can gain nothing by it.
        let no_new_privileges = spec.security.no_new_privileges || !self.capabilities.isolation;
        let confinement = Some(self.confinement(spec));
        Ok(Bundle { filter, confinement, no_new_privileges, ..Bundle::default() })
    }

    fn update(&self, _: &Supervisor, _cgroup: &str, _limits: &Resources) -> Result<(), Error> {
        refuse("resources.limits", NEEDS_ROOT)
    }

    fn stats(&self, _shims: &Supervisor, _cgroup: &str, pid: Option<i32>) -> Stats {
        pid.map(crate::usage::of_family).unwrap_or_default()
    }
}
