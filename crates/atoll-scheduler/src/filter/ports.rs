//! Host ports: two pods of a node cannot have the same.

use k8s_openapi::api::core::v1::Pod;

const ANY: &str = "0.0.0.0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    address: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// The ports that a pod takes on its node for as long as it is there.
    pub(crate) fn of(pod: &Pod) -> Vec<Self> {
        let containers = pod.spec.iter().flat_map(|spec| {
            let first = spec.init_containers.iter().flatten();
            let sidecars = first.filter(|one| one.restart_policy.as_deref() == Some("Always"));
            spec.containers.iter().chain(sidecars)
        });
        containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let number = port.host_port.filter(|number| *number > 0)?;
                Some(Self {
                    address: port.host_ip.clone().unwrap_or_else(|| ANY.into()),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port: number,
                })
            })
            .collect()
    }

    /// An address that stands for all conflicts with every other.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let is_any = |address: &str| matches!(address, "" | ANY | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || is_any(&self.address) || is_any(&other.address))
    }
}
