//! The bare gRPC calls, without a client that repeats, hides or rewords anything.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::auth_client::AuthClient;
use atoll_etcd::proto::etcdserverpb::cluster_client::ClusterClient;
use atoll_etcd::proto::etcdserverpb::kv_client::KvClient;
use atoll_etcd::proto::etcdserverpb::lease_client::LeaseClient;
use atoll_etcd::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use atoll_etcd::proto::etcdserverpb::watch_client::WatchClient;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::GrpcService;

/// As etcd's own client; a server answers with as much as it has.
const MESSAGE_BYTES_MAX: usize = usize::MAX;
const WINDOW_BYTES: u32 = 8 << 20;

/// One connection.
#[derive(Clone)]
pub(crate) struct Channel {
    sender: SendRequest<Body>,
    origin: http::Uri,
    /// Ends with the last channel.
    _running: Arc<JoinSet<hyper::Result<()>>>,
}

impl Channel {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::open_pinging(address, None).await.expect("the server takes connections")
    }

    /// With keep-alive pings that often, also while nothing is asked.
    pub(crate) async fn open_pinging(
        address: SocketAddr,
        ping_every: Option<Duration>,
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        builder
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES);
        builder.keep_alive_interval(ping_every).keep_alive_while_idle(true);
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(std::io::Error::other)?;
        let mut running = JoinSet::new();
        running.spawn(connection);
        let origin = format!("http://{address}").parse().map_err(std::io::Error::other)?;
        Ok(Self { sender, origin, _running: Arc::new(running) })
    }

    pub(crate) fn origin(&self) -> http::Uri {
        self.origin.clone()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// All services of one server.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) channel: Channel,
    pub(crate) kv: KvClient<Channel>,
    pub(crate) watch: WatchClient<Channel>,
    pub(crate) lease: LeaseClient<Channel>,
    pub(crate) cluster: ClusterClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    pub(crate) auth: AuthClient<Channel>,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(Channel::open(address).await)
    }

    pub(crate) fn over(channel: Channel) -> Self {
        let origin = channel.origin.clone();
        let new = || (channel.clone(), origin.clone());
        let (kv, watch, lease, cluster, maintenance, auth) =
            (new(), new(), new(), new(), new(), new());
        Self {
            kv: KvClient::with_origin(kv.0, kv.1).max_decoding_message_size(MESSAGE_BYTES_MAX),
            watch: WatchClient::with_origin(watch.0, watch.1)
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            lease: LeaseClient::with_origin(lease.0, lease.1),
            cluster: ClusterClient::with_origin(cluster.0, cluster.1),
            maintenance: MaintenanceClient::with_origin(maintenance.0, maintenance.1),
            auth: AuthClient::with_origin(auth.0, auth.1),
            channel,
        }
    }
}
