//! What an agent is told when it starts. Nothing here is read from flags or environment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use atoll_image::{Builtin, RegistryConfig};

use crate::node::heartbeat::Servers;
use crate::rootless::Rootless;
use crate::tls::KubeletTls;

/// Everything that one agent needs.
#[derive(Clone)]
pub struct Config {
    pub node_name: String,
    /// Names cluster and node in links, cgroups and tables, so that two clusters on one
    /// machine never meet.
    pub cluster_id: String,
    /// The node's own folder; survives a reboot.
    pub root: PathBuf,
    /// Vanishes at a reboot. Keep it short: unix sockets stand below it.
    pub run: PathBuf,
    /// The address under which other nodes and pods reach this one.
    pub node_ip: IpAddr,
    /// Labels and taints that the node gives itself when it registers.
    pub labels: BTreeMap<String, String>,
    /// A client that authenticates as `system:node:<name>`.
    pub client: kube::Client,
    /// All servers, each of which is pinged; `None` pings by the client alone.
    pub servers: Option<Arc<dyn Servers>>,
    pub kubelet_tls: KubeletTls,
    /// Usually port 10250 on all addresses.
    pub kubelet_listen: SocketAddr,
    pub cluster_domain: String,
    /// Where pods find the cluster's DNS.
    pub cluster_dns: IpAddr,
    pub service_cidr: String,
    /// The range out of which all nodes' podCIDRs are cut.
    pub pod_cidr: String,
    /// The podCIDR to register with; the API server gives one otherwise.
    pub own_pod_cidr: Option<String>,
    /// Name servers for what is not the cluster's; loopback ones are skipped.
    pub upstream_dns: Vec<IpAddr>,
    pub builtin_images: Vec<Builtin>,
    pub registry: RegistryConfig,
    /// The read-only copy of the program that shims run from.
    pub shim: PathBuf,
    /// Version of this program, for nodeInfo.
    pub version: String,
    pub max_pods: i64,
    /// Containers that name no seccomp profile get the runtime's own instead of none.
    pub seccomp_default: bool,
    /// False without root: host processes instead of containers.
    pub containers: bool,
    /// Used only then.
    pub rootless: Rootless,
}

impl Config {
    #[must_use]
    pub fn pods_dir(&self) -> PathBuf {
        self.root.join("pods")
    }

    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// Output of containers, one folder a pod.
    #[must_use]
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    #[must_use]
    pub fn dns_snapshot(&self) -> PathBuf {
        self.root.join("dns").join("snapshot.json")
    }

    /// The desired pods as last heard from the API.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.root.join("agent").join("pods.json")
    }

    /// The node's podCIDR as last heard from the API: pods keep their network while it is
    /// away.
    #[must_use]
    pub fn pod_cidr_file(&self) -> PathBuf {
        self.root.join("agent").join("pod-cidr")
    }

    /// Cgroup below which all of this node's pods stand.
    #[must_use]
    pub fn cgroup_root(&self) -> String {
        format!("/atoll/{}-{}", self.cluster_id, self.node_name)
    }

    /// Cgroup of the shims, outside the pods' tree.
    #[must_use]
    pub fn shim_cgroup(&self) -> String {
        format!("{}.shims", self.cgroup_root())
    }
}
