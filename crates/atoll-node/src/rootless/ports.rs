//! Ports of pods that share the node's network: each port of a container is one of the
//! node's that no other pod has, and `PORT` tells the program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, HTTPGetAction, LifecycleHandler, Pod, Probe,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use crate::network::{HostPort, NetworkError, PodNetwork};
use crate::pod::identity::{all_containers, uses_host_network};
use crate::probe::http::port_number;

/// The node's ports that pods get: below those that the kernel gives to connections, and
/// below NodePorts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;
/// The port of a container that names none.
const UNNAMED: u16 = 8080;
const FILE: &str = "ports.json";

/// The ports of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPorts {
    /// The value of `PORT`; none when the pod sets it itself.
    port: Option<u16>,
    /// The container's port and the node's.
    map: BTreeMap<u16, u16>,
}

/// The ports of one pod, by container. Without any, a port is itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPorts(BTreeMap<String, ContainerPorts>);

impl PodPorts {
    /// Where a port of the pod is on the node.
    #[must_use]
    pub fn node_port(&self, port: u16) -> u16 {
        self.0.values().find_map(|own| own.map.get(&port)).copied().unwrap_or(port)
    }

    /// What tells a program where to listen: `PORT`, and `PORT_<n>` for each port.
    #[must_use]
    pub fn variables(&self, container: &str) -> Vec<(String, String)> {
        let Some(own) = self.0.get(container) else { return Vec::new() };
        let first = own.port.map(|port| ("PORT".to_owned(), port.to_string()));
        let others = own.map.iter().map(|(own, node)| (format!("PORT_{own}"), node.to_string()));
        first.into_iter().chain(others).collect()
    }

    /// The probe, asking the node's port.
    #[must_use]
    pub fn probe(&self, mut probe: Probe, ports: &[ContainerPort]) -> Probe {
        if self.0.is_empty() {
            return probe;
        }
        if let Some(action) = &mut probe.http_get {
            self.http_get(action, ports);
        }
        if let Some(action) = &mut probe.tcp_socket
            && action.host.as_deref().unwrap_or_default().is_empty()
        {
            self.redirect(&mut action.port, ports);
        }
        if let Some(action) = &mut probe.grpc
            && let Ok(port) = u16::try_from(action.port)
        {
            action.port = self.node_port(port).into();
        }
        probe
    }

    /// The hook, asking the node's port.
    #[must_use]
    pub fn hook(&self, mut hook: LifecycleHandler, ports: &[ContainerPort]) -> LifecycleHandler {
        if let Some(action) = &mut hook.http_get
            && !self.0.is_empty()
        {
            self.http_get(action, ports);
        }
        hook
    }

    fn http_get(&self, action: &mut HTTPGetAction, ports: &[ContainerPort]) {
        // A host of its own means a port of that host.
        if action.host.as_deref().unwrap_or_default().is_empty() {
            self.redirect(&mut action.port, ports);
        }
    }

    fn redirect(&self, port: &mut IntOrString, ports: &[ContainerPort]) {
        // One that cannot be found is the probe's to complain about.
        if let Ok(number) = port_number(port, ports) {
            *port = IntOrString::Int(self.node_port(number).into());
        }
    }

    fn on_node(&self) -> impl Iterator<Item = u16> {
        self.0.values().flat_map(|own| own.map.values().copied())
    }
}

/// The ports of all pods of a node.
pub struct NodePorts {
    pods_dir: PathBuf,
    known: Mutex<BTreeMap<String, PodPorts>>,
}

