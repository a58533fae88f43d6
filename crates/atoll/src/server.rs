//! `atoll server`: the store, the API over it, controllers and scheduler, in one process.

use crate::{
    dev::folder::{write_atomically, write_for_the_user},
    handoff,
    keys::Keys,
    memory,
    process::{say_ready, supervised},
};
use anyhow::{Context as _, Result};
use atoll_apiserver::{
    config::Cidr,
    server::{ApiServer, accepted},
    trust::{Trust, TrustConfig},
    user::UserInfo,
};
use atoll_identity::AuthorityKind;
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::Client;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Controllers and requests get this long to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A former server that is ending needs no longer than that, and a little.
const FORMER_MAX: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// Where store and keys stand
    #[arg(long, default_value = "/var/lib/atoll/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the API listens
    #[arg(long, default_value = "0.0.0.0:6443", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The address under which nodes and pods reach this server
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub advertise: IpAddr,
    /// Addresses of Services
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR")]
    pub service_cidr: CidrFlag,
    /// Addresses of pods
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR")]
    pub pod_cidr: CidrFlag,
    /// How much of the pods' addresses a node gets: the length of its prefix
    #[arg(long, default_value_t = 24, value_name = "LENGTH")]
    pub node_prefix: u8,
    /// Where the administrator's kubeconfig is written
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// The URL in that kubeconfig
    #[arg(long, value_name = "URL")]
    pub kubeconfig_server: Option<String>,
    /// Takes connections that the supervisor of `atoll dev` accepted
    #[arg(long, hide = true)]
    pub handoff: Option<PathBuf>,
    /// Ends with the supervisor of `atoll dev`
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// An IPv4 network on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CidrFlag(pub Cidr);

impl std::str::FromStr for CidrFlag {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?} is not an IPv4 network such as 10.42.0.0/16");
        let (address, prefix) = text.split_once('/').with_context(wrong)?;
        let address: Ipv4Addr = address.parse().with_context(wrong)?;
        let prefix: u8 = prefix.parse().with_context(wrong)?;
        anyhow::ensure!((8..=28).contains(&prefix), "{text:?}: the prefix must be 8 to 28");
        Ok(Self(Cidr { address, prefix }))
    }
}

impl std::fmt::Display for CidrFlag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.address, self.0.prefix)
    }
}

pub async fn run(server: Server) -> Result<()> {
    let store = open_store(&server).await?;
    let now = Timestamp::now();
    let trust = trust(&server, store.cluster_id(), now)?;
    let api = start_api(&server, &store, &trust).await?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    start_controllers(&api, &trust, &tasks, &stop)?;
    serve(&server, &api, &tasks, &stop).await?;
    write_kubeconfig(&server, &trust, now)?;
    info!(listen = %server.listen, cluster = store.cluster_id(), "serving");
    if server.supervised {
        say_ready();
    }
    tokio::select! {
        end = wait_for_end(server.supervised) => end?,
        never = memory::give_back() => match never {},
    }

    stop.cancel();
    tasks.close();
    api.shutdown().await;
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    store.shutdown().await;
    Ok(())
}

async fn open_store(server: &Server) -> Result<EmbeddedStore> {
    let dir = server.data_dir.join("store");
    let deadline = Instant::now() + FORMER_MAX;
    let mut said = false;
    loop {
        let config = StoreConfig { dir: dir.clone(), ..StoreConfig::default() };
        match EmbeddedStore::open(config).await {
            // The server of a killed supervisor is about to end.
            Err(OpenError::Locked { holder, .. })
                if server.supervised && Instant::now() < deadline =>
            {
                if !said {
                    info!(holder, "waiting for the former server to end");
                    said = true;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => {
                return opened.with_context(|| format!("opening the store {}", dir.display()));
            }
        }
    }
}

fn trust(server: &Server, cluster: &str, now: Timestamp) -> Result<Arc<Trust>> {
    let keys = Keys::open(&server.data_dir.join("keys"), cluster)?;
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), server.advertise];
    ips.extend(server.service_cidr.0.nth(1).map(IpAddr::V4));
    let config = TrustConfig::new(
        keys.authority(AuthorityKind::Client, now)?,
        keys.authority(AuthorityKind::Serving, now)?,
        keys.authority(AuthorityKind::Kubelet, now)?,
        keys.account_key()?,
        ips,
    );
    Trust::new(config, now).context("setting up the server's certificates")
}

