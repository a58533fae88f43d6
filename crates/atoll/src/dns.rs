//! `atoll dns`: the cluster's name server on one node.
//!
//! It outlives the agent: a successor waits for the lock until it goes.

use crate::process::{say_ready, supervised};
use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::OpenOptions,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, clap::Args)]
pub struct Dns {
    /// Where it listens, for UDP and TCP
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// The file that the agent writes
    #[arg(long, value_name = "FILE")]
    pub snapshot: PathBuf,
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Name servers for everything else [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS")]
    pub upstream: Vec<std::net::IpAddr>,
    /// Ends with the supervisor of `atoll dev`
    #[arg(long, hide = true)]
    pub supervised: bool,
}

/// Locked by the server that runs, whose number it holds.
pub fn holder_file(snapshot: &Path) -> PathBuf {
    snapshot.with_file_name("lock")
}

pub async fn run(dns: Dns) -> Result<()> {
    let folder = dns.snapshot.parent().context("the snapshot has no folder")?.to_owned();
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    // Not emptied: it names the holder for whom we may have to wait.
    let path = holder_file(&dns.snapshot);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    let mut held = tokio::task::spawn_blocking(move || {
        flock(&lock, FlockOperation::LockExclusive).map(|()| lock)
    })
    .await
    .context("waiting for the lock")?
    .context("taking the lock")?;
    held.set_len(0)
        .and_then(|()| writeln!(held, "{}", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))?;

    let upstream =
        if dns.upstream.is_empty() { crate::agent::upstream_dns() } else { dns.upstream.clone() };
    let config = atoll_dns::Config {
        listen: vec![dns.listen],
        snapshot: dns.snapshot.clone(),
        cluster_domain: dns.cluster_domain.clone(),
        upstreams: atoll_dns::Upstreams::Fixed(
            upstream.into_iter().map(|address| SocketAddr::new(address, 53)).collect(),
        ),
    };
    let stop = CancellationToken::new();
    let serving = atoll_dns::serve(config, stop.clone());
    let mut serving = std::pin::pin!(serving);
    if dns.supervised {
        say_ready();
    }
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    tokio::select! {
        result = &mut serving => return result.context("serving names"),
        _ = terminate.recv() => {}
        _ = supervised(), if dns.supervised => {}
    }
    stop.cancel();
    serving.await.context("stopping")
}
