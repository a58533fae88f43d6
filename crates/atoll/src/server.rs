//! `atoll server`: the store, the API over it, controllers and scheduler, in one process.

pub mod audit;
mod backup;
mod connections;
mod controllers;
mod etcd;
mod examine;
mod external;
#[cfg(test)]
mod golden;
mod join;
mod leader;
mod peers;
mod process;
mod rejoin;
pub mod remembered;
mod sealing;
pub mod space;
mod store;

pub use etcd::check_plain;

use crate::{
    dev::folder::{write_atomically, write_for_the_user},
    keys::Keys,
    memory,
    process::{say_ready, supervised},
};
use anyhow::{Context as _, Result};
use atoll_apiserver::{
    AuditConfig,
    config::Cidr,
    server::ApiServer,
    servers::ServersConfig,
    status::Status,
    trust::{Trust, TrustConfig},
};
use atoll_identity::AuthorityKind;
use atoll_store::{EmbeddedStore, Keyspace, cluster::MemberStart, kv::KvStore};
use jiff::Timestamp;
use leader::Leadership;
use peers::Peers;
use remembered::Memory;
pub use remembered::has_been_a_member;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Controllers and requests get this long to end.
const STOP_MAX: Duration = Duration::from_secs(10);
/// A server that starts in a minority looks again after this time.
const START_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// Where store and keys stand
    #[arg(long, default_value = "/var/lib/atoll/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    #[command(flatten)]
    pub external: external::External,
    /// A server to join, such as https://10.0.0.1:6443; the first one has none
    #[arg(long, value_name = "URL")]
    pub join: Option<String>,
    /// A token for servers, as `atoll token create --usage server` prints it; needed the first
    /// time only
    #[arg(long, value_name = "TOKEN", env = "ATOLL_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// The server's name, that of its node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where other servers call; opened when there are others [default: 0.0.0.0:2380]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub peer_listen: Option<SocketAddr>,
    /// What they are told to call [default: the address of --advertise, the port of --peer-listen]
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,
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
    #[command(flatten)]
    pub sealing: sealing::Sealing,
    #[command(flatten)]
    pub etcd: etcd::Etcd,
    #[command(flatten)]
    pub audit: audit::Audit,
    /// What those flags mean.
    #[arg(skip)]
    pub audited: Option<AuditConfig>,
    /// How many seconds it says that it is not ready before it ends, for those who spread load
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub shutdown_delay: u64,
    /// Supports format levels up to this one only, as the release before does
    #[arg(long, hide = true, env = "ATOLL_FORMAT_LEVEL_MAX", value_name = "LEVEL")]
    pub format_level_max: Option<u32>,
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

impl Server {
    fn token(&self) -> Result<Option<String>> {
        crate::agent::token_of(self.token.as_deref(), self.token_file.as_deref())
    }

    fn keys(&self) -> PathBuf {
        self.data_dir.join("keys")
    }
}

pub async fn run(mut server: Server) -> Result<()> {
    server.audited = server.audit.config()?;
    crate::backup::check_unfinished(&server.data_dir)?;
    if external::is_chosen(&server)? {
        return external::run(server).await;
    }
    let mut end = std::pin::pin!(wait_for_end(server.supervised));
    let remembered = join::settle(&mut server).await?;
    let memory = Memory::new(&server.data_dir, remembered);
    while let Ended::Unfit(cause) = run_member(&server, &memory, &mut end).await? {
        tokio::select! {
            ended = &mut end => return ended,
            rejoined = rejoin::rejoin(&server, &memory, &cause) => rejoined?,
        }
    }
    Ok(())
}

/// How a server stopped being the member that it was.
enum Ended {
    AsTold,
    /// Its store must not be used any more, and why.
    Unfit(String),
}

/// As one member of the cluster, as long as it is that.
async fn run_member(
    server: &Server,
    memory: &Arc<Memory>,
    end: &mut (impl Future<Output = Result<()>> + Unpin),
) -> Result<Ended> {
    let remembered = memory.get();
    if let Some(cause) = rejoin::cause_at_start(&server.data_dir, &remembered) {
        return Ok(Ended::Unfit(cause));
    }
    let peers = Peers::new(join::peer_listen(&remembered)?, server.keys());
    let own = store::member(server, &remembered)?;
    let store = match store::open(server, own.clone(), &peers).await {
        Ok(store) => store,
        Err(error) => match store::damage(&error).filter(|_| rejoin::has_others(&remembered)) {
            Some(cause) => return Ok(Ended::Unfit(cause)),
            None => return Err(error),
        },
    };
    let stop = CancellationToken::new();
    let serving = async {
        if let Some(cause) = rejoin::is_another(&store, &remembered) {
            return Ok(Ended::Unfit(cause));
        }
        if remembered.has_peers {
            peers.open()?;
        }
        serve(server, memory, own, &store, &peers, &stop, end).await
    };
    let result = serving.await;
    stop.cancel();
    store.shutdown().await;
    peers.shutdown().await;
    match store.unfit() {
        Some(cause) if result.is_err() => Ok(Ended::Unfit(cause)),
        _ => result,
    }
}

