//! `atoll dev`: a whole cluster on this machine, in the foreground.
//!
//! The supervisor makes a network namespace for each node, starts the processes of the
//! cluster in them and keeps them running, and hands the host's connections to the
//! servers. It knows no Kubernetes object but through the API, like any other client.

pub mod chaos;
mod doors;
mod etcd;
pub mod folder;
mod joining;
mod leftovers;
mod nodes;
pub mod program;
mod rootless;
mod servers;
mod signals;

use crate::{
    confinement::Confinement,
    listen::listen,
    process::{Process, Recipe},
    registries::Registries,
};
use anyhow::{Context as _, Result, bail};
use atoll_network::underlay::{self, Underlay};
use atoll_store::StoreConfig;
use folder::{Cluster, Folder};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use leftovers::RunLock;
use nodes::Nodes;
use signals::Signals;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Where everything that does not outlive a reboot stands.
const RUN_DIR: &str = "/run/atoll";
/// Longer than any start takes; a cluster that needs more is stuck.
const READY_MAX: Duration = Duration::from_secs(60);
#[derive(Debug, Clone, clap::Args)]
pub struct Dev {
    /// How many nodes; more than one needs root, for network namespaces
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub nodes: u32,
    /// How many of them are servers too, such as 3 or 5 [default: what the folder has, or 1]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=7))]
    pub servers: Option<u32>,
    /// Holds everything of the cluster [default: /var/lib/atoll/dev, or ~/.local/share/atoll/dev
    /// without root]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The API's port on 127.0.0.1; 0 takes one that is free
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Where applications on this machine reach the etcd v3 API, such as 127.0.0.1:2379; off
    /// without it. Of several servers each has the next address besides, such as 127.0.0.2:2379
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub etcd_listen: Option<SocketAddr>,
    #[command(flatten)]
    pub etcd_space: crate::server::space::Space,
    #[command(flatten)]
    pub audit: crate::server::audit::Audit,
    #[command(flatten)]
    pub registries: Registries,
    #[command(flatten)]
    pub confinement: Confinement,
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

pub async fn run(mut dev: Dev) -> Result<()> {
    let started = Instant::now();
    dev.etcd_space.limits(StoreConfig::default().applications)?;
    dev.audit.config()?;
    let mut signals = Signals::watch()?;
    let folder = Folder::take(&dev.data_dir()?).await?;
    let cluster = folder.cluster(dev.nodes, dev.servers)?;
    if let Some(remark) = servers::remark(cluster.servers) {
        warn!("{remark}");
    }
    let listener = listen((Ipv4Addr::LOCALHOST, dev.port).into(), "--port").await?;
    // Zero is any that is free: whoever connects needs the one that it became.
    dev.port = listener.local_addr().context("the port of the API")?.port();
    let etcd = etcd::listeners(&dev, cluster.servers).await?;
    if !rustix::process::geteuid().is_root() {
        drop(etcd);
        return rootless::run(&dev, &folder, &cluster, listener, &mut signals, started).await;
    }
    let run_dir = Path::new(RUN_DIR);
    let lock = take_run_folder(&folder, &cluster)?;
    if let Err(error) = leftovers::sweep(run_dir, folder.root()).await {
        warn!("clearing up after former clusters: {error:#}");
    }
    let listeners = (listener, etcd);
    let result = run_nodes(&dev, &folder, &cluster, listeners, &mut signals, started).await;
    folder.stopping();
    let cleared = leftovers::clear(&cluster.id, &[folder.root()], run_dir, lock).await;
    result.and(cleared.context("clearing up"))
}

/// A copied folder has the id of the original, whose names it would use in the system.
fn take_run_folder(folder: &Folder, cluster: &Cluster) -> Result<RunLock> {
    let id = &cluster.id;
    let run_dir = Path::new(RUN_DIR);
    let all = underlay::recorded(run_dir).context("looking for former clusters")?;
    let other = all.into_iter().find(|one| one.cluster_id == *id && one.data_dir != folder.root());
    let other = other.map(|one| one.data_dir);
    let is_there = |other: &PathBuf| folder::cluster_in(other).as_ref() == Some(id);
    if let Some(other) = other.filter(is_there) {
        bail!(
            "{} is a copy of {}, whose cluster has not been stopped; start it there and stop it with Ctrl-C, or delete that folder",
            folder.root().display(),
            other.display()
        );
    }
    RunLock::take(&run_dir.join(id))?.with_context(|| {
        format!(
            "the cluster {id} of {} still runs elsewhere; stop it first",
            folder.root().display()
        )
    })
}

/// Everything between the first namespace and the last.
async fn run_nodes(
    dev: &Dev,
    folder: &Folder,
    cluster: &Cluster,
    (listener, etcd): (TcpListener, Option<etcd::Listeners>),
    signals: &mut Signals,
    started: Instant,
) -> Result<()> {
    let underlay = make_underlay(folder, cluster)?;
    let program = program::copy(folder)?;
    let mut nodes = Nodes::new(folder, cluster, &underlay, &program, dev.port)?;
    nodes.serve_etcd(dev.etcd_listen, dev.etcd_space.arguments());
    nodes.agents_by(dev.registries.arguments().chain(dev.confinement.arguments()));
    nodes.audit_by(&dev.audit);
    // Aborted when the cluster stops.
    let mut accepting = JoinSet::new();
    accepting.spawn(nodes.doors().accept(listener));
    if let Some(etcd::Listeners { shared, own }) = etcd {
        accepting.spawn(nodes.etcd_doors().accept(shared));
        for (doors, own) in nodes.own_etcd_doors().into_iter().zip(own) {
            accepting.spawn(doors.accept(own));
        }
    }
    let result = serve(dev, folder, &mut nodes, started, signals).await;
    accepting.abort_all();
    folder.stopping();
    info!("stopping: pods first, then what was made in the system");
    let hurry = nodes.hurry();
    let mut teardown = std::pin::pin!(nodes.teardown());
    tokio::select! {
        () = &mut teardown => {}
        () = signals.next() => {
            info!("told again to stop: pods do not get the rest of their grace periods");
            hurry.cancel();
            teardown.await;
        }
    }
    program::remove(&program);
    result
}

fn make_underlay(folder: &Folder, cluster: &Cluster) -> Result<Underlay> {
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
        run_dir: PathBuf::from(RUN_DIR),
        nodes: names,
        ranges,
    };
    let made = underlay::create(&config).context("making the nodes' network")?;
    let text = serde_json::to_vec(&made.ranges).context("writing ranges.json")?;
    folder::write_atomically(&ranges_file, &text, 0o644)?;
    Ok(made)
}

