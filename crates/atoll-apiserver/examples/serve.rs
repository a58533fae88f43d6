//! An API server over a store in a folder, without TLS and open to everyone on loopback:
//! `cargo run -p atoll-apiserver --example serve -- DIR PORT`, then
//! `kubectl --server=http://127.0.0.1:PORT get namespaces`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use atoll_apiserver::authn::AlwaysUser;
use atoll_apiserver::authz::AlwaysAllow;
use atoll_apiserver::{Access, ApiServer, Config, UserInfo};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR PORT")?);
    let port: u16 = arguments.next().ok_or("usage: serve DIR PORT")?.parse()?;
    let store = EmbeddedStore::open(StoreConfig { dir, ..StoreConfig::default() }).await?;
    let config = Config::new(store.keyspace(Keyspace::Cluster));
    let server = ApiServer::start_with(config, |_, _| {
        Ok(Access {
            authenticator: Arc::new(AlwaysUser(UserInfo::authenticated(
                "kubernetes-admin",
                ["system:masters"],
            ))),
            authorizer: Arc::new(AlwaysAllow),
        })
    })
    .await?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving");
    let stop = CancellationToken::new();
    tokio::select! {
        () = server.serve_http(listener, stop) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    server.shutdown().await;
    store.shutdown().await;
    Ok(())
}
