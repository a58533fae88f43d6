//! [`PodNetwork`] by `atoll-network`.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use atoll_network::{HostPort as EngineHostPort, NodeNetwork, Protocol};
use tokio::sync::watch;

use super::{HostPort, NetworkError, PodNetwork};

/// A pod that waited this long is told about the missing network.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pods wait for the node's network: it is set up when the node has its podCIDR.
pub struct NodePods {
    network: watch::Receiver<Option<NodeNetwork>>,
}

impl NodePods {
    #[must_use]
    pub fn new(network: watch::Receiver<Option<NodeNetwork>>) -> NodePods {
        NodePods { network }
    }

    /// Right after the agent's start the network takes a moment.
    async fn network(&self) -> Result<NodeNetwork, NetworkError> {
        let mut network = self.network.clone();
        let ready = network.wait_for(Option::is_some);
        let found = match tokio::time::timeout(READY_TIMEOUT, ready).await {
            Ok(Ok(found)) => found.clone(),
            Ok(Err(_closed)) => None,
            Err(_elapsed) => None,
        };
        found.ok_or_else(|| NetworkError {
            what: "network is not ready".to_owned(),
            source: "the node has no podCIDR yet".into(),
        })
    }
}

#[async_trait]
impl PodNetwork for NodePods {
    async fn attach(
        &self,
        uid: &str,
        netns: &Path,
        ports: &[HostPort],
    ) -> Result<IpAddr, NetworkError> {
        let ports: Vec<EngineHostPort> = ports.iter().map(engine_port).collect();
        let lease = self.network().await?.attach(uid, netns, &ports).await;
        let lease = lease.map_err(|source| NetworkError {
            what: format!("setting up the network of sandbox {uid}"),
            source: source.into(),
        })?;
        Ok(IpAddr::V4(lease.address))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        // An agent that was just started has yet to find the leases of the former one. A node
        // that gets no network at all has connected nothing.
        let Ok(network) = self.network().await else { return Ok(()) };
        network.detach(uid).await.map_err(|source| NetworkError {
            what: format!("taking down the network of sandbox {uid}"),
            source: source.into(),
        })
    }
}

fn engine_port(port: &HostPort) -> EngineHostPort {
    EngineHostPort {
        host_ip: match port.host_ip {
            Some(IpAddr::V4(ip)) if !ip.is_unspecified() => Some(ip),
            _ => None,
        },
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: if port.udp { Protocol::Udp } else { Protocol::Tcp },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn taking_down_waits_for_the_network_of_a_new_agent() {
        let (_sender, receiver) = watch::channel(None);
        let pods = NodePods::new(receiver);
        let brief = tokio::time::timeout(Duration::from_millis(50), pods.detach("uid")).await;
        assert!(brief.is_err(), "it must not say that nothing is connected before it can know");
    }
}
