//! Serves the etcd API of a store in a folder, for trials: `serve FOLDER ADDRESS`.

use std::error::Error;

use atoll_etcd::server::{Config, EtcdServer};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FOLDER ADDRESS".into());
    };
    let store = EmbeddedStore::open(StoreConfig { dir: folder.into(), ..StoreConfig::default() });
    let store = store.await?;
    let kv = store.keyspace(Keyspace::Applications);
    let config = Config {
        cluster_id: 0x1234_5678_9abc_def0,
        member_id: store.member_id(),
        client_urls: vec![format!("http://{address}")],
        ..Config::default()
    };
    let server = EtcdServer::new(kv, store.cluster(), config);
    let listener = TcpListener::bind(&address).await?;
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let (stream, remote) = listener.accept().await.ok()?;
        Some(((stream, Some(remote)), listener))
    });
    server.serve(Box::pin(accepted), None, CancellationToken::new()).await;
    Ok(())
}
