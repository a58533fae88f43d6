//! The server: start, connections, the service for this process's own clients, and the end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, Stream, StreamExt as _};
use http::header::{HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::policies::{self, Policies};
use crate::admission::webhooks::Webhooks;
use crate::aggregate::{self, Aggregate};
use crate::audit::{Audit, AuditError};
use crate::authn::Authenticator;
use crate::authz::Authorizer;
use crate::body::{Body, BoxError};
use crate::config::Config;
use crate::core::Core;
use crate::crd::convert::Conversions;
use crate::discovery::Discovery;
use crate::encryption::rotation;
use crate::expiry::Leases;
use crate::fairness::{self, Fairness};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::registry::Registry;
use crate::servers::{Servers, presence};
use crate::status::Status;
use crate::storage::Storage;
use crate::turns::Turns;
use crate::user::{Connection, UserInfo};
use crate::{allocate, crd, hook, initial, maintenance, pipeline, sockets};

/// Streams that a client may take back before the server has looked at them: whoever ends many
/// watches at once does so, and the library's own limit of 20 would end the connection.
const RESETS_MAX: usize = 1000;
/// As of Go's server (`DefaultMaxHeaderBytes`).
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// Connections open at once; further ones wait in the listener.
const CONNECTIONS_MAX: usize = 10_000;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 250;
/// How often a silent HTTP/2 client is asked whether it is there, and how long it may think.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long requests may take to finish once the server stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("reading the cluster's objects")]
    Load { source: Status },
    #[error("following the store")]
    Follow { source: Status },
    #[error("creating the objects that every cluster begins with")]
    Initial { source: Status },
    #[error("setting up who may do what")]
    Access { source: Status },
    #[error("starting the audit")]
    Audit { source: AuditError },
}

/// Who may do what: made once the objects are in memory, which authorization reads.
pub struct Access {
    pub authenticator: Arc<dyn Authenticator>,
    pub authorizer: Arc<dyn Authorizer>,
}

/// A running API server.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    connections: Arc<Semaphore>,
}

