//! `atoll dev`: a whole cluster on this machine, in the foreground.
//!
//! The supervisor makes a network namespace for each node, starts the processes of the
//! cluster in them and keeps them running, and hands the host's connections to the
//! server. It knows no Kubernetes object but through the API, like any other client.

pub mod chaos;
pub mod folder;
mod nodes;
pub mod program;
mod rootless;

use crate::{
    client::connect::connect,
    handoff,
    process::{Process, Recipe},
};
use anyhow::{Context as _, Result, bail};
use atoll_network::underlay::{self, Underlay};
use folder::{Cluster, Folder};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use nodes::Nodes;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Where everything that does not outlive a reboot stands.
const RUN_DIR: &str = "/run/atoll";
/// Longer than any start takes; a cluster that needs more is stuck.
const READY_MAX: Duration = Duration::from_secs(60);
/// A server that is being started again is asked for this often.
const HANDOFF_RETRY: Duration = Duration::from_millis(20);
/// Connections that wait while the server is away. More are closed.
const WAITING_MAX: usize = 1_024;

#[derive(Debug, Clone, clap::Args)]
pub struct Dev {
    /// How many nodes; more than one needs root, for network namespaces
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub nodes: u32,
    /// Holds everything of the cluster [default: /var/lib/atoll/dev, or ~/.local/share/atoll/dev
    /// without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The API's port on 127.0.0.1
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
}

impl Dev {
    pub fn data_dir(&self) -> Result<PathBuf> {
        data_dir(self.data_dir.as_deref())
    }
}

/// The folder that was named, or the default one of this user.
pub fn data_dir(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/atoll/dev"));
    }
    let home = crate::variable("HOME").context("HOME is not set; name a folder with --data-dir")?;
    Ok(PathBuf::from(home).join(".local/share/atoll/dev"))
}

pub async fn run(dev: Dev) -> Result<()> {
    let started = Instant::now();
    let folder = Folder::take(&dev.data_dir()?)?;
    let cluster = folder.cluster(dev.nodes)?;
    let listener = listen(dev.port).await?;
    if !rustix::process::geteuid().is_root() {
        return rootless::run(&dev, &folder, &cluster, listener, started).await;
    }
    let underlay = make_underlay(&folder, &cluster)?;
    let program = program::copy(&folder)?;
    let mut nodes = Nodes::new(&folder, &cluster, &underlay, &program, dev.port)?;
    let stop = CancellationToken::new();
    let handoff = nodes.handoff();
    #[allow(clippy::disallowed_methods, reason = "aborted below, when the cluster stops")]
    let accepting = tokio::spawn(accept(listener, handoff));

    let result = serve(&dev, &folder, &mut nodes, started, &stop).await;
    accepting.abort();
    info!("stopping: pods first, then what was made in the system");
    nodes.teardown().await;
    let removed = underlay::teardown(&underlay).context("removing the network");
    remove_if_there(&folder.control());
    // A node that chaos killed has no agent left that would unmount what it mounted.
    unmount_below(folder.root());
    unmount_below(&Path::new(RUN_DIR).join(&cluster.id));
    remove_run_folder(&Path::new(RUN_DIR).join(&cluster.id));
    program::remove(&program);
    result.and(removed)
}

async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "listening on {address}; another program may have the port, choose another with --port"
        )
    })
}

fn make_underlay(folder: &Folder, cluster: &Cluster) -> Result<Underlay> {
    let run_dir = PathBuf::from(RUN_DIR);
    if let Err(error) = underlay::sweep(&run_dir) {
        warn!("sweeping what killed clusters left behind: {error}");
    }
    let names = (1..=cluster.nodes).map(|index| format!("node-{index}")).collect();
    let ranges_file = folder.root().join("ranges.json");
    let ranges = match std::fs::read(&ranges_file) {
        Ok(text) => Some(
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", ranges_file.display()))?,
        ),
        Err(_not_there) => None,
    };
    let config = underlay::Config {
        cluster_id: cluster.id.clone(),
        data_dir: folder.root().to_owned(),
        run_dir,
        nodes: names,
        ranges,
    };
    let made = underlay::create(&config).context("making the nodes' network")?;
    let text = serde_json::to_vec(&made.ranges).context("writing ranges.json")?;
    folder::write_atomically(&ranges_file, &text, 0o644)?;
    Ok(made)
}

