//! Ties it together: sockets, the served snapshot, and its replacement.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use hickory_proto::rr::Name;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::answer::{Answerer, Served};
use crate::listen::{self, serve_tcp, serve_udp};
use crate::resolv::Upstreams;
use crate::snapshot::Snapshot;
use crate::watch::changes;
use crate::zone::Zone;

/// One DNS server.
#[derive(Debug, Clone)]
pub struct Config {
    /// UDP and TCP of each. An address may be put on the machine later.
    pub listen: Vec<SocketAddr>,
    /// The file that the agent replaces; its folder must exist.
    pub snapshot: PathBuf,
    /// Usually `cluster.local`.
    pub cluster_domain: String,
    /// For all other names, unless the snapshot names resolvers.
    pub upstreams: Upstreams,
}

/// DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{domain:?} is no DNS domain")]
    Domain { domain: String, source: hickory_proto::ProtoError },
    #[error("listening on {address}; is another DNS server there?")]
    Listen { address: String, source: io::Error },
    #[error("watching the folder of {snapshot}; it must exist")]
    Watch { snapshot: PathBuf, source: io::Error },
}

/// Serves until `shutdown`; then waits for what has begun.
pub async fn serve(config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    let domain = domain(&config)?;
    // Watched before it is read: a change in between is not missed.
    let events = changes(&config.snapshot)
        .map_err(|source| ServeError::Watch { snapshot: config.snapshot.clone(), source })?;
    let first = Served { zone: None, upstreams: own_upstreams(&config) };
    let (replace, served) = watch::channel(Arc::new(first));
    reload(&config, &domain, &replace);
    let answerer = Arc::new(Answerer::new(domain.clone(), served));
    let tasks = TaskTracker::new();
    for address in &config.listen {
        let (udp, tcp) = listen::open(*address)
            .map_err(|source| ServeError::Listen { address: address.to_string(), source })?;
        let stop = &shutdown;
        tasks.spawn(serve_udp(udp, Arc::clone(&answerer), tasks.clone(), stop.clone()));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&answerer), tasks.clone(), stop.clone()));
        info!(%address, "DNS listens");
    }
    let mut events = pin!(events);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            event = events.next() => match event {
                Some(Ok(())) => reload(&config, &domain, &replace),
                Some(Err(error)) => warn!(%error, "watching the DNS snapshot"),
                None => break,
            },
        }
    }
    shutdown.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn domain(config: &Config) -> Result<Name, ServeError> {
    let mut domain = Name::from_ascii(&config.cluster_domain)
        .map_err(|source| ServeError::Domain { domain: config.cluster_domain.clone(), source })?;
    domain.set_fqdn(true);
    Ok(domain)
}

/// A snapshot that cannot be read changes nothing: the last good one is served.
fn reload(config: &Config, domain: &Name, replace: &watch::Sender<Arc<Served>>) {
    if !config.snapshot.exists() {
        return;
    }
    match Snapshot::read(&config.snapshot) {
        Ok(mut snapshot) => {
            let named = std::mem::take(&mut snapshot.upstreams);
            let upstreams = if named.is_empty() { own_upstreams(config) } else { named };
            let servers = config.listen.iter().map(SocketAddr::ip).collect();
            let zone = Some(Zone::new(domain, snapshot).served_at(servers));
            replace.send_replace(Arc::new(Served { zone, upstreams }));
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, cause, "keeping the last DNS snapshot");
        }
    }
}

fn own_upstreams(config: &Config) -> Vec<SocketAddr> {
    config.upstreams.addresses().unwrap_or_else(|error| {
        warn!(%error, upstreams = ?config.upstreams, "there are no upstream resolvers");
        Vec::new()
    })
}
