//! One HTTP/2 connection to one endpoint, as tonic's client wants it.
//!
//! It is ours and not tonic's channel because a write may be tried again elsewhere only when it
//! is certain that it was never sent, and because watches want connections of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::client::GrpcService;

use super::address::Address;

/// Name, TCP, TLS and HTTP/2 together.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// etcd refuses clients that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Unread small frames end a connection once they have used up half of this window, so it is
/// wide; whoever reads drains into a queue of his own.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{endpoint} does not answer within {CONNECT_MAX:?}")]
    Time { endpoint: String },
    #[error("the name of {endpoint} has no address: {reason}")]
    Name { endpoint: String, reason: String },
    #[error("{endpoint} cannot be reached: {source}")]
    Tcp { endpoint: String, source: std::io::Error },
    #[error("{endpoint} and this server do not agree on TLS: {source}")]
    Tls { endpoint: String, source: std::io::Error },
    #[error("{endpoint} does not speak HTTP/2: {source}")]
    Http { endpoint: String, source: hyper::Error },
}

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the etcd was lost")]
pub(super) struct Lost {
    /// Whether the etcd may have got the request.
    pub(super) sent: bool,
    source: hyper::Error,
}

#[derive(Debug, Clone)]
pub(super) struct Connection {
    sender: SendRequest<Body>,
    pub(super) origin: Uri,
}

impl Connection {
    /// The connection lives on a task of `tasks` until its last user is gone.
    pub(super) async fn open(
        address: &Address,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, ConnectError> {
        let endpoint = || address.text.clone();
        tokio::time::timeout(CONNECT_MAX, Self::open_slowly(address, tasks, stop))
            .await
            .unwrap_or_else(|_elapsed| Err(ConnectError::Time { endpoint: endpoint() }))
    }

    async fn open_slowly(
        address: &Address,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, ConnectError> {
        let endpoint = || address.text.clone();
        let stream = connect(address).await?;
        match stream.set_nodelay(true) {
            Ok(()) => {}
            Err(source) => return Err(ConnectError::Tcp { endpoint: endpoint(), source }),
        }
        let sender = match &address.tls {
            None => handshake(stream, tasks, stop).await,
            Some((connector, name)) => {
                let secured = connector.connect(name.clone(), stream).await;
                let secured =
                    secured.map_err(|source| ConnectError::Tls { endpoint: endpoint(), source })?;
                handshake(secured, tasks, stop).await
            }
        };
        let sender =
            sender.map_err(|source| ConnectError::Http { endpoint: endpoint(), source })?;
        Ok(Self { sender, origin: address.origin.clone() })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl GrpcService<Body> for Connection {
    type ResponseBody = Incoming;
    type Error = Lost;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, Lost>> + Send + 'static>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.sender.poll_ready(context).map_err(|source| Lost { sent: false, source })
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.try_send_request(request);
        Box::pin(async move {
            answer.await.map_err(|refused| {
                let sent = refused.message().is_none();
                Lost { sent, source: refused.into_error() }
            })
        })
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> hyper::Result<SendRequest<Body>> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER_MAX)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the etcd ended");
                }
            }
        }
    });
    Ok(sender)
}

async fn connect(address: &Address) -> Result<TcpStream, ConnectError> {
    let endpoint = || address.text.clone();
    let mut last = None;
    for ip in resolve(&address.host)
        .await
        .map_err(|reason| ConnectError::Name { endpoint: endpoint(), reason })?
    {
        match TcpStream::connect(SocketAddr::new(ip, address.port)).await {
            Ok(stream) => return Ok(stream),
            Err(source) => last = Some(source),
        }
    }
    Err(match last {
        Some(source) => ConnectError::Tcp { endpoint: endpoint(), source },
        None => {
            let reason = "there is no such name".to_owned();
            ConnectError::Name { endpoint: endpoint(), reason }
        }
    })
}

/// By DNS and the hosts file, for a static binary cannot ask the C library.
async fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    if host == "localhost" {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
    Ok(found.iter().collect())
}