impl ApiServer {
    /// Reads the objects, creates the first ones, and is ready to serve when it returns.
    pub async fn start_with<A>(mut config: Config, access: A) -> Result<Self, StartError>
    where
        A: FnOnce(&Config, &Arc<Registry>) -> Result<Access, Status>,
    {
        config.seal();
        let loaded = Registry::load(config.store.clone()).await;
        let registry = Arc::new(loaded.map_err(|source| StartError::Load { source })?);
        let access = access(&config, &registry).map_err(|source| StartError::Access { source })?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(registry.clone().feed(stop.clone()));
        registry.catch_up().await.map_err(|source| StartError::Follow { source })?;
        let audit = config.audit.as_ref().map(|audit| Audit::start(audit, config.clock.clone()));
        let audit = audit.transpose().map_err(|source| StartError::Audit { source })?;
        let audit = audit.map(Arc::new);
        let core = Arc::new(Core {
            storage: Storage::new(config.store.clone()),
            authenticator: access.authenticator,
            authorizer: access.authorizer,
            discovery: Discovery::new(&registry),
            openapi: OpenApi::default(),
            metrics: Metrics::default(),
            limits: Limits::default(),
            fairness: Fairness::new(&registry, config.requests_in_flight_max),
            aggregate: Aggregate::new(&registry, config.trust.as_ref()),
            audit,
            leases: Leases::default(),
            quotas: Turns::default(),
            writes: Turns::default(),
            hooks: hook::Client::new(registry.clone(), tasks.clone(), stop.clone()),
            webhooks: Webhooks::new(&registry),
            policies: Policies::new(&registry),
            conversions: Conversions::default(),
            servers: Servers::default(),
            registry,
            config,
            ready: CancellationToken::new(),
            draining: CancellationToken::new(),
            stop,
            tasks,
        });
        initial::create(&core).await.map_err(|source| StartError::Initial { source })?;
        fairness::create(&core).await.map_err(|source| StartError::Initial { source })?;
        core.registry.catch_up().await.map_err(|source| StartError::Follow { source })?;
        if core.config.compacts {
            core.tasks.spawn(maintenance::compact(core.clone()));
        }
        core.tasks.spawn(crd::status::run(core.clone()));
        core.tasks.spawn(initial::keep(core.clone()));
        core.tasks.spawn(policies::keep_status(core.clone()));
        core.tasks.spawn(allocate::repair::run(core.clone()));
        core.tasks.spawn(fairness::keep(core.clone()));
        core.tasks.spawn(aggregate::keep_local(core.clone()));
        core.tasks.spawn(aggregate::keep_available(core.clone()));
        core.tasks.spawn(aggregate::keep_trusted(core.clone()));
        if let Some(encryption) = core.config.encryption.clone() {
            core.tasks.spawn(rotation::run(core.clone(), encryption));
        }
        if let Some(servers) = core.config.servers.clone() {
            core.tasks.spawn(presence::run(core.clone(), servers));
            core.tasks.spawn(presence::follow(core.clone()));
        }
        core.ready.cancel();
        Ok(Self { core, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)) })
    }

    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The API for clients in this process; every request is this user's.
    pub fn local_service(&self, user: UserInfo) -> LocalService {
        LocalService { core: self.core.clone(), user }
    }

    /// Serves without TLS, until `stop`: for tests and loopback tools.
    pub async fn serve_http(&self, listener: TcpListener, stop: CancellationToken) {
        self.accept(accepted(listener), stop, |server, stream: TcpStream, remote| {
            sockets::watch_over(&stream);
            let connection = Connection { remote, peer_certificates: Vec::new() };
            async move { server.serve_connection(stream, connection).await }.boxed()
        })
        .await;
    }

    /// Serves with TLS the connections of a stream, until `stop`. They may come from a
    /// listener or from another process that accepted them.
    pub async fn serve_tls<S>(&self, connections: S, tls: TlsAcceptor, stop: CancellationToken)
    where
        S: Stream<Item = (TcpStream, Option<SocketAddr>)> + Send + Unpin,
    {
        self.accept(connections, stop, move |server, stream, remote| {
            let tls = tls.clone();
            async move { server.serve_tls_connection(stream, remote, tls).await }.boxed()
        })
        .await;
    }

    async fn accept<S, F>(&self, mut connections: S, stop: CancellationToken, serve: F)
    where
        S: Stream<Item = (TcpStream, Option<SocketAddr>)> + Send + Unpin,
        F: Fn(Self, TcpStream, Option<SocketAddr>) -> BoxFuture<'static, ()> + Send,
    {
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else { return };
            let next = tokio::select! {
                () = stop.cancelled() => return,
                () = self.core.stop.cancelled() => return,
                next = connections.next() => next,
            };
            let Some((stream, remote)) = next else { return };
            let served = serve(self.clone(), stream, remote);
            self.core.tasks.spawn(async move {
                served.await;
                drop(permit);
            });
        }
    }

    async fn serve_tls_connection(
        self,
        stream: TcpStream,
        remote: Option<SocketAddr>,
        tls: TlsAcceptor,
    ) {
        sockets::watch_over(&stream);
        let patience = self.core.config.patience.headers;
        let accepted = tokio::time::timeout(patience, tls.accept(stream)).await;
        let Ok(Ok(stream)) = accepted else {
            tracing::debug!(?remote, "TLS handshake failed");
            return;
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let peer_certificates = certificates
            .map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect())
            .unwrap_or_default();
        self.serve_connection(stream, Connection { remote, peer_certificates }).await;
    }

    /// Serves HTTP/1.1 or HTTP/2 on one connection until it ends or the server stops.
    pub async fn serve_connection<I>(&self, stream: I, connection: Connection)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let core = self.core.clone();
        let begun = CancellationToken::new();
        let first = begun.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            first.cancel();
            request.extensions_mut().insert(connection.clone());
            let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
            let core = core.clone();
            async move { Ok::<_, Infallible>(pipeline::serve(core, request).await) }
        });
        let patience = self.core.config.patience.headers;
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(patience);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let stream = sockets::Unstuck::new(stream);
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut serving = std::pin::pin!(serving);
        let stop = self.core.stop.clone();
        // Before the first request nothing else has a clock: not the choice of the protocol.
        let silent = async {
            if tokio::time::timeout(patience, begun.cancelled()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = silent => return,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended");
        }
    }

    /// Says that it is not ready any more, then ends watches and streams, lets requests finish,
    /// and stops following the store.
    pub async fn shutdown(&self) {
        self.core.draining.cancel();
        tokio::time::sleep(self.core.config.shutdown_delay).await;
        self.core.stop.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(DRAIN, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("requests were still running when the server stopped");
        }
        if let Some(audit) = &self.core.audit {
            audit.close().await;
        }
    }
}

/// The connections of a listener. An accept that fails says so and goes on.
pub fn accepted(
    listener: TcpListener,
) -> Pin<Box<dyn Stream<Item = (TcpStream, Option<SocketAddr>)> + Send>> {
    Box::pin(futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "no TCP_NODELAY");
                    }
                    return Some(((stream, Some(remote)), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    // Most often too many open files: some must close first.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }))
}

/// The API as a tower service, without sockets; `kube::Client::new` takes it.
#[derive(Clone)]
pub struct LocalService {
    core: Arc<Core>,
    user: UserInfo,
}

/// Which of upstream's programs writes as this user: managedFields name it.
fn program_of(user: &UserInfo) -> &'static str {
    match user.name.as_str() {
        "system:kube-scheduler" => "kube-scheduler/v1.36.0",
        "system:kube-controller-manager" => "kube-controller-manager/v1.36.0",
        name if name.starts_with("system:serviceaccount:kube-system:") => {
            "kube-controller-manager/v1.36.0"
        }
        _ => "atoll",
    }
}

impl<B> tower::Service<Request<B>> for LocalService
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let core = self.core.clone();
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        request.extensions_mut().insert(self.user.clone());
        let agent = || HeaderValue::from_static(program_of(&self.user));
        request.headers_mut().entry(USER_AGENT).or_insert_with(agent);
        async move { Ok(pipeline::serve(core, request).await) }.boxed()
    }
}
