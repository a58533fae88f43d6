//! `atoll agent`: one node. It joins once with a token, and is known by its key from then on.

mod api_client;
mod identity;
mod join;
mod names;
mod rootless;
mod servers;

use crate::{
    confinement::Confinement,
    dev::{data_dir, folder::write_atomically},
    memory,
    process::{say_ready, supervised},
    registries::Registries,
};
use anyhow::{Context as _, Result, bail};
use atoll_image::{Builtin, ImageConfig, RegistryConfig};
use identity::Identity;
use jiff::Timestamp;
use names::NameServer;
use servers::{NodeServers, Servers};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

#[derive(Debug, Clone, clap::Args)]
pub struct Agent {
    /// The server to join, such as https://10.0.0.1:6443
    #[arg(long, value_name = "URL")]
    pub join: String,
    /// A join token, as `atoll token create` prints it; needed the first time only
    #[arg(long, value_name = "TOKEN", env = "ATOLL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The node's folder [default: /var/lib/atoll, or ~/.local/share/atoll without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// For what does not outlive a reboot
    #[arg(long, value_name = "DIR", default_value = "/run/atoll")]
    pub run_dir: PathBuf,
    /// The address under which other nodes reach this one
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<Ipv4Addr>,
    /// Where the kubelet API listens
    #[arg(long, default_value_t = 10_250)]
    pub kubelet_port: u16,
    /// Addresses of all pods
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub pod_cidr: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.43.0.0/16")]
    pub service_cidr: String,
    /// The address of the cluster's DNS
    #[arg(long, value_name = "ADDRESS", default_value = "10.43.0.10")]
    pub cluster_dns: Ipv4Addr,
    /// Labels of the node, as key=value
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub registries: Registries,
    #[command(flatten)]
    pub confinement: Confinement,
    /// Names everything the node makes in the system
    #[arg(long, hide = true, default_value = "local")]
    pub cluster_id: String,
    /// This node's share of the pods' addresses
    #[arg(long, hide = true)]
    pub node_pod_cidr: Option<String>,
    /// The program that shims run from
    #[arg(long, hide = true)]
    pub program: Option<PathBuf>,
    /// The network namespace in which registries are asked
    #[arg(long, hide = true)]
    pub registry_netns: Option<PathBuf>,
    /// Somebody else runs the node's DNS
    #[arg(long, hide = true)]
    pub no_dns: bool,
    /// Ends with the supervisor of `atoll dev`
    #[arg(long, hide = true)]
    pub supervised: bool,
}

fn label(text: &str) -> Result<(String, String)> {
    let (key, value) =
        text.split_once('=').with_context(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Agent {
    fn node_name(&self) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        host_name()
    }

    fn root(&self) -> Result<PathBuf> {
        match &self.data_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(data_dir(None)?.parent().map(Path::to_owned).unwrap_or_default()),
        }
    }

    fn token(&self) -> Result<Option<String>> {
        token_of(self.token.as_deref(), self.token_file.as_deref())
    }

    /// The address of the interface through which the server is reached, unless one is named.
    fn node_ip(&self) -> Result<Ipv4Addr> {
        if let Some(ip) = self.node_ip {
            return Ok(ip);
        }
        let url = crate::pinned::server_url(&self.join)?;
        let (host, port) = crate::pinned::host_and_port(&url)?;
        match way_to(host, port)? {
            IpAddr::V4(ip) => Ok(ip),
            IpAddr::V6(ip) => {
                bail!("{host} is reached from {ip}; name an IPv4 address with --node-ip")
            }
        }
    }
}

/// The name of this machine, as a node's.
pub fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if name.is_empty() {
        bail!("the host has no name; give one with --name");
    }
    Ok(name)
}

/// The address of this machine from which `host` is reached.
pub fn way_to(host: &str, port: u16) -> Result<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("making a socket")?;
    // Connecting a datagram socket sends nothing; it only chooses the route.
    socket.connect((host, port)).with_context(|| format!("finding the way to {host}"))?;
    Ok(socket.local_addr().context("reading the socket's address")?.ip())
}

