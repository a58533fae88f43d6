//! The tests' words: a world of nodes, sandboxes on them, servers, and calls.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use atoll_network::underlay::{self, Underlay};
use atoll_network::{
    Config, Endpoint, HostPort, Lease, NodeId, NodeNetwork, Peer, Protocol, ServicePort,
    TrafficPolicy, netns,
};

/// All worlds choose their address ranges under one lock.
const RUN_DIR: &str = "/run/atoll-network-tests";
const PATIENCE: Duration = Duration::from_secs(2);

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// Skips a test that needs root, but never in CI.
pub(crate) fn is_root() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    #[allow(clippy::disallowed_methods, reason = "tests ask whether they run in CI")]
    let ci = std::env::var("CI").is_ok();
    assert!(!ci, "CI must run the network tests as root");
    println!("skipped: network namespaces need root");
    false
}

/// A cluster on this machine; gone when dropped.
pub(crate) struct World {
    pub(crate) cluster: Underlay,
    pub(crate) nodes: Vec<NodeNetwork>,
    folder: tempfile::TempDir,
    sandboxes: Vec<Sandbox>,
    stop: Arc<AtomicBool>,
}

/// Where a call is made from, or who answers it.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub(crate) uid: String,
    pub(crate) node: usize,
    pub(crate) netns: PathBuf,
    pub(crate) lease: Lease,
}

impl World {
    pub(crate) async fn with_nodes(count: usize) -> Self {
        for former in underlay::recorded(Path::new(RUN_DIR)).unwrap() {
            if !former.data_dir.exists() {
                underlay::remove(Path::new(RUN_DIR), &former.cluster_id).unwrap();
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let cluster = underlay::create(&underlay::Config {
            cluster_id: format!("t{}x{number}", std::process::id() % 100_000),
            data_dir: folder.path().to_owned(),
            run_dir: RUN_DIR.into(),
            nodes: (1..=count).map(|k| format!("node-{k}")).collect(),
            ranges: None,
        })
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut world = Self { cluster, nodes: Vec::new(), folder, sandboxes: Vec::new(), stop };
        for k in 0..count {
            let node = world.start_agent(k).await;
            world.nodes.push(node);
        }
        world
    }

    pub(crate) async fn start_agent(&self, k: usize) -> NodeNetwork {
        let node = &self.cluster.nodes[k];
        let network = NodeNetwork::setup_in(&node.netns, self.config(k)).await.unwrap();
        let peers = self.cluster.nodes.iter().map(|node| Peer {
            name: node.name.clone(),
            node_address: node.address,
            pod_cidr: node.pod_cidr,
        });
        network.sync_peers(peers.collect()).await.unwrap();
        network
    }

    pub(crate) fn config(&self, k: usize) -> Config {
        let node = &self.cluster.nodes[k];
        Config {
            node_id: NodeId::derive(&self.cluster.cluster_id, &node.name),
            node_address: node.address,
            pod_cidr: node.pod_cidr,
            cluster_pod_cidr: self.cluster.ranges.pods,
            service_cidr: self.cluster.ranges.services,
            dns_address: Some(self.cluster.ranges.dns_address()),
            ipam_dir: self.folder.path().join(&node.name),
            mtu: None,
        }
    }

    pub(crate) async fn sandbox(&mut self, node: usize, uid: &str) -> Sandbox {
        self.sandbox_with_ports(node, uid, &[]).await
    }

    pub(crate) async fn sandbox_with_ports(
        &mut self,
        node: usize,
        uid: &str,
        ports: &[HostPort],
    ) -> Sandbox {
        let netns = self.sandbox_netns(uid);
        netns::make(&netns).unwrap();
        let lease = self.nodes[node].attach(uid, &netns, ports).await.unwrap();
        let sandbox = Sandbox { uid: uid.to_owned(), node, netns, lease };
        self.sandboxes.push(sandbox.clone());
        sandbox
    }

    /// A sandbox whose server answers its uid on port 8080.
    pub(crate) async fn server(&mut self, node: usize, uid: &str) -> Sandbox {
        let sandbox = self.sandbox(node, uid).await;
        self.serve(&sandbox.netns, 8080, uid);
        sandbox
    }

    pub(crate) fn sandbox_netns(&self, uid: &str) -> PathBuf {
        Path::new(RUN_DIR).join(&self.cluster.cluster_id).join("sandboxes").join(uid)
    }

    /// Answers each connection with `name` and the client's address.
    pub(crate) fn serve(&self, netns: &Path, port: u16, name: &str) {
        let listener =
            netns::listen_tcp(netns, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        let (name, stop) = (name.to_owned(), Arc::clone(&self.stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap().ip();
                // A client that gave up is the client's test's to notice.
                stream.write_all(format!("{name} {client}").as_bytes()).ok();
            }
        });
    }

    pub(crate) fn service_address(&self, last: u8) -> Ipv4Addr {
        self.cluster.ranges.services.nth(u32::from(last)).unwrap()
    }

    /// A TCP service on port 80 over the sandboxes' port 8080.
    pub(crate) fn service(&self, seen_by: usize, last: u8, endpoints: &[&Sandbox]) -> ServicePort {
        ServicePort {
            key: format!("default/svc-{last}:http"),
            protocol: Protocol::Tcp,
            port: 80,
            cluster_addresses: vec![self.service_address(last)],
            external_addresses: Vec::new(),
            node_port: None,
            endpoints: endpoints
                .iter()
                .map(|sandbox| Endpoint {
                    address: SocketAddrV4::new(sandbox.lease.address, 8080),
                    local: sandbox.node == seen_by,
                })
                .collect(),
            affinity: None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        }
    }

    /// The same service, on every node.
    pub(crate) async fn sync(&self, build: impl Fn(&Self, usize) -> Vec<ServicePort>) {
        for (k, node) in self.nodes.iter().enumerate() {
            node.sync_services(build(self, k)).await.unwrap();
        }
    }

    /// Calls with the name of a node's namespace as the origin.
    pub(crate) fn node_netns(&self, k: usize) -> PathBuf {
        self.cluster.nodes[k].netns.clone()
    }

    pub(crate) fn teardown(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for sandbox in self.sandboxes.drain(..) {
            netns::remove(&sandbox.netns).unwrap();
        }
        std::fs::remove_dir_all(
            Path::new(RUN_DIR).join(&self.cluster.cluster_id).join("sandboxes"),
        )
        .ok();
        underlay::remove(Path::new(RUN_DIR), &self.cluster.cluster_id).unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.teardown();
    }
}

/// What a server answered: its name, and the address it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) from: String,
    pub(crate) saw: Ipv4Addr,
}

pub(crate) fn call(netns: &Path, to: Ipv4Addr, port: u16) -> io::Result<Answer> {
    netns::in_netns(netns, move || call_here(to, port)).map_err(io::Error::other)?
}

/// A call from the namespace the test itself is in: the host.
pub(crate) fn call_here(to: Ipv4Addr, port: u16) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (from, saw) = text.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { from: from.to_owned(), saw: saw.parse().map_err(io::Error::other)? })
}

/// Calls many times and counts who answered.
pub(crate) fn count(netns: &Path, to: Ipv4Addr, port: u16, calls: u32) -> HashMap<String, u32> {
    netns::in_netns(netns, move || {
        let mut counts = HashMap::new();
        for _ in 0..calls {
            *counts.entry(call_here(to, port).unwrap().from).or_default() += 1;
        }
        counts
    })
    .unwrap()
}
