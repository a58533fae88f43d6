//! Serves the etcd API of a store in a folder, for trials: `serve FOLDER ADDRESS`.

use std::error::Error;
use std::sync::Arc;

use atoll_etcd::server::{Config, EtcdServer, SoleMember};
use atoll_store::cluster::Member;
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
    let member = Member {
        id: store.member_id(),
        name: "default".to_owned(),
        peer_address: String::new(),
        client_urls: vec![format!("http://{address}")],
        is_learner: false,
    };
    let term = kv.status().await?.raft_term;
    let config = Config { cluster_id: 1, member_id: member.id, ..Config::default() };
    let server = EtcdServer::new(kv, Arc::new(SoleMember::new(member, term)), config);
    let listener = TcpListener::bind(&address).await?;
    let accepted = futures::stream::unfold(listener, |listener| async move {
        let (stream, remote) = listener.accept().await.ok()?;
        Some(((stream, Some(remote)), listener))
    });
    server.serve(Box::pin(accepted), None, CancellationToken::new()).await;
    Ok(())
}