/// The token that was typed, or the one in the file that was named.
pub fn token_of(typed: Option<&str>, file: Option<&Path>) -> Result<Option<String>> {
    let text = match (typed, file) {
        (Some(token), _) => token.to_owned(),
        (None, Some(file)) => crate::keys::read(file)?,
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

pub async fn run(agent: Agent) -> Result<()> {
    let root = agent.root()?;
    let name = agent.node_name()?;
    let node_ip = agent.node_ip()?;
    std::fs::create_dir_all(&root)
        .with_context(|| format!("making the node's folder {}", root.display()))?;
    let folder = root.join("agent");
    let identity = match Identity::load(&folder)? {
        Some(identity) => identity,
        None => join_cluster(&agent, &name, node_ip, &folder).await?,
    };
    identity.check_clock(&name, Timestamp::now())?;
    let servers = known_servers(&agent, &identity, &folder).await?;
    let client = servers.client()?;
    let renewed = identity::until_renewed(folder.clone(), name.clone(), client.clone());
    let mut config = configure(&agent, &root, &name, node_ip, client.clone(), &identity)?;
    config.servers = Some(Arc::new(NodeServers { servers, own: client }));
    let names = name_server(&agent, &config)?;
    let (tasks, stop_names) = (TaskTracker::new(), CancellationToken::new());
    if let Some(names) = names {
        tasks.spawn(names.keep(stop_names.clone()));
    }
    let ended = Box::pin(run_node(&agent, &name, config, renewed)).await;
    if matches!(ended, Ok(End::StartAgain)) {
        return start_again();
    }
    stop_names.cancel();
    tasks.close();
    tasks.wait().await;
    ended.map(|_end| ())
}

/// Those that the node has heard of, and the one of `--join`.
async fn known_servers(agent: &Agent, identity: &Identity, folder: &Path) -> Result<Arc<Servers>> {
    let config = identity.client_config(&agent.join).await?;
    let url = crate::pinned::server_url(&agent.join)?;
    let (host, port) = crate::pinned::host_and_port(&url)?;
    Ok(Servers::new(config, &format!("{host}:{port}"), folder.join("servers.json")))
}

/// Until somebody ends it, or its certificates are new.
async fn run_node(
    agent: &Agent,
    name: &str,
    config: atoll_node::Config,
    renewed: impl Future<Output = ()>,
) -> Result<End> {
    let (leave, remove) = (CancellationToken::new(), CancellationToken::new());
    let shutdown = atoll_node::Shutdown { leave: leave.clone(), remove: remove.clone() };
    let running = atoll_node::Agent::run(config, shutdown);
    let mut running = std::pin::pin!(running);
    if agent.supervised {
        say_ready();
    }
    let end = tokio::select! {
        result = &mut running => {
            result.context("running the node")?;
            return Ok(End::Leave);
        }
        teardown = told_to_end(agent.supervised) => {
            if teardown? { End::Teardown } else { End::Leave }
        }
        () = renewed => End::StartAgain,
        never = memory::give_back() => match never {},
    };
    info!(node = name, ?end, "ending");
    match end {
        End::Teardown => remove.cancel(),
        End::Leave | End::StartAgain => leave.cancel(),
    }
    running.await.context("stopping the node")?;
    Ok(end)
}

/// The node's DNS, unless somebody else runs it or the node has no addresses of its own.
fn name_server(agent: &Agent, config: &atoll_node::Config) -> Result<Option<NameServer>> {
    if agent.no_dns || !config.containers {
        return Ok(None);
    }
    Ok(Some(NameServer {
        program: std::env::current_exe().context("finding this program")?,
        listen: format!("{}:53", agent.cluster_dns),
        snapshot: config.dns_snapshot(),
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Pods stop, and everything that was made in the system goes.
    Teardown,
    /// Containers run on without their agent.
    Leave,
    /// The same, and this process becomes a new agent with its new certificates.
    StartAgain,
}

/// Replaces this process by a fresh start of itself; containers do not notice.
fn start_again() -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe().context("finding this program")?;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(error).context("starting again with new certificates")
}

/// Returns whether the node's pods are to be stopped, too: only the supervisor of
/// `atoll dev` asks for that. Otherwise containers run on without their agent.
async fn told_to_end(is_supervised: bool) -> Result<bool> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    Ok(tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        teardown = supervised(), if is_supervised => teardown,
    })
}

async fn join_cluster(
    agent: &Agent,
    name: &str,
    node_ip: Ipv4Addr,
    folder: &Path,
) -> Result<Identity> {
    let Some(token) = agent.token()? else {
        bail!(
            "this node has not joined a cluster yet; make a token on a server with `atoll token create` and pass it with --token"
        );
    };
    let identity = join::join(&agent.join, &token, name, IpAddr::V4(node_ip)).await?;
    identity.store(folder)?;
    info!(node = name, server = %agent.join, "joined");
    Ok(identity)
}

fn configure(
    agent: &Agent,
    root: &Path,
    name: &str,
    node_ip: Ipv4Addr,
    client: kube::Client,
    identity: &Identity,
) -> Result<atoll_node::Config> {
    let original = std::env::current_exe().context("finding this program")?;
    let is_root = rustix::process::geteuid().is_root();
    let shim = match &agent.program {
        Some(program) => program.clone(),
        None => crate::dev::program::copy_to(&original, &root.join("program"))?,
    };
    let mut builtin_images = vec![hello_image(&shim)];
    if !is_root {
        builtin_images.push(rootless::node_image());
    }
    Ok(atoll_node::Config {
        node_name: name.to_owned(),
        cluster_id: agent.cluster_id.clone(),
        root: root.to_owned(),
        run: agent.run_dir.clone(),
        node_ip: IpAddr::V4(node_ip),
        labels: agent.labels.iter().cloned().collect(),
        client,
        servers: None,
        kubelet_tls: identity.kubelet_tls(),
        kubelet_listen: SocketAddr::new(IpAddr::V4(listen_address(is_root)), agent.kubelet_port),
        cluster_domain: "cluster.local".to_owned(),
        cluster_dns: IpAddr::V4(agent.cluster_dns),
        service_cidr: agent.service_cidr.clone(),
        pod_cidr: agent.pod_cidr.clone(),
        own_pod_cidr: agent.node_pod_cidr.clone(),
        upstream_dns: upstream_dns(),
        builtin_images,
        registry: RegistryConfig {
            plain_http: agent.registries.plain_http.clone(),
            mirrors: agent.registries.mirrors(),
            extra_roots: Vec::new(),
            registry_netns: agent.registry_netns.clone(),
        },
        shim,
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        max_pods: 110,
        seccomp_default: agent.confinement.seccomp_default,
        containers: is_root,
        rootless: if is_root {
            atoll_node::rootless::Rootless::default()
        } else {
            rootless::configure(agent, root)?
        },
    })
}

/// Without root the node is for this machine alone.
fn listen_address(is_root: bool) -> Ipv4Addr {
    if is_root { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST }
}

/// The name servers of /etc/resolv.conf; those on loopback mean another place in a pod's
/// namespace.
pub fn upstream_dns() -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    servers.filter(|server| !server.is_loopback()).collect()
}

/// The image that lets a cluster without registry and internet show something: this very
/// program, as its only file.
fn hello_image(program: &Path) -> Builtin {
    Builtin {
        reference: "atoll.local/hello:latest".to_owned(),
        rootfs: program.parent().map(Path::to_owned).unwrap_or_default(),
        config: ImageConfig {
            entrypoint: vec!["/atoll".to_owned(), "hello".to_owned()],
            user: "65532:65532".to_owned(),
            working_dir: "/".to_owned(),
            exposed_ports: vec!["8080/tcp".to_owned()],
            stop_signal: Some("SIGTERM".to_owned()),
            ..ImageConfig::default()
        },
    }
}

/// Writes one of the node's own files.
fn store(path: &Path, text: &str, mode: u32) -> Result<()> {
    write_atomically(path, text.as_bytes(), mode)
}
