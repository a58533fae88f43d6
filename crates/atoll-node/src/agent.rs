//! Wires the agent together: engines, informers, pods, the node's objects, the kubelet
//! API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{OciRuntime, ProcessRuntime, Runtime, RuntimeConfig};
use atoll_image::ImageStore;
use atoll_informer::{Informer, Recorder};
use atoll_network::{Ipv4Net, NodeId, NodeNetwork};
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::context::Context;
use crate::error::Error;
use crate::kubelet::{routes::Routes, server, usage::Usage};
use crate::machine::Machine;
use crate::network::pods::NodePods;
use crate::network::sync::Sync;
use crate::network::{NetworkError, PodNetwork};
use crate::node::object::Health;
use crate::node::{heartbeat, register};
use crate::objects::Objects;
use crate::pods::{PodIndex, Pods};
use crate::rootless::ports::NodePorts;
use crate::volume::folders::Folders;
use crate::volume::token::Tokens;
use crate::{eviction, garbage, teardown};

/// Tasks get this long to end after they were told to.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How an agent is told to stop. Either may be cancelled.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// The agent goes, containers run on and are adopted by the next.
    pub leave: CancellationToken,
    /// Pods are stopped and all that was made in the system is removed; objects in the
    /// API stay.
    pub remove: CancellationToken,
}

/// The node agent.
pub struct Agent;

/// The pods, and whether all of them are known.
struct Listed {
    index: PodIndex,
    listed: watch::Receiver<bool>,
}

struct Informers {
    services: Arc<Informer<Service>>,
    slices: Arc<Informer<EndpointSlice>>,
    nodes: Arc<Informer<Node>>,
    namespaces: Arc<Informer<Namespace>>,
}

impl Agent {
    /// Runs until told to stop. Fails only at the start.
    pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
        let _lock = lock(&config).await?;
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let (network_sender, network) = watch::channel(None);
        let informers = Informers::new();
        let cx = Box::pin(context(config, &informers, &tasks, &stop, network)).await?;
        let (pods, index) = Pods::new(cx.clone());
        let listed = Listed { index: index.clone(), listed: pods.listed() };
        let usage = Arc::new(Usage::default());
        let routes = Routes {
            cx: cx.clone(),
            pods: index.clone(),
            usage: usage.clone(),
            access: Arc::default(),
        };
        let (listener, acceptor) = server::bind(&routes).await?;
        tasks.spawn(server::serve(listener, acceptor, routes, stop.clone()));
        tasks.spawn(usage.run(cx.clone(), index.clone(), stop.clone()));
        informers.start(&cx, &stop);
        let pods = tasks.spawn(pods.run(shutdown.leave.clone(), shutdown.remove.clone()));
        let health = watch::Sender::new(Health::default());
        let network = tasks.spawn(node_life(
            cx.clone(),
            informers,
            health.clone(),
            network_sender,
            listed,
            stop.clone(),
        ));
        tasks.spawn(upkeep(cx.clone(), index, health, stop.clone()));
        tokio::select! {
            () = shutdown.leave.cancelled() => {}
            () = shutdown.remove.cancelled() => {}
        }
        if let Err(error) = pods.await {
            tracing::error!(%error, "the pods' task failed");
        }
        stop.cancel();
        let network = match network.await {
            Ok(network) => network,
            Err(error) => {
                tracing::error!(%error, "the node's task failed");
                None
            }
        };
        tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        if !shutdown.remove.is_cancelled() {
            return Ok(());
        }
        teardown::remove_node(&cx.config);
        match network {
            Some(network) => network
                .teardown()
                .await
                .map_err(|source| network_error("removing the node's network", source)),
            None => Ok(()),
        }
    }
}

impl Informers {
    fn new() -> Informers {
        Informers {
            services: Informer::new(),
            slices: Informer::new(),
            nodes: Informer::new(),
            namespaces: Informer::new(),
        }
    }

    fn start(&self, cx: &Context, stop: &CancellationToken) {
        let (client, config) = (&cx.client, watcher::Config::default());
        let tasks = &cx.tasks;
        let services = self.services.clone();
        tasks.spawn(services.run(Api::all(client.clone()), config.clone(), stop.clone()));
        let slices = self.slices.clone();
        tasks.spawn(slices.run(Api::all(client.clone()), config.clone(), stop.clone()));
        let nodes = self.nodes.clone();
        tasks.spawn(nodes.run(Api::all(client.clone()), config.clone(), stop.clone()));
        let namespaces = self.namespaces.clone();
        tasks.spawn(namespaces.run(Api::all(client.clone()), config, stop.clone()));
    }
}

