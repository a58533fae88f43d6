//! The process runtime: commands of the node itself, for machines without root.
//!
//! A command gets a session of its own, its environment, its log and its exit code, and
//! nothing else: what asks for more is refused by name.

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::cgroup::Cgroups;
use crate::error::Error;
use crate::runtime::{
    Capabilities, CgroupVersion, ContainerKey, ContainerRef, Event, ExecHandle, Observed, Runtime,
    RuntimeConfig, Sandbox, Stats, Streams,
};
use crate::shim::Kind;
use crate::signal::Signal;
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec, Scope};
use crate::supervisor::{Handle, Supervisor};

/// Runs commands of the node through the same shim.
#[derive(Debug)]
pub struct ProcessRuntime {
    supervisor: Handle,
    capabilities: Capabilities,
}

impl ProcessRuntime {
    /// Prepares directories. Commands that run are found by the first `list`.
    pub async fn new(config: RuntimeConfig) -> Result<ProcessRuntime, Error> {
        let supervisor = crate::oci::blocking(move || {
            Supervisor::start_up(Kind::Process, config, Cgroups::none())
        })
        .await?;
        let capabilities = Capabilities {
            network_namespaces: false,
            cgroup: CgroupVersion::None,
            overlay: false,
            seccomp: false,
            isolation: false,
            missing: vec![
                "images and volumes: commands see the node's own files".to_owned(),
                "limits: no cgroup is used".to_owned(),
                "addresses: commands share the node's network".to_owned(),
            ],
        };
        Ok(ProcessRuntime { supervisor, capabilities })
    }
}

fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let refuse = |field, reason: &str| {
        Err(Error::Unsupported { runtime: "process", field, reason: reason.to_owned() })
    };
    let needs_root = "it needs root; run the agent as root for containers";
    if spec.security.privileged
        || !spec.security.capabilities_add.is_empty()
        || spec.security.read_only_rootfs
    {
        return refuse("securityContext", needs_root);
    }
    if !spec.mounts.is_empty() {
        return refuse("volumeMounts", needs_root);
    }
    if !spec.devices.is_empty() {
        return refuse("devices", needs_root);
    }
    if spec.resources.memory_limit_bytes.is_some()
        || spec.resources.cpu_quota_us.is_some()
        || spec.resources.pids_limit.is_some()
    {
        return refuse("resources.limits", needs_root);
    }
    let own = rustix::process::geteuid().as_raw();
    if spec.process.user.uid != own && spec.process.user.uid != 0 {
        return refuse("runAsUser", needs_root);
    }
    if spec.process.args.first().is_none_or(String::is_empty) {
        return Err(Error::InvalidSpec {
            field: "command",
            value: String::new(),
            reason: "no command specified".to_owned(),
        });
    }
    Ok(())
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// There is nothing to make: every command shares the node's namespaces.
    async fn ensure_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        Ok(Sandbox { uid: spec.uid.clone(), net: None, ipc: None, uts: None, created: false })
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.supervisor.0.remove_all(uid).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerRef, Error> {
        check(spec)?;
        self.supervisor.0.create(spec, None).await
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

    async fn update(&self, _container: &ContainerRef, _limits: &Resources) -> Result<(), Error> {
        Err(Error::Unsupported {
            runtime: "process",
            field: "resources",
            reason: "limits need root".to_owned(),
        })
    }

    async fn stats(&self, container: &ContainerRef) -> Result<Stats, Error> {
        self.supervisor.0.cgroup_of(container).await?;
        Ok(Stats::default())
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
