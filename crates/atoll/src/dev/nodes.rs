//! The nodes of a `dev` cluster: their processes, and what chaos does to them.

use super::{
    RUN_DIR,
    chaos::{Action, Order},
    folder::{Cluster, Folder},
    leftovers, recipe, start_under,
};
use crate::process::Process;
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

/// The server's port in its own namespace.
const API_PORT: u16 = 6443;

/// Where the supervisor of a cluster takes orders. Not in its folder, whose path may be
/// longer than the 108 bytes of a socket's.
pub fn control_of(id: &str) -> PathBuf {
    Path::new(RUN_DIR).join(id).join("control")
}

pub struct Nodes {
    root: PathBuf,
    cluster: Cluster,
    underlay: Underlay,
    program: PathBuf,
    port: u16,
    etcd_listen: Option<SocketAddr>,
    server: Option<Process>,
    agents: BTreeMap<String, Vec<Process>>,
    hurry: CancellationToken,
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
            server: None,
            agents: BTreeMap::new(),
            hurry: CancellationToken::new(),
        })
    }

    /// Short, since socket paths end at 108 bytes.
    fn run_dir(&self) -> PathBuf {
        Path::new(RUN_DIR).join(&self.cluster.id)
    }

    pub fn handoff(&self) -> PathBuf {
        self.run_dir().join("api.sock")
    }

    /// The server takes the etcd connections that are accepted on this address of the host.
    pub fn serve_etcd(&mut self, listen: Option<SocketAddr>) {
        self.etcd_listen = listen;
    }

    pub fn etcd_handoff(&self) -> PathBuf {
        self.run_dir().join("etcd.sock")
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

    pub async fn start_server(&mut self) -> Result<()> {
        let node = self.underlay.nodes.first().context("a cluster has at least one node")?;
        let ranges = &self.underlay.ranges;
        let mut arguments = vec![
            ("data-dir", self.root.join("server").display().to_string()),
            ("listen", format!("{}:{API_PORT}", node.address)),
            ("advertise", node.address.to_string()),
            ("service-cidr", ranges.services.to_string()),
            ("pod-cidr", ranges.pods.to_string()),
            ("write-kubeconfig", self.root.join("kubeconfig").display().to_string()),
            ("kubeconfig-server", format!("https://127.0.0.1:{}", self.port)),
            ("handoff", self.handoff().display().to_string()),
            ("supervised", String::new()),
        ];
        if let Some(listen) = self.etcd_listen {
            arguments.push(("etcd-handoff", self.etcd_handoff().display().to_string()));
            arguments.push(("etcd-advertise", listen.to_string()));
        }
        let log = self.root.join("server/server.log");
        let recipe = recipe("server", &self.program, Some(&node.netns), &log, &arguments);
        self.server = Some(start_under(recipe, &self.hurry).await?);
        Ok(())
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
        let token = if root.join("agent/client.crt").exists() {
            String::new()
        } else {
            crate::token::create(client, crate::token::Usage::Agent, 600).await?.token
        };
        let token_file = root.join("join-token");
        super::folder::write_atomically(&token_file, token.as_bytes(), 0o600)?;
        let server = self.underlay.nodes.first().context("a cluster has at least one node")?;
        let arguments = [
            ("join", format!("https://{}:{API_PORT}", server.address)),
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
                Ok(format!("{} is isolated", node.name))
            }
            Action::Kill => {
                if Some(&node.name) == self.underlay.nodes.first().map(|first| &first.name) {
                    bail!(
                        "{} runs the only server; with it the whole cluster would be gone. Kill another node, or isolate this one",
                        node.name
                    );
                }
                underlay::cut(&self.underlay, &node.name).context("cutting the link")?;
                for process in self.agents.remove(&node.name).unwrap_or_default() {
                    process.kill().await;
                }
                let killed = leftovers::kill_node(&self.cluster.id, &node.name).await?;
                info!(node = %node.name, processes = killed, "killed");
                Ok(format!("{} is dead", node.name))
            }
            Action::Heal => {
                underlay::heal(&self.underlay, &node.name).context("mending the link")?;
                if !self.agents.contains_key(&node.name) {
                    let kubeconfig = self.root.join("kubeconfig");
                    let client = crate::client::connect::connect(&kubeconfig, None).await?.client;
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
        if let Some(server) = self.server.take() {
            server.teardown().await;
        }
    }
}