/// Until somebody ends it.
async fn serve(
    dev: &Dev,
    folder: &Folder,
    nodes: &mut Nodes,
    started: Instant,
    signals: &mut Signals,
) -> Result<()> {
    let control = chaos::Control::bind(&nodes.control())?;
    let ready = async {
        tokio::time::timeout(READY_MAX, bring_up(dev, nodes)).await.map_err(|_elapsed| {
            anyhow::anyhow!(
                "the cluster was not ready within {} s; the logs are in {}",
                READY_MAX.as_secs(),
                folder.root().display()
            )
        })?
    };
    tokio::select! {
        () = signals.next() => return Ok(()),
        result = ready => result?,
    }
    folder.publish_kubeconfig()?;
    greet(folder, dev.nodes, started.elapsed());
    loop {
        let order = async {
            if let Some(request) = control.next().await {
                let answer = nodes.chaos(&request.order).await;
                request.answer(answer).await;
            }
        };
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = order => {}
        }
    }
}

async fn bring_up(dev: &Dev, nodes: &mut Nodes) -> Result<()> {
    nodes.start_servers().await?;
    let client = nodes.client().await?;
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

/// Says what to do next. Whoever does not read it has a cluster all the same.
fn greet(folder: &Folder, nodes: u32, took: Duration) {
    use std::io::Write as _;
    let plural = if nodes == 1 { "node" } else { "nodes" };
    let text = format!(
        "Ready: {nodes} {plural}, in {:.1} s.\n\n  \
         export KUBECONFIG={}\n  \
         kubectl apply -f examples/hello.yaml\n  \
         kubectl get pods -o wide\n\n\
         Ctrl-C stops the cluster and takes along what it made in the system; all else stays in the folder.\n",
        took.as_secs_f64(),
        shell_word(&folder.kubeconfig()),
    );
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// A path as it can be pasted into a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@%:,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
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

/// Starts it and waits until it is ready; `hurry` ends it at once.
async fn start_under(recipe: Recipe, hurry: &CancellationToken) -> Result<Process> {
    let name = recipe.name.clone();
    let mut process = Process::start(recipe, hurry);
    process.ready().await.with_context(|| format!("starting {name}"))?;
    Ok(process)
}
