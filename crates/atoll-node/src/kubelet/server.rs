//! Listens with TLS, finds out who asks, and hands requests to the routes.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::kubelet::routes::Routes;
use crate::tls;

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the port. Fails at once when it is taken or the certificates are bad.
pub async fn bind(routes: &Routes) -> Result<(TcpListener, TlsAcceptor), Error> {
    let config = &routes.cx.config;
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&config.kubelet_tls)?));
    let address = config.kubelet_listen;
    let listener =
        TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    Ok((listener, acceptor))
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    routes: Routes,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting on the kubelet API's port");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (acceptor, routes, stop) = (acceptor.clone(), routes.clone(), stop.clone());
        let tasks = routes.cx.tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = connection(stream, acceptor, routes) => {}
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, routes: Routes) {
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "kubelet API handshake refused");
            return;
        }
        Err(_elapsed) => return,
    };
    // The handshake has verified the certificate, where there is one.
    let is_server = stream.get_ref().1.peer_certificates().is_some();
    let service = service_fn(move |request| {
        let routes = routes.clone();
        async move {
            if !is_server && let Err(refusal) = routes.access.check(&routes.cx, &request).await {
                // Whoever is refused keeps no connection that others wait for.
                let mut refusal = *refusal;
                refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return Ok::<_, std::convert::Infallible>(refusal);
            }
            Ok(Box::pin(routes.answer(request)).await)
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "kubelet API connection");
    }
}