async fn start_api(
    server: &Server,
    store: &EmbeddedStore,
    trust: &Arc<Trust>,
) -> Result<ApiServer> {
    let mut config = atoll_apiserver::config::Config::new(store.keyspace(Keyspace::Cluster));
    config.service_cidr = server.service_cidr.0;
    config.pod_cidr = server.pod_cidr.0;
    config.node_prefix = server.node_prefix;
    config.advertise = SocketAddr::new(server.advertise, server.listen.port());
    config.trust = Some(trust.clone());
    ApiServer::start(config).await.context("starting the API")
}

fn start_controllers(
    api: &ApiServer,
    trust: &Arc<Trust>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let signers =
        atoll_controllers::Signers { client: trust.client.clone(), kubelet: trust.kubelet.clone() };
    let (service, scheduler) = (api.clone(), api.clone());
    let clients: atoll_controllers::ClientFor = Arc::new(move |controller: &str| {
        Client::new(service.local_service(controller_user(controller)), "default")
    });
    let config = atoll_controllers::Config {
        clients,
        root_ca_pem: trust.serving.certificate_pem().to_owned(),
        signers: Some(signers),
    };
    atoll_controllers::start(&config, tasks, stop);
    let user = UserInfo::authenticated("system:kube-scheduler", Vec::<String>::new());
    let client = Client::new(scheduler.local_service(user), "default");
    atoll_scheduler::start(&atoll_scheduler::Config { client }, tasks, stop);
    Ok(())
}

/// Each controller is a user of its own; the informers they share act as the manager.
fn controller_user(controller: &str) -> UserInfo {
    if controller == "kube-controller-manager" {
        return UserInfo::authenticated("system:kube-controller-manager", Vec::<String>::new());
    }
    UserInfo::authenticated(
        format!("system:serviceaccount:kube-system:{controller}"),
        ["system:serviceaccounts", "system:serviceaccounts:kube-system"],
    )
}

type Connections = std::pin::Pin<Box<dyn Stream<Item = (TcpStream, Option<SocketAddr>)> + Send>>;

async fn serve(
    server: &Server,
    api: &ApiServer,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let listener = TcpListener::bind(server.listen).await.with_context(|| {
        format!(
            "listening on {}; another program may have the port, choose another with --listen",
            server.listen
        )
    })?;
    let mut connections: Connections = Box::pin(accepted(listener));
    if let Some(path) = &server.handoff {
        let receiver = handoff::Receiver::bind(path)?;
        connections = Box::pin(futures::stream::select(connections, handed_over(receiver)));
    }
    let acceptor = api.tls().context("setting up TLS")?;
    let (api, stop) = (api.clone(), stop.clone());
    tasks.spawn(async move { api.serve_tls(connections, acceptor, stop).await });
    Ok(())
}

/// Connections from whichever supervisor is there.
fn handed_over(
    receiver: handoff::Receiver,
) -> impl Stream<Item = (TcpStream, Option<SocketAddr>)> + Send {
    let start = (receiver, None::<handoff::Incoming>);
    let streams = futures::stream::unfold(start, |(receiver, incoming)| async move {
        let incoming = match incoming {
            Some(incoming) => incoming,
            None => match receiver.accept().await {
                Ok(incoming) => incoming,
                Err(error) => {
                    warn!(%error, "the supervisor could not be accepted");
                    return None;
                }
            },
        };
        match incoming.next().await {
            Ok(Some(stream)) => Some((Some(stream), (receiver, Some(incoming)))),
            Ok(None) => Some((None, (receiver, None))),
            Err(error) => {
                warn!(%error, "a connection was not handed over");
                Some((None, (receiver, None)))
            }
        }
    });
    streams.filter_map(|stream| async move {
        let stream = stream?;
        stream.set_nonblocking(true).ok()?;
        let stream = TcpStream::from_std(stream).ok()?;
        stream.set_nodelay(true).ok()?;
        let remote = stream.peer_addr().ok();
        Some((stream, remote))
    })
}

fn write_kubeconfig(server: &Server, trust: &Trust, now: Timestamp) -> Result<()> {
    let path =
        server.write_kubeconfig.clone().unwrap_or_else(|| server.data_dir.join("kubeconfig"));
    let url = server
        .kubeconfig_server
        .clone()
        .unwrap_or_else(|| format!("https://{}:{}", server.advertise, server.listen.port()));
    let text = trust
        .admin_kubeconfig("atoll", &url, now)
        .context("making the administrator's kubeconfig")?;
    if server.supervised {
        return write_for_the_user(&path, text.as_bytes(), 0o600);
    }
    write_atomically(&path, text.as_bytes(), 0o600)
}

async fn wait_for_end(is_supervised: bool) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = supervised(), if is_supervised => {}
    }
    Ok(())
}