impl NodePorts {
    /// With what the pods had when the last agent stopped.
    #[must_use]
    pub fn new(pods_dir: &Path) -> NodePorts {
        let entries = std::fs::read_dir(pods_dir).into_iter().flatten().flatten();
        let known = entries.filter_map(|entry| {
            let text = std::fs::read(entry.path().join(FILE)).ok()?;
            Some((entry.file_name().into_string().ok()?, serde_json::from_slice(&text).ok()?))
        });
        NodePorts { known: Mutex::new(known.collect()), pods_dir: pods_dir.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PodPorts>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assign(&self, uid: &str, pod: &Pod) -> Result<PodPorts, NetworkError> {
        let mut known = self.lock();
        if let Some(ports) = known.get(uid) {
            return Ok(ports.clone());
        }
        let mut taken: BTreeSet<u16> = known.values().flat_map(PodPorts::on_node).collect();
        let ports = assign(uid, pod, &mut taken).ok_or_else(|| NetworkError {
            what: format!("finding free ports of the node for pod {uid}"),
            source: format!("all of {FIRST} to {} are taken", FIRST + COUNT - 1).into(),
        })?;
        let path = self.pods_dir.join(uid).join(FILE);
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(self.pods_dir.join(uid))?;
            std::fs::write(&path, serde_json::to_vec(&ports)?)
        };
        write().map_err(|source| NetworkError {
            what: format!("writing {}", path.display()),
            source: source.into(),
        })?;
        known.insert(uid.to_owned(), ports.clone());
        Ok(ports)
    }
}

#[async_trait]
impl PodNetwork for NodePorts {
    /// Never asked for: no sandbox has a network of its own.
    async fn attach(&self, uid: &str, _: &Path, _: &[HostPort]) -> Result<IpAddr, NetworkError> {
        Err(NetworkError {
            what: format!("connecting sandbox {uid}"),
            source: "a node without root has no pod network".into(),
        })
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.lock().remove(uid);
        // The pod may come back when somebody else has them.
        let path = self.pods_dir.join(uid).join(FILE);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(NetworkError {
                what: format!("removing {}", path.display()),
                source: source.into(),
            }),
            _ => Ok(()),
        }
    }

    async fn ports(&self, uid: &str, pod: &Pod) -> Result<PodPorts, NetworkError> {
        self.assign(uid, pod)
    }
}

/// `None` when there are no ports left.
fn assign(uid: &str, pod: &Pod, taken: &mut BTreeSet<u16>) -> Option<PodPorts> {
    let mut ports = PodPorts::default();
    let Some(spec) = &pod.spec else { return Some(ports) };
    // Who asks for the node's network has chosen the node's ports himself.
    if uses_host_network(pod) {
        return Some(ports);
    }
    for (_, container) in all_containers(spec) {
        let own = of_container(uid, container, taken)?;
        ports.0.insert(container.name.clone(), own);
    }
    Some(ports)
}

fn of_container(
    uid: &str,
    container: &Container,
    taken: &mut BTreeSet<u16>,
) -> Option<ContainerPorts> {
    // A program that is told its port by the pod listens there and nowhere else.
    if container.env.iter().flatten().any(|variable| variable.name == "PORT") {
        return Some(ContainerPorts::default());
    }
    let mut own = ContainerPorts::default();
    for port in container.ports.iter().flatten() {
        let Ok(number) = u16::try_from(port.container_port) else { continue };
        let wanted = port.host_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0);
        let node = match wanted {
            Some(port) => port,
            None => free(uid, taken)?,
        };
        taken.insert(node);
        own.map.insert(number, node);
        own.port = own.port.or(Some(node));
    }
    if own.map.is_empty() {
        let node = free(uid, taken)?;
        taken.insert(node);
        own.map.insert(UNNAMED, node);
        own.port = Some(node);
    }
    Some(own)
}

/// Begins at a place that the uid names, so that the nodes of two users seldom meet.
fn free(uid: &str, taken: &BTreeSet<u16>) -> Option<u16> {
    let start = uid.bytes().fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    (0..COUNT)
        .map(|step| FIRST + (start % COUNT + step) % COUNT)
        .find(|port| !taken.contains(port) && is_free(*port))
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::UNSPECIFIED, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
#[path = "ports/tests.rs"]
mod tests;
