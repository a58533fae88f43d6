//! What both runtimes do alike: everything that goes through a shim.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::error::Error;
use crate::runtime::{
    Capabilities, ContainerKey, ContainerRef, Event, ExecHandle, Observed, Runtime, Sandbox, Stats,
    Streams,
};
use crate::signal::Signal;
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec, Scope};
use crate::supervisor::{Bundle, Handle, Supervisor};

/// What a runtime has of its own.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn capabilities(&self) -> &Capabilities;

    async fn ensure_sandbox(
        &self,
        shims: &Arc<Supervisor>,
        spec: &SandboxSpec,
    ) -> Result<Sandbox, Error>;

    /// Takes down what the sandbox has beside its containers, which are gone.
    async fn remove_sandbox(&self, shims: &Arc<Supervisor>, uid: &str) -> Result<(), Error>;

    /// What the shim needs beside the specification; refuses what cannot be honoured.
    fn bundle(&self, shims: &Supervisor, spec: &ContainerSpec) -> Result<Bundle, Error>;

    fn update(&self, shims: &Supervisor, cgroup: &str, limits: &Resources) -> Result<(), Error>;

    /// `pid` is the container's first process, where one runs.
    fn stats(&self, shims: &Supervisor, cgroup: &str, pid: Option<i32>) -> Stats;
}

/// A runtime whose containers each have a shim.
#[derive(Debug)]
pub struct Shimmed<B> {
    pub(crate) backend: B,
    pub(crate) supervisor: Handle,
}

#[async_trait]
impl<B: Backend> Runtime for Shimmed<B> {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.backend.capabilities()
    }

    async fn ensure_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        self.backend.ensure_sandbox(&self.supervisor.0, spec).await
    }

    async fn update_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error> {
        let shims = &self.supervisor.0;
        self.backend.update(shims, &shims.cgroup(&spec.cgroup), &spec.resources)
    }

    async fn remove_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.supervisor.0.remove_all(uid).await?;
        self.backend.remove_sandbox(&self.supervisor.0, uid).await
    }

    async fn halt_sandbox(&self, uid: &str) -> Result<(), Error> {
        self.supervisor.0.halt_all(uid).await?;
        self.backend.remove_sandbox(&self.supervisor.0, uid).await
    }

    async fn cut_off(&self, containers: &[ContainerKey]) -> Result<(), Error> {
        self.supervisor.0.cut_off(containers)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerRef, Error> {
        let bundle = self.backend.bundle(&self.supervisor.0, spec)?;
        self.supervisor.0.create(spec, bundle).await
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

    async fn update(&self, container: &ContainerRef, limits: &Resources) -> Result<(), Error> {
        let (cgroup, _) = self.supervisor.0.whereabouts(container).await?;
        self.backend.update(&self.supervisor.0, &cgroup, limits)
    }

    async fn stats(&self, container: &ContainerRef) -> Result<Stats, Error> {
        let (cgroup, pid) = self.supervisor.0.whereabouts(container).await?;
        Ok(self.backend.stats(&self.supervisor.0, &cgroup, pid))
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
