//! Where a server's connections come from: its own listener, and the supervisor of `atoll dev`.

use super::Server;
use crate::{handoff, listen::listen};
use anyhow::{Context as _, Result};
use atoll_apiserver::server::{ApiServer, accepted};
use futures::{Stream, StreamExt as _};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub type Connections =
    std::pin::Pin<Box<dyn Stream<Item = (TcpStream, Option<SocketAddr>)> + Send>>;

pub async fn serve(
    server: &Server,
    api: &ApiServer,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let listener = listen(server.listen, "--listen").await?;
    let mut connections: Connections = Box::pin(accepted(listener));
    if let Some(path) = &server.handoff {
        let receiver = handoff::Receiver::bind(path)?;
        connections = Box::pin(futures::stream::select(connections, handed_over(receiver)));
    }
    let acceptor = api.tls().context("setting up TLS")?;
    let (api, stop) = (api.clone(), stop.clone());
    tasks.spawn(async move { api.serve_tls(connections, acceptor, stop).await });
    Ok(())
}

/// Connections from whichever supervisor is there.
pub fn handed_over(
    receiver: handoff::Receiver,
) -> impl Stream<Item = (TcpStream, Option<SocketAddr>)> + Send {
    let start = (receiver, None::<handoff::Incoming>);
    let streams = futures::stream::unfold(start, |(receiver, incoming)| async move {
        let incoming = match incoming {
            Some(incoming) => incoming,
            None => match receiver.accept().await {
                Ok(incoming) => incoming,
                Err(error) => {
                    warn!(%error, "the supervisor could not be accepted");
                    return None;
                }
            },
        };
        match incoming.next().await {
            Ok(Some(stream)) => Some((Some(stream), (receiver, Some(incoming)))),
            Ok(None) => Some((None, (receiver, None))),
            Err(error) => {
                warn!(%error, "a connection was not handed over");
                Some((None, (receiver, None)))
            }
        }
    });
    streams.filter_map(|stream| async move {
        let stream = stream?;
        stream.set_nonblocking(true).ok()?;
        let stream = TcpStream::from_std(stream).ok()?;
        stream.set_nodelay(true).ok()?;
        let remote = stream.peer_addr().ok();
        Some((stream, remote))
    })
}