async fn context(
    config: Config,
    informers: &Informers,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    network: watch::Receiver<Option<NodeNetwork>>,
) -> Result<Arc<Context>, Error> {
    for dir in [config.pods_dir(), config.logs_dir(), config.root.join("dns"), config.run.clone()] {
        make_dir(&dir)?;
    }
    protect(&config)?;
    let machine = Machine::read(&config.root, config.max_pods)?;
    let mut image_config = atoll_image::Config::new(config.root.join("images"));
    image_config.registry = config.registry.clone();
    image_config.builtin.clone_from(&config.builtin_images);
    let images = ImageStore::open(image_config).await.map_err(|source| Error::Images { source })?;
    let runtime = runtime(&config).await?;
    let client = config.client.clone();
    let host = config.node_name.clone();
    let recorder = Recorder::start(client.clone(), "kubelet", Some(&host), tasks, stop.clone());
    Ok(Arc::new(Context {
        objects: Objects::new(client.clone(), tasks.clone()),
        tokens: Tokens::new(client.clone()),
        folders: Folders::start(client.clone(), &config.root, tasks.clone(), stop.clone()),
        network: pod_network(&config, network),
        services: informers.services.clone(),
        nodes: informers.nodes.clone(),
        tasks: tasks.clone(),
        stop: stop.clone(),
        machine,
        images,
        runtime,
        recorder,
        client,
        config,
    }))
}

fn pod_network(
    config: &Config,
    network: watch::Receiver<Option<NodeNetwork>>,
) -> Arc<dyn PodNetwork> {
    if config.containers {
        Arc::new(NodePods::new(network))
    } else {
        Arc::new(NodePorts::new(&config.pods_dir()))
    }
}

/// What pods hold is not for the host's users: neither their secrets nor what a container
/// wrote to run as root.
fn protect(config: &Config) -> Result<(), Error> {
    let path = config.pods_dir();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|source| Error::Io { what: "protecting", path, source })
}

/// One agent a node: another that is still ending is waited for. Held until dropped.
async fn lock(config: &Config) -> Result<std::fs::File, Error> {
    let path = config.root.join("agent").join("lock");
    make_dir(&config.root.join("agent"))?;
    let fail = |path: &Path, source| Error::Io { what: "locking", path: path.into(), source };
    let file = std::fs::File::create(&path).map_err(|source| fail(&path, source))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            tracing::info!(path = %path.display(), "waiting for this node's other agent to end");
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(fail(&path, source)),
    }
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    locked.map_err(std::io::Error::other).and_then(|r| r).map_err(|source| fail(&path, source))
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        what: "creating",
        path: dir.into(),
        source,
    })
}

async fn runtime(config: &Config) -> Result<Arc<dyn Runtime>, Error> {
    let runtime_config = RuntimeConfig {
        shim: config.shim.clone(),
        pods: config.pods_dir(),
        run: config.run.clone(),
        cgroup_root: config.cgroup_root(),
        shim_cgroup: config.shim_cgroup(),
    };
    let fail = |source| Error::Runtime { source };
    Ok(if config.containers {
        Arc::new(OciRuntime::new(runtime_config).await.map_err(fail)?)
    } else {
        Arc::new(ProcessRuntime::new(runtime_config).await.map_err(fail)?)
    })
}

/// Registers the node, sets up its network once it has a podCIDR, and keeps both.
async fn node_life(
    cx: Arc<Context>,
    informers: Informers,
    health: watch::Sender<Health>,
    network: watch::Sender<Option<NodeNetwork>>,
    pods: Listed,
    stop: CancellationToken,
) -> Option<NodeNetwork> {
    health.send_modify(|health| health.not_ready = Some(NOT_READY.to_owned()));
    // Containers of the last run need their network whether or not the API is there.
    let early = early_network(&cx, &network, &stop).await;
    register::register(&cx, &stop).await;
    let nudge = Arc::new(Notify::new());
    cx.tasks.spawn(register::keep_status(
        cx.clone(),
        informers.nodes.clone(),
        health.subscribe(),
        nudge.clone(),
        stop.clone(),
    ));
    let (answered, heard) = watch::channel(false);
    let pings = heartbeat::ping(cx.clone(), nudge, answered, stop.clone());
    cx.tasks.spawn(pings);
    cx.tasks.spawn(heartbeat::lease(cx.clone(), heard, stop.clone()));
    if !cx.runtime.capabilities().network_namespaces || !cx.config.containers {
        health.send_modify(|health| health.not_ready = None);
        return None;
    }
    let ready = match early {
        Some(ready) => ready,
        None => {
            let cidr = register::pod_cidr(&cx, &informers.nodes, &stop).await?;
            remember_pod_cidr(&cx, &cidr).await;
            let ready = set_up_network(&cx, &cidr, &stop).await?;
            network.send_replace(Some(ready.clone()));
            tracing::info!(cidr, "node network ready");
            ready
        }
    };
    health.send_modify(|health| health.not_ready = None);
    cx.tasks.spawn(sweep(pods, ready.clone(), stop.clone()));
    let sync = Sync {
        node_name: cx.config.node_name.clone(),
        services: informers.services,
        slices: informers.slices,
        nodes: informers.nodes,
        namespaces: informers.namespaces,
        snapshot: cx.config.dns_snapshot(),
        upstream_dns: cx.config.upstream_dns.iter().map(|ip| SocketAddr::new(*ip, 53)).collect(),
        network: ready.clone(),
    };
    sync.run(stop).await;
    Some(ready)
}

