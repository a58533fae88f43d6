//! The servers of a `dev` cluster: on its first nodes, each in its node's namespace.

use super::{
    doors::{Doors, Shut},
    etcd,
    nodes::{API_PORT, Nodes},
    recipe,
};
use crate::{process::Process, server::has_been_a_member, token::Usage};
use anyhow::{Context as _, Result, bail};
use atoll_network::underlay::UnderlayNode;
use futures::future::{join_all, try_join_all};
use http::Request;
use kube::Client;
use serde::Deserialize;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tracing::{debug, info};

/// A server that joins has a vote sooner than this.
const VOTE_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one that comes back may take until it serves.
const BACK_MAX: Duration = Duration::from_secs(30);
/// How long the servers may take to say who leads them.
const ASK_MAX: Duration = Duration::from_secs(1);
const TOKEN_SECONDS: i64 = 600;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    leader: Option<String>,
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    is_learner: bool,
}

/// What somebody should know who starts so many servers.
pub fn remark(servers: u32) -> Option<String> {
    if servers % 2 == 1 {
        return None;
    }
    let (fewer, more) = (servers - 1, servers + 1);
    Some(match servers / 2 - 1 {
        0 => format!(
            "{servers} servers need each other: when one dies the cluster stands still; {more} stand the death of one"
        ),
        deaths => format!(
            "{servers} servers stand no more deaths than {fewer}, which is {deaths}; {more} stand {}",
            servers / 2
        ),
    })
}

impl Nodes {
    /// Where the supervisor hands connections of the API to.
    pub fn doors(&self) -> Doors {
        self.doors_of("api")
    }

    /// And those of the etcd API.
    pub fn etcd_doors(&self) -> Doors {
        self.doors_of("etcd")
    }

    /// One for each server: clients of the etcd API choose between them by themselves.
    pub fn own_etcd_doors(&self) -> Vec<Doors> {
        let own = |node| Doors::new(vec![self.door("etcd", node)], Shut::default());
        self.server_nodes().iter().map(own).collect()
    }

    fn doors_of(&self, kind: &str) -> Doors {
        let paths = self.server_nodes().iter().map(|node| self.door(kind, node)).collect();
        Doors::new(paths, self.shut.clone())
    }

    /// Short, since socket paths end at 108 bytes.
    fn door(&self, kind: &str, node: &UnderlayNode) -> PathBuf {
        self.run_dir().join(format!("{kind}-{}.sock", self.number(node)))
    }

    /// From 1 on.
    fn number(&self, node: &UnderlayNode) -> usize {
        let position = self.underlay.nodes.iter().position(|one| one.name == node.name);
        position.map_or(1, |position| position + 1)
    }

    pub fn server_nodes(&self) -> &[UnderlayNode] {
        let count = usize::try_from(self.cluster.servers).unwrap_or(1);
        self.underlay.nodes.get(..count).unwrap_or(&self.underlay.nodes)
    }

    pub fn is_server(&self, node: &str) -> bool {
        self.server_nodes().iter().any(|one| one.name == node)
    }

    fn server_folder(&self, node: &UnderlayNode) -> PathBuf {
        match self.number(node) {
            1 => self.root.join("server"),
            number => self.root.join(format!("server-{number}")),
        }
    }

    /// A server that runs and can be reached, for whoever joins.
    pub fn reachable_server(&self) -> Result<String> {
        let shut = self.shut.all();
        let there = self
            .server_nodes()
            .iter()
            .find(|node| self.servers.contains_key(&node.name) && !shut.contains(&self.index(node)))
            .context("no server of the cluster runs; heal one first")?;
        Ok(format!("https://{}:{API_PORT}", there.address))
    }

    fn index(&self, node: &UnderlayNode) -> usize {
        self.number(node) - 1
    }

    /// Those that were there before start together, for they need each other; then the others
    /// join one by one.
    pub async fn start_servers(&mut self) -> Result<()> {
        let nodes = self.server_nodes().to_vec();
        let has_run = |node: &&UnderlayNode| has_been_a_member(&self.server_folder(node));
        let mut former: Vec<UnderlayNode> = nodes.iter().filter(has_run).cloned().collect();
        if former.is_empty() {
            former.extend(nodes.first().cloned());
        }
        let starts = former.iter().map(|node| self.start_server(node, None));
        let started = try_join_all(starts).await?;
        for (node, process) in former.iter().zip(started) {
            self.servers.insert(node.name.clone(), process);
        }
        let joining: Vec<&UnderlayNode> =
            nodes.iter().filter(|node| !self.servers.contains_key(&node.name)).collect();
        if joining.is_empty() {
            return Ok(());
        }
        let client = self.client().await?;
        for node in joining {
            let token = crate::token::create(&client, Usage::Server, TOKEN_SECONDS).await?.token;
            let process = self.start_server(node, Some(token)).await?;
            self.servers.insert(node.name.clone(), process);
        }
        self.all_vote(&client).await
    }

    async fn start_server(&self, node: &UnderlayNode, token: Option<String>) -> Result<Process> {
        let mut process = self.launch_server(node, token)?;
        process.ready().await.with_context(|| format!("starting the server on {}", node.name))?;
        Ok(process)
    }

