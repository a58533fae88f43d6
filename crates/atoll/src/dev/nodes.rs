//! The nodes of a `dev` cluster: their processes, and what chaos does to them.

use super::{
    RUN_DIR,
    chaos::{Action, Order},
    doors::Shut,
    folder::{Cluster, Folder},
    joining, leftovers, recipe, start_under,
};
use crate::{process::Process, server::audit::Audit};
use anyhow::{Context as _, Result, bail};
use atoll_network::underlay::{self, Underlay, UnderlayNode};
use kube::Client;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The port of a server in its own namespace.
pub(super) const API_PORT: u16 = 6443;

/// Where the supervisor of a cluster takes orders. Not in its folder, whose path may be
/// longer than the 108 bytes of a socket's.
pub fn control_of(id: &str) -> PathBuf {
    Path::new(RUN_DIR).join(id).join("control")
}

pub struct Nodes {
    pub(super) root: PathBuf,
    pub(super) cluster: Cluster,
    pub(super) underlay: Underlay,
    pub(super) program: PathBuf,
    pub(super) port: u16,
    pub(super) etcd_listen: Option<SocketAddr>,
    /// Flags of the servers for it.
    pub(super) etcd_flags: Vec<(&'static str, String)>,
    /// Flags of the agents, the same for all.
    agent_flags: Vec<(&'static str, String)>,
    pub(super) audit: Audit,
    /// By the names of their nodes.
    pub(super) servers: BTreeMap<String, Process>,
    pub(super) shut: Shut,
    agents: BTreeMap<String, Vec<Process>>,
    pub(super) hurry: CancellationToken,
}

impl Nodes {
    pub fn new(
        folder: &Folder,
        cluster: &Cluster,
        underlay: &Underlay,
        program: &Path,
        port: u16,
    ) -> Result<Self> {
        for node in &underlay.nodes {
            let root = folder.node(&node.name);
            std::fs::create_dir_all(&root)
                .with_context(|| format!("making the folder {}", root.display()))?;
        }
        std::fs::create_dir_all(folder.server())
            .with_context(|| format!("making the folder {}", folder.server().display()))?;
        Ok(Self {
            root: folder.root().to_owned(),
            cluster: cluster.clone(),
            underlay: underlay.clone(),
            program: program.to_owned(),
            port,
            etcd_listen: None,
            etcd_flags: Vec::new(),
            agent_flags: Vec::new(),
            audit: Audit::default(),
            servers: BTreeMap::new(),
            shut: Shut::default(),
            agents: BTreeMap::new(),
            hurry: CancellationToken::new(),
        })
    }

    /// Short, since socket paths end at 108 bytes.
    pub(super) fn run_dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.cluster.id)
    }

