//! The node's side of the pod network: what pods need of it, and how the cluster's
//! Services, endpoints and nodes become rules, routes and DNS answers.

pub mod pods;
pub mod sync;
pub mod translate;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

use crate::rootless::ports::PodPorts;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Something about the network failed; the text names it, the source says why.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NetworkError {
    pub what: String,
    pub source: BoxError,
}

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub udp: bool,
}

/// Connects sandboxes. Both calls may be repeated.
#[async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the sandbox its link and address; the same address when it has one already.
    async fn attach(
        &self,
        uid: &str,
        netns: &Path,
        ports: &[HostPort],
    ) -> Result<IpAddr, NetworkError>;

    /// Takes all of it back.
    async fn detach(&self, uid: &str) -> Result<(), NetworkError>;

    /// Where the ports of a pod without a network of its own are on the node's.
    async fn ports(&self, uid: &str, pod: &Pod) -> Result<PodPorts, NetworkError> {
        tracing::trace!(uid, pod = pod.metadata.name, "its ports are the node's");
        Ok(PodPorts::default())
    }
}

/// A sandbox as containers join it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSandbox {
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    /// The pod's address; the node's for pods on the host network.
    pub ip: String,
    pub ports: PodPorts,
}