    fn launch_server(&self, node: &UnderlayNode, token: Option<String>) -> Result<Process> {
        let folder = self.server_folder(node);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("making the folder {}", folder.display()))?;
        let ranges = &self.underlay.ranges;
        let mut arguments = vec![
            ("data-dir", folder.display().to_string()),
            ("name", node.name.clone()),
            ("listen", format!("{}:{API_PORT}", node.address)),
            ("advertise", node.address.to_string()),
            ("service-cidr", ranges.services.to_string()),
            ("pod-cidr", ranges.pods.to_string()),
            ("kubeconfig-server", format!("https://127.0.0.1:{}", self.port)),
            ("handoff", self.door("api", node).display().to_string()),
            ("supervised", String::new()),
        ];
        arguments.extend(self.etcd_flags.iter().cloned());
        arguments.extend(self.audit.arguments(self.number(node))?);
        if let Some(listen) = self.etcd_listen {
            arguments.push(("etcd-handoff", self.door("etcd", node).display().to_string()));
            let number = u32::try_from(self.number(node)).unwrap_or(u32::MAX);
            let own = etcd::own_address(listen, number, self.cluster.servers)?;
            arguments.push(("etcd-advertise", own.to_string()));
        }
        if let Some(token) = token {
            let file = folder.join("join-token");
            super::folder::write_atomically(&file, token.as_bytes(), 0o600)?;
            arguments.push(("join", self.reachable_server()?));
            arguments.push(("token-file", file.display().to_string()));
        }
        let name = if self.cluster.servers == 1 {
            "server".to_owned()
        } else {
            format!("server/{}", node.name)
        };
        let log = folder.join("server.log");
        let recipe = recipe(&name, &self.program, Some(&node.netns), &log, &arguments);
        Ok(Process::start(recipe, &self.hurry))
    }

    pub async fn client(&self) -> Result<Client> {
        // The first server's, or that of another if the first one comes with an empty folder.
        let files = self.server_nodes().iter().map(|node| self.server_folder(node));
        let there = files.map(|folder| folder.join("kubeconfig")).find(|file| file.exists());
        let file = there.context("no server has written a kubeconfig")?;
        Ok(crate::client::connect::connect(&file, None).await?.client)
    }

    /// Waits until no server is a learner any more.
    async fn all_vote(&self, client: &Client) -> Result<()> {
        let deadline = Instant::now() + VOTE_MAX;
        loop {
            let members = members(client).await;
            if let Ok(members) = &members
                && members.members.len() == self.server_nodes().len()
                && members.members.iter().all(|member| !member.is_learner)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not every server had a vote in time: {members:?}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// As a power cut would end it.
    pub async fn kill_server(&mut self, node: &str) {
        if let Some(process) = self.servers.remove(node) {
            process.kill().await;
            info!(node, "server killed");
        }
    }

    pub fn shut(&self, node: &UnderlayNode, is_shut: bool) {
        if self.is_server(&node.name) {
            self.shut.set(self.index(node), is_shut);
        }
    }

    /// Starts a killed server again and waits for it, for as long as that makes sense: with
    /// most servers dead it waits for the others.
    pub async fn revive_server(&mut self, node: &UnderlayNode) -> Result<()> {
        if !self.is_server(&node.name) || self.servers.contains_key(&node.name) {
            return Ok(());
        }
        let mut process = self.launch_server(node, None)?;
        let ready = tokio::time::timeout(BACK_MAX, process.ready()).await;
        self.servers.insert(node.name.clone(), process);
        match ready {
            Ok(ready) => ready.with_context(|| format!("starting the server on {}", node.name)),
            Err(_elapsed) => {
                info!(node = node.name, "the server waits for a majority of the servers");
                Ok(())
            }
        }
    }

    /// The leader goes last: the others have something to follow until they end.
    pub async fn stop_servers(&mut self) {
        let leader = if self.servers.len() > 1 { self.leader().await } else { None };
        let mut servers = std::mem::take(&mut self.servers);
        let last = leader.and_then(|leader| servers.remove(&leader));
        join_all(servers.into_values().map(Process::teardown)).await;
        if let Some(last) = last {
            last.teardown().await;
        }
    }

    async fn leader(&self) -> Option<String> {
        let asked = async { members(&self.client().await?).await };
        match tokio::time::timeout(ASK_MAX, asked).await {
            Ok(Ok(members)) => members.leader,
            Ok(Err(error)) => {
                debug!("nobody says who leads: {error:#}");
                None
            }
            Err(_elapsed) => None,
        }
    }
}

async fn members(client: &Client) -> Result<Members> {
    let request = Request::get("/atoll/v1/members").body(Vec::new())?;
    client.request(request).await.context("asking for the servers")
}

#[cfg(test)]
mod tests {
    use super::remark;

    #[test]
    fn an_even_number_of_servers_is_remarked_on() {
        assert_eq!([1, 3, 5, 7].map(remark), [None, None, None, None]);
        assert!(remark(2).unwrap().contains("need each other"));
        let four = remark(4).unwrap();
        assert_eq!(four, "4 servers stand no more deaths than 3, which is 1; 5 stand 2");
    }
}