async fn serve(
    dev: &Dev,
    folder: &Folder,
    nodes: &mut Nodes,
    started: Instant,
    stop: &CancellationToken,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let control = chaos::Control::bind(&folder.control())?;
    let ready = async {
        tokio::time::timeout(READY_MAX, bring_up(dev, folder, nodes)).await.map_err(|_elapsed| {
            anyhow::anyhow!(
                "the cluster was not ready within {} s; the logs are in {}",
                READY_MAX.as_secs(),
                folder.root().display()
            )
        })?
    };
    tokio::select! {
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        result = ready => result?,
    }
    greet(folder, dev.nodes, started.elapsed());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            request = control.next() => {
                if let Some(request) = request {
                    let answer = nodes.chaos(&request.order).await;
                    request.answer(answer).await;
                }
            }
        }
    }
    stop.cancel();
    Ok(())
}

async fn bring_up(dev: &Dev, folder: &Folder, nodes: &mut Nodes) -> Result<()> {
    nodes.start_server().await?;
    own_like_the_user(&folder.kubeconfig())?;
    let client = connect(&folder.kubeconfig(), None).await?.client;
    nodes.start_agents(&client).await?;
    nodes_ready(client, dev.nodes).await
}

/// Waits until every node of this start says that it is ready.
async fn nodes_ready(client: Client, count: u32) -> Result<()> {
    let mut waiting: BTreeSet<String> = (1..=count).map(|index| format!("node-{index}")).collect();
    let api: Api<Node> = Api::all(client);
    let mut states =
        Box::pin(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while let Some(state) = states.next().await {
        match state {
            Ok(node) if is_ready(&node) => {
                waiting.remove(&node.name_any());
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "watching nodes"),
        }
        if waiting.is_empty() {
            return Ok(());
        }
    }
    bail!("the watch of nodes ended")
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Under sudo the files that are for the user belong to the user.
fn own_like_the_user(path: &Path) -> Result<()> {
    let id = |name: &str| crate::variable(name).and_then(|text| text.parse::<u32>().ok());
    let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(user), Some(group))
        .with_context(|| format!("giving {} to its user", path.display()))
}

#[allow(clippy::print_stdout, reason = "what to do next is the point of this command")]
fn greet(folder: &Folder, nodes: u32, took: Duration) {
    let kubeconfig = folder.kubeconfig();
    let plural = if nodes == 1 { "node" } else { "nodes" };
    println!("Ready: {nodes} {plural}, in {:.1} s.", took.as_secs_f64());
    println!();
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl apply -f examples/hello.yaml");
    println!("  kubectl get pods -o wide");
    println!();
    println!("Ctrl-C stops the cluster and removes what it made; its objects stay in the folder.");
}

/// Accepts on the host's loopback and hands each connection to the server. While that is
/// being started again connections wait here.
async fn accept(listener: TcpListener, path: PathBuf) {
    let waiting = Arc::new(tokio::sync::Semaphore::new(WAITING_MAX));
    let mut sender: Option<handoff::Sender> = None;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Ok(_permit) = waiting.clone().try_acquire_owned() else { continue };
        let Ok(stream) = stream.into_std() else { continue };
        loop {
            let connected = match sender.take() {
                Some(sender) => Ok(sender),
                None => handoff::Sender::connect(&path),
            };
            if let Ok(connected) = connected
                && connected.send(&stream).await.is_ok()
            {
                sender = Some(connected);
                break;
            }
            tokio::time::sleep(HANDOFF_RETRY).await;
        }
    }
}

/// Detaches everything that is mounted below `root`, the innermost first.
fn unmount_below(root: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let below: Vec<&Path> = points.filter(|point| point.starts_with(root)).collect();
    for point in below.into_iter().rev() {
        if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH) {
            warn!(path = %point.display(), %error, "not unmounted");
        }
    }
}

fn remove_run_folder(path: &Path) {
    if path.exists()
        && let Err(error) = std::fs::remove_dir_all(path)
    {
        warn!(path = %path.display(), %error, "not removed");
    }
}

fn remove_if_there(path: &Path) {
    if path.exists()
        && let Err(error) = std::fs::remove_file(path)
    {
        warn!(path = %path.display(), %error, "not removed");
    }
}

/// A process of the cluster, from this program.
fn recipe(
    name: &str,
    program: &Path,
    netns: Option<&Path>,
    log: &Path,
    arguments: &[(&str, String)],
) -> Recipe {
    let (command, _) = name.split_once('/').unwrap_or((name, ""));
    let mut words = vec![command.to_owned()];
    for (flag, value) in arguments {
        words.push(format!("--{flag}"));
        if !value.is_empty() {
            words.push(value.clone());
        }
    }
    Recipe {
        name: name.to_owned(),
        program: program.to_owned(),
        arguments: words.into_iter().map(Into::into).collect(),
        netns: netns.map(ToOwned::to_owned),
        log: log.to_owned(),
    }
}

/// Starts it and waits until it is ready.
async fn start(recipe: Recipe) -> Result<Process> {
    let name = recipe.name.clone();
    let mut process = Process::start(recipe);
    process.ready().await.with_context(|| format!("starting {name}"))?;
    Ok(process)
}
