//! Connections: TLS, HTTP/2, and their end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::authority::AnyAuthority;
use super::calls::Calls;
use super::{CurrentTls, EtcdServer};

/// Connections open at once; further ones wait in the listener.
const CONNECTIONS_MAX: usize = 10_000;
/// A client that takes longer to finish its TLS handshake, or the headers of HTTP/1.1.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Calls at once on one connection: a client has one connection for all its watches.
const STREAMS_MAX: u32 = 100_000;
/// Calls that a client may have taken back before they were looked at: one that stops many
/// watches at once is no attacker, and goes on with its others.
const UNSEEN_RESETS_MAX: usize = 100_000;
/// Names and values of one call, as Go's servers take them: tokens may be long.
const HEADERS_BYTES_MAX: u32 = 1 << 20;
/// What a client may send before it is read. h2 closes a connection whose unread small frames
/// exceed half of it, so it is larger than a client fills with small requests.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// What waits to be sent on one stream before more is made for it. A client that is slow with a
/// thousand watches has a thousand streams.
const STREAM_UNSENT_BYTES: usize = 64 << 10;
/// How often a silent client is asked whether it is there, and how long it may think.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long calls may take to finish once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// The kernel asks a client that says nothing over HTTP/1.1, as Go's servers have it do.
const SILENT_FOR: Duration = Duration::from_secs(15);
const ASKS_MAX: u32 = 4;
/// How long bytes may wait for the client's word that they came.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

fn watch_over(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(SILENT_FOR).with_interval(SILENT_FOR).with_retries(ASKS_MAX);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&keepalive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNHEARD_MAX)));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection is not watched over");
    }
}

impl EtcdServer {
    /// Serves the connections of a stream until `stop`, then lets running calls finish. With
    /// TLS when there are configurations, plainly otherwise.
    pub async fn serve<S>(
        &self,
        mut connections: S,
        tls: Option<Arc<CurrentTls>>,
        stop: CancellationToken,
    ) where
        S: Stream<Item = (TcpStream, Option<SocketAddr>)> + Send + Unpin,
    {
        self.tasks.spawn(Self::keep_up(self.core.clone()));
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { break };
            let next = tokio::select! {
                () = stop.cancelled() => break,
                next = connections.next() => next,
            };
            let Some((stream, remote)) = next else { break };
            watch_over(&stream);
            let server = self.clone();
            let tls = tls.clone();
            self.tasks.spawn(async move {
                server.serve_accepted(stream, remote, tls).await;
                drop(permit);
            });
        }
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("calls were still running when the etcd API stopped");
        }
    }

    async fn serve_accepted(
        self,
        stream: TcpStream,
        remote: Option<SocketAddr>,
        tls: Option<Arc<CurrentTls>>,
    ) {
        let Some(tls) = tls else {
            return self.serve_connection(stream).await;
        };
        let shake = async {
            let current = tokio::task::spawn_blocking(move || tls());
            let current = current.await.map_err(std::io::Error::other)?;
            TlsAcceptor::from(current).accept(stream).await
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake).await {
            Ok(Ok(stream)) => self.serve_connection(stream).await,
            Ok(Err(error)) => tracing::debug!(?remote, %error, "TLS handshake failed"),
            Err(_elapsed) => tracing::debug!(?remote, "TLS handshake took too long"),
        }
    }

    async fn serve_connection<I>(self, stream: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = service_fn(move |request| {
            let router = router.clone();
            async move { Ok::<_, Infallible>(router.serve(request).await) }
        });
        let calls = Calls::default();
        let mut builder = auto::Builder::new(calls.clone());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .max_send_buf_size(STREAM_UNSENT_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let serving = async {
            let stream = TokioIo::new(AnyAuthority::new(stream));
            let serving = builder.serve_connection(stream, service);
            let mut serving = std::pin::pin!(serving);
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = self.stop.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        };
        if let Err(error) = calls.run(serving).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}
