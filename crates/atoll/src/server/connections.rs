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

/// Doors of supervisors that are open at once; `atoll dev` has two at most. More wait.
const DOORS_MAX: usize = 8;

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

/// Connections from whichever supervisor is there, by all the doors that it has open.
pub fn handed_over(
    receiver: handoff::Receiver,
) -> impl Stream<Item = (TcpStream, Option<SocketAddr>)> + Send {
    let doors = futures::stream::unfold(receiver, |receiver| async move {
        match receiver.accept().await {
            Ok(incoming) => Some((incoming, receiver)),
            Err(error) => {
                warn!(%error, "the supervisor could not be accepted");
                None
            }
        }
    });
    doors.map(|door| Box::pin(through(door))).flatten_unordered(DOORS_MAX)
}

/// Until it is closed.
fn through(door: handoff::Incoming) -> impl Stream<Item = (TcpStream, Option<SocketAddr>)> + Send {
    let streams = futures::stream::unfold(door, |door| async move {
        match door.next().await {
            Ok(Some(stream)) => Some((stream, door)),
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "a connection was not handed over");
                None
            }
        }
    });
    streams.filter_map(|stream| async move {
        stream.set_nonblocking(true).ok()?;
        let stream = TcpStream::from_std(stream).ok()?;
        stream.set_nodelay(true).ok()?;
        let remote = stream.peer_addr().ok();
        Some((stream, remote))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_door_does_not_wait_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("handoff");
        let mut taken = Box::pin(handed_over(handoff::Receiver::bind(&path).unwrap()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The first door stays open.
        let mut doors = Vec::new();
        for _ in 0..2 {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let mut door = handoff::Sender::connect(&path).unwrap();
            let (handed, crossed) = tokio::join!(door.send(&accepted), taken.next());
            assert!(handed.unwrap());
            assert_eq!(crossed.unwrap().1, Some(client.local_addr().unwrap()));
            doors.push(door);
        }
    }
}
