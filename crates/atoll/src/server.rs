//! `atoll server`: the store, the API over it, controllers and scheduler, in one process.

mod connections;
mod controllers;
mod store;

use crate::{
    dev::folder::{write_atomically, write_for_the_user},
    keys::Keys,
    memory,
    process::{say_ready, supervised},
};
use anyhow::{Context as _, Result};
use atoll_apiserver::{
    config::Cidr,
    server::ApiServer,
    trust::{Trust, TrustConfig},
};
use atoll_identity::AuthorityKind;
use atoll_store::{EmbeddedStore, Keyspace};
use jiff::Timestamp;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// Controllers and requests get this long to end.
const STOP_MAX: Duration = Duration::from_secs(10);

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
    let store = store::open(&server).await?;
    let now = Timestamp::now();
    let trust = trust(&server, store.cluster_id(), now)?;
    let api = start_api(&server, &store, &trust).await?;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    controllers::start(&api, &trust, &tasks, &stop)?;
    connections::serve(&server, &api, &tasks, &stop).await?;
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
