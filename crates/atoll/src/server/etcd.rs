//! The etcd v3 API of a server, over the applications' keyspace: its flags, and where its
//! connections come from.

mod certificates;

use super::{
    connections::{Connections, handed_over},
    process,
};
use crate::{handoff, listen::listen};
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::server::accepted;
use atoll_etcd::server::{Config, CurrentTls, EtcdServer};
use atoll_store::{EmbeddedStore, Keyspace};
use certificates::{Certificates, Files};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

#[derive(Debug, Clone, clap::Args)]
pub struct Etcd {
    /// Where applications reach the etcd v3 API, which is off without it; plain on loopback only
    #[arg(id = "etcd_listen", long = "etcd-listen", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The certificate of the etcd API, PEM; a new one in its place is shown at once
    #[arg(
        id = "etcd_cert",
        long = "etcd-cert",
        value_name = "FILE",
        requires = "etcd_key",
        requires = "etcd_listen"
    )]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(id = "etcd_key", long = "etcd-key", value_name = "FILE", requires = "etcd_cert")]
    pub key: Option<PathBuf>,
    /// The authority whose certificates clients of the etcd API have to show, PEM
    #[arg(
        id = "etcd_client_ca",
        long = "etcd-client-ca",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub client_authority: Option<PathBuf>,
    #[command(flatten)]
    pub space: super::space::Space,
    /// Takes etcd connections that the supervisor of `atoll dev` accepted on this loopback port
    #[arg(id = "etcd_handoff", long = "etcd-handoff", hide = true, requires = "etcd_advertise")]
    pub handoff: Option<PathBuf>,
    /// Where that supervisor listens for this server
    #[arg(id = "etcd_advertise", long = "etcd-advertise", hide = true)]
    pub advertise: Option<SocketAddr>,
}

/// Starts it if it was asked for. `advertise` is the server's address.
pub async fn serve(
    flags: &Etcd,
    advertise: IpAddr,
    store: &EmbeddedStore,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let (connections, tls, address): (Connections, _, _) = match (flags.listen, &flags.handoff) {
        (Some(address), _) => {
            let tls = tls(flags)?;
            check_plain(address, tls.is_some(), "--etcd-listen")?;
            if tls.is_some() && flags.client_authority.is_none() && !address.ip().is_loopback() {
                warn!(%address, "whoever reaches the etcd API may use it; see --etcd-client-ca");
            }
            let listener = listen(address, "--etcd-listen").await?;
            (Box::pin(accepted(listener)), tls, address)
        }
        (None, Some(path)) => {
            let address = flags.advertise.context("--etcd-handoff needs --etcd-advertise")?;
            (Box::pin(handed_over(handoff::Receiver::bind(path)?)), None, address)
        }
        (None, None) => return Ok(()),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let ip = if address.ip().is_unspecified() { advertise } else { address.ip() };
    let config = Config {
        cluster_id: cluster_number(store.cluster_id()),
        member_id: store.member_id(),
        client_urls: vec![format!("{scheme}://{}", SocketAddr::new(ip, address.port()))],
        process: process::figures,
        ..Config::default()
    };
    let (keys, records) =
        (store.keyspace(Keyspace::Applications), store.keyspace(Keyspace::Cluster));
    let etcd = EtcdServer::new(keys, records, store.cluster(), config);
    info!(%address, scheme, "serving the etcd API");
    let stop = stop.clone();
    tasks.spawn(async move { etcd.serve(connections, tls, stop).await });
    Ok(())
}

/// Keys and values would cross the network in clear, and nobody would be asked who they are.
pub fn check_plain(address: SocketAddr, has_tls: bool, flag: &str) -> Result<()> {
    if has_tls || address.ip().is_loopback() {
        return Ok(());
    }
    bail!(
        "{flag} {address} is not an address of this machine's loopback, and the etcd API is plain only there; give `atoll server` --etcd-cert and --etcd-key (and --etcd-client-ca), or listen on 127.0.0.1"
    )
}

fn tls(flags: &Etcd) -> Result<Option<Arc<CurrentTls>>> {
    let (Some(certificate), Some(key)) = (&flags.certificate, &flags.key) else {
        return Ok(None);
    };
    let files = Files {
        certificate: certificate.clone(),
        key: key.clone(),
        client_authority: flags.client_authority.clone(),
    };
    let certificates = Certificates::read(files)?;
    Ok(Some(Arc::new(move || certificates.current())))
}

/// etcd's ids have 64 bits: the first half of ours, which has 128.
fn cluster_number(id: &str) -> u64 {
    id.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_for_loopback_only() {
        let check = |address: &str, has_tls| {
            check_plain(address.parse().unwrap(), has_tls, "--etcd-listen")
        };
        assert!(check("127.0.0.1:2379", false).is_ok());
        assert!(check("[::1]:2379", false).is_ok());
        assert!(check("0.0.0.0:2379", true).is_ok());
        for address in ["0.0.0.0:2379", "192.0.2.1:2379", "[::]:2379"] {
            let refused = check(address, false).unwrap_err().to_string();
            assert!(refused.contains("--etcd-cert"), "{refused}");
        }
    }

    #[test]
    fn the_cluster_has_a_number_for_etcd() {
        assert_eq!(cluster_number("00000000000000ff0123456789abcdef"), 255);
    }
}