/// The network with the podCIDR of the last run.
async fn early_network(
    cx: &Context,
    network: &watch::Sender<Option<NodeNetwork>>,
    stop: &CancellationToken,
) -> Option<NodeNetwork> {
    if !cx.config.containers {
        return None;
    }
    let cidr = tokio::fs::read_to_string(cx.config.pod_cidr_file()).await.ok()?;
    let ready = set_up_network(cx, cidr.trim(), stop).await?;
    network.send_replace(Some(ready.clone()));
    tracing::info!(cidr = cidr.trim(), "node network ready");
    Some(ready)
}

async fn remember_pod_cidr(cx: &Context, cidr: &str) {
    let path = cx.config.pod_cidr_file();
    let write = async {
        if let Some(dir) = path.parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        tokio::fs::write(&path, cidr).await
    };
    if let Err(error) = write.await {
        tracing::warn!(%error, "podCIDR not kept; the next start needs the API for it");
    }
}

/// Takes back addresses of pods that are gone, once it is known which those are.
async fn sweep(pods: Listed, network: NodeNetwork, stop: CancellationToken) {
    let Listed { index, mut listed } = pods;
    let seen = tokio::select! {
        () = stop.cancelled() => return,
        seen = listed.wait_for(|listed| *listed) => seen.is_ok(),
    };
    if !seen {
        return;
    }
    let known = index.all().keys().cloned().collect();
    match network.sweep(known).await {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(?removed, "addresses of pods that are gone taken back"),
        Err(error) => tracing::warn!(%error, "addresses of pods that are gone not taken back"),
    }
}

const NOT_READY: &str = "container runtime network not ready: NetworkReady=false \
                         reason:NetworkPluginNotReady message:the node has no podCIDR yet";
const NETWORK_RETRY: Duration = Duration::from_secs(1);

async fn set_up_network(cx: &Context, cidr: &str, stop: &CancellationToken) -> Option<NodeNetwork> {
    loop {
        match try_set_up_network(cx, cidr).await {
            Ok(network) => return Some(network),
            Err(error) => {
                let error = crate::pod::image::with_sources(&error);
                tracing::error!(error, "the node's network is not set up; will retry");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(NETWORK_RETRY) => {}
        }
    }
}

async fn try_set_up_network(cx: &Context, cidr: &str) -> Result<NodeNetwork, NetworkError> {
    let config = &cx.config;
    let parse = |text: &str| -> Result<Ipv4Net, NetworkError> {
        text.parse().map_err(|source: atoll_network::ParseNetError| NetworkError {
            what: format!("the address range {text}"),
            source: source.into(),
        })
    };
    let v4 = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(ip) => Err(NetworkError {
            what: format!("the address {ip}"),
            source: "pods and nodes have IPv4 addresses only".into(),
        }),
    };
    let network = atoll_network::Config {
        node_id: NodeId::derive(&config.cluster_id, &config.node_name),
        node_address: v4(config.node_ip)?,
        pod_cidr: parse(cidr)?,
        cluster_pod_cidr: parse(&config.pod_cidr)?,
        service_cidr: parse(&config.service_cidr)?,
        dns_address: Some(v4(config.cluster_dns)?),
        ipam_dir: config.root.join("net").join("ipam"),
        mtu: None,
    };
    NodeNetwork::setup(network).await.map_err(|source| NetworkError {
        what: "setting up the node's network".to_owned(),
        source: source.into(),
    })
}

fn network_error(what: &str, source: atoll_network::Error) -> Error {
    Error::Network { source: NetworkError { what: what.to_owned(), source: source.into() } }
}

/// Eviction and garbage, at their own pace.
async fn upkeep(
    cx: Arc<Context>,
    index: PodIndex,
    health: watch::Sender<Health>,
    stop: CancellationToken,
) {
    let mut eviction = eviction::Eviction::default();
    let mut tick = tokio::time::interval(eviction::PERIOD);
    let mut rounds: u32 = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        Box::pin(eviction.round(&cx, &index, &health)).await;
        rounds = rounds.wrapping_add(1);
        if rounds.is_multiple_of(eviction::ROUNDS_PER_COLLECTION) {
            garbage::collect_images(&cx, garbage::images_in_use(&index)).await;
        }
    }
}