    /// The server takes the etcd connections that are accepted on this address of the host.
    pub fn serve_etcd(&mut self, listen: Option<SocketAddr>, flags: Vec<(&'static str, String)>) {
        self.etcd_flags = flags;
        self.etcd_listen = listen;
    }

    /// What all agents are told besides.
    pub fn agents_by(&mut self, flags: impl Iterator<Item = (&'static str, String)>) {
        self.agent_flags = flags.collect();
    }

    /// What the servers keep of who asks for what.
    pub fn audit_by(&mut self, audit: &Audit) {
        self.audit = audit.clone();
    }

    pub fn control(&self) -> PathBuf {
        control_of(&self.cluster.id)
    }

    /// Ends every process at once, however far its teardown is.
    pub fn hurry(&self) -> CancellationToken {
        self.hurry.clone()
    }

    fn dns_address(&self) -> Result<String> {
        let address = self.underlay.ranges.services.nth(10);
        Ok(address.context("the services' range has no tenth address")?.to_string())
    }

    pub async fn start_agents(&mut self, client: &Client) -> Result<()> {
        let nodes = self.underlay.nodes.clone();
        let starts = nodes.iter().map(|node| self.start_node(node, client));
        let started = futures::future::try_join_all(starts).await?;
        for (node, processes) in nodes.iter().zip(started) {
            self.agents.insert(node.name.clone(), processes);
        }
        Ok(())
    }

    async fn start_node(&self, node: &UnderlayNode, client: &Client) -> Result<Vec<Process>> {
        let root = self.root.join(&node.name);
        let token_file = joining::token_file(client, &node.name, &root).await?;
        let mut arguments = vec![
            ("join", self.reachable_server()?),
            ("token-file", token_file.display().to_string()),
            ("name", node.name.clone()),
            ("data-dir", root.display().to_string()),
            ("run-dir", self.run_dir().join(&node.name).display().to_string()),
            ("cluster-id", self.cluster.id.clone()),
            ("node-ip", node.address.to_string()),
            ("node-pod-cidr", node.pod_cidr.to_string()),
            ("pod-cidr", self.underlay.ranges.pods.to_string()),
            ("service-cidr", self.underlay.ranges.services.to_string()),
            ("cluster-dns", self.dns_address()?),
            ("program", self.program.display().to_string()),
            // Registries on the host's loopback are reached from the host's own network.
            ("registry-netns", format!("/proc/{}/ns/net", std::process::id())),
            ("no-dns", String::new()),
            ("supervised", String::new()),
        ];
        arguments.extend(self.agent_flags.iter().cloned());
        let name = format!("agent/{}", node.name);
        let log = root.join("agent.log");
        let agent = recipe(&name, &self.program, Some(&node.netns), &log, &arguments);
        let agent = start_under(agent, &self.hurry).await?;
        let dns = self.start_dns(node, &root)?;
        Ok(vec![agent, dns])
    }

    fn start_dns(&self, node: &UnderlayNode, root: &Path) -> Result<Process> {
        let arguments = [
            ("listen", format!("{}:53", self.dns_address()?)),
            ("snapshot", root.join("dns/snapshot.json").display().to_string()),
            ("supervised", String::new()),
        ];
        let name = format!("dns/{}", node.name);
        let log = root.join("dns.log");
        let dns = recipe(&name, &self.program, Some(&node.netns), &log, &arguments);
        Ok(Process::start(dns, &self.hurry))
    }

    pub async fn chaos(&mut self, order: &Order) -> Result<String> {
        let node = self.underlay.node(&order.node).context("choosing a node")?.clone();
        match order.action {
            Action::Isolate => {
                underlay::cut(&self.underlay, &node.name).context("cutting the link")?;
                self.shut(&node, true);
                Ok(format!("{} is isolated", node.name))
            }
            Action::Kill => {
                if self.cluster.servers == 1 && self.is_server(&node.name) {
                    bail!(
                        "{} runs the only server; with it the whole cluster would be gone. Kill another node, or isolate this one",
                        node.name
                    );
                }
                underlay::cut(&self.underlay, &node.name).context("cutting the link")?;
                self.kill_server(&node.name).await;
                for process in self.agents.remove(&node.name).unwrap_or_default() {
                    process.kill().await;
                }
                let killed = leftovers::kill_node(&self.cluster.id, &node.name).await?;
                info!(node = %node.name, processes = killed, "killed");
                Ok(format!("{} is dead", node.name))
            }
            Action::Heal => {
                underlay::heal(&self.underlay, &node.name).context("mending the link")?;
                self.shut(&node, false);
                self.revive_server(&node).await?;
                if !self.agents.contains_key(&node.name) {
                    let client = self.client().await?;
                    let processes = self.start_node(&node, &client).await?;
                    self.agents.insert(node.name.clone(), processes);
                }
                Ok(format!("{} is back", node.name))
            }
        }
    }

    pub async fn teardown(&mut self) {
        let agents = std::mem::take(&mut self.agents);
        let stops = agents.into_values().flatten().map(Process::teardown);
        futures::future::join_all(stops).await;
        self.stop_servers().await;
    }
}
