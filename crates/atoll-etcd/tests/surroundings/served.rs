//! Our gRPC API in front of members that run in this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_etcd::server::{Config, EtcdServer};
use atoll_store::testing::TestCluster;
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Long enough for a slow disk; whoever waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// One member's API. It ends when dropped.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Api {
    /// Over the applications' keyspace.
    pub(crate) async fn open(store: &EmbeddedStore, address: SocketAddr, config: Config) -> Self {
        let listener = bind(address).await;
        let address = listener.local_addr().expect("it is bound");
        let own = Config {
            member_id: store.member_id(),
            client_urls: vec![format!("http://{address}")],
            ..config
        };
        let (keys, records) =
            (store.keyspace(Keyspace::Applications), store.keyspace(Keyspace::Cluster));
        let server = EtcdServer::new(keys, records, store.cluster(), own);
        let accepted = futures::stream::unfold(listener, |listener| async move {
            let (stream, remote) = listener.accept().await.ok()?;
            Some(((stream, Some(remote)), listener))
        });
        let (stop, mut serving) = (CancellationToken::new(), JoinSet::new());
        let ends = stop.clone();
        serving.spawn(async move { server.serve(Box::pin(accepted), None, ends).await });
        Self { address, stop, serving }
    }

    async fn close(mut self) {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
    }
}

/// A port that was just left may take a moment.
async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As many members, each with its API.
pub(crate) struct Served {
    pub(crate) members: TestCluster,
    pub(crate) apis: BTreeMap<usize, Api>,
    config: Config,
    _dir: TempDir,
}

impl Served {
    pub(crate) async fn start(servers: usize) -> Self {
        Self::start_with(servers, StoreConfig::default(), Config::default()).await
    }

    pub(crate) async fn start_with(servers: usize, store: StoreConfig, api: Config) -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let members = TestCluster::start_with(dir.path(), servers, store).await;
        let members = members.expect("the members start");
        let config = Config { cluster_id: 7, ..api };
        let mut served = Self { members, apis: BTreeMap::new(), config, _dir: dir };
        for number in 0..servers {
            served.open_api(number, SocketAddr::from(([127, 0, 0, 1], 0))).await;
        }
        served
    }

    async fn open_api(&mut self, number: usize, address: SocketAddr) {
        let api = Api::open(self.members.store(number), address, self.config.clone()).await;
        self.apis.insert(number, api);
    }

    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        self.apis[&number].address
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.apis.values().map(|api| format!("http://{}", api.address)).collect()
    }

    /// The member and its API are gone; the others hear nothing of it.
    pub(crate) async fn kill(&mut self, number: usize) -> SocketAddr {
        self.members.kill(number).await;
        let api = self.apis.remove(&number).expect("it runs");
        let address = api.address;
        api.close().await;
        address
    }

    /// Starts a killed one again at its address.
    pub(crate) async fn start_again(&mut self, number: usize, address: SocketAddr) {
        self.members.open(number).await.expect("it opens its folder");
        self.open_api(number, address).await;
    }

    /// One that is not this.
    pub(crate) fn other_than(&self, number: usize) -> usize {
        let mut others = self.apis.keys().copied().filter(|other| *other != number);
        others.next().expect("there are several")
    }
}