/// From the start of the API to its end.
async fn serve(
    server: &Server,
    memory: &Arc<Memory>,
    own: MemberStart,
    store: &EmbeddedStore,
    peers: &Arc<Peers>,
    stop: &CancellationToken,
    end: &mut (impl Future<Output = Result<()>> + Unpin),
) -> Result<Ended> {
    let now = Timestamp::now();
    let trust = trust(server, store.cluster_id(), now)?;
    let leadership = Leadership::new(&own.name, store.member_id(), store.cluster());
    let mut following = std::pin::pin!(leadership.clone().follow(stop.clone()));
    let config = api_config(server, memory, store, peers, &trust, leadership.leads())?;
    let api = tokio::select! {
        ended = &mut *end => return ended.map(|()| Ended::AsTold),
        why = store::failed(store) => return Err(why),
        _ = &mut following => return Err(removed(server)),
        started = start_api(config) => started?,
    };
    // What only one server runs, and what every server does.
    let (control, tasks) = (TaskTracker::new(), TaskTracker::new());
    let (surroundings, retire) = (leadership.surroundings(), stop.child_token());
    controllers::start(&api, &trust, &own.name, &surroundings, &control, &retire);
    tasks.spawn(store::say_who(store.cluster(), store.member_id(), own, stop.clone()));
    tasks.spawn(peers.clone().renew(stop.clone()));
    let ids = (store.cluster_id().to_owned(), store.member_id());
    tasks.spawn(rejoin::remember(store.cluster(), ids, memory.clone(), stop.clone()));
    connections::serve(server, &api, &tasks, stop).await?;
    etcd::serve(&server.etcd, server.advertise, store, &tasks, stop).await?;
    write_kubeconfig(server, &trust, now)?;
    info!(listen = %server.listen, cluster = store.cluster_id(), "serving");
    if server.supervised {
        say_ready();
    }
    let ended = tokio::select! {
        ended = end => ended,
        why = store::failed(store) => Err(why),
        _ = &mut following => Err(removed(server)),
        never = memory::give_back() => match never {},
    };

    if store.unfit().is_some() {
        // Not another answer from it.
        stop.cancel();
    }
    retire.cancel();
    control.close();
    if tokio::time::timeout(STOP_MAX, control.wait()).await.is_err() {
        warn!("some controllers did not end in time");
    }
    if ended.is_ok() {
        store::hand_over(store).await;
    }
    stop.cancel();
    tasks.close();
    api.shutdown().await;
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    ended.map(|()| Ended::AsTold)
}

fn removed(server: &Server) -> anyhow::Error {
    anyhow::anyhow!(
        "this server was removed from the cluster; to bring it back, delete its folder {} and let it join with a new token (`atoll token create --usage server`)",
        server.data_dir.display()
    )
}

fn trust(server: &Server, cluster: &str, now: Timestamp) -> Result<Arc<Trust>> {
    let keys = Keys::open(&server.keys(), cluster)?;
    sealing::begin(&keys, &server.keys())?;
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

/// What a server is told whatever its store.
fn api_settings(
    server: &Server,
    store: Arc<dyn KvStore>,
    trust: &Arc<Trust>,
) -> Result<atoll_apiserver::Config> {
    let mut config = atoll_apiserver::Config::new(store);
    config.encryption = Some(sealing::encryption(&server.sealing, &server.keys())?);
    config.service_cidr = server.service_cidr.0;
    config.pod_cidr = server.pod_cidr.0;
    config.node_prefix = server.node_prefix;
    config.advertise = SocketAddr::new(server.advertise, server.listen.port());
    config.trust = Some(trust.clone());
    config.audit = server.audited.clone();
    config.shutdown_delay = Duration::from_secs(server.shutdown_delay);
    Ok(config)
}

fn api_config(
    server: &Server,
    memory: &Arc<Memory>,
    store: &EmbeddedStore,
    peers: &Arc<Peers>,
    trust: &Arc<Trust>,
    leads: watch::Receiver<bool>,
) -> Result<atoll_apiserver::Config> {
    let mut config = api_settings(server, store.keyspace(Keyspace::Cluster), trust)?;
    config.backup = Some(backup::source(store, server.keys()));
    let cluster_id = store.cluster_id().to_owned();
    let (cluster, keys) = (cluster_id.clone(), server.keys());
    let (folder, examined) = (server.data_dir.clone(), peers.clone());
    let (opened, opening, examining) = (memory.clone(), peers.clone(), memory.clone());
    config.servers = Some(Arc::new(ServersConfig {
        name: memory.get().name,
        cluster_id,
        member_id: store.member_id(),
        cluster: Some(store.cluster()),
        applications: Some(store.keyspace(Keyspace::Applications)),
        leads,
        read_keys: Arc::new(move || {
            let bundle = Keys::open(&keys, &cluster).and_then(|keys| keys.bundle(Timestamp::now()));
            bundle.map_err(|error| format!("{error:#}"))
        }),
        prepare: Arc::new(move || {
            let ready = opening
                .open()
                .and_then(|_open| opened.change(|remembered| remembered.has_peers = true));
            ready.map_err(|error| format!("{error:#}"))
        }),
        examine: Arc::new(move || {
            let mut document = examine::document(&folder, Some(&examined));
            document["rejoined"] = rejoin::to_show(&examining.get(), Timestamp::now());
            document
        }),
    }));
    Ok(config)
}

/// Starts the API once a majority of the servers is there.
async fn start_api(config: atoll_apiserver::Config) -> Result<ApiServer> {
    let mut said = String::new();
    loop {
        let error = match ApiServer::start(config.clone()).await {
            Ok(api) => return Ok(api),
            Err(error) => error,
        };
        let source = std::error::Error::source(&error);
        let status = source.and_then(|source| source.downcast_ref::<Status>());
        let Some(why) = status.filter(|status| matches!(status.code().as_u16(), 503 | 504)) else {
            return Err(error).context("starting the API");
        };
        if said != why.message() {
            info!(why = why.message(), "waiting for the other servers");
            why.message().clone_into(&mut said);
        }
        tokio::time::sleep(START_AGAIN).await;
    }
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
